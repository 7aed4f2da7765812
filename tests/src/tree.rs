//! Whole directory trees: made from a seed, read, and compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::random::Random;

/// Everything about one name of a tree that a copy must keep.
#[derive(Clone, PartialEq, Eq)]
pub struct Thing {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Of anything but a directory.
    pub links: u64,
    /// The first name, in the order of names, of the same file.
    pub first_name: PathBuf,
    /// A file's bytes or a symbolic link's target.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl std::fmt::Debug for Thing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Thing { kind, mode, owner, mtime, links, first_name, content, xattrs } = self;
        let bytes = content.len();
        write!(out, "{kind} {mode:o} {owner:?} mtime {mtime:?} links {links} {bytes} bytes ")?;
        write!(out, "first {} xattrs {xattrs:?}", first_name.display())
    }
}

/// A tree by the names below its root.
pub type Tree = BTreeMap<PathBuf, Thing>;

/// Reads the tree below `root`, every byte of it.
///
/// # Errors
/// The first call that fails, with its path.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut first_names = HashMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let at = |error| with_path(&directory, error);
        let mut names: Vec<OsString> = fs::read_dir(root.join(&directory))
            .map_err(at)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(at)?;
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let thing = read_thing(root, &path).map_err(|error| with_path(&path, error))?;
            if thing.kind == "directory" {
                open.push(path.clone());
            }
            tree.insert(path, thing);
        }
    }
    for (path, thing) in &mut tree {
        let metadata = root.join(path).symlink_metadata()?;
        let first: &mut PathBuf = first_names.entry(metadata.ino()).or_insert_with(|| path.clone());
        thing.first_name.clone_from(first);
    }
    Ok(tree)
}

fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read_thing(root: &Path, path: &Path) -> io::Result<Thing> {
    let whole = root.join(path);
    let metadata = whole.symlink_metadata()?;
    let file_type = metadata.file_type();
    let (kind, content) = if file_type.is_dir() {
        ("directory", Vec::new())
    } else if file_type.is_symlink() {
        ("symlink", fs::read_link(&whole)?.into_os_string().into_vec())
    } else if file_type.is_fifo() {
        ("fifo", Vec::new())
    } else if file_type.is_socket() {
        ("socket", Vec::new())
    } else {
        let content = fs::read(&whole)?;
        if content.len() as u64 != metadata.len() {
            let told = format!("stat says {} bytes, read {}", metadata.len(), content.len());
            return Err(io::Error::other(told));
        }
        ("file", content)
    };
    Ok(Thing {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: if kind == "directory" { 1 } else { metadata.nlink() },
        first_name: PathBuf::new(),
        content,
        xattrs: read_xattrs(&whole)?,
    })
}

fn read_xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let name = OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            value.truncate(length);
            Ok((name.to_owned(), value))
        })
        .collect()
}

/// What differs, in words, at most so many lines; empty when the trees are equal.
pub fn differences(expected: &Tree, found: &Tree, most: usize) -> Vec<String> {
    let missing = expected.keys().filter(|path| !found.contains_key(*path));
    let missing = missing.map(|path| format!("{}: missing", path.display()));
    let more = found.keys().filter(|path| !expected.contains_key(*path));
    let more = more.map(|path| format!("{}: nobody made it", path.display()));
    let other = expected.iter().filter_map(|(path, thing)| {
        let other = found.get(path).filter(|other| *other != thing)?;
        Some(format!("{}:\n  expected {thing:?}\n  found    {other:?}", path.display()))
    });
    missing.chain(more).chain(other).take(most).collect()
}

/// Makes a tree of about `files` files below the existing directory `root`: what programs
/// leave and what hardly any does, always the same.
///
/// # Errors
/// The first call that fails.
pub fn generate(root: &Path, files: usize) -> io::Result<()> {
    let mut random = Random::new(1);
    let mut directories = vec![PathBuf::from(".")];
    for number in 0..files / 12 {
        let parent = &directories[random.below(directories.len() as u64) as usize];
        let path = parent.join(name(&mut random, number));
        fs::create_dir(root.join(&path))?;
        directories.push(path);
    }
    let mut made: Vec<PathBuf> = Vec::new();
    for number in 0..files {
        let directory = &directories[random.below(directories.len() as u64) as usize];
        let path = root.join(directory).join(name(&mut random, number));
        make(&path, number, &made, &mut random)?;
        made.push(path);
    }
    // Last, because their own times change with every name in them.
    for path in
        made.iter().chain(directories.iter().map(|path| root.join(path)).collect::<Vec<_>>().iter())
    {
        set_mtime(path, &mut random)?;
    }
    Ok(())
}

fn name(random: &mut Random, number: usize) -> OsString {
    match random.below(20) {
        0 => OsString::from(format!("{number} with spaces and ümlauts, 文件")),
        // Not UTF-8, and a line's end.
        1 => OsString::from_vec([number.to_string().as_bytes(), b"-\xff\xfe\n"].concat()),
        2 => OsString::from(format!("{number}{}", "-long".repeat(45))),
        3 => OsString::from(format!(".{number}")),
        _ => OsString::from(format!("{number}.rs")),
    }
}

fn make(path: &Path, number: usize, made: &[PathBuf], random: &mut Random) -> io::Result<()> {
    match number % 40 {
        1 => return std::os::unix::fs::symlink("../somewhere/that/may not/exist", path),
        2 => return std::os::unix::fs::symlink("x".repeat(1000), path),
        3 => return fs::create_dir(path),
        4 => {
            let mode = Mode::from_raw_mode(0o620);
            rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
            return fs::set_permissions(path, Permissions::from_mode(0o620));
        }
        5 | 6 => {
            let other = &made[random.below(made.len() as u64) as usize];
            let is_file = other.symlink_metadata()?.is_file();
            if is_file {
                return fs::hard_link(other, path);
            }
        }
        _ => {}
    }
    let length = match random.below(100) {
        0..5 => 0,
        5..75 => random.below(8 << 10),
        75..95 => random.below(128 << 10),
        95..99 => random.below(1 << 20),
        _ => random.below(6 << 20),
    };
    fs::write(path, random.bytes(length as usize))?;
    if number % 40 == 7 {
        // A hole, and an end that is one.
        let file = File::options().write(true).open(path)?;
        std::os::unix::fs::FileExt::write_all_at(&file, b"behind the hole", length + (1 << 20))?;
        file.set_len(length + (2 << 20))?;
    }
    if number % 40 == 8 {
        rustix::fs::setxattr(path, "user.colour", b"green\0and more", XattrFlags::empty())?;
        rustix::fs::setxattr(path, "user.empty", b"", XattrFlags::empty())?;
    }
    let mode = [0o644, 0o600, 0o755, 0o400, 0o000, 0o4755, 0o2711, 0o1666][number % 8];
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn set_mtime(path: &Path, random: &mut Random) -> io::Result<()> {
    let tv_sec = match random.below(10) {
        // Before 1970, and behind 2038.
        0 => -(random.below(1 << 30) as i64),
        1 => (1 << 31) + random.below(1 << 31) as i64,
        _ => 1_600_000_000 + random.below(100_000_000) as i64,
    };
    let time = Timespec { tv_sec, tv_nsec: random.below(1_000_000_000) as i64 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
