//! What changed when a checkpoint took the place of the tables: what the commands in between
//! touched, as far as somebody here may have it cached.

use std::collections::{BTreeMap, BTreeSet};

use engine::command::Name;
use engine::ids::Ino;
use engine::namespace::tables::TablesError;
use engine::namespace::{FileType, Inode, Keeper, LockRow, Touched};

use super::ports::View;

/// Entries of a directory read at once.
const ENTRIES: usize = 4096;

/// What is different about `ino` and, if it is a directory, its entries.
///
/// # Errors
/// If either tables cannot be read.
pub fn changes(before: &View, after: &View, ino: Ino) -> Result<Vec<Touched>, TablesError> {
    let mut touched = Vec::new();
    // What was in neither is an orphan of this node; numbers are not used again.
    let Some(old) = before.inode(ino)? else { return Ok(touched) };
    let new = after.inode(ino)?;
    locks(before, after, ino, &mut touched)?;
    if new.as_ref() == Some(&old) {
        return Ok(touched);
    }
    if old.file_type() == FileType::Directory {
        entries(before, after, ino, &mut touched)?;
    }
    match new {
        None => touched.push(Touched::Gone { ino, last: Inode { nlink: 0, ..old } }),
        Some(new) => {
            if let Some(node) = old.writer.filter(|node| new.writer != Some(*node)) {
                // By whatever start of it, which is long over for others.
                touched.push(Touched::Expired { ino, node, boot: u64::MAX, waited: Vec::new() });
            }
            if (old.version, old.size, &old.body) != (new.version, new.size, &new.body) {
                touched.push(Touched::Content { ino, version: new.version });
            }
            if old.writer != new.writer {
                touched.push(Touched::Token { ino, holder: new.writer });
            }
            touched.push(Touched::Attr { ino });
        }
    }
    Ok(touched)
}

/// Requests for locks that waited and do so no longer, and the locks of a file that is gone.
fn locks(
    before: &View,
    after: &View,
    ino: Ino,
    touched: &mut Vec<Touched>,
) -> Result<(), TablesError> {
    let LockRow { keeper, locks: old, .. } = before.locks(ino)?;
    if old.is_empty() && keeper.is_none() {
        return Ok(());
    }
    if after.inode(ino)?.is_none() {
        touched.push(Touched::LocksGone { ino, locks: old });
        return Ok(());
    }
    let LockRow { keeper: new_keeper, locks: new, .. } = after.locks(ino)?;
    let is_of = |node, boot| {
        let keeps = |keeper: &Keeper| (keeper.node, keeper.boot) == (node, boot);
        let mut held = new.held().iter().map(|held| held.owner);
        new_keeper.as_ref().is_some_and(keeps)
            || held.any(|owner| (owner.node, owner.boot) == (node, boot))
    };
    let held = old.held().iter().map(|held| (held.owner.node, held.owner.boot));
    let had: BTreeSet<_> = held.chain(keeper.map(|it| (it.node, it.boot))).collect();
    // Its own unlocks look the same, and then there is nothing to lose.
    for (node, boot) in had.into_iter().filter(|&(node, boot)| !is_of(node, boot)) {
        touched.push(Touched::Expired { ino, node, boot, waited: Vec::new() });
    }
    for waiter in old.waiting() {
        let (ticket, wanted) = (waiter.ticket, waiter.lock);
        let owner = wanted.owner;
        if new.waiting().iter().any(|it| it.ticket == ticket && it.lock.owner == owner) {
            continue;
        }
        let mut held = new.held().iter();
        touched.push(match held.any(|it| it.owner == owner && it.mode == wanted.mode) {
            true => Touched::LockGranted { ino, owner, ticket },
            false => Touched::LockDenied { ino, owner, ticket },
        });
    }
    Ok(())
}

fn entries(
    before: &View,
    after: &View,
    directory: Ino,
    touched: &mut Vec<Touched>,
) -> Result<(), TablesError> {
    let (old, new) = (names(before, directory)?, names(after, directory)?);
    let gone = old.iter().filter(|(name, ino)| new.get(name) != Some(ino));
    let come = new.iter().filter(|(name, _)| !old.contains_key(name));
    for (name, _) in gone.chain(come) {
        touched.push(Touched::Entry { parent: directory, name: name.clone() });
    }
    Ok(())
}

fn names(view: &View, directory: Ino) -> Result<BTreeMap<Name, Ino>, TablesError> {
    let mut names = BTreeMap::new();
    let mut after = 0;
    loop {
        let entries = view.read_dir(directory, after, ENTRIES)?;
        let Some(last) = entries.last() else { return Ok(names) };
        after = last.cookie;
        names.extend(entries.into_iter().map(|entry| (entry.name, entry.ino)));
    }
}
