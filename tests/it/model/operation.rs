//! Random operations, as numbers that mean something only in the state that they meet.

use engine::command::{Body, Cred, Kind, Name, Op, RenameHow, SetAttr, XattrHow};
use engine::ids::{Ino, NodeId, Version};
use engine::time::Timestamp;
use proptest::prelude::*;

/// One operation. `inodes` choose among all that were ever named, `names` among [`NAMES`].
#[derive(Clone, Debug)]
pub struct Operation {
    pub node: NodeId,
    pub cred: Cred,
    what: What,
    inodes: (u8, u8),
    names: (u8, u8),
    value: u16,
}

/// What to do; several makes and renames, so that trees grow and move.
#[derive(Clone, Copy, Debug)]
enum What {
    Make(u8),
    Link,
    Unlink,
    Rmdir,
    Rename(RenameHow),
    Chmod,
    Chown,
    Truncate,
    Utimes,
    Touch,
    SetXattr(XattrHow),
    RemoveXattr,
    Publish,
    PublishStale,
    Take,
    Release,
}

impl What {
    fn is_for_files(self) -> bool {
        matches!(
            self,
            What::Truncate
                | What::SetXattr(_)
                | What::RemoveXattr
                | What::Publish
                | What::PublishStale
                | What::Take
                | What::Release
        )
    }
}

/// Few, so that operations meet; of any bytes.
const NAMES: [&[u8]; 4] = [b"a", b"b", b"\xff\n", b"..."];

pub fn operation() -> impl Strategy<Value = Operation> {
    let what = prop_oneof![
        6 => (0..10u8).prop_map(What::Make),
        2 => Just(What::Link),
        3 => Just(What::Unlink),
        2 => Just(What::Rmdir),
        4 => Just(What::Rename(RenameHow::Replace)),
        1 => Just(What::Rename(RenameHow::NoReplace)),
        2 => Just(What::Rename(RenameHow::Exchange)),
        1 => Just(What::Chmod),
        1 => Just(What::Chown),
        4 => Just(What::Truncate),
        1 => Just(What::Utimes),
        1 => Just(What::Touch),
        1 => Just(What::SetXattr(XattrHow::Set)),
        1 => Just(What::SetXattr(XattrHow::Create)),
        1 => Just(What::SetXattr(XattrHow::Replace)),
        1 => Just(What::RemoveXattr),
        4 => Just(What::Publish),
        1 => Just(What::PublishStale),
        1 => Just(What::Take),
        2 => Just(What::Release),
    ];
    let numbers = (1..=3u16, 0..3u32, (any::<u8>(), any::<u8>()), (0..4u8, 0..4u8), 0..600u16);
    (what, numbers).prop_map(|(what, (node, user, inodes, names, value))| {
        let cred = Cred { uid: user, gid: 100 + user };
        Operation { node: NodeId(node), cred, what, inodes, names, value }
    })
}

impl Operation {
    /// Whether it is a publish on a version that is not the current one.
    pub fn is_stale(&self) -> bool {
        matches!(self.what, What::PublishStale)
    }

    /// The operation on what is there: `known` are the inodes that were ever named, `files`
    /// the files that exist; `new` is a fresh inode number, `version` tells the current
    /// version of a body.
    pub fn op(
        &self,
        known: &[Ino],
        files: &[Ino],
        new: Ino,
        version: impl Fn(Ino) -> Version,
    ) -> Op {
        // Half of all choices fall on the oldest inodes, so that there are deep trees, or on
        // the oldest files, so that several operations meet at one body.
        let pick = |choice: u8| {
            let few = if self.what.is_for_files() && !files.is_empty() { files } else { known };
            let among = if choice.is_multiple_of(2) { &few[..few.len().min(4)] } else { known };
            among[usize::from(choice / 2) % among.len()]
        };
        let (ino, other) = (pick(self.inodes.0), pick(self.inodes.1));
        let name = || name(self.names.0);
        let value = self.value;
        let xattr = vec![b'u', b'.', b'a' + self.names.1];
        let set = |set| Op::SetAttr { ino, set };
        match self.what {
            What::Make(kind) => Op::Make {
                parent: ino,
                name: name(),
                ino: new,
                kind: kind_of(kind, value),
                mode: (u32::from(value) * 7) & 0o7777,
                exclusive: self.names.1 > 0,
                umask: (u32::from(value) * 5) & 0o777,
            },
            What::Link => Op::Link { ino, parent: other, name: name() },
            What::Unlink => Op::Unlink { parent: ino, name: name() },
            What::Rmdir => Op::Rmdir { parent: ino, name: name(), victim: None },
            What::Rename(how) => Op::Rename {
                from_parent: ino,
                from_name: name(),
                to_parent: other,
                to_name: self::name(self.names.1),
                how,
                victim: None,
                source: None,
            },
            What::Chmod => set(SetAttr { mode: Some(u32::from(value) * 11), ..SetAttr::default() }),
            What::Chown => {
                let uid = (!value.is_multiple_of(3)).then_some(u32::from(value));
                let gid = (value % 3 < 2).then_some(u32::from(value) + 1);
                set(SetAttr { uid, gid, ..SetAttr::default() })
            }
            What::Truncate => set(SetAttr { size: Some(u64::from(value)), ..SetAttr::default() }),
            What::Utimes => {
                let time = |shift: i64| Some(Timestamp::new(i64::from(value) - shift, 5));
                set(SetAttr { atime: time(300), mtime: time(1), ..SetAttr::default() })
            }
            What::Touch => set(SetAttr::default()),
            What::SetXattr(how) => {
                Op::SetXattr { ino, name: xattr, value: value.to_be_bytes().to_vec(), how }
            }
            What::RemoveXattr => Op::RemoveXattr { ino, name: xattr },
            What::Publish => self.publish(ino, version(ino)),
            What::PublishStale => self.publish(ino, Version(version(ino).0 + 1)),
            What::Take => Op::TakeToken { ino, node: self.node },
            What::Release => Op::ReleaseToken { ino, node: self.node },
        }
    }

    /// Bytes that differ from place to place, behind them sometimes zeros that no body holds.
    fn publish(&self, ino: Ino, base: Version) -> Op {
        let len = usize::from(self.value).min(Body::INLINE_MAX_BYTES);
        let bytes = (0..len).map(|at| at as u8 ^ self.names.0).collect();
        let size = match self.names.1 {
            0 => u64::from(self.value) + 50,
            1 => len as u64 / 2,
            _ => len as u64,
        };
        let mtime = Timestamp::new(i64::from(self.value), 7);
        // Before, between and after the times that commands have.
        let ctime = Timestamp::new(i64::from(self.value) * 20, 3);
        Op::Publish {
            ino,
            base,
            body: Body::Inline(bytes),
            size,
            mtime,
            holder: self.node,
            stored_len: size,
            ctime,
        }
    }
}

fn name(choice: u8) -> Name {
    Name::parse(NAMES[usize::from(choice)]).expect("they are names")
}

fn kind_of(choice: u8, value: u16) -> Kind {
    match choice {
        0..=3 => Kind::Directory,
        4..=6 => Kind::File,
        7 => Kind::Symlink(vec![b'x'; usize::from(value) + 1]),
        8 if value.is_multiple_of(2) => Kind::Fifo,
        8 => Kind::Socket,
        _ if value.is_multiple_of(2) => Kind::CharDevice(u32::from(value)),
        _ => Kind::BlockDevice(u32::from(value)),
    }
}
