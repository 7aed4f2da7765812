//! Finding names: lookup, readdir, readlink.

use engine::command::{Kind, Name};
use engine::ids::{Gsn, Ino};
use engine::namespace::FileType;

use super::error::FsError;
use super::fs::Fs;
use super::ports::View;

impl Fs {
    /// The inode that `name` leads to, if any.
    ///
    /// # Errors
    /// [`FsError::Tables`].
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, FsError> {
        Ok(self.ring.view().lookup(parent, name)?)
    }

    /// What `name` leads to, once everything that this answer shows was told to whoever follows
    /// the order.
    ///
    /// # Errors
    /// [`FsError::Tables`]; [`FsError::Overtaken`] when the telling takes unusually long.
    pub fn told(&self, parent: Ino, name: &Name) -> Result<Option<(Ino, FileType)>, FsError> {
        let view = self.ring.view();
        let found = view.entry(parent, name)?;
        // Each change of a name changes its directory.
        let changed = view.inode(parent)?.map_or(Gsn(0), |inode| inode.changed);
        match self.wait_until_told(changed) {
            true => Ok(found),
            false => Err(FsError::Overtaken),
        }
    }

    /// The directory above a directory; the root is above itself.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`]; [`FsError::Stale`], also for a directory that is removed.
    pub fn above(&self, directory: Ino) -> Result<Ino, FsError> {
        let inode = self.record(directory)?;
        match inode.nlink {
            0 => Err(FsError::Stale(directory)),
            _ => inode.parent().ok_or(FsError::NotDirectory(directory)),
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`FsError::NotSymlink`], [`FsError::Stale`].
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.record(ino)?.kind {
            Kind::Symlink(target) => Ok(target),
            _ => Err(FsError::NotSymlink(ino)),
        }
    }

    /// The entries of a directory, as they are now.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`], [`FsError::Stale`].
    pub fn list(&self, directory: Ino) -> Result<Listing, FsError> {
        let view = self.ring.view();
        let inode = self.record_in(&view, directory)?;
        let parent = inode.parent().ok_or(FsError::NotDirectory(directory))?;
        Ok(Listing { view, directory, parent, removed: inode.nlink == 0 })
    }
}

/// A directory at one moment.
pub struct Listing {
    view: View,
    directory: Ino,
    parent: Ino,
    removed: bool,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Continues the listing behind this entry, also later and after changes.
    pub cookie: u64,
    /// `.` and `..` are no [`Name`]s.
    pub name: Vec<u8>,
    pub ino: Ino,
    pub file_type: FileType,
}

impl Entry {
    pub fn is_dot(&self) -> bool {
        self.cookie <= COOKIE_DOT_DOT
    }
}

impl Listing {
    /// Up to `limit` entries behind `cookie` (0 = from the start), `.` and `..` first. Fewer
    /// only at the end.
    ///
    /// # Errors
    /// [`FsError::Tables`].
    pub fn after(&self, cookie: u64, limit: usize) -> Result<Vec<Entry>, FsError> {
        let mut entries = Vec::new();
        // A removed directory has not even `.`, as on native filesystems.
        if self.removed {
            return Ok(entries);
        }
        let dots = [(COOKIE_DOT, &b"."[..], self.directory), (COOKIE_DOT_DOT, b"..", self.parent)];
        for (dot, name, ino) in dots {
            if cookie < dot && entries.len() < limit {
                let file_type = FileType::Directory;
                entries.push(Entry { cookie: dot, name: name.to_vec(), ino, file_type });
            }
        }
        let rest = limit - entries.len();
        for entry in self.view.read_dir(self.directory, cookie.max(COOKIE_DOT_DOT), rest)? {
            entries.push(Entry {
                cookie: entry.cookie,
                name: entry.name.as_bytes().to_vec(),
                ino: entry.ino,
                file_type: entry.kind,
            });
        }
        Ok(entries)
    }
}

const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;
