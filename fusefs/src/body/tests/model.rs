//! Any sequence of changes leaves the bytes that a `Vec<u8>` would have.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::cluster::{Cluster, noise, wait};
use crate::ops::ports::Bodies;

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        len: usize,
    },
    Append {
        len: usize,
    },
    Truncate {
        size: u64,
    },
    Punch {
        at: u64,
        len: u64,
    },
    Zero {
        at: u64,
        len: u64,
    },
    Extend {
        at: u64,
        len: u64,
    },
    Fsync,
    /// Close, and open again at once.
    Reopen,
    /// Close, wait until it is published, and open again.
    Publish,
    Read {
        at: u64,
        len: u64,
    },
}

fn step(space: u64) -> impl Strategy<Value = Step> {
    let at = 0..space;
    let len = 1..space / 2;
    prop_oneof![
        4 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Write { at, len: len as usize }),
        2 => (1..space / 8).prop_map(|len| Step::Append { len: len as usize }),
        2 => at.clone().prop_map(|size| Step::Truncate { size }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Punch { at, len }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Zero { at, len }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Extend { at, len }),
        1 => Just(Step::Fsync),
        2 => Just(Step::Reopen),
        1 => Just(Step::Publish),
        3 => (at, len).prop_map(|(at, len)| Step::Read { at, len }),
    ]
}

fn check(cluster: &Cluster, name: &str, steps: &[Step]) {
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = writer.create(name);
    let mut model: Vec<u8> = Vec::new();
    let mut handle = writer.open(ino, true);
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Write { at, len } => {
                let bytes = noise(number as u64, len);
                writer.write(handle, at, &bytes);
                let at = at as usize;
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&bytes);
            }
            Step::Append { len } => {
                let bytes = noise(number as u64, len);
                let done = wait(|done| writer.service().write(handle, 0, &bytes, true, done));
                assert_eq!(done.expect("appending works") as usize, len);
                model.extend(bytes);
            }
            Step::Truncate { size } => {
                if !writer.truncate(ino, size) {
                    let set = engine::command::SetAttr { size: Some(size), ..Default::default() };
                    writer.agree(engine::command::Op::SetAttr { ino, set });
                }
                model.resize(size as usize, 0);
            }
            Step::Punch { at, len } => {
                let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
                allocate(writer, handle, at, len, mode);
                zero(&mut model, at, len);
            }
            Step::Zero { at, len } => {
                allocate(writer, handle, at, len, libc::FALLOC_FL_ZERO_RANGE as u32);
                model.resize(model.len().max((at + len) as usize), 0);
                zero(&mut model, at, len);
            }
            Step::Extend { at, len } => {
                allocate(writer, handle, at, len, 0);
                model.resize(model.len().max((at + len) as usize), 0);
            }
            Step::Fsync => writer.fsync(ino),
            Step::Reopen => {
                writer.service().release(handle);
                handle = writer.open(ino, true);
            }
            Step::Publish => {
                writer.service().release(handle);
                cluster.block_on(writer.service().drain());
                handle = writer.open(ino, true);
            }
            Step::Read { at, len } => {
                let start = model.len().min(at as usize);
                let end = model.len().min((at + len) as usize);
                let read = writer.read(handle, at, len).expect("reading works");
                assert!(read == model[start..end], "step {number}");
            }
        }
    }
    let read = writer.read(handle, 0, u64::MAX).expect("reading works");
    same(&read, &model, "at the end, here");
    writer.service().release(handle);
    cluster.settle();
    same(&writer.content(ino), &model, "published, here");
    same(&reader.content(ino), &model, "published, there");
    assert!(writer.service().conflicts().is_empty());
    assert_eq!(writer.service().load().staged_files, 0);
}

/// Bytes are too many to be shown.
fn same(found: &[u8], expected: &[u8], when: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    let lens = (found.len(), expected.len());
    assert!(found == expected, "{when}: lengths {lens:?}, first difference at {differs:?}");
}

fn allocate(
    writer: &super::cluster::Node,
    handle: crate::ops::ports::Handle,
    at: u64,
    len: u64,
    mode: u32,
) {
    wait(|done| writer.service().fallocate(handle, at, len, mode, done)).expect("it is supported");
}

fn zero(model: &mut [u8], at: u64, len: u64) {
    let end = model.len().min((at + len) as usize);
    let start = end.min(at as usize);
    model[start..end].fill(0);
}

fn any_sequence(space: u64, cases: u32) {
    // Sealed by age as fast as it goes, so that changes meet seals everywhere.
    let cluster = Cluster::with(2, Duration::from_millis(1), Duration::from_secs(20));
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let sequences = prop::collection::vec(step(space), 1..25);
    let result = runner.run(&sequences, |steps| {
        number.set(number.get() + 1);
        check(&cluster, &format!("f{}", number.get()), &steps);
        Ok(())
    });
    result.expect("every sequence leaves what the model has");
}

#[test]
fn small_files_equal_their_model() {
    any_sequence(2000, 40);
}

#[test]
fn middle_files_equal_their_model() {
    any_sequence(200_000, 40);
}

#[test]
fn large_files_equal_their_model() {
    any_sequence(3_000_000, 12);
}
