//! What this node knows about one file's bytes: the agreed version, the version on its way
//! into the order, and the layer that is being written. The transitions are here, without I/O.
//!
//! ```text
//!   write            freeze               stored            Publish applied
//!  ───────▶ [top] ─────────▶ [sealing] ───────────▶ body ──────────────────▶ [base]
//!              ▲                 │ the next top lies over it
//!              └─────────────────┘
//! ```
//! A reader sees `top` over `sealing` over `base`. At most one version of a file is on its way
//! at a time, so a publish always knows its base.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::command::Body;
use engine::ids::{NodeId, Version};
use engine::namespace::Inode;
use engine::time::Timestamp;

use super::content::{Below, Content, Frozen, Segment, plan_layer};
use super::extents::{Extents, Source};
use super::holes::HOLE_BYTES_MIN;
use super::layer::{Layer, LayerId, MemoryBudget};
use crate::ops::ports::{BodyError, LocalAttr};

/// One file on this node while it is open or has a stage.
#[derive(Debug)]
pub struct State {
    pub base: Base,
    pub top: Option<Top>,
    pub sealing: Option<Sealing>,
    pub token: Token,
    /// Open handles, and those of them that may write.
    pub opens: u32,
    pub writers: u32,
    /// The last link went: nothing of this file is published any more.
    pub gone: bool,
    /// It has had no name yet: nothing of it is published before it gets one.
    pub unnamed: bool,
    /// What is staged was written before this node's lease ended and others were given the file:
    /// it becomes a conflict record. Until then nothing is written.
    pub expired: bool,
    /// An error of background work, to be told once.
    pub failed: Option<BodyError>,
    /// The last layer that was taken back: refused by the order, or not to be believed.
    pub given_up: Option<LayerId>,
    /// When the last seal ended and how long it took, so that a file that stays open is not
    /// sealed all the time.
    pub last_seal: Option<(Instant, Duration)>,
    stages: Stages,
}

/// Makes layers: where their ids come from, and the memory that they share.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    last: Arc<AtomicU64>,
    pub memory: MemoryBudget,
}

impl Stages {
    /// The next layers get ids above `last`.
    pub fn after(last: LayerId) -> Stages {
        Stages { last: Arc::new(AtomicU64::new(last.0)), memory: MemoryBudget::default() }
    }

    pub fn next_id(&self) -> LayerId {
        LayerId(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The agreed version below everything that was written here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    pub version: Version,
    pub content: Content,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Who published the content.
    pub holder: Option<NodeId>,
}

/// The layer that is written.
#[derive(Debug)]
pub struct Top {
    pub layer: Layer,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub since: Instant,
    /// A journal record of it exists, perhaps of an earlier moment.
    pub journaled: bool,
    /// A descriptor that may write was closed since the last change. Unlike the handle's end,
    /// close(2) waits for this.
    pub closed: bool,
}

/// A version on its way: frozen → stored → proposed → applied.
#[derive(Debug)]
pub struct Sealing {
    pub frozen: Arc<Frozen>,
    /// The version that it replaces.
    pub base: Version,
    pub step: Step,
    /// What it became, once that is durable here.
    pub stored: Option<Content>,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub journaled: bool,
    /// A change of size that was agreed first made `base` out of date, but not the bytes.
    pub rebase: bool,
}

/// How far a version is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waits for a worker.
    Frozen,
    /// A worker reads, hashes and stores it.
    Storing,
    /// Durable here; to be proposed.
    Stored,
    Proposed,
    /// Proposed, without an answer: it may be agreed or not, and is proposed again.
    Unanswered,
}

/// What a worker should do for a file.
#[derive(Debug)]
pub enum Task {
    Seal(Arc<Frozen>),
    Propose,
}

/// The write token as this node last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Look at the tables.
    Unknown,
    Here,
    /// Here, but another node asked for it: nothing is written any more.
    Recalled,
}

impl Base {
    pub fn of(inode: &Inode) -> Base {
        Base {
            version: inode.version,
            content: Content::of(inode),
            mtime: inode.mtime,
            ctime: inode.ctime,
            holder: inode.holder,
        }
    }
}

impl Step {
    fn may_be_agreed(self) -> bool {
        matches!(self, Step::Proposed | Step::Unanswered)
    }
}

impl Sealing {
    /// True if `agreed` shows that this version was published. The record may be some commands
    /// further than the publish, so its size tells only where the body cannot.
    fn became(&self, agreed: &Base, base: &Base) -> bool {
        let Some(stored) = self.stored.as_ref().filter(|_| self.step.may_be_agreed()) else {
            return false;
        };
        stored.body == agreed.content.body
            && (stored.body != base.content.body || stored.size == agreed.content.size)
    }
}

impl State {
    pub fn new(base: Base, stages: Stages) -> State {
        State {
            base,
            top: None,
            sealing: None,
            token: Token::Unknown,
            opens: 0,
            writers: 0,
            gone: false,
            unnamed: false,
            expired: false,
            failed: None,
            given_up: None,
            last_seal: None,
            stages,
        }
    }

    /// True if nothing of the file is only here, and nobody has it open.
    pub fn is_idle(&self) -> bool {
        self.opens == 0 && self.top.is_none() && self.sealing.is_none() && !self.is_recalled()
    }

    pub fn is_staged(&self) -> bool {
        self.top.is_some() || self.sealing.is_some()
    }

    /// The layers that are not part of an agreed version, the newest first.
    fn layers(&self) -> impl Iterator<Item = LayerId> {
        let sealing = self.sealing.as_ref().map(|sealing| sealing.frozen.layer.id());
        self.top.as_ref().map(|top| top.layer.id()).into_iter().chain(sealing)
    }

    pub fn newest_layer(&self) -> Option<LayerId> {
        self.layers().next()
    }

    /// Whether a layer up to `newest` is not part of an agreed version.
    pub fn has_layer_upto(&self, newest: LayerId) -> bool {
        self.layers().any(|id| id <= newest)
    }

    /// Whether the layer is not part of an agreed version yet, and not taken back.
    pub fn has_layer(&self, layer: LayerId) -> bool {
        self.layers().any(|id| id == layer)
    }

    /// Whether what is written of it goes into the order.
    pub fn is_published(&self) -> bool {
        !self.gone && !self.unnamed
    }

    pub fn is_recalled(&self) -> bool {
        self.token == Token::Recalled
    }

    /// Bytes of the file as this node sees it.
    pub fn size(&self) -> u64 {
        match &self.top {
            Some(top) => top.layer.size(),
            None => self.below().size(),
        }
    }

    /// What the top layer lies over, or would.
    pub fn below(&self) -> Below {
        match &self.sealing {
            Some(Sealing { stored: Some(content), .. }) => Below::Content(content.clone()),
            Some(sealing) => Below::Frozen(Arc::clone(&sealing.frozen)),
            None => Below::Content(self.base.content.clone()),
        }
    }

    /// Bytes that the file takes here, at most: what quotas count.
    pub fn charge(&self) -> u64 {
        match &self.top {
            Some(top) => top.layer.charge(self.below().charge()),
            None => self.below().charge(),
        }
    }

    /// What writing `range` adds to what the layer takes, and what the file takes then.
    pub fn growth(&self, range: Range<u64>) -> (u64, u64) {
        let below = self.below();
        let fresh = Extents::over(below.stored());
        let (extents, size, grown) = match &self.top {
            Some(top) => (top.layer.extents(), top.layer.size(), top.layer.grown()),
            None => (&fresh, below.size(), 0),
        };
        // Bytes below count already, unless there may be holes among them.
        let is_dense = below.charge() >= below.stored();
        // Zeros beside it that are too few for a hole become part of the body.
        let around = range.start.saturating_sub(HOLE_BYTES_MIN)
            ..range.end.saturating_add(HOLE_BYTES_MIN).min(size.max(range.end));
        let mut more = 0;
        for piece in extents.pieces(around.clone()) {
            let inner = piece.range.start.max(range.start)..piece.range.end.min(range.end);
            let inside = inner.end.saturating_sub(inner.start);
            let len = piece.range.end - piece.range.start;
            let goes_on = piece.range.start == around.start && around.start > 0
                || piece.range.end == around.end && around.end < size;
            more += match piece.source {
                Source::Here | Source::Shared(..) => 0,
                Source::Below if is_dense => 0,
                Source::Below => inside,
                Source::Zero if goes_on => inside,
                Source::Zero => len,
            };
        }
        (more, size.max(range.end).min(below.charge() + grown + more))
    }

    /// Where the bytes of `range` are; `range` is cut at the end of the file.
    pub fn plan(&self, range: Range<u64>) -> Vec<Segment> {
        let size = self.size();
        let range = range.start.min(size)..range.end.min(size);
        let mut plan = Vec::new();
        match &self.top {
            Some(top) => {
                let below = self.below();
                let below = |range: Range<u64>, plan: &mut Vec<Segment>| below.plan(range, plan);
                plan_layer(&top.layer, &below, range, &mut plan);
            }
            None => self.below().plan(range, &mut plan),
        }
        plan
    }

    /// The layer to change, made if there is none; `time` becomes its times.
    pub fn top(&mut self, time: Timestamp) -> &mut Top {
        if self.top.is_none() {
            self.expired &= self.sealing.is_some();
            let below = self.below();
            let (id, memory) = (self.stages.next_id(), &self.stages.memory);
            self.top = Some(Top {
                layer: Layer::over(id, below.stored(), below.size(), memory),
                mtime: time,
                ctime: time,
                since: Instant::now(),
                journaled: false,
                closed: false,
            });
        }
        let top = self.top.as_mut().expect("made above");
        top.closed = false;
        top.mtime = time;
        top.ctime = time;
        top
    }

    pub fn attr(&self) -> Option<LocalAttr> {
        let (size, allocated, mtime, ctime) = match (&self.top, &self.sealing) {
            (Some(top), _) => {
                let allocated = top.layer.allocated(self.below().stored_len());
                (top.layer.size(), allocated, top.mtime, top.ctime)
            }
            (None, Some(sealing)) => {
                let layer = &sealing.frozen.layer;
                (layer.size(), sealing.frozen.stored_len(), sealing.mtime, sealing.ctime)
            }
            (None, None) if self.gone => {
                let content = &self.base.content;
                (content.size, content.stored_len, self.base.mtime, self.base.ctime)
            }
            (None, None) => return None,
        };
        Some(LocalAttr { size, blocks: allocated.div_ceil(512), mtime, ctime })
    }

    /// Sets the mtime that will be published, if there is something that is not proposed yet.
    pub fn set_mtime(&mut self, mtime: Timestamp, now: Timestamp) -> bool {
        match (&mut self.top, &mut self.sealing) {
            (Some(top), _) => {
                top.mtime = mtime;
                top.ctime = now;
                true
            }
            (None, Some(sealing)) => {
                // A proposed version has the old time, but the caller's change is agreed after
                // it; should it have to be proposed again, it takes this one along.
                sealing.mtime = mtime;
                sealing.ctime = now;
                !sealing.step.may_be_agreed()
            }
            (None, None) if self.gone => {
                self.base.mtime = mtime;
                self.base.ctime = now;
                true
            }
            (None, None) => false,
        }
    }

    /// The newest layer, if it is not proposed yet.
    pub fn unproposed(&self) -> Option<LayerId> {
        match &self.top {
            _ if !self.is_published() => None,
            Some(top) => Some(top.layer.id()),
            None => self.first_unproposed(),
        }
    }

    /// As [`Self::unproposed`], of what no open descriptor is known to change further.
    pub fn unproposed_and_closed(&self) -> Option<LayerId> {
        match &self.top {
            Some(top) if self.writers > 0 && !top.closed => self.first_unproposed_below_top(),
            _ => self.unproposed(),
        }
    }

    /// The oldest layer that is not proposed yet.
    pub fn first_unproposed(&self) -> Option<LayerId> {
        let top = self.top.as_ref().map(|top| top.layer.id());
        self.first_unproposed_below_top().or(top.filter(|_| self.is_published()))
    }

    fn first_unproposed_below_top(&self) -> Option<LayerId> {
        let sealing = self.sealing.as_ref().filter(|_| self.is_published())?;
        (!sealing.step.may_be_agreed()).then(|| sealing.frozen.layer.id())
    }

    /// What to do for the file now, if anything; a top layer is frozen for it.
    pub fn next_task(&mut self) -> Option<Task> {
        if !self.is_published() {
            return None;
        }
        match &mut self.sealing {
            None => self.freeze().map(Task::Seal),
            Some(sealing) => match sealing.step {
                Step::Frozen => {
                    sealing.step = Step::Storing;
                    Some(Task::Seal(Arc::clone(&sealing.frozen)))
                }
                Step::Stored | Step::Unanswered => Some(Task::Propose),
                Step::Storing | Step::Proposed => None,
            },
        }
    }

    fn freeze(&mut self) -> Option<Arc<Frozen>> {
        let top = self.top.take()?;
        let frozen = Arc::new(Frozen { layer: top.layer, below: self.base.content.clone() });
        self.sealing = Some(Sealing {
            frozen: Arc::clone(&frozen),
            base: self.base.version,
            step: Step::Storing,
            stored: None,
            mtime: top.mtime,
            ctime: top.ctime,
            journaled: top.journaled,
            rebase: false,
        });
        Some(frozen)
    }

    /// The version on its way, if it is still `stage`'s.
    pub fn sealing_of(&mut self, stage: LayerId) -> Option<&mut Sealing> {
        self.sealing.as_mut().filter(|sealing| sealing.frozen.layer.id() == stage)
    }

    /// The agreed record changed; `me` is this node. Gives the version that was on its way and has arrived.
    pub fn agreed(&mut self, inode: &Inode, me: NodeId) -> Option<Sealing> {
        let agreed = Base::of(inode);
        if agreed.version <= self.base.version {
            self.base.mtime = agreed.mtime;
            self.base.ctime = agreed.ctime;
            return None;
        }
        if self.sealing.as_ref().is_some_and(|sealing| sealing.became(&agreed, &self.base)) {
            self.base = agreed;
            return self.sealing.take();
        }
        if !self.is_staged() {
            self.base = agreed;
        } else if self.expired {
            // Its publish is refused, whatever the others made of the file meanwhile.
        } else if agreed.content.body == self.base.content.body
            || inode.writer == Some(me) && agreed.content.body == Body::Empty
        {
            // A change of size that was proposed before the stage began: it comes after what
            // was written until now, as the two ran at the same time. One that hides all
            // bytes leaves no body; while the token is here nobody else can have done it.
            let (size, time) = (agreed.content.size, agreed.mtime);
            self.base = agreed;
            self.top(time).layer.truncate(size, false);
            if let Some(sealing) = &mut self.sealing {
                sealing.rebase = true;
            }
        }
        // Otherwise another node published over our stage: its publish will be refused, and
        // what was written here becomes a conflict record.
        None
    }

    /// This node's lease has ended, and the file is others'. What is staged is based on a version
    /// before `agreed`, the file's own.
    pub fn expire(&mut self, agreed: Version) {
        if self.token == Token::Here {
            self.token = Token::Unknown;
        }
        if !self.is_staged() || self.gone {
            return;
        }
        self.expired = true;
        self.failed = Some(BodyError::Expired);
        // A look at the tables may have been ahead of the news.
        let before = Version(agreed.0.saturating_sub(1));
        self.base.version = self.base.version.min(before);
        if let Some(sealing) = &mut self.sealing {
            sealing.rebase = false;
            sealing.base = sealing.base.min(before);
        }
    }

    /// Whether others must wait for this node because of the file: something may be written here,
    /// or is not agreed yet.
    pub fn needs_lease(&self) -> bool {
        self.is_published() && (self.writers > 0 || self.is_staged())
    }

    /// The version on its way cannot be agreed any more: its content stays below what was
    /// written since, whose own publish then meets the same fate.
    pub fn give_up_sealing(&mut self) -> Option<Sealing> {
        let sealing = self.sealing.take()?;
        if let Some(content) = &sealing.stored {
            self.base.content = content.clone();
        }
        self.base.mtime = sealing.mtime;
        self.base.ctime = sealing.ctime;
        Some(sealing)
    }
}

#[cfg(test)]
mod tests {
    use engine::command::Kind;
    use engine::ids::Gsn;

    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 0)
    }

    fn inline(bytes: &[u8]) -> Content {
        let size = bytes.len() as u64;
        Content { body: Body::Inline(bytes.to_vec()), valid_len: size, size, stored_len: size }
    }

    fn staged(text: &[u8]) -> State {
        let base = Base { version: Version(1), content: inline(b"old"), ..Base::default() };
        let mut state = State::new(base, Stages::default());
        state.top(time(5)).layer.write_memory(0, text);
        state
    }

    fn inode(version: u64, content: &Content) -> Inode {
        Inode {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: content.size,
            atime: time(0),
            mtime: time(0),
            ctime: time(0),
            btime: time(0),
            changed: Gsn(version),
            xattr_list_len: 0,
            quota: engine::ids::Ino(0),
            version: Version(version),
            body: content.body.clone(),
            valid_len: content.valid_len,
            stored_len: content.stored_len,
            home: engine::ids::Ino::ROOT,
            writer: None,
            holder: None,
            directory: None,
        }
    }

    fn read(state: &State) -> Vec<u8> {
        let mut bytes = vec![0; state.size() as usize];
        let plan = state.plan(0..u64::MAX);
        super::super::content::fill::<store::StoreError>(&plan, &mut bytes, &|_, _, _| {
            panic!("no sealed body here")
        })
        .expect("memory can be read");
        bytes
    }

    #[test]
    fn writes_during_a_seal_stay_on_top_of_it() {
        let mut state = staged(b"new bytes");
        let Some(Task::Seal(frozen)) = state.next_task() else { panic!("there is a top layer") };
        state.top(time(6)).layer.write_memory(0, b"NEW");
        assert_eq!(read(&state), b"NEW bytes");
        assert!(state.next_task().is_none(), "one version at a time");
        let content = inline(b"new bytes");
        let sealing = state.sealing_of(frozen.layer.id()).expect("on its way");
        sealing.stored = Some(content.clone());
        sealing.step = Step::Proposed;
        assert_eq!(read(&state), b"NEW bytes");
        assert!(state.agreed(&inode(7, &content), NodeId(1)).is_some());
        assert_eq!(state.base.version, Version(7));
        assert_eq!(read(&state), b"NEW bytes");
        let Some(Task::Seal(frozen)) = state.next_task() else { panic!("there is a top layer") };
        assert_eq!(frozen.below, content);
    }

    #[test]
    fn a_truncation_during_a_seal_belongs_to_the_next_version() {
        let mut state = staged(b"new bytes");
        state.next_task();
        state.top(time(6)).layer.truncate(2, true);
        assert_eq!(read(&state), b"ne");
        state.top(time(6)).layer.truncate(4, true);
        assert_eq!(read(&state), b"ne\0\0");
    }

    #[test]
    fn a_change_of_size_agreed_before_the_publish_is_no_conflict() {
        let mut state = staged(b"new bytes");
        state.next_task();
        let mut content = inline(b"old");
        (content.size, content.valid_len) = (1, 1);
        assert!(state.agreed(&inode(4, &content), NodeId(1)).is_none());
        assert!(state.sealing.as_ref().is_some_and(|sealing| sealing.rebase));
        assert_eq!(state.base.version, Version(4));
        assert_eq!(read(&state), b"n");
    }

    #[test]
    fn a_version_of_another_node_does_not_show_through_a_stage() {
        let mut state = staged(b"mine");
        assert!(state.agreed(&inode(4, &inline(b"theirs")), NodeId(1)).is_none());
        assert_eq!(read(&state), b"mine");
        assert_eq!(state.base.version, Version(1), "so that the publish is refused");
    }

    #[test]
    fn what_was_written_before_the_lease_ended_never_becomes_the_file() {
        let mut state = staged(b"mine");
        state.expire(Version(4));
        // As Expire leaves it: the same bytes under a newer version.
        assert!(state.agreed(&inode(4, &inline(b"old")), NodeId(1)).is_none());
        state.base.version = Version(4);
        state.expire(Version(4));
        assert_eq!(state.base.version, Version(3), "its publish is refused in any case");
        state.base.version = Version(1);
        assert_eq!(read(&state), b"mine");
        let Some(Task::Seal(frozen)) = state.next_task() else { panic!("there is a top layer") };
        let sealing = state.sealing_of(frozen.layer.id()).expect("on its way");
        assert_eq!((sealing.base, sealing.rebase), (Version(1), false));
        // What is written afterwards is the next holder's affair again.
        state.give_up_sealing();
        state.base = Base { version: Version(4), content: inline(b"old"), ..Base::default() };
        state.top(time(9)).layer.write_memory(0, b"new");
        assert!(!state.expired);
        assert!(state.agreed(&inode(5, &inline(b"old")), NodeId(1)).is_none());
        assert_eq!(state.base.version, Version(5), "a change of size may come in between");
    }

    #[test]
    fn utimes_wins_over_a_version_that_is_not_proposed_yet() {
        let mut state = staged(b"x");
        assert!(state.set_mtime(time(100), time(7)));
        state.next_task();
        assert!(state.set_mtime(time(200), time(8)));
        let sealing = state.sealing.as_mut().expect("on its way");
        assert_eq!(sealing.mtime, time(200));
        sealing.step = Step::Proposed;
        assert!(!state.set_mtime(time(300), time(9)), "agreed after the version");
        assert_eq!(state.attr().map(|attr| attr.mtime), Some(time(300)));
    }
}
