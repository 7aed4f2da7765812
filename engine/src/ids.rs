//! Names for things: every id is a type of its own.

use std::fmt;

use minicbor::{Decode, Encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A machine that runs the daemon. Never reused: a node that lost its disk is a new node.
    NodeId(u16), "n"
);
id!(
    /// A named place of like nodes.
    ZoneId(u16), "z"
);
id!(
    /// A tree with one membership, one agreed order and one namespace state.
    VolumeId(u32), "v"
);
id!(
    /// Place in the agreed order of a volume: 1, 2, 3, ... without gaps; 0 = nothing agreed yet.
    Gsn(u64), "gsn"
);
id!(
    /// Inode number: `| node u16 | counter u40 |`, so that every node numbers alone. The root
    /// is 1. Never reused.
    Ino(u64), "i"
);
id!(
    /// Counts the memberships of a ring.
    Epoch(u32), "e"
);
id!(
    /// Counts the lanes that one node has owned within one epoch.
    Term(u32), "t"
);
id!(
    /// Place in a lane: 1, 2, 3, ...
    Idx(u64), "x"
);
id!(
    /// Hybrid logical timestamp in microseconds since the Unix epoch: orders entries across
    /// lanes. Unique only together with its lane's owner.
    Ts(u64), "ts"
);
id!(
    /// A Paxos ballot of one lane. 0 belongs to the lane's owner; a higher one carries its
    /// node in the low 16 bits, so that no two nodes share one.
    Ballot(u64), "b"
);
id!(
    /// The GSN at which a version of a body was published; 0 = never written.
    Version(u64), "w"
);

impl VolumeId {
    /// Spans the cluster: it has the cluster's members.
    pub const ROOT: VolumeId = VolumeId(1);
}

impl Gsn {
    pub fn next(self) -> Gsn {
        Gsn(self.0 + 1)
    }
}

impl Idx {
    pub fn next(self) -> Idx {
        Idx(self.0 + 1)
    }
}

impl Ino {
    pub const ROOT: Ino = Ino(1);
    const COUNTER_BITS: u32 = 40;
    /// Lower counters are the system's.
    pub const FIRST_COUNTER: u64 = 16;

    /// The `counter`th inode number of `node`. `counter` starts at
    /// [`Ino::FIRST_COUNTER`] on every node.
    pub fn of(node: NodeId, counter: u64) -> Ino {
        assert!(counter >= Self::FIRST_COUNTER, "inode numbers below 16 are reserved");
        assert!(counter < 1 << Self::COUNTER_BITS, "inode counter overflows its 40 bits");
        Ino(u64::from(node.0) << Self::COUNTER_BITS | counter)
    }

    /// The node that gave this number with [`Self::of`]; `None` for the system's numbers and
    /// for what no node can give.
    pub fn node(self) -> Option<NodeId> {
        let node = u16::try_from(self.0 >> Self::COUNTER_BITS).ok()?;
        let counter = self.0 & ((1 << Self::COUNTER_BITS) - 1);
        (counter >= Self::FIRST_COUNTER).then_some(NodeId(node))
    }
}

/// One Multi-Paxos log: the lane that `node` owns in `epoch` for the `term`th time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct LaneId {
    #[n(0)]
    pub epoch: Epoch,
    #[n(1)]
    pub node: NodeId,
    #[n(2)]
    pub term: Term,
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}{:?}", self.epoch, self.node, self.term)
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.node, self.term)
    }
}

/// Identifies a command for exactly-once application: `seq` counts 1, 2, 3, ... within one
/// start (`boot`) of the node `origin`. Boots of one node only grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
#[cbor(array)]
pub struct OpId {
    #[n(0)]
    pub origin: NodeId,
    #[n(1)]
    pub boot: u64,
    #[n(2)]
    pub seq: u64,
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

        impl $name {
            /// Lower-case hexadecimal, 64 digits.
            pub fn to_hex(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex().to_string()
            }

            /// Reads what [`Self::to_hex`] wrote.
            pub fn from_hex(text: &str) -> Option<$name> {
                blake3::Hash::from_hex(text).ok().map(|hash| $name(*hash.as_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex()[..12])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }
    };
}

hash_id!(
    /// Keyed BLAKE3 of a chunk's bytes; the key is the volume's.
    ChunkId
);
hash_id!(
    /// Names a body's content: the id of its only chunk, or the keyed BLAKE3 of its manifest.
    BodyId
);
hash_id!(
    /// A hash of state or of an order, for comparing nodes.
    StateHash
);
