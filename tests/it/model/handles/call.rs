//! Random system calls of several processes, as numbers that mean something only in the tree
//! that they meet.

use proptest::prelude::*;

/// One system call. Slots are the open files of the process that calls.
#[derive(Clone, Debug)]
pub enum Call {
    Open {
        slot: usize,
        path: String,
        flags: i32,
        mode: u32,
    },
    /// `O_TMPFILE`, with `O_EXCL` or not.
    OpenUnnamed {
        slot: usize,
        path: String,
        exclusive: bool,
        mode: u32,
    },
    /// linkat(2) with `AT_EMPTY_PATH`.
    LinkOpen {
        slot: usize,
        path: String,
    },
    Dup {
        slot: usize,
        to: usize,
    },
    /// The open file goes to another process as well, as by fork(2).
    Pass {
        slot: usize,
        process: usize,
        to: usize,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        len: usize,
    },
    ReadAt {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Write {
        slot: usize,
        len: usize,
        fill: u8,
    },
    WriteAt {
        slot: usize,
        offset: u64,
        len: usize,
        fill: u8,
    },
    Seek {
        slot: usize,
        offset: i64,
        whence: i32,
    },
    /// `SEEK_DATA` or `SEEK_HOLE`.
    SeekHole {
        slot: usize,
        offset: u64,
        hole: bool,
    },
    Allocate {
        slot: usize,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Copy {
        from: (usize, u64),
        to: (usize, u64),
        len: u64,
    },
    Sync {
        slot: usize,
        data_only: bool,
    },
    /// Reads on in a directory that is open.
    ReadEntries {
        slot: usize,
        count: usize,
    },
    Truncate {
        object: Object,
        size: u64,
    },
    Chmod {
        object: Object,
        mode: u32,
        elsewhere: bool,
    },
    Chown {
        object: Object,
        uid: Option<u32>,
        gid: Option<u32>,
        elsewhere: bool,
    },
    Times {
        object: Object,
        seconds: Option<i64>,
    },
    Stat {
        object: Object,
    },
    SetXattr {
        object: Object,
        name: u8,
        value: Vec<u8>,
        flags: i32,
    },
    GetXattr {
        object: Object,
        name: u8,
    },
    RemoveXattr {
        object: Object,
        name: u8,
    },
    ListXattrs {
        object: Object,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Unlink {
        path: String,
        elsewhere: bool,
    },
    Rmdir {
        path: String,
        elsewhere: bool,
    },
    Rename {
        from: String,
        to: String,
        flags: u32,
        elsewhere: bool,
    },
    Link {
        from: String,
        to: String,
        elsewhere: bool,
    },
    List {
        path: String,
    },
    Umask {
        mask: u32,
    },
    Lock {
        slot: usize,
        family: Family,
        mode: Option<Mode>,
        start: u64,
        len: u64,
        wait: bool,
    },
    TestLock {
        slot: usize,
        family: Family,
        mode: Mode,
        start: u64,
        len: u64,
    },
    /// A signal for a process that waits for a lock.
    Signal {
        process: usize,
    },
    /// What is written until now is published, whoever has it open.
    Publish,
    /// Another node takes the write token of a file.
    Recall {
        slot: usize,
    },
    /// Another node uses the locks of a file, so that this node does not keep them.
    UseLocks {
        slot: usize,
    },
}

/// By path or by descriptor.
#[derive(Clone, Debug)]
pub enum Object {
    Path(String),
    Slot(usize),
}

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The process's: `F_SETLK`.
    Posix,
    /// The open file's: `F_OFD_SETLK`.
    OpenFile,
    /// The open file's, and never in the way of the others.
    Flock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Shared,
    Exclusive,
}

/// Open files of one process.
pub const SLOTS: usize = 2;
pub const PROCESSES: usize = 3;
/// Two users, and one who may do everything.
pub const USERS: [u32; PROCESSES] = [1000, 1001, 0];

fn path() -> impl Strategy<Value = String> {
    let part = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        6 => part().prop_map(str::to_owned),
        3 => (part(), part()).prop_map(|(one, other)| format!("{one}/{other}")),
        1 => (part(), part(), part()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        2 => path().prop_map(Object::Path),
        3 => (0..SLOTS).prop_map(Object::Slot),
    ]
}

fn open_flags() -> impl Strategy<Value = i32> {
    let (read, write, both) = (libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR);
    let access = prop::sample::select(vec![read, write, both, both, both]);
    let flag = |flag: i32, often: f64| {
        prop::bool::weighted(often).prop_map(move |is_set| if is_set { flag } else { 0 })
    };
    let (create, exclusive) = (flag(libc::O_CREAT, 0.7), flag(libc::O_EXCL, 0.15));
    let (truncate, append) = (flag(libc::O_TRUNC, 0.15), flag(libc::O_APPEND, 0.2));
    (access, create, exclusive, truncate, append).prop_map(|(access, a, b, c, d)| {
        let flags = access | a | b | c | d;
        // Undefined without O_CREAT; and truncating what is opened for reading only.
        let flags = if flags & libc::O_CREAT == 0 { flags & !libc::O_EXCL } else { flags };
        if flags & libc::O_ACCMODE == libc::O_RDONLY { flags & !libc::O_TRUNC } else { flags }
    })
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => Just(0o777),
        2 => prop::sample::select(vec![0o755, 0o700, 0o666, 0o644, 0o600, 0o444, 0]),
    ]
}

fn full_mode() -> impl Strategy<Value = u32> {
    let special = prop::sample::select(vec![0, 0, 0, 0o1000, 0o2000, 0o4000, 0o6000]);
    (mode(), special).prop_map(|(mode, special)| mode | special)
}

fn size() -> impl Strategy<Value = u64> {
    // Around the sizes at which content changes its place, and within a page.
    prop_oneof![
        6 => 0..600u64,
        3 => 4090..4100u64,
        1 => 131_060..131_080u64,
        1 => 0..200_000u64,
    ]
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    // A length of 0 is the end of every file.
    (0..6u64, prop_oneof![3 => 1..4u64, 1 => Just(0u64)])
}

/// Some files and a directory, so that the calls after that find something, and then any calls.
pub fn calls() -> impl Strategy<Value = Vec<(usize, Call)>> {
    let open = (slot(), path(), prop::bool::ANY).prop_map(|(slot, path, append)| {
        let flags = libc::O_RDWR | libc::O_CREAT | if append { libc::O_APPEND } else { 0 };
        Call::Open { slot, path, flags, mode: 0o777 }
    });
    let mkdir = path().prop_map(|path| Call::Mkdir { path, mode: 0o777 });
    let first = prop_oneof![3 => open, 1 => mkdir];
    let first = prop::collection::vec((0..PROCESSES, first), 0..8);
    let then = prop::collection::vec((0..PROCESSES, call()), 1..50);
    (first, then).prop_map(|(first, then)| [first, then].concat())
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![4 => opening(), 5 => content(), 4 => naming(), 3 => attributes(), 4 => locking()]
}

fn slot() -> std::ops::Range<usize> {
    0..SLOTS
}

fn opening() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => (slot(), path(), open_flags(), mode())
            .prop_map(|(slot, path, flags, mode)| Call::Open { slot, path, flags, mode }),
        1 => (slot(), path(), any::<bool>(), mode()).prop_map(|(slot, path, exclusive, mode)| {
            Call::OpenUnnamed { slot, path, exclusive, mode }
        }),
        1 => (slot(), path()).prop_map(|(slot, path)| Call::LinkOpen { slot, path }),
        1 => (slot(), slot()).prop_map(|(slot, to)| Call::Dup { slot, to }),
        1 => (slot(), 0..PROCESSES, slot())
            .prop_map(|(slot, process, to)| Call::Pass { slot, process, to }),
        2 => slot().prop_map(|slot| Call::Close { slot }),
        2 => (slot(), 1..3usize).prop_map(|(slot, count)| Call::ReadEntries { slot, count }),
    ]
}

fn content() -> impl Strategy<Value = Call> {
    let len = || size().prop_map(|size| size as usize);
    let allocate = vec![
        0,
        libc::FALLOC_FL_KEEP_SIZE,
        libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    ];
    prop_oneof![
        3 => (slot(), len()).prop_map(|(slot, len)| Call::Read { slot, len }),
        3 => (slot(), size(), len())
            .prop_map(|(slot, offset, len)| Call::ReadAt { slot, offset, len }),
        5 => (slot(), len(), 1..=u8::MAX)
            .prop_map(|(slot, len, fill)| Call::Write { slot, len, fill }),
        4 => (slot(), size(), len(), 1..=u8::MAX)
            .prop_map(|(slot, offset, len, fill)| Call::WriteAt { slot, offset, len, fill }),
        1 => (slot(), -600..5000i64, prop::sample::select(vec![0, 1, 2]))
            .prop_map(|(slot, offset, whence)| Call::Seek { slot, offset, whence }),
        1 => (slot(), size(), any::<bool>())
            .prop_map(|(slot, offset, hole)| Call::SeekHole { slot, offset, hole }),
        3 => (slot(), prop::sample::select(allocate), size(), size().prop_map(|len| len + 1))
            .prop_map(|(slot, mode, offset, len)| Call::Allocate { slot, mode, offset, len }),
        2 => (slot(), size(), slot(), size(), size()).prop_map(|(from, start, to, at, len)| {
            Call::Copy { from: (from, start), to: (to, at), len }
        }),
        1 => (slot(), any::<bool>())
            .prop_map(|(slot, data_only)| Call::Sync { slot, data_only }),
        3 => (object(), size()).prop_map(|(object, size)| Call::Truncate { object, size }),
        1 => Just(Call::Publish),
        1 => slot().prop_map(|slot| Call::Recall { slot }),
    ]
}

fn naming() -> impl Strategy<Value = Call> {
    let rename = vec![0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE];
    let elsewhere = || prop::bool::weighted(0.2);
    prop_oneof![
        4 => (path(), mode()).prop_map(|(path, mode)| Call::Mkdir { path, mode }),
        4 => (path(), elsewhere())
            .prop_map(|(path, elsewhere)| Call::Unlink { path, elsewhere }),
        2 => (path(), elsewhere()).prop_map(|(path, elsewhere)| Call::Rmdir { path, elsewhere }),
        6 => (path(), path(), prop::sample::select(rename), elsewhere()).prop_map(
            |(from, to, flags, elsewhere)| Call::Rename { from, to, flags, elsewhere }
        ),
        3 => (path(), path(), elsewhere())
            .prop_map(|(from, to, elsewhere)| Call::Link { from, to, elsewhere }),
        1 => path().prop_map(|path| Call::List { path }),
    ]
}

fn attributes() -> impl Strategy<Value = Call> {
    let xattr = vec![0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE];
    let id = || prop::option::of(prop::sample::select(vec![1000, 1001, 0]));
    let elsewhere = || prop::bool::weighted(0.2);
    let value = prop::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        3 => (object(), full_mode(), elsewhere())
            .prop_map(|(object, mode, elsewhere)| Call::Chmod { object, mode, elsewhere }),
        2 => (object(), id(), id(), elsewhere()).prop_map(|(object, uid, gid, elsewhere)| {
            Call::Chown { object, uid, gid, elsewhere }
        }),
        2 => (object(), prop::option::of(-100..10_000i64))
            .prop_map(|(object, seconds)| Call::Times { object, seconds }),
        2 => object().prop_map(|object| Call::Stat { object }),
        3 => (object(), 0..3u8, value, prop::sample::select(xattr)).prop_map(
            |(object, name, value, flags)| Call::SetXattr { object, name, value, flags }
        ),
        1 => (object(), 0..3u8).prop_map(|(object, name)| Call::GetXattr { object, name }),
        1 => (object(), 0..3u8).prop_map(|(object, name)| Call::RemoveXattr { object, name }),
        1 => object().prop_map(|object| Call::ListXattrs { object }),
        1 => prop::sample::select(vec![0, 0, 0o022, 0o077]).prop_map(|mask| Call::Umask { mask }),
    ]
}

fn locking() -> impl Strategy<Value = Call> {
    use Family::{Flock, OpenFile, Posix};
    let family = || prop::sample::select(vec![Posix, Posix, OpenFile, Flock]);
    let lock_mode = || prop::sample::select(vec![Mode::Shared, Mode::Exclusive]);
    prop_oneof![
        8 => (
            slot(),
            family(),
            prop::option::weighted(0.75, lock_mode()),
            range(),
            prop::bool::weighted(0.3),
        )
            .prop_map(|(slot, family, mode, (start, len), wait)| {
                Call::Lock { slot, family, mode, start, len, wait }
            }),
        2 => (slot(), family(), lock_mode(), range()).prop_map(
            |(slot, family, mode, (start, len))| Call::TestLock { slot, family, mode, start, len }
        ),
        2 => (0..PROCESSES).prop_map(|process| Call::Signal { process }),
        1 => slot().prop_map(|slot| Call::UseLocks { slot }),
    ]
}
