//! Any sequence of system calls by several processes, with files that stay open while their
//! names come and go: the operations below the kernel adapter answer as a POSIX filesystem in
//! memory does, which knows nothing of theirs.
//!
//! No mount takes part, so this is fast: `PROPTEST_CASES` scales the number of sequences, and
//! `PROPTEST_RNG_SEED` chooses others.

mod call;
mod filesystem;
mod found;
mod kernel;
mod reference;
mod volume;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::repeatable;
use call::{Call, PROCESSES, SLOTS, calls};
use filesystem::{Filesystem, Time};
use kernel::{Answer, Kernel};
use reference::Reference;
use volume::{Node, Volume, clock_at};

/// Calls, each by one process.
#[derive(Clone)]
struct Steps(Vec<(usize, Call)>);

/// A line for each, which can be put into [`found`].
impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f)?;
        for (process, call) in &self.0 {
            writeln!(f, "({process}, {call:?}),")?;
        }
        Ok(())
    }
}

/// Some sequences that never end are not made smaller in reasonable time.
struct TellIfPanicking<'a>(&'a Steps);

impl Drop for TellIfPanicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it panics: {:?}", self.0);
        }
    }
}

/// A failure is made smaller by so many attempts at most.
const SHRINKS_MAX: u32 = 4_000;

#[test]
fn open_files_answer_as_the_posix_model() {
    let steps = calls().prop_map(Steps);
    // A node on which a sequence failed is in no state for another one.
    let sound = Cell::new(None);
    let (sequences, calls) = (Cell::new(0), Cell::new(0));
    let result = TestRunner::new(repeatable(2000, SHRINKS_MAX)).run(&steps, |steps| {
        let _tell = TellIfPanicking(&steps);
        let node = sound.take().unwrap_or_else(Node::start);
        calls.set(calls.get() + run(&node, &steps.0)?);
        sequences.set(sequences.get() + 1);
        sound.set(Some(node));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    println!("handles: {} sequences, {} calls succeeded", sequences.get(), calls.get());
}

/// Runs a sequence on both sides, in a directory of its own; gives how many calls succeeded.
fn run(node: &Node, steps: &[(usize, Call)]) -> Result<usize, TestCaseError> {
    let mut world = World::new(node);
    for (number, (process, call)) in steps.iter().enumerate() {
        world
            .step(*process, call)
            .map_err(|why| TestCaseError::fail(format!("step {number}, {call:?}: {why}")))?;
    }
    let succeeded = world.succeeded;
    world.end().map_err(|why| TestCaseError::fail(format!("at the end: {why}")))?;
    Ok(succeeded)
}

/// Both sides, and what was seen of them.
struct World<'a> {
    model: Kernel<Reference>,
    volume: Kernel<Volume<'a>>,
    /// Times of inodes as they were last seen: the model's, and the product's.
    times: BTreeMap<usize, ([Time; 2], [Time; 2])>,
    listings: BTreeMap<usize, Listing>,
    succeeded: usize,
}

/// A directory that is being read.
#[derive(Default)]
struct Listing {
    directory: usize,
    /// Names that were there all the time, with what they lead to.
    throughout: BTreeMap<String, usize>,
    seen: BTreeSet<(String, usize)>,
}

impl<'a> World<'a> {
    fn new(node: &'a Node) -> World<'a> {
        World {
            model: Kernel::new(Reference::new()),
            volume: Kernel::new(Volume::new(node)),
            times: BTreeMap::new(),
            listings: BTreeMap::new(),
            succeeded: 0,
        }
    }

    fn step(&mut self, process: usize, call: &Call) -> Result<(), String> {
        self.model.fs.begin_call();
        if let Call::Signal { process } = call {
            self.signal(*process);
        }
        let expected = self.model.run(process, call);
        let answer = self.volume.run(process, call);
        let answer = self.late_answer(process, &expected, answer);
        self.compare(process, call, &expected, &answer)?;
        self.succeeded += usize::from(!matches!(answer, Answer::Errno(_) | Answer::Nothing));
        self.compare_waits()?;
        self.compare_open_files()?;
        self.keep_listings();
        Ok(())
    }

    fn signal(&mut self, process: usize) {
        if let Some(ticket) = self.model.waits(process) {
            self.model.fs.interrupt(ticket);
        }
        if let Some(ticket) = self.volume.waits(process) {
            self.volume.fs.interrupt(ticket);
        }
    }

    /// A lock that need not be waited for may still need the other nodes.
    fn late_answer(&mut self, process: usize, expected: &Answer, answer: Answer) -> Answer {
        let (Answer::Waits, Some(ticket)) = (&answer, self.volume.waits(process)) else {
            return answer;
        };
        if *expected == Answer::Waits {
            return answer;
        }
        self.volume.stop_waiting(process);
        match self.volume.fs.answer(ticket, true) {
            Some(Ok(())) => Answer::Done,
            Some(Err(errno)) => Answer::Errno(errno),
            None => answer,
        }
    }

    fn compare(
        &mut self,
        process: usize,
        call: &Call,
        expected: &Answer,
        answer: &Answer,
    ) -> Result<(), String> {
        match (call, answer) {
            (Call::SeekHole { slot, offset, hole }, Answer::Number(_) | Answer::Errno(_)) => {
                self.compare_hole(process, *slot, (*offset, *hole), expected, answer)
            }
            (Call::ReadEntries { slot, .. }, Answer::Entries(entries)) => {
                let (place, node) = self.model.open_at(process, *slot).ok_or("it is open")?;
                let now = names(&self.model.fs, node);
                let listing = self.listings.entry(place).or_insert_with(|| Listing {
                    directory: node,
                    throughout: now.clone(),
                    ..Listing::default()
                });
                listing.read(&now, &entries.names, entries.is_end)
            }
            (Call::Seek { slot, offset: 0, .. }, Answer::Number(0)) if expected == answer => {
                if let Some((place, _)) = self.model.open_at(process, *slot) {
                    self.listings.remove(&place);
                }
                Ok(())
            }
            _ if expected == answer => Ok(()),
            _ => Err(format!("gives {}\n  not   {}", short(answer), short(expected))),
        }
    }

    /// How coarse holes are is the filesystem's own; that no data lies in them is not.
    fn compare_hole(
        &mut self,
        process: usize,
        slot: usize,
        (offset, hole): (u64, bool),
        expected: &Answer,
        answer: &Answer,
    ) -> Result<(), String> {
        let (_, node) = self.model.open_at(process, slot).ok_or("it is open")?;
        let bytes = self.model.fs.read(node, offset, usize::MAX >> 2).map_err(|e| e.to_string())?;
        let is_end = *expected == Answer::Errno(libc::ENXIO);
        let len = bytes.len() as u64;
        let zeros = |until: u64| bytes[..until as usize].iter().all(|byte| *byte == 0);
        let right = match answer {
            Answer::Errno(libc::ENXIO) => is_end || (!hole && zeros(len)),
            Answer::Number(at) if is_end || *at < offset || *at > offset + len => false,
            Answer::Number(at) if hole => *at == offset + len || bytes[(at - offset) as usize] == 0,
            Answer::Number(at) => *at < offset + len && zeros(at - offset),
            _ => false,
        };
        if right { Ok(()) } else { Err(format!("gives {answer:?} in a file of {len} bytes more")) }
    }

    /// Whoever has waited for a lock has it on both sides, or waits on both.
    fn compare_waits(&mut self) -> Result<(), String> {
        for process in 0..PROCESSES {
            let (model, volume) = (self.model.waits(process), self.volume.waits(process));
            let (Some(model), Some(volume)) = (model, volume) else {
                assert_eq!(model.is_some(), volume.is_some(), "both wait");
                continue;
            };
            let expected = self.model.fs.answer(model, true);
            let answer = self.volume.fs.answer(volume, expected.is_some());
            if answer != expected {
                return Err(format!(
                    "the wait of process {process} ends with {answer:?}, not {expected:?}"
                ));
            }
            if answer.is_some() {
                self.model.stop_waiting(process);
                self.volume.stop_waiting(process);
            }
        }
        Ok(())
    }

    /// What fstat(2) shows through every open file.
    fn compare_open_files(&mut self) -> Result<(), String> {
        for (process, slot) in slots() {
            let model = self.model.open_at(process, slot);
            let volume = self.volume.open_at(process, slot);
            let (Some((_, model)), Some((_, volume))) = (model, volume) else {
                assert_eq!(model.is_some(), volume.is_some(), "both are open");
                continue;
            };
            self.compare_inode(model, volume)
                .map_err(|why| format!("slot {slot} of process {process}: {why}"))?;
        }
        Ok(())
    }

    fn compare_inode(&mut self, model: usize, volume: engine::ids::Ino) -> Result<(), String> {
        let (expected, found) = (self.model.fs.stat(model), self.volume.fs.stat(volume));
        if expected != found {
            return Err(format!("{found:?}\n  is not {expected:?}"));
        }
        let expected = self.model.fs.times(model).map_err(|errno| format!("errno {errno}"))?;
        let found = self.volume.fs.times(volume).map_err(|errno| format!("errno {errno}"))?;
        let (expected, found) = ([expected.0, expected.1], [found.0, found.1]);
        let before = self.times.insert(model, (expected, found));
        for (which, what) in ["mtime", "ctime"].into_iter().enumerate() {
            let (expected, found) = (expected[which], found[which]);
            if let Time::Given(seconds) = expected {
                if found != clock_at(seconds) {
                    return Err(format!("{what} is {found:?}, not {seconds} s"));
                }
            } else if let Some((old_expected, old_found)) = &before {
                let (old_expected, old_found) = (old_expected[which], old_found[which]);
                if (old_expected == expected) != (old_found == found) {
                    let moved = if old_found == found { "stays" } else { "moves" };
                    return Err(format!("{what} {moved}: {old_found:?} {found:?}"));
                }
                if matches!(old_expected, Time::Clock(_)) && found < old_found {
                    return Err(format!("{what} goes back: {old_found:?} {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// Names that come or go have not been there throughout.
    fn keep_listings(&mut self) {
        let open: BTreeSet<usize> = slots()
            .filter_map(|(process, slot)| self.model.open_at(process, slot))
            .map(|(place, _)| place)
            .filter(|place| self.model.is_directory(*place))
            .collect();
        let fs = &self.model.fs;
        self.listings.retain(|place, _| open.contains(place));
        for listing in self.listings.values_mut() {
            let now = names(fs, listing.directory);
            listing.throughout.retain(|name, node| now.get(name) == Some(node));
        }
    }

    /// Everything is closed and published; the trees are equal, and nothing is left behind.
    fn end(mut self) -> Result<(), String> {
        for process in 0..PROCESSES {
            self.step(0, &Call::Signal { process })?;
        }
        for (process, slot) in slots() {
            self.step(process, &Call::Close { slot })?;
        }
        self.step(0, &Call::Publish)?;
        let (model, volume) = (self.model.fs.root(), self.volume.fs.root());
        self.compare_tree(model, volume, "")?;
        self.volume.fs.remove();
        Ok(())
    }

    fn compare_tree(
        &mut self,
        model: usize,
        volume: engine::ids::Ino,
        path: &str,
    ) -> Result<(), String> {
        self.compare_inode(model, volume).map_err(|why| format!("{path}: {why}"))?;
        let attributes = |names: Result<Vec<String>, i32>| names.map(BTreeSet::from_iter);
        let expected: Result<BTreeSet<_>, _> = attributes(self.model.fs.xattr_names(model));
        if attributes(self.volume.fs.xattr_names(volume)) != expected {
            return Err(format!("{path}: its attributes are not {expected:?}"));
        }
        for name in expected.unwrap_or_default() {
            if self.volume.fs.xattr(volume, &name) != self.model.fs.xattr(model, &name) {
                return Err(format!("{path}: attribute {name} differs"));
            }
        }
        if !self.model.fs.stat(model).is_ok_and(|stat| stat.is_directory) {
            let expected = self.model.fs.read(model, 0, usize::MAX >> 2);
            let root = filesystem::Who { uid: 0, gid: 0, elsewhere: false };
            let handle = self.volume.fs.open(root, volume, false).map_err(|e| e.to_string())?;
            let found = self.volume.fs.read(handle, 0, 1 << 20);
            self.volume.fs.release(volume, handle, 0);
            return if found == expected { Ok(()) } else { Err(format!("{path}: other bytes")) };
        }
        let (expected, found) = (self.model.fs.names(model), self.volume.fs.names(volume));
        if BTreeSet::from_iter(&expected) != BTreeSet::from_iter(&found) {
            return Err(format!("{path}: {found:?} is not {expected:?}"));
        }
        for name in expected {
            let model = self.model.fs.lookup(model, &name).ok_or("it is listed")?;
            let volume = self.volume.fs.lookup(volume, &name).ok_or("it is listed")?;
            self.compare_tree(model, volume, &format!("{path}/{name}"))?;
        }
        Ok(())
    }
}

impl Listing {
    /// Names that were there throughout come once; others may come, if they are there.
    fn read(
        &mut self,
        now: &BTreeMap<String, usize>,
        read: &[String],
        is_end: bool,
    ) -> Result<(), String> {
        for name in read {
            let node = *now.get(name).ok_or_else(|| format!("{name} is listed and not there"))?;
            if !self.seen.insert((name.clone(), node)) && self.throughout.contains_key(name) {
                return Err(format!("{name} is listed twice"));
            }
        }
        let missed =
            |(name, node): &(&String, &usize)| !self.seen.contains(&((*name).clone(), **node));
        match self.throughout.iter().find(missed) {
            Some((name, _)) if is_end => Err(format!("{name} is not listed")),
            _ => Ok(()),
        }
    }
}

fn names(fs: &Reference, directory: usize) -> BTreeMap<String, usize> {
    let names = fs.names(directory).into_iter();
    names.filter_map(|name| fs.lookup(directory, &name).map(|node| (name, node))).collect()
}

fn slots() -> impl Iterator<Item = (usize, usize)> {
    (0..PROCESSES).flat_map(|process| (0..SLOTS).map(move |slot| (process, slot)))
}

fn short(answer: &Answer) -> String {
    let mut text = format!("{answer:?}");
    if text.len() > 300 {
        text = format!("{}.. ({} characters)", &text[..300], text.len());
    }
    text
}
