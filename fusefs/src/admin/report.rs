//! What a daemon tells about itself and its cluster.
//!
//! One set of types for the command line, `--json`, the local API and later the metrics: a
//! figure has the same name everywhere. Nodes and zones appear by name. Times are seconds or
//! milliseconds, as the field's unit says; hashes are lower-case hex.

use serde::{Deserialize, Serialize};

/// The whole cluster as one daemon sees it: itself exactly, its peers as they last told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The cluster's id: 32 hex digits.
    pub cluster: String,
    /// The node that answers.
    pub node: String,
    pub state: NodeState,
    /// Every member, in the order of node ids; the answering node's line is exact.
    pub nodes: Vec<NodeReport>,
    pub ring: RingReport,
    /// The answering node's links to its peers.
    pub links: Vec<LinkReport>,
    /// The answering node's mounts.
    pub mounts: Vec<MountReport>,
    /// Sentences about what is wrong now, each with what to do; empty when all is well.
    pub warnings: Vec<String>,
}

impl Status {
    /// The line of the node that answered.
    pub fn own(&self) -> Option<&NodeReport> {
        self.nodes.iter().find(|report| report.node == self.node)
    }
}

/// Who has come to a place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub gsn: u64,
    /// With every body that they should hold.
    pub bodies: bool,
    pub nodes: Vec<ReachedNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachedNode {
    pub node: String,
    pub zone: String,
}

/// A volume: a tree with a ring, an order and a state of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeReport {
    pub id: u32,
    pub name: String,
    /// Who takes part.
    pub nodes: Vec<String>,
    /// How the answering node does in it; absent where it takes no part, or not yet.
    pub here: Option<VolumeHere>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeHere {
    pub epoch: u32,
    pub voters: Vec<String>,
    pub state: NodeState,
    pub gsn_applied: u64,
    pub gsn_agreed: u64,
    pub state_hash: String,
    pub mounts: Vec<MountReport>,
}

/// How a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Started, not yet able to answer operations.
    Starting,
    /// Applies the order as it comes.
    Ok,
    /// Far behind the order; it reads the log or a checkpoint of a peer.
    CatchingUp,
    /// Cannot reach a majority: coordinated operations wait.
    CutOff,
    /// This daemon has not heard from it lately.
    Unreachable,
    /// It is away for longer than the log is kept: it comes back by a checkpoint, and nobody
    /// keeps anything for it.
    Sidelined,
    /// Its store failed or its state diverged: it does not vote or apply any more.
    Failed,
    Stopping,
}

impl NodeState {
    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Ok => "ok",
            NodeState::CatchingUp => "catching-up",
            NodeState::CutOff => "cut-off",
            NodeState::Unreachable => "unreachable",
            NodeState::Sidelined => "sidelined",
            NodeState::Failed => "failed",
            NodeState::Stopping => "stopping",
        }
    }
}

/// What a node does in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Voter,
    /// Votes, and keeps no bodies.
    Witness,
    /// May vote, and does not: another node of its zone does.
    Standby,
    Observer,
}

impl Role {
    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Witness => "witness",
            Role::Standby => "standby",
            Role::Observer => "observer",
        }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: String,
    pub id: u16,
    pub zone: String,
    /// `host:port` (UDP) at which other nodes reach it.
    pub address: String,
    pub role: Role,
    pub state: NodeState,
    /// The last agreement in the node's tables.
    pub gsn_applied: u64,
    /// The newest agreement that the node knows of.
    pub gsn_agreed: u64,
    /// Hash of the namespace at `gsn_applied`: equal on all nodes at an equal GSN.
    pub state_hash: String,
    /// The node holds every body that it should hold up to this GSN.
    pub watermark: u64,
    pub lag: Lag,
    /// How it gets to the newest agreement, if it is far behind.
    #[serde(default)]
    pub catch_up: Option<CatchUpReport>,
    /// The oldest agreement that it keeps for others and for `fusion log`.
    #[serde(default)]
    pub order_oldest: u64,
    /// Bytes of the agreements that it keeps, before compression.
    #[serde(default)]
    pub order_bytes: u64,
    /// Age of this line; 0 for the answering node, absent if never heard.
    pub age_seconds: Option<f64>,
    /// The weight of its vote; 0 without one.
    #[serde(default)]
    pub weight: u32,
    /// It hands over what it has, and takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Files with changes that are not published yet.
    #[serde(default)]
    pub unpublished_files: u64,
}

/// A node on its way to the newest agreement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUpReport {
    /// It executes what the others agreed: it is at `done` of `upto`.
    Log { done: u64, upto: u64 },
    /// It receives a copy of the tables as of `gsn`.
    Checkpoint { from: String, gsn: u64, bytes: u64, about_bytes: u64 },
}

/// What a node should hold and does not hold yet: what would be lost with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Age of the oldest body that is missing; 0 when nothing is missing.
    pub seconds: f64,
    pub bytes: u64,
    pub files: u64,
}

/// The ring as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingReport {
    pub epoch: u32,
    pub voters: Vec<String>,
    /// Whether the answering node can reach a majority now.
    pub quorum: bool,
    /// Measured round trip from the answering node to its nearest majority.
    pub quorum_rtt_ms: Option<f64>,
    pub lanes: Vec<LaneReport>,
    /// Own commands that are not agreed yet.
    pub pending: u64,
    /// So many zones may fail, whichever they are, and a majority is left.
    #[serde(default)]
    pub zones_may_fail: u32,
    /// The zones that may fail, one at a time.
    #[serde(default)]
    pub zones_dispensable: Vec<String>,
    /// Nodes that were removed.
    #[serde(default)]
    pub removed: Vec<DepartedReport>,
}

/// A node that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedReport {
    pub node: String,
    pub id: u16,
    pub zone: String,
    /// The agreement that removed it.
    pub gsn: u64,
}

/// One active lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// Its owner.
    pub node: String,
    pub epoch: u32,
    pub term: u32,
    /// The next entry of the lane to execute.
    pub next: u64,
    /// The answering node suspects that the owner is gone.
    pub suspected: bool,
}

/// A link from the answering node to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The peer's name.
    pub peer: String,
    pub zone: String,
    pub address: String,
    pub connected: bool,
    /// Smoothed round trip; absent before the first measurement.
    pub rtt_ms: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// A mount that the answering daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountReport {
    /// Absolute directory.
    pub directory: String,
    pub read_only: bool,
    pub allow_other: bool,
}

/// One agreement, readable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    pub gsn: u64,
    /// The agreement's timestamp: seconds since 1970.
    pub time: f64,
    /// The owner of the lane that carried it.
    pub lane: String,
    /// `commands`, `tick`, `end` or `reconfigure`.
    pub kind: String,
    pub commands: Vec<LogCommand>,
    /// What an entry without commands does, as in `voters z1 z2 z3`; else empty.
    pub note: String,
}

/// One command of an agreement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogCommand {
    /// The node that proposed it.
    pub node: String,
    pub zone: String,
    pub boot: u64,
    pub seq: u64,
    /// Whose operation it is; 0 for the daemon's own.
    pub uid: u32,
    pub gid: u32,
    /// When it happened, by that node's clock: seconds since 1970.
    pub time: f64,
    /// The operation's name, as in `rename`.
    pub op: String,
    #[serde(flatten)]
    pub subject: LogSubject,
    /// Its arguments, as in `i1/a -> i1/b`.
    pub detail: String,
    /// `ok`; the name of the errno that its caller got, as in `EEXIST`; `waiting` or `busy` (a
    /// lock that is another's); `repeated` (it was agreed before and counted there); `skipped`
    /// (it changed nothing and nobody waits for it); `unknown` (not kept).
    pub outcome: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The inodes and names that a command carries. A name has `\\`, `\n` and `\xNN` where its
/// bytes are a backslash, control characters or no UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSubject {
    /// The inode that is changed or made, where the command says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// The directory of `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where a rename goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_parent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_name: Option<String>,
}

/// Where the newest version of a file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhereReport {
    /// From the volume's root, with a leading slash.
    pub path: String,
    pub ino: u64,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `char-device` or `block-device`.
    pub kind: String,
    /// GSN at which the content got its newest version; 0 for what has no content.
    pub version: u64,
    pub size_bytes: u64,
    /// The node that may write the content now, if there is one.
    pub writer: Option<String>,
    pub holders: Vec<HolderReport>,
}

/// What one node has of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderReport {
    pub node: String,
    pub zone: String,
    pub state: HolderState,
    /// Known for the answering node; for peers as far as they told.
    pub bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderState {
    /// All bytes, durably.
    Held,
    /// The bytes travel in the agreed order itself (small or empty files).
    Inline,
    Arriving,
    Missing,
    /// This daemon cannot ask it now.
    Unknown,
}

impl HolderState {
    pub fn word(self) -> &'static str {
        match self {
            HolderState::Held => "held",
            HolderState::Inline => "inline",
            HolderState::Arriving => "arriving",
            HolderState::Missing => "missing",
            HolderState::Unknown => "unknown",
        }
    }
}

/// What an action on a node or zone came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChanged {
    /// The answering node had applied this agreement then.
    pub gsn: u64,
    pub epoch: u32,
}

/// Bodies that some nodes have and no other node that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoleReport {
    /// Files with a body of their own.
    pub checked_files: u64,
    /// Of these, how many only those nodes have, or nobody.
    pub files: u64,
    pub bytes: u64,
    /// Some of them.
    pub examples: Vec<SoleFile>,
    /// Nodes that did not answer: what they have is not counted.
    pub silent: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoleFile {
    pub ino: u64,
    pub size_bytes: u64,
}

/// What a forced epoch on one survivor keeps and loses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DisasterReport {
    /// The survivor.
    pub node: String,
    /// It has no file's content.
    pub witness: bool,
    pub epoch: u32,
    pub voters: Vec<String>,
    /// The newest agreement in its tables, and how old that is.
    pub gsn: u64,
    pub age_seconds: f64,
    /// Agreements beyond that which it voted for and which are taken over.
    pub salvaged: u64,
    pub others: Vec<OtherReport>,
    /// Files whose newest content is not in its store.
    pub missing_files: u64,
    pub missing_bytes: u64,
    /// What was made; absent while it only looks.
    pub forced_epoch: Option<u32>,
    pub forced_gsn: Option<u64>,
}

/// Another node as the survivor knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherReport {
    pub node: String,
    pub zone: String,
    pub voter: bool,
    /// What it had applied when it was last heard.
    pub gsn: Option<u64>,
    pub seen_seconds_ago: Option<i64>,
}

/// A join token; the secret appears only in the answer to its creation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenReport {
    /// 16 hex digits.
    pub id: String,
    pub zone: String,
    /// `voter`, `witness` or `observer`.
    #[serde(default)]
    pub role: String,
    /// Seconds until it expires; negative when it has.
    pub expires_in_seconds: i64,
}

/// A fresh join token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenCreated {
    pub id: String,
    pub zone: String,
    /// `voter`, `witness` or `observer`.
    #[serde(default)]
    pub role: String,
    /// The whole `FUS1-...@host:port` text, to be copied once.
    pub token: String,
    pub expires_in_seconds: i64,
}

/// Bytes that no version could take: a publish that was refused because another one came
/// first. They are kept until somebody looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConflictReport {
    pub ino: u64,
    /// Where the file is now, if it still has a name that this node can find.
    pub path: Option<String>,
    /// The version that the bytes were based on.
    pub base: u64,
    /// The version that the file has instead.
    pub current: u64,
    pub size_bytes: u64,
    /// The local file that holds the bytes.
    pub kept_at: String,
}

/// A directory's quota. What lies in quotas below counts too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaReport {
    pub volume: String,
    pub ino: u64,
    /// From the volume's root; absent if the directory has just gone.
    pub path: Option<String>,
    pub state: QuotaStateReport,
    /// Absent = no limit.
    pub limit_bytes: Option<u64>,
    pub used_bytes: u64,
    /// Set aside for what nodes are writing now.
    pub reserved_bytes: u64,
    pub limit_inodes: Option<u64>,
    pub used_inodes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaStateReport {
    /// What was there before is being counted.
    Counting,
    Active,
    /// What counts for it is being given to the quota above.
    Ending,
}

impl QuotaStateReport {
    pub fn word(self) -> &'static str {
        match self {
            QuotaStateReport::Counting => "counting",
            QuotaStateReport::Active => "active",
            QuotaStateReport::Ending => "ending",
        }
    }
}

/// A node's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// `fusion://CLUSTER/ZONE/NODE`
    pub name: String,
    pub expires_in_seconds: i64,
    /// Half of its life is over.
    pub renewal_due: bool,
    /// Hash of the authority's certificate, as in join tokens.
    pub authority: String,
    /// Hash of the node's public key, as agreed.
    pub key: String,
    /// The node has the authority's key: it can admit and certify others.
    pub issues: bool,
}

/// A daemon that has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster: String,
    pub node: String,
    pub id: u16,
    pub zone: String,
    /// The address that it gives other nodes.
    pub address: String,
}
