//! Changing names: link, unlink, rmdir, rename.
//!
//! A name that comes to a written file, and a lock file that goes, tell other nodes that the
//! writing is done: what was written is proposed before them (`Bodies::offer`).

use std::sync::Arc;

use engine::command::{Body, Kind, Name, Op, RenameHow};
use engine::ids::Ino;

use super::fs::{Fs, FsDone};
use super::ports::{Caller, Offer};

/// What the kernel has for the names of a rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// What moves.
    pub source: Option<Ino>,
    /// A directory that is replaced, or what comes to the old name in an exchange.
    pub victim: Option<Ino>,
}

impl Fs {
    pub fn link(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        parent: Ino,
        name: Name,
        done: FsDone<()>,
    ) {
        let op = Op::Link { ino, parent, name };
        if self.unnamed.contains(ino) {
            return self.link_unnamed(caller, ino, op, done);
        }
        self.agree_after(vec![Offer::File(ino)], caller, op, done);
    }

    pub fn unlink(self: &Arc<Self>, caller: Caller, parent: Ino, name: Name, done: FsDone<()>) {
        let offers = match self.named(parent, &name) {
            Some((ino, may_be_lock)) if may_be_lock => vec![Offer::ClosedBut(Some(ino))],
            _ => Vec::new(),
        };
        self.agree_after(offers, caller, Op::Unlink { parent, name }, done);
    }

    /// Refused (`Refusal::Overtaken`) if `victim` is given and is not what goes.
    pub fn rmdir(
        self: &Arc<Self>,
        caller: Caller,
        (parent, name): (Ino, Name),
        victim: Option<Ino>,
        done: FsDone<()>,
    ) {
        let offers = vec![Offer::ClosedBut(None)];
        self.agree_after(offers, caller, Op::Rmdir { parent, name, victim }, done);
    }

    /// Refused (`Refusal::Overtaken`) if what is given of `meant` is not what moves and what is
    /// replaced.
    pub fn rename(
        self: &Arc<Self>,
        caller: Caller,
        (from_parent, from_name): (Ino, Name),
        (to_parent, to_name): (Ino, Name),
        how: RenameHow,
        meant: Meant,
        done: FsDone<()>,
    ) {
        let mut offers = vec![self.offer_of(from_parent, &from_name)];
        if how == RenameHow::Exchange {
            offers.push(self.offer_of(to_parent, &to_name));
        }
        let Meant { source, victim } = meant;
        let op = Op::Rename { from_parent, from_name, to_parent, to_name, how, victim, source };
        self.agree_after(offers, caller, op, done);
    }

    /// What a name shows: a file its bytes; a directory or a symbolic link those of files that
    /// are reached through it, which are not looked for.
    fn offer_of(&self, parent: Ino, name: &Name) -> Offer {
        let ino = self.lookup(parent, name).ok().flatten();
        match ino.and_then(|ino| Some((ino, self.record(ino).ok()?))) {
            Some((ino, inode)) if inode.is_file() => Offer::File(ino),
            _ => Offer::ClosedBut(None),
        }
    }

    /// The inode of a name, and whether programs may take it for a lock: a symbolic link, or a
    /// file with room for a process id.
    fn named(&self, parent: Ino, name: &Name) -> Option<(Ino, bool)> {
        let ino = self.lookup(parent, name).ok().flatten()?;
        let may_be_lock = match self.record(ino).ok()?.kind {
            Kind::File => self.attr(ino).ok()?.size <= Body::INLINE_MAX_BYTES as u64,
            kind => matches!(kind, Kind::Symlink(_)),
        };
        Some((ino, may_be_lock))
    }

    /// Has the versions of `offers` proposed, then `op` agreed.
    fn agree_after(
        self: &Arc<Self>,
        mut offers: Vec<Offer>,
        caller: Caller,
        op: Op,
        done: FsDone<()>,
    ) {
        let Some(offer) = offers.pop() else { return self.agree_done(caller, op, done) };
        let fs = Arc::clone(self);
        self.bodies.offer(offer, Box::new(move || fs.agree_after(offers, caller, op, done)));
    }

    /// A rename that leaves a whiteout behind, as `ino` from [`Fs::alloc_ino`]; `source` as for
    /// [`Self::rename`].
    pub fn rename_with_whiteout(
        &self,
        caller: Caller,
        (from_parent, from_name): (Ino, Name),
        (to_parent, to_name): (Ino, Name),
        replace: bool,
        (ino, source): (Ino, Option<Ino>),
        done: FsDone<()>,
    ) {
        let op = Op::Whiteout { from_parent, from_name, to_parent, to_name, replace, ino, source };
        self.agree_done(caller, op, done);
    }
}
