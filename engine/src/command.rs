//! One change of a namespace, with everything that decides its result inside it.

use minicbor::{Decode, Encode};

use crate::acl::{Acl, AclKind};
use crate::ids::{BodyId, Gsn, Ino, NodeId, OpId, Version, VolumeId, ZoneId};
use crate::locks::{ByteRange, FileLocks, LockKind, LockMode};
use crate::time::Timestamp;

/// One change of a namespace. Ids, times and credentials are chosen by the proposer, so that
/// every node that applies it reaches the same state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Command {
    #[n(0)]
    pub id: OpId,
    /// When the operation happened, by the proposer's clock.
    #[n(1)]
    pub time: Timestamp,
    #[n(2)]
    pub cred: Cred,
    #[n(3)]
    pub op: Op,
}

/// Whose operation it is. The kernel has checked permissions before; `apply` uses this for
/// ownership and for the set-id rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct Cred {
    #[n(0)]
    pub uid: u32,
    #[n(1)]
    pub gid: u32,
}

impl Cred {
    /// The daemon's own commands.
    pub const SYSTEM: Cred = Cred { uid: 0, gid: 0 };
}

/// A name in a directory: 1 to 255 bytes of any value but `/` and NUL, and neither `.` nor
/// `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(transparent)]
pub struct Name(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name has at most 255 bytes")]
    TooLong,
    #[error("a name is neither empty nor '.' nor '..', and has no '/' and no NUL")]
    Invalid,
}

impl Name {
    pub const LEN_MAX: usize = 255;

    pub fn parse(bytes: &[u8]) -> Result<Name, NameError> {
        if bytes.len() > Self::LEN_MAX {
            return Err(NameError::TooLong);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(NameError::Invalid);
        }
        Ok(Name(bytes.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// By hand, so that no byte from the network or the disk becomes a name unchecked.
impl<'b, C> Decode<'b, C> for Name {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Name::parse(d.bytes()?).map_err(minicbor::decode::Error::message_of)
    }
}

trait MessageOf {
    fn message_of(error: NameError) -> Self;
}

impl MessageOf for minicbor::decode::Error {
    fn message_of(error: NameError) -> Self {
        minicbor::decode::Error::message(error.to_string())
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Changes nothing. Fills the place of an operation that must not happen any more.
    #[n(0)]
    Noop,
    /// create, mkdir, mknod, symlink. With `exclusive` false an existing regular file of that
    /// name is the outcome instead of a refusal (`open(O_CREAT)`).
    #[n(1)]
    Make {
        #[n(0)]
        parent: Ino,
        #[n(1)]
        name: Name,
        #[n(2)]
        ino: Ino,
        #[n(3)]
        kind: Kind,
        /// Permission bits 07777, as the program gave them.
        #[n(4)]
        mode: u32,
        #[n(5)]
        exclusive: bool,
        /// Permission bits that are taken off, unless the directory has a default ACL.
        #[n(6)]
        umask: u32,
    },
    #[n(2)]
    Link {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        parent: Ino,
        #[n(2)]
        name: Name,
    },
    #[n(3)]
    Unlink {
        #[n(0)]
        parent: Ino,
        #[n(1)]
        name: Name,
    },
    #[n(4)]
    Rmdir {
        #[n(0)]
        parent: Ino,
        #[n(1)]
        name: Name,
        /// If given, what the name must lead to: the proposer's kernel takes that directory
        /// for dead afterwards, whatever was removed.
        #[n(2)]
        victim: Option<Ino>,
    },
    #[n(5)]
    Rename {
        #[n(0)]
        from_parent: Ino,
        #[n(1)]
        from_name: Name,
        #[n(2)]
        to_parent: Ino,
        #[n(3)]
        to_name: Name,
        #[n(4)]
        how: RenameHow,
        /// As for `Rmdir`, of what is replaced or, in an exchange, comes to the old name.
        #[n(5)]
        victim: Option<Ino>,
        /// If given, what the old name must lead to: the proposer's kernel takes the new name for
        /// that afterwards, whatever was moved.
        #[n(6)]
        source: Option<Ino>,
    },
    #[n(6)]
    SetAttr {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        set: SetAttr,
    },
    #[n(7)]
    SetXattr {
        #[n(0)]
        ino: Ino,
        /// With its prefix, as in `user.mime_type`.
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
        #[cbor(n(2), with = "minicbor::bytes")]
        value: Vec<u8>,
        #[n(3)]
        how: XattrHow,
    },
    #[n(8)]
    RemoveXattr {
        #[n(0)]
        ino: Ino,
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
    },
    /// A new version of a body. Refused if `base` is no longer the current version.
    #[n(9)]
    Publish {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        base: Version,
        #[n(2)]
        body: Body,
        /// Bytes; beyond the body's own length the file reads as zeros.
        #[n(3)]
        size: u64,
        #[n(4)]
        mtime: Timestamp,
        /// The node that holds all of the body durably.
        #[n(5)]
        holder: NodeId,
        /// Bytes of the body that are stored; the rest are holes.
        #[n(6)]
        stored_len: u64,
        /// When the file was last changed there: stat(2) on that node has shown it since, and
        /// must not show another time only because the version is agreed.
        #[n(7)]
        ctime: Timestamp,
    },
    /// Asks for the right to write the body of `ino` on `node`.
    #[n(10)]
    TakeToken {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        node: NodeId,
    },
    #[n(11)]
    ReleaseToken {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        node: NodeId,
    },
    /// A right to join, made by `fusion token create`.
    #[n(12)]
    CreateJoinToken {
        #[n(0)]
        id: u64,
        /// BLAKE3 of the secret, so that state and log don't hold it.
        #[cbor(n(1), with = "minicbor::bytes")]
        secret_hash: [u8; 32],
        #[n(2)]
        zone: String,
        #[n(3)]
        expires: Timestamp,
        /// What the node that uses it will be.
        #[n(4)]
        #[cbor(default)]
        role: MemberRole,
    },
    #[n(13)]
    RevokeJoinToken {
        #[n(0)]
        id: u64,
    },
    /// Makes a node a member (an observer until a `Reconfigure` gives it a vote). Uses up the
    /// join token; the first node of a cluster has none.
    #[n(14)]
    AdmitNode {
        #[n(0)]
        node: Member,
        #[n(1)]
        token: Option<u64>,
    },
    /// The node reports that it holds, durably, every body that it should hold up to `gsn`.
    #[n(15)]
    HeldUpto {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        gsn: Gsn,
    },
    /// The node's address changed.
    #[n(16)]
    MoveNode {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        address: String,
    },
    /// Makes a child volume in which these members of the cluster take part. In the root
    /// volume only.
    #[n(17)]
    CreateVolume {
        #[n(0)]
        id: VolumeId,
        #[n(1)]
        name: String,
        /// Ascending.
        #[n(2)]
        members: Vec<NodeId>,
        /// The member that makes the volume's first tables.
        #[n(3)]
        creator: NodeId,
    },
    /// Asks for a lock of a file that no single node keeps the locks of. The owner is one of
    /// the origin's.
    #[n(18)]
    Lock {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        want: LockWant,
        /// Queues the request when it cannot be granted now; else it is refused (`Locked`).
        #[n(2)]
        wait: Option<LockWait>,
    },
    /// Gives up what an owner of the origin holds within a range.
    #[n(19)]
    Unlock {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        owner: u64,
        #[n(2)]
        kind: LockKind,
        #[n(3)]
        range: ByteRange,
    },
    /// Takes a waiting request of the origin back: `NotFound` if it waits no more.
    #[n(20)]
    CancelLock {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        ticket: u64,
    },
    /// Makes the origin the keeper of the locks of a file that nobody has locked.
    #[n(21)]
    KeepLocks {
        #[n(0)]
        ino: Ino,
    },
    /// The keeper hands a file's locks over to the agreed tables, as it has them.
    #[n(22)]
    ShareLocks {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        locks: FileLocks,
        /// Another node wants them; else the keeper has no use for them any more.
        #[n(2)]
        asked: bool,
    },
    /// Gives up every lock that starts of `node` before `boot` had or kept.
    #[n(23)]
    DropLocks {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        boot: u64,
    },
    /// Begins a quota at a directory or changes its limits; without limits, begins to end it.
    /// `MarkQuota`s have to follow, and a `FinishQuota`.
    #[n(24)]
    SetQuota {
        #[n(0)]
        directory: Ino,
        #[n(1)]
        limits: Option<QuotaLimits>,
    },
    /// A step of counting what was there before a quota: `directory` itself, and the files in
    /// it with cookies behind `after` and up to `through`.
    #[n(25)]
    MarkQuota {
        #[n(0)]
        quota: Ino,
        #[n(1)]
        directory: Ino,
        #[n(2)]
        after: u64,
        #[n(3)]
        through: u64,
    },
    /// Everything below the quota has been marked since `began`.
    #[n(26)]
    FinishQuota {
        #[n(0)]
        quota: Ino,
        #[n(1)]
        began: Gsn,
    },
    /// Sets bytes of a quota aside for what the origin is about to write: `wanted` of them, or
    /// as many as do not crowd out others, but not less than `needed`.
    #[n(27)]
    ReserveQuota {
        #[n(0)]
        quota: Ino,
        #[n(1)]
        needed: u64,
        #[n(2)]
        wanted: u64,
    },
    /// Gives reserved bytes back that the origin has not used. 0 says that all are in use.
    #[n(28)]
    ReturnQuota {
        #[n(0)]
        quota: Ino,
        #[n(1)]
        bytes: u64,
        /// The newest [`Op::ReclaimQuota`] that the origin knew of; in commands of before this was
        /// said, all that were agreed earlier.
        #[n(2)]
        answers: Option<Gsn>,
    },
    /// Asks all nodes to return what they have reserved and not used: a quota is used up.
    #[n(29)]
    ReclaimQuota {
        #[n(0)]
        quota: Ino,
    },
    /// Sets a POSIX ACL, or takes it away.
    #[n(30)]
    SetAcl {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        kind: AclKind,
        #[n(2)]
        acl: Option<Acl>,
        /// Whether the set-group-id bit goes: the caller is not in the file's group, which
        /// only its kernel knows.
        #[n(3)]
        kill_sgid: bool,
    },
    /// rename that leaves a whiteout behind, a character device 0:0 for overlay filesystems.
    #[n(31)]
    Whiteout {
        #[n(0)]
        from_parent: Ino,
        #[n(1)]
        from_name: Name,
        #[n(2)]
        to_parent: Ino,
        #[n(3)]
        to_name: Name,
        /// False with RENAME_NOREPLACE.
        #[n(4)]
        replace: bool,
        /// What the whiteout becomes.
        #[n(5)]
        ino: Ino,
        /// As for `Rename`.
        #[n(6)]
        source: Option<Ino>,
    },
    /// Makes a file without a name (O_TMPFILE). A `Link` by its node may name it; until then it
    /// lasts as long as that node's start.
    #[n(32)]
    MakeUnnamed {
        /// For group and ACL.
        #[n(0)]
        parent: Ino,
        #[n(1)]
        ino: Ino,
        #[n(2)]
        mode: u32,
        #[n(3)]
        umask: u32,
    },
    /// Removes a file that never got a name.
    #[n(33)]
    DropUnnamed {
        #[n(0)]
        ino: Ino,
    },
    /// Removes files that earlier starts of the node left without a name, up to `limit`.
    #[n(34)]
    ReapUnnamed {
        #[n(0)]
        limit: u32,
    },
    /// What `fusion node` and `fusion zone` ask of a member; `None` leaves it.
    #[n(35)]
    SetMember {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        role: Option<MemberRole>,
        #[n(2)]
        draining: Option<bool>,
    },
    /// Frees what a node has of a file, its write token and its locks, if the node's lease has
    /// ended: if nothing of it was agreed since the origin saw the command `seq` of `boot` and
    /// then waited for longer than a lease lasts (docs/design/0003-leases.md).
    #[n(36)]
    Expire {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        node: NodeId,
        #[n(2)]
        boot: u64,
        #[n(3)]
        seq: u64,
    },
}

/// The lock that an owner of a command's origin wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockWant {
    #[n(0)]
    pub owner: u64,
    #[n(1)]
    pub kind: LockKind,
    #[n(2)]
    pub mode: LockMode,
    #[n(3)]
    pub range: ByteRange,
    #[n(4)]
    pub pid: u32,
    #[n(5)]
    pub solo: bool,
}

/// How a request waits: see [`crate::locks::Waiter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockWait {
    #[n(0)]
    pub ticket: u64,
    #[n(1)]
    pub detects: bool,
}

/// What may lie below a directory; `None` = as much as there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct QuotaLimits {
    #[n(0)]
    pub bytes: Option<u64>,
    /// Inodes of all types, the directory itself included.
    #[n(1)]
    pub inodes: Option<u64>,
}

/// What a new inode is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Kind {
    #[n(0)]
    File,
    #[n(1)]
    Directory,
    #[n(2)]
    Symlink(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(3)]
    Fifo,
    #[n(4)]
    Socket,
    /// Device number as in `st_rdev`.
    #[n(5)]
    CharDevice(#[n(0)] u32),
    #[n(6)]
    BlockDevice(#[n(0)] u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RenameHow {
    #[n(0)]
    Replace,
    #[n(1)]
    NoReplace,
    #[n(2)]
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum XattrHow {
    #[n(0)]
    Set,
    /// XATTR_CREATE
    #[n(1)]
    Create,
    /// XATTR_REPLACE
    #[n(2)]
    Replace,
}

/// What to change; `None` leaves it. ctime becomes the command's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct SetAttr {
    /// Permission bits 07777.
    #[n(0)]
    pub mode: Option<u32>,
    #[n(1)]
    pub uid: Option<u32>,
    #[n(2)]
    pub gid: Option<u32>,
    /// Bytes. Truncates or extends with zeros; makes a new version.
    #[n(3)]
    pub size: Option<u64>,
    #[n(4)]
    pub atime: Option<Timestamp>,
    #[n(5)]
    pub mtime: Option<Timestamp>,
    /// What a change of the content takes away. A change of owner or size takes it anyway.
    #[n(6)]
    pub kill: Option<Kill>,
}

/// Privileges that a file was given for its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Kill {
    /// `security.capability`: goes with any change of the content.
    #[n(0)]
    Capability,
    /// The set-id bits as well: the caller may not keep them (CAP_FSETID).
    #[n(1)]
    SetId,
}

/// A file's bytes, as the namespace names them.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub enum Body {
    #[default]
    #[n(0)]
    Empty,
    /// At most [`Body::INLINE_MAX_BYTES`], only where every zone may hold the body.
    #[n(1)]
    Inline(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(2)]
    Sealed {
        #[n(0)]
        id: BodyId,
        /// Bytes that the body holds.
        #[n(1)]
        len: u64,
    },
}

impl Body {
    pub const INLINE_MAX_BYTES: usize = 512;
}

/// A node of the cluster, as agreed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Member {
    #[n(0)]
    pub id: NodeId,
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub zone: ZoneId,
    #[n(3)]
    pub zone_name: String,
    /// `host:port` at which other nodes reach it (UDP).
    #[n(4)]
    pub address: String,
    /// BLAKE3 of the node's public key (SubjectPublicKeyInfo, DER): its identity.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub key_hash: [u8; 32],
    #[n(6)]
    #[cbor(default)]
    pub role: MemberRole,
    /// It hands over what it has, and takes nothing new: no vote, no copies, no changes by its
    /// own mount.
    #[n(7)]
    #[cbor(default)]
    pub draining: bool,
}

impl Member {
    /// Copies of bodies may be placed on it.
    pub fn takes_bodies(&self) -> bool {
        self.keeps_bodies() && !self.draining
    }

    /// It may still have bodies for others.
    pub fn keeps_bodies(&self) -> bool {
        self.role != MemberRole::Witness
    }

    /// It may be given a vote.
    pub fn may_vote(&self) -> bool {
        self.role != MemberRole::Observer && !self.draining
    }
}

/// What a member is for. Who votes now is the ring's membership, not this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum MemberRole {
    /// Votes for its zone, or stands by while another node of the zone does.
    #[default]
    #[n(0)]
    Voter,
    /// Votes and keeps the tables, but no bodies, and has no mount.
    #[n(1)]
    Witness,
    /// Never votes.
    #[n(2)]
    Observer,
}

impl MemberRole {
    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            MemberRole::Voter => "voter",
            MemberRole::Witness => "witness",
            MemberRole::Observer => "observer",
        }
    }
}
