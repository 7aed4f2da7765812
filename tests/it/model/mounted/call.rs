//! Random system calls, as numbers that mean something only in the tree that they meet.

use proptest::prelude::*;

/// One call of one process. Slots are its open files.
#[derive(Clone, Debug)]
pub enum Call {
    Open { slot: usize, path: Path, flags: i32, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, len: usize },
    ReadAt { slot: usize, offset: u64, len: usize },
    Write { slot: usize, len: usize, fill: u8 },
    WriteAt { slot: usize, offset: u64, len: usize, fill: u8 },
    Seek { slot: usize, offset: i64, whence: i32 },
    TruncateOpen { slot: usize, size: u64 },
    ChmodOpen { slot: usize, mode: u32 },
    StatOpen { slot: usize },
    Sync { slot: usize },
    Truncate { path: Path, size: u64 },
    Unlink { path: Path },
    Rmdir { path: Path },
    Mkdir { path: Path, mode: u32 },
    Rename { from: Path, to: Path, flags: u32 },
    Link { from: Path, to: Path },
    Symlink { path: Path, to: Path },
    ReadLink { path: Path },
    Chmod { path: Path, mode: u32 },
    Chown { path: Path, uid: u32, gid: u32 },
    Stat { path: Path, follow: bool },
    Access { path: Path, mode: i32 },
    List { path: Path },
    SetXattr { path: Path, name: u8, value: u8, flags: i32 },
    GetXattr { path: Path, name: u8 },
    RemoveXattr { path: Path, name: u8 },
    Umask { mask: u32 },
}

/// Few names on few levels, so that calls meet.
pub type Path = String;

/// Open files of one process.
pub const SLOTS: usize = 3;

fn path() -> impl Strategy<Value = Path> {
    let part = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        5 => part().prop_map(str::to_owned),
        4 => (part(), part()).prop_map(|(one, other)| format!("{one}/{other}")),
        1 => (part(), part(), part()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
    ]
}

fn open_flags() -> impl Strategy<Value = i32> {
    let access = prop::sample::select(vec![libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
    let other = [libc::O_CREAT, libc::O_EXCL, libc::O_TRUNC, libc::O_APPEND, libc::O_NOFOLLOW];
    (access, prop::sample::subsequence(other.to_vec(), 0..=5)).prop_map(|(access, others)| {
        let flags = others.into_iter().fold(access, |flags, other| flags | other);
        // Undefined without O_CREAT; and truncating what is opened for reading only.
        let flags = if flags & libc::O_CREAT == 0 { flags & !libc::O_EXCL } else { flags };
        if flags & libc::O_ACCMODE == libc::O_RDONLY { flags & !libc::O_TRUNC } else { flags }
    })
}

fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o777, 0o755, 0o700, 0o644, 0o600, 0o444, 0o2775, 0o1777, 0])
}

fn size() -> impl Strategy<Value = u64> {
    // Around the sizes at which content changes its place, and within a page.
    prop_oneof![
        4 => 0..600u64,
        2 => 4090..4100u64,
        1 => 131_060..131_080u64,
        1 => 0..400_000u64,
    ]
}

pub fn call() -> impl Strategy<Value = Call> {
    let slot = || 0..SLOTS;
    let len = || size().prop_map(|size| size as usize);
    let rename = vec![0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE];
    let xattr = vec![0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE];
    prop_oneof![
        9 => (slot(), path(), open_flags(), mode())
            .prop_map(|(slot, path, flags, mode)| Call::Open { slot, path, flags, mode }),
        2 => slot().prop_map(|slot| Call::Close { slot }),
        4 => (slot(), len()).prop_map(|(slot, len)| Call::Read { slot, len }),
        4 => (slot(), size(), len())
            .prop_map(|(slot, offset, len)| Call::ReadAt { slot, offset, len }),
        6 => (slot(), len(), any::<u8>())
            .prop_map(|(slot, len, fill)| Call::Write { slot, len, fill }),
        5 => (slot(), size(), len(), any::<u8>())
            .prop_map(|(slot, offset, len, fill)| Call::WriteAt { slot, offset, len, fill }),
        2 => (slot(), -600..5000i64, prop::sample::select(vec![0, 1, 2]))
            .prop_map(|(slot, offset, whence)| Call::Seek { slot, offset, whence }),
        3 => (slot(), size()).prop_map(|(slot, size)| Call::TruncateOpen { slot, size }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Call::ChmodOpen { slot, mode }),
        3 => slot().prop_map(|slot| Call::StatOpen { slot }),
        1 => slot().prop_map(|slot| Call::Sync { slot }),
        3 => (path(), size()).prop_map(|(path, size)| Call::Truncate { path, size }),
        5 => path().prop_map(|path| Call::Unlink { path }),
        3 => path().prop_map(|path| Call::Rmdir { path }),
        7 => (path(), mode()).prop_map(|(path, mode)| Call::Mkdir { path, mode }),
        7 => (path(), path(), prop::sample::select(rename))
            .prop_map(|(from, to, flags)| Call::Rename { from, to, flags }),
        4 => (path(), path()).prop_map(|(from, to)| Call::Link { from, to }),
        3 => (path(), path()).prop_map(|(path, to)| Call::Symlink { path, to }),
        1 => path().prop_map(|path| Call::ReadLink { path }),
        2 => (path(), mode()).prop_map(|(path, mode)| Call::Chmod { path, mode }),
        1 => (path(), 0..3u32, 0..3u32)
            .prop_map(|(path, uid, gid)| Call::Chown { path, uid: 1000 + uid, gid: 1000 + gid }),
        4 => (path(), any::<bool>()).prop_map(|(path, follow)| Call::Stat { path, follow }),
        1 => (path(), 0..8i32).prop_map(|(path, mode)| Call::Access { path, mode }),
        3 => path().prop_map(|path| Call::List { path }),
        2 => (path(), 0..3u8, any::<u8>(), prop::sample::select(xattr))
            .prop_map(|(path, name, value, flags)| Call::SetXattr { path, name, value, flags }),
        1 => (path(), 0..3u8).prop_map(|(path, name)| Call::GetXattr { path, name }),
        1 => (path(), 0..3u8).prop_map(|(path, name)| Call::RemoveXattr { path, name }),
        1 => prop::sample::select(vec![0, 0o022, 0o077]).prop_map(|mask| Call::Umask { mask }),
    ]
}
