//! What one command reads and writes: rows by key, with their value before and after.
//!
//! Nothing reaches the tables before [`State::finish`], so a refused command needs no undo,
//! and each row is hashed at most twice, however often the command touched it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::apply::{Stop, Touched};
use super::inode::Inode;
use super::keys;
use super::quota;
use super::state_hash::{Summary, Usage};
use super::tables::{Overlay, Tables, TablesError};
use crate::ids::{Gsn, Ino};
use crate::outcome::Refusal;

pub(super) struct State<'a, T: Tables> {
    tables: &'a mut Overlay<T>,
    pub(super) gsn: Gsn,
    summary: Summary,
    /// As loaded, for [`Self::revert`].
    usage_before: Usage,
    rows: BTreeMap<Vec<u8>, Row>,
    touched: Vec<Touched>,
}

struct Row {
    before: Option<Vec<u8>>,
    /// `None` = as before.
    after: Option<Option<Vec<u8>>>,
}

impl Row {
    fn now(&self) -> Option<&[u8]> {
        self.after.as_ref().unwrap_or(&self.before).as_deref()
    }
}

impl<'a, T: Tables> State<'a, T> {
    pub(super) fn load(tables: &'a mut Overlay<T>, gsn: Gsn) -> Result<State<'a, T>, TablesError> {
        let summary = Summary::load(tables)?;
        let usage_before = summary.usage;
        Ok(State { tables, gsn, summary, usage_before, rows: BTreeMap::new(), touched: Vec::new() })
    }

    /// Writes what changed to the tables, with the new summary.
    pub(super) fn finish(self) -> Vec<Touched> {
        let State { tables, mut summary, rows, touched, .. } = self;
        for (key, row) in rows {
            let Some(after) = row.after.filter(|after| *after != row.before) else { continue };
            if let Some(value) = &row.before {
                summary.rows.remove(&key, value);
            }
            match after {
                Some(value) => {
                    summary.rows.add(&key, &value);
                    tables.put(key, value);
                }
                None => tables.delete(key),
            }
        }
        tables.put(keys::SUMMARY.to_vec(), summary.encode());
        touched
    }

    /// Forgets everything written so far.
    pub(super) fn revert(&mut self) {
        for row in self.rows.values_mut() {
            row.after = None;
        }
        self.summary.usage = self.usage_before;
        self.touched.clear();
    }

    /// The tables as they were before this command, for scans.
    pub(super) fn before(&self) -> &Overlay<T> {
        self.tables
    }

    pub(super) fn touch(&mut self, touched: Touched) {
        if !self.touched.contains(&touched) {
            self.touched.push(touched);
        }
    }

    pub(super) fn get(&mut self, key: Vec<u8>) -> Result<Option<&[u8]>, TablesError> {
        Ok(self.row(key)?.now())
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TablesError> {
        self.row(key)?.after = Some(Some(value));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) -> Result<(), TablesError> {
        self.row(key)?.after = Some(None);
        Ok(())
    }

    fn row(&mut self, key: Vec<u8>) -> Result<&mut Row, TablesError> {
        match self.rows.entry(key) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let before = self.tables.get(entry.key())?;
                Ok(entry.insert(Row { before, after: None }))
            }
        }
    }
}

/// Inodes, and what is counted about them.
impl<T: Tables> State<'_, T> {
    pub(super) fn find_inode(&mut self, ino: Ino) -> Result<Option<Inode>, TablesError> {
        self.get(keys::inode(ino))?.map(Inode::decode).transpose()
    }

    /// The inode, or `NotFound`.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<Inode, Stop> {
        Ok(self.find_inode(ino)?.ok_or(Refusal::NotFound)?)
    }

    /// The directory that a name is looked for in: `NotFound` if it is gone, `NotDirectory` if
    /// it is something else.
    pub(super) fn directory(&mut self, ino: Ino) -> Result<Inode, Stop> {
        let inode = self.inode(ino)?;
        if inode.is_directory() { Ok(inode) } else { Err(Refusal::NotDirectory.into()) }
    }

    /// Adds a new inode.
    pub(super) fn create_inode(&mut self, ino: Ino, inode: Inode) -> Result<(), TablesError> {
        self.summary.usage.add(&inode);
        self.count_for_quota(ino, None, Some((inode.quota, inode.charge())))?;
        self.put(keys::inode(ino), inode.encode())
    }

    /// Changes an inode that exists. Callers have read it before, so that a missing one is a
    /// refusal by then.
    pub(super) fn change_inode(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Inode),
    ) -> Result<(), TablesError> {
        let gsn = self.gsn;
        self.rewrite_inode(ino, |inode| {
            change(inode);
            inode.changed = gsn;
        })?;
        self.touch(Touched::Attr { ino });
        Ok(())
    }

    /// As [`Self::change_inode`], for what no attribute shows.
    pub(super) fn rewrite_inode(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Inode),
    ) -> Result<(), TablesError> {
        let Some(mut inode) = self.find_inode(ino)? else {
            return Err(TablesError(format!("inode {ino} is named and does not exist")));
        };
        let before = (inode.quota, inode.charge());
        self.summary.usage.remove(&inode);
        change(&mut inode);
        self.summary.usage.add(&inode);
        self.count_for_quota(ino, Some(before), Some((inode.quota, inode.charge())))?;
        self.put(keys::inode(ino), inode.encode())
    }

    /// Takes an inode out of the tables, with its extended attributes.
    pub(super) fn remove_inode(&mut self, ino: Ino, mut last: Inode) -> Result<(), TablesError> {
        self.summary.usage.remove(&last);
        self.count_for_quota(ino, Some((last.quota, last.charge())), None)?;
        if last.is_directory() {
            quota::remove(self, ino)?;
        }
        self.delete(keys::inode(ino))?;
        if last.xattr_list_len > 0 {
            let mut rows = Vec::new();
            self.before().scan(&keys::xattrs(ino), &[], &mut |key, row| {
                rows.push((key.to_vec(), row.to_vec()));
                true
            })?;
            let mut xattrs = Vec::with_capacity(rows.len());
            for (key, row) in rows {
                if let Some(name) = keys::tail(&key) {
                    xattrs.push((name.to_vec(), super::xattr::value_of(name, &row)?));
                }
                self.delete(key)?;
            }
            self.touch(Touched::XattrsGone { ino, xattrs });
        }
        if last.is_file() {
            super::lock::remove(self, ino)?;
        }
        last.nlink = 0;
        self.touched.retain(|touched| *touched != Touched::Attr { ino });
        self.touch(Touched::Gone { ino, last });
        Ok(())
    }
}
