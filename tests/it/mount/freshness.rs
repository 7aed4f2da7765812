//! What the kernel caches without time limit follows every change from elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::command::{Kind, Op, SetAttr};
use fusefs::ops::ports::Ring;

use super::fake_ring::THERE;
use super::{Rig, errno, eventually, read};

#[test]
fn a_name_that_was_absent_appears() {
    let Some(rig) = Rig::new() else { return };
    for i in 0..100 {
        let name = format!("f{i}");
        assert_eq!(errno(fs::metadata(rig.at(&name))), libc::ENOENT);
        let ino = rig.make_elsewhere(&name, Kind::File);
        eventually("the name appears", || {
            fs::metadata(rig.at(&name)).is_ok_and(|meta| meta.ino() == ino.0)
        });
    }
}

#[test]
fn a_renamed_name_leads_to_the_other_inode() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    fs::write(rig.at("a"), "a").unwrap();
    fs::write(rig.at("d/b"), "b").unwrap();
    assert_eq!((read(&rig.at("a")), read(&rig.at("d/b"))), ("a".into(), "b".into()));
    rig.rename_elsewhere("a", "d/b");
    eventually("the new name has the file", || read(&rig.at("d/b")) == "a");
    eventually("the old name is gone", || errno(fs::metadata(rig.at("a"))) == libc::ENOENT);
}

#[test]
fn content_and_size_change_under_an_open_file() {
    let Some(rig) = Rig::new() else { return };
    let ino = rig.make_elsewhere("f", Kind::File);
    let file = fs::File::open(rig.at("f")).unwrap();
    for text in ["first", "a longer second", "3", "", "fifth"] {
        rig.publish_elsewhere(ino, text);
        eventually("the path shows it", || read(&rig.at("f")) == text);
        eventually("the size shows it", || file.metadata().unwrap().len() == text.len() as u64);
        let mut bytes = [0; 64];
        use std::os::unix::fs::FileExt;
        let len = file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..len], text.as_bytes());
    }
}

#[test]
fn attributes_change() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "x").unwrap();
    let ino = rig.ino("f").unwrap();
    for mode in [0o600, 0o755, 0o4711] {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        rig.ring.elsewhere(Op::SetAttr { ino, set });
        eventually("the mode shows", || fs::metadata(rig.at("f")).unwrap().mode() & 0o7777 == mode);
    }
}

#[test]
fn an_unchanged_tree_is_answered_by_the_kernel_alone() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    for i in 0..100 {
        fs::write(rig.at(&format!("d/{i}")), "x").unwrap();
    }
    let look = || {
        for i in 0..100 {
            assert_eq!(fs::metadata(rig.at(&format!("d/{i}"))).unwrap().len(), 1);
        }
        assert_eq!(errno(fs::metadata(rig.at("d/none"))), libc::ENOENT);
    };
    look();
    // The versions are published, and attributes are asked for once more after that.
    eventually("nothing is on its way", || {
        (0..100).all(|i| {
            let ino = rig.ino(&format!("d/{i}")).unwrap();
            rig.ring.view().inode(ino).unwrap().unwrap().size == 1
        })
    });
    eventually("the kernel asks nothing more", || {
        let before = rig.ring.looks();
        look();
        rig.ring.looks() == before
    });
}

/// Attributes that were read before a change and reach the kernel after it.
#[test]
fn a_lookup_overtaken_by_a_change_leaves_nothing_stale() {
    let Some(rig) = Rig::new() else { return };
    for round in 0..10 {
        let name = format!("f{round}");
        let ino = rig.make_elsewhere(&name, Kind::File);
        let (caught, let_go) = rig.ring.trap(ino);
        let path = rig.at(&name);
        // Not statx(2): it would ask for the birth time with another request.
        let lookup = std::thread::spawn(move || rustix::fs::stat(path).unwrap().st_mode & 0o7777);
        caught.recv().unwrap();
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        rig.ring.elsewhere(Op::SetAttr { ino, set });
        // Time for a notification that does not wait for the lookup to go wrong.
        std::thread::sleep(Duration::from_millis(20));
        let_go.send(()).unwrap();
        assert_eq!(lookup.join().unwrap(), 0o644, "this one was asked before the change");
        eventually("the change shows", || {
            fs::metadata(rig.at(&name)).unwrap().mode() & 0o7777 == 0o600
        });
    }
}

/// The kernel renames what it believes the old name to be, while the news that the name leads
/// elsewhere waits for the directory. Not even for a moment may the new name show the old file.
#[test]
fn a_rename_of_a_name_just_replaced_elsewhere_moves_the_new_file() {
    let Some(rig) = Rig::new() else { return };
    let [_, fresh] = ["a", "c"].map(|name| {
        // Nothing written, so nothing to publish: the order is idle.
        fs::File::create(rig.at(name)).unwrap();
        fs::metadata(rig.at(name)).unwrap().ino()
    });
    let stopped = rig.ring.stop_order();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| rig.rename_elsewhere("c", "a"));
        eventually("the replacement comes first", || rig.ring.waiting() == 1);
        let here = scope.spawn(|| {
            fs::rename(rig.at("a"), rig.at("b")).unwrap();
            fs::metadata(rig.at("b")).unwrap().ino()
        });
        eventually("the rename comes second", || rig.ring.waiting() == 2);
        drop(stopped);
        there.join().unwrap();
        assert_eq!(here.join().unwrap(), fresh, "the fresh file moved");
    });
    eventually("the old name is gone", || errno(fs::metadata(rig.at("a"))) == libc::ENOENT);
}

/// Lookups, listings and local changes against commands from elsewhere on the same names, as
/// fast as both can. After each burst the kernel must come to believe what the tables say.
#[test]
fn nothing_stale_stays_after_a_storm() {
    let Some(rig) = Rig::new() else { return };
    for directory in ["a", "b"] {
        fs::create_dir(rig.at(directory)).unwrap();
    }
    for burst in 0..STORM_BURSTS {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let lookers = [
                scope.spawn(|| while_not(&over, || look(&rig))),
                scope.spawn(|| {
                    while_not(&over, || {
                        look(&rig);
                        let _ = fs::read_dir(rig.at("a")).unwrap().count();
                    })
                }),
            ];
            let local = scope.spawn(|| {
                (0..STORM_ROUNDS).for_each(|round| change_here(&rig, burst + round));
            });
            (0..STORM_ROUNDS).for_each(|round| change_elsewhere(&rig, burst * 3 + round));
            local.join().unwrap();
            over.store(true, Ordering::Relaxed);
            for looker in lookers {
                looker.join().unwrap();
            }
        });
        eventually("the kernel believes what was agreed", || seen(&rig) == agreed(&rig));
    }
}

/// What stat(2) and readdir(2) tell: inode, mode and link count of each name.
type Tree = BTreeMap<String, (u64, u32, u64)>;

fn seen(rig: &Rig) -> Tree {
    let mut tree = Tree::new();
    for directory in ["a", "b"] {
        for entry in fs::read_dir(rig.at(directory)).unwrap() {
            let name = format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap());
            let meta = fs::metadata(rig.at(&name)).map(|m| (m.ino(), m.mode() & 0o7777, m.nlink()));
            tree.insert(name, meta.unwrap_or_default());
        }
    }
    for name in names() {
        if let Ok(meta) = fs::metadata(rig.at(&name)) {
            tree.insert(name, (meta.ino(), meta.mode() & 0o7777, meta.nlink()));
        }
    }
    tree
}

fn agreed(rig: &Rig) -> Tree {
    let view = rig.ring.view();
    let mut tree = Tree::new();
    for name in names() {
        if let Some(ino) = rig.ino(&name) {
            let inode = view.inode(ino).unwrap().unwrap();
            tree.insert(name, (ino.0, inode.mode, u64::from(inode.nlink)));
        }
    }
    tree
}

fn names() -> impl Iterator<Item = String> {
    ["a", "b"].into_iter().flat_map(|directory| (0..4).map(move |i| format!("{directory}/{i}")))
}

fn pick(number: usize) -> String {
    names().nth(number % 8).unwrap()
}

fn while_not(over: &AtomicBool, mut run: impl FnMut()) {
    while !over.load(Ordering::Relaxed) {
        run();
    }
}

fn look(rig: &Rig) {
    for name in names() {
        let _ = fs::metadata(rig.at(&name));
    }
}

/// Failures are as good as successes here.
fn change_here(rig: &Rig, round: usize) {
    let [from, to] = [pick(round * 7), pick(round * 3)].map(|name| rig.at(&name));
    match round % 4 {
        0 => drop(fs::File::create(from)),
        1 => drop(fs::rename(from, to)),
        2 => drop(fs::hard_link(from, to)),
        _ => drop(fs::remove_file(from)),
    }
}

fn change_elsewhere(rig: &Rig, round: usize) {
    let [from, to] = [pick(round * 5), pick(round * 3)];
    let ((from_parent, from_name), (to_parent, to_name)) = (rig.parent(&from), rig.parent(&to));
    let op = match (round % 4, rig.ino(&to)) {
        (0, _) => {
            rig.try_make_elsewhere(&from);
            return;
        }
        (1, _) => {
            let how = engine::command::RenameHow::Replace;
            Op::Rename {
                from_parent,
                from_name,
                to_parent,
                to_name,
                how,
                victim: None,
                source: None,
            }
        }
        (2, Some(ino)) => {
            let mode = Some(0o600 + round as u32 % 0o100);
            Op::SetAttr { ino, set: SetAttr { mode, ..SetAttr::default() } }
        }
        _ => Op::Unlink { parent: from_parent, name: from_name },
    };
    rig.ring.run(THERE, op);
}

const STORM_BURSTS: usize = 150;
const STORM_ROUNDS: usize = 30;
