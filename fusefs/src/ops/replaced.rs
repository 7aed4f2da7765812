//! What changed when a checkpoint took the place of the tables: what the commands in between
//! touched, as far as somebody here may have it cached.

use std::collections::BTreeMap;

use engine::command::Name;
use engine::ids::Ino;
use engine::namespace::tables::TablesError;
use engine::namespace::{FileType, Inode, Touched};

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
    let old = before.locks(ino)?.locks;
    if old.is_empty() {
        return Ok(());
    }
    if after.inode(ino)?.is_none() {
        touched.push(Touched::LocksGone { ino, locks: old });
        return Ok(());
    }
    let new = after.locks(ino)?.locks;
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
