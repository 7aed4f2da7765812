//! Compares what the namespace says with what the model says.

use std::collections::BTreeMap;

use engine::command::{Body, Command, Op};
use engine::ids::Ino;
use engine::namespace::{Inode, MemoryTables, View};
use engine::outcome::{Outcome, Refusal};

use super::posix::{Errno, Node, Path, Posix, Result};

pub fn compare_outcome(command: &Command, outcome: &Outcome, expected: Result) {
    let seen = match outcome {
        Outcome::Done | Outcome::Published(_) => Ok(None),
        Outcome::Waiting | Outcome::Busy => panic!("the model asks for no locks"),
        Outcome::Made { ino, created } => {
            let Op::Make { ino: new, .. } = command.op else { panic!("{command:?} made an inode") };
            assert_eq!(*created, *ino == new);
            Ok(Some(*ino))
        }
        Outcome::Refused(refusal) => Err(errno(*refusal)),
    };
    assert_eq!(seen, expected, "{command:?}");
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::Enoent,
        Refusal::Exists => Errno::Eexist,
        Refusal::NotDirectory => Errno::Enotdir,
        Refusal::IsDirectory => Errno::Eisdir,
        Refusal::NotEmpty => Errno::Enotempty,
        Refusal::NotPermitted => Errno::Eperm,
        Refusal::Invalid => Errno::Einval,
        Refusal::NoAttribute => Errno::Enodata,
        Refusal::TokenHeld(node) => Errno::Held(node),
        Refusal::Superseded(_) => Errno::Stale,
        other => panic!("{other:?} does not belong to these operations"),
    }
}

/// Every path, and everything about every inode.
pub fn compare_tree(view: &View<&MemoryTables>, model: &Posix) {
    let mut paths = BTreeMap::from([(Path::new(), Ino::ROOT)]);
    walk(view, Ino::ROOT, Ino::ROOT, &Path::new(), &mut paths);
    assert_eq!(paths, model.paths);

    let mut inodes = BTreeMap::new();
    view.inodes(Ino(0), &mut |ino, inode| inodes.insert(ino, inode).is_none()).expect("is sound");
    assert!(inodes.keys().eq(model.nodes.keys()), "inodes leak or are missing");
    let attributes: usize = model.nodes.values().map(|node| node.xattrs.len()).sum();
    let rows = view.tables().0.keys().filter(|key| key.starts_with(b"X")).count();
    assert_eq!(rows, attributes, "extended attributes outlive their inode");
    for (ino, node) in &model.nodes {
        compare_inode(&inodes[ino], node, model.links(*ino));
        let names = view.xattrs(*ino).expect("the tables are sound");
        assert!(names.iter().eq(node.xattrs.keys()));
        for (name, value) in &node.xattrs {
            assert_eq!(view.xattr(*ino, name).expect("is sound").as_ref(), Some(value));
        }
    }
}

/// Lists by two entries a time, as a kernel with a small buffer does.
fn walk(
    view: &View<&MemoryTables>,
    directory: Ino,
    parent: Ino,
    path: &Path,
    paths: &mut BTreeMap<Path, Ino>,
) {
    assert_eq!(view.parent(directory).expect("the tables are sound"), Some(parent));
    let mut after = 0;
    loop {
        let entries = view.read_dir(directory, after, 2).expect("the tables are sound");
        let Some(last) = entries.last() else { break };
        after = last.cookie;
        for entry in entries {
            let path = [path.clone(), vec![entry.name.clone()]].concat();
            let found = view.lookup(directory, &entry.name).expect("the tables are sound");
            assert_eq!(found, Some(entry.ino));
            assert_eq!(paths.insert(path.clone(), entry.ino), None, "{path:?} is listed twice");
            let inode = view.inode(entry.ino).expect("is sound").expect("it has a name");
            assert_eq!(inode.file_type(), entry.kind);
            if inode.is_directory() {
                walk(view, entry.ino, directory, &path, paths);
            }
        }
    }
}

fn compare_inode(inode: &Inode, node: &Node, links: usize) {
    assert_eq!(inode.kind, node.kind);
    assert_eq!(
        (inode.mode, inode.uid, inode.gid, inode.nlink as usize, inode.size, inode.writer),
        (node.mode, node.uid, node.gid, links, node.size(), node.writer),
        "mode, uid, gid, links, size, writer of {node:?}"
    );
    assert_eq!(
        (inode.atime, inode.mtime, inode.ctime, inode.btime),
        (node.atime, node.mtime, node.ctime, node.btime),
        "atime, mtime, ctime, btime of {node:?}"
    );
    if inode.is_file() {
        assert_eq!(visible_bytes(inode), node.bytes);
        assert_eq!(inode.version.0 == 0, node.changes == 0, "a version counts changes");
    }
}

/// What a reader sees: the body's valid part, and zeros.
fn visible_bytes(inode: &Inode) -> Vec<u8> {
    let mut bytes = match &inode.body {
        Body::Empty => Vec::new(),
        Body::Inline(bytes) => bytes.clone(),
        Body::Sealed { .. } => panic!("the model publishes inline bytes only"),
    };
    assert!(inode.valid_len <= bytes.len() as u64, "more is visible than there is");
    bytes.truncate(usize::try_from(inode.valid_len).expect("bodies are small here"));
    bytes.resize(usize::try_from(inode.size).expect("sizes are small here"), 0);
    bytes
}
