//! Setting attributes: chmod, chown, utimens, truncate.
//!
//! Size and mtime of a file that is being written here go to its stage, which publishes them
//! with the bytes; everything else is agreed at once. An orphan's are set on its pinned copy.

use std::sync::Arc;

use engine::command::{Kill, Op, SetAttr};
use engine::ids::Ino;
use engine::namespace::Inode;
use engine::outcome::Refusal;
use engine::time::Timestamp;

use super::error::FsError;
use super::file::body_done;
use super::fs::{Fs, FsDone, expect_done};
use super::ports::Caller;
use super::token::{Attempt, Patience};

/// What to set; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Permission bits 07777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Set-id bits go with a change of size: the caller may not keep them.
    pub kill_set_id: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

impl Fs {
    pub fn set_attr(self: &Arc<Self>, caller: Caller, ino: Ino, wanted: Wanted, done: FsDone<()>) {
        let now = self.ring.now();
        let time = |wanted: Option<SetTime>| {
            wanted.map(|wanted| match wanted {
                SetTime::Now => now,
                SetTime::At(time) => time,
            })
        };
        let mut set = SetAttr {
            mode: wanted.mode.map(|mode| mode & 0o7777),
            uid: wanted.uid,
            gid: wanted.gid,
            size: wanted.size,
            atime: time(wanted.atime),
            mtime: time(wanted.mtime),
            kill: None,
        };
        if set == SetAttr::default() {
            return self.chown_to_nobody(caller, ino, done);
        }
        let Some(size) = set.size else {
            return self.set_rest(caller, ino, set, done);
        };
        match self.record(ino) {
            Ok(inode) if inode.is_file() => {
                match self.privileges(ino, &inode, wanted.kill_set_id) {
                    Ok(kill) => set.kill = kill,
                    Err(e) => return done(Err(e)),
                }
            }
            Ok(inode) if inode.is_directory() => return done(Err(FsError::IsDirectory(ino))),
            Ok(_) => return done(Err(FsError::Invalid)),
            Err(e) => return done(Err(e)),
        }
        let attempt: Attempt<bool> =
            Arc::new(move |fs, done| fs.bodies.truncate(ino, size, body_done(done)));
        let (fs, waiting) = (Arc::clone(self), caller.clone());
        let truncated: FsDone<bool> = Box::new(move |result| match result {
            Ok(true) => fs.set_rest(caller, ino, SetAttr { size: None, ..set }, done),
            Ok(false) => fs.set_rest(caller, ino, set, done),
            Err(e) => done(Err(e)),
        });
        self.with_token(ino, Patience::new(waiting), attempt, truncated);
    }

    /// chown(-1, -1), which sets nothing: ctime moves, and set-id bits and capabilities go, as with
    /// every chown. The kernel leaves these to the filesystem, and with them the question who may
    /// take them from a file (attr.c, notify_change: a change of the mode, so its owner).
    ///
    /// It asks the same before a write that takes them (file_remove_privs). That cannot be told
    /// apart while the file is open for writing, and the write says itself what goes.
    fn chown_to_nobody(self: &Arc<Self>, caller: Caller, ino: Ino, done: FsDone<()>) {
        if self.bodies.is_open_for_writing(ino) {
            return done(Ok(()));
        }
        let mut set = SetAttr::default();
        match self.record(ino) {
            Ok(inode) if inode.is_directory() => {}
            Ok(inode) => match self.privileges(ino, &inode, true) {
                Ok(kill) if [0, inode.uid].contains(&caller.cred.uid) => set.kill = kill,
                Ok(Some(Kill::SetId)) => return done(Err(Refusal::NotPermitted.into())),
                Ok(_) => {}
                Err(e) => return done(Err(e)),
            },
            Err(e) => return done(Err(e)),
        }
        match self.set_pinned(ino, &set) {
            true => done(Ok(())),
            false => self.agree_done(caller, Op::SetAttr { ino, set }, done),
        }
    }

    /// Sets what the stage has not taken already.
    pub(super) fn set_rest(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        mut set: SetAttr,
        done: FsDone<()>,
    ) {
        if self.set_pinned(ino, &set) {
            return done(Ok(()));
        }
        // With a size, the agreed command sets both together.
        if let (None, Some(mtime)) = (set.size, set.mtime)
            && self.bodies.set_mtime(ino, mtime)
        {
            set.mtime = None;
        }
        if set == SetAttr::default() {
            return done(Ok(()));
        }
        let op = Op::SetAttr { ino, set };
        let fs = Arc::clone(self);
        let agreed: FsDone<()> = Box::new(move |result| match result {
            // It lost its last name meanwhile.
            Err(FsError::Refused(Refusal::NotFound)) if fs.set_pinned(ino, &set) => done(Ok(())),
            result => done(result),
        });
        let patience = Patience::new(caller.clone());
        self.agree_recalling(caller, ino, op, patience, expect_done(agreed));
    }

    /// Sets attributes of an orphan; false when `ino` is none.
    fn set_pinned(&self, ino: Ino, set: &SetAttr) -> bool {
        let now = self.ring.now();
        let pinned = self.orphans.change(ino, |inode| set_orphan(inode, set, now)).is_some();
        if let (true, Some(mtime)) = (pinned, set.mtime) {
            self.bodies.set_mtime(ino, mtime);
        }
        pinned
    }
}

fn set_orphan(inode: &mut Inode, set: &SetAttr, now: Timestamp) {
    let SetAttr { mode, uid, gid, size: _, atime, mtime, kill } = *set;
    inode.mode = mode.unwrap_or(inode.mode);
    inode.uid = uid.unwrap_or(inode.uid);
    inode.gid = gid.unwrap_or(inode.gid);
    if uid.is_some() || gid.is_some() || kill == Some(Kill::SetId) {
        inode.drop_set_id();
    }
    inode.atime = atime.unwrap_or(inode.atime);
    inode.mtime = mtime.unwrap_or(inode.mtime);
    inode.ctime = now;
}
