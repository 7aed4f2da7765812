//! What the outside may ask of a running node: the border between `node/` and everything
//! that people touch (command line, mount helper, local API).

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::report::{
    CertificateReport, ConflictReport, Identity, LogEntry, MemberChanged, MountReport, QuotaReport,
    Reached, SoleReport, Status, TokenCreated, TokenReport, VolumeReport, WhereReport,
};

/// An answer that may take its time.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send + 'a>>;

/// A running node.
///
/// Every call may run beside every other one, and a caller that goes away may drop the
/// future at any await without harm.
pub trait Control: Send + Sync + 'static {
    fn identity(&self) -> Identity;

    /// Answers from memory: quick also when no peer can be reached.
    fn status(&self) -> Reply<'_, Status>;

    /// Reads the agreed order.
    ///
    /// # Errors
    /// `Gone` when `from` is older than what this node has kept; the message names the oldest
    /// that it has.
    fn log(&self, query: LogQuery) -> Reply<'_, Vec<LogEntry>>;

    /// Follows the agreed order from `from` on (0 = from now on), whatever `limit` and `wait_ms`
    /// say. As many may follow at once as there is room for, each at its own place.
    ///
    /// # Errors
    /// As for [`Self::log`]; `Refused` when too many follow already.
    fn follow_log(&self, query: LogQuery) -> Reply<'_, Box<dyn LogFollower>>;

    /// The node's figures in the OpenMetrics text format.
    fn metrics(&self) -> Reply<'_, String>;

    /// Says who holds the newest version of the file at `path`: from the volume's root, with
    /// or without a leading slash.
    fn where_path(&self, path: String) -> Reply<'_, WhereReport>;

    /// Agrees a join token for a node of `zone`; waits for the agreement.
    fn create_token(
        &self,
        zone: String,
        role: MemberRole,
        lifetime: Duration,
    ) -> Reply<'_, TokenCreated>;

    fn list_tokens(&self) -> Reply<'_, Vec<TokenReport>>;

    fn revoke_token(&self, id: String) -> Reply<'_, ()>;

    /// Waits, as long as the caller stays, until the nodes that `query` means have applied
    /// its GSN.
    fn wait(&self, query: WaitQuery) -> Reply<'_, Reached>;

    /// Agrees a volume in which `nodes` (names; none = all) take part.
    fn create_volume(&self, name: String, nodes: Vec<String>) -> Reply<'_, VolumeReport>;

    /// The root volume first.
    fn list_volumes(&self) -> Reply<'_, Vec<VolumeReport>>;

    /// Changes what a node, or each node of a zone, is for; waits until that is agreed.
    ///
    /// # Errors
    /// `Refused` if something would be lost, and says what.
    fn change_member(&self, request: MemberRequest) -> Reply<'_, MemberChanged>;

    /// Counts what only the nodes of `request` have. Reads all inodes and asks the others.
    fn sole_copies(&self, request: MemberRequest) -> Reply<'_, SoleReport>;

    fn certificate(&self) -> Reply<'_, CertificateReport>;

    /// Gets a new certificate for the same key, and uses it from then on.
    fn rotate_certificate(&self) -> Reply<'_, CertificateReport>;

    fn list_conflicts(&self) -> Reply<'_, Vec<ConflictReport>>;

    /// Begins a quota at a directory, or changes its limits; returns when all that was there
    /// is counted.
    fn set_quota(&self, request: QuotaRequest) -> Reply<'_, QuotaReport>;

    /// Ends a directory's quota.
    fn end_quota(&self, place: QuotaPlace) -> Reply<'_, ()>;

    fn list_quotas(&self) -> Reply<'_, Vec<QuotaReport>>;

    /// Mounts the volume; returns when the mount answers. A directory where this daemon's
    /// mount is already is success. A dead mount there is detached first.
    fn mount(&self, request: MountRequest) -> Reply<'_, MountReport>;

    /// Seals and syncs what was written through the mount, then unmounts.
    ///
    /// # Errors
    /// `Refused` naming the busy processes, unless `lazy`.
    fn unmount(&self, request: UnmountRequest) -> Reply<'_, ()>;

    /// Unmounts (lazily where busy), ends the own lane, syncs the store, stops. `stopped`
    /// resolves afterwards.
    fn shutdown(&self) -> Reply<'_, ()>;

    /// Resolves when the node has stopped: `Ok` after `shutdown`, the reason otherwise (a
    /// failed fsync, a diverged state).
    fn stopped(&self) -> Reply<'_, ()>;
}

/// One reader's place in the agreed order.
pub trait LogFollower: Send {
    /// Waits for the next agreements that the query asks for: [`LogEntry`]s as JSON, one on a
    /// line. What was given once is not kept: who needs it again follows from there.
    ///
    /// # Errors
    /// `Gone` when the reader is so slow that the next one is not kept any more, `NoDaemon`
    /// when the node stops.
    fn next(&mut self) -> Reply<'_, Bytes>;
}

/// Something asked of a node or of all nodes of a zone: exactly one of the two is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRequest {
    /// By name or number.
    pub node: Option<String>,
    pub zone: Option<String>,
    pub action: MemberAction,
    /// Also if something is lost by it.
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberAction {
    /// Hands over what it has, and takes nothing new.
    Drain,
    /// Ends that.
    Resume,
    /// Gives it a vote: in place of its zone's present voter, or besides it (`extra`).
    Promote { extra: bool, weight: Option<u32> },
    /// Takes its vote; it observes from then on.
    Demote,
    /// Out of the cluster for good.
    Remove,
}

/// What a joining node will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberRole {
    #[default]
    Voter,
    Witness,
    Observer,
}

/// Which part of the order to read. The filters together say which commands count; an
/// agreement in which none does is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// The first GSN; 0 = the newest `limit` entries.
    pub from: u64,
    /// Entries at most; of the newest agreements, so many are looked at.
    pub limit: usize,
    /// Wait until there is at least one, at most this long; `None` answers at once.
    pub wait_ms: Option<u64>,
    /// The volume's name; absent = the root volume.
    pub volume: Option<String>,
    /// Leave out agreements without commands, unless they change the ring.
    pub changes: bool,
    /// Only commands of this node.
    pub node: Option<String>,
    /// Only commands of nodes of this zone.
    pub zone: Option<String>,
    /// Only commands of this user.
    pub uid: Option<u32>,
    /// Only commands that name this path, from the volume's root, or what is there now.
    pub path: Option<String>,
}

impl Default for LogQuery {
    fn default() -> LogQuery {
        LogQuery {
            from: 0,
            limit: 1000,
            wait_ms: None,
            volume: None,
            changes: false,
            node: None,
            zone: None,
            uid: None,
            path: None,
        }
    }
}

/// What to wait for, and where: this node unless `zone` or `all` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    pub gsn: u64,
    /// Every node of the zone.
    pub zone: Option<String>,
    /// Every node of the cluster.
    #[serde(default)]
    pub all: bool,
    /// Also until they hold every body that they should up to there.
    #[serde(default)]
    pub bodies: bool,
}

/// What a quota should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaRequest {
    /// Where the volume is mounted; absent = the root volume.
    #[serde(default)]
    pub mount: Option<String>,
    /// From the volume's root, with or without a leading slash.
    pub path: String,
    #[serde(default)]
    pub bytes: LimitChange,
    #[serde(default)]
    pub inodes: LimitChange,
}

/// Which directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaPlace {
    /// Where the volume is mounted; absent = the root volume.
    pub mount: Option<String>,
    pub path: String,
}

/// `"keep"`, `"none"` or `{"at": N}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitChange {
    #[default]
    Keep,
    None,
    At(u64),
}

/// Where and how to mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// Absolute; must exist, or be a dead mount.
    pub directory: PathBuf,
    /// What `mount` shows as the device.
    pub source: String,
    /// A comma-separated list as mount(8) has it, for `kernel::options::MountOptions::add`;
    /// without `store`, `socket` and `config`, which the mount helper takes for itself.
    pub options: String,
    /// Whether other users may use it, unless `options` says; `None` = root: yes, users: if
    /// /etc/fuse.conf permits.
    pub allow_other: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmountRequest {
    /// Absolute.
    pub directory: PathBuf,
    /// Detach at once, also when busy.
    pub lazy: bool,
}

/// How a request failed; also what the command line's exit code is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    pub kind: FailureKind,
    /// What went wrong: one sentence without a full stop.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    Failed,
    Usage,
    Degraded,
    NoDaemon,
    /// Not within the time, or not yet.
    Timeout,
    /// By policy, by the missing quorum, or because something is in use.
    Refused,
    /// It was there, and is not kept any more.
    Gone,
    /// The database is not to be believed: the next start of the daemon repairs it.
    Damaged,
}

impl FailureKind {
    /// The exit code of `fusion`, as `docs/OPERATIONS.md` lists them.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureKind::Failed | FailureKind::Gone | FailureKind::Damaged => 1,
            FailureKind::Usage => 2,
            FailureKind::Degraded => 3,
            FailureKind::NoDaemon => 4,
            FailureKind::Timeout => 5,
            FailureKind::Refused => 6,
        }
    }
}

impl ControlError {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> ControlError {
        ControlError { kind, message: message.into(), hint: String::new() }
    }

    pub fn failed(message: impl Into<String>) -> ControlError {
        ControlError::new(FailureKind::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> ControlError {
        ControlError::new(FailureKind::Usage, message)
    }

    pub fn refused(message: impl Into<String>) -> ControlError {
        ControlError::new(FailureKind::Refused, message)
    }

    pub fn timeout(message: impl Into<String>) -> ControlError {
        ControlError::new(FailureKind::Timeout, message)
    }

    pub fn no_daemon(message: impl Into<String>) -> ControlError {
        ControlError::new(FailureKind::NoDaemon, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ControlError {
        self.hint = hint.into();
        self
    }
}

/// `fusion init`: the first node of a new cluster. For `node::init`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitRequest {
    /// Must be absent or an empty directory.
    pub store: PathBuf,
    pub zone: String,
    pub node: String,
    pub listen: SocketAddr,
    /// `host:port` that other nodes use.
    pub advertise: String,
}

/// `fusion join`: another node, admitted by a token. For `node::join`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The whole `FUS1-...@host:port` text.
    pub token: String,
    /// Must be absent or an empty directory.
    pub store: PathBuf,
    pub node: String,
    pub listen: SocketAddr,
    pub advertise: String,
}
