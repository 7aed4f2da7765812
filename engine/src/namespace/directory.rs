//! Names in directories: each a row by name and a row by cookie.
//!
//! ```text
//! names    | version u8 | file type u8 | ino u64 | cookie u64 |
//! cookies  | version u8 | file type u8 | ino u64 | name .. |
//! ```

use super::apply::Touched;
use super::codec::{Reader, record};
use super::inode::{FileType, Inode};
use super::keys;
use super::state::State;
use super::tables::{Tables, TablesError};
use crate::command::Name;
use crate::ids::Ino;
use crate::time::Timestamp;

/// One name of a directory, for listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Where a listing that stopped behind this entry goes on. Stable for as long as the name
    /// exists.
    pub cookie: u64,
    pub name: Name,
    pub ino: Ino,
    pub kind: FileType,
}

impl DirEntry {
    /// Reads a row of *cookies*.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<DirEntry, TablesError> {
        let mut reader = Reader::new(value, "cookies")?;
        let kind = file_type(&mut reader)?;
        let ino = Ino(reader.u64()?);
        let malformed = reader.broken("is malformed");
        let cookie = keys::tail(key).and_then(|tail| tail.try_into().ok()).map(u64::from_be_bytes);
        match (cookie, Name::parse(reader.rest())) {
            (Some(cookie), Ok(name)) => Ok(DirEntry { cookie, name, ino, kind }),
            _ => Err(malformed),
        }
    }

    fn encode(name: &Name, ino: Ino, kind: FileType) -> Vec<u8> {
        let mut out = record(9 + name.as_bytes().len());
        out.push(kind.code());
        out.extend_from_slice(&ino.0.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out
    }
}

/// Where a name leads: a row of *names*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) file_type: FileType,
    pub(super) ino: Ino,
    pub(super) cookie: u64,
}

impl Slot {
    pub(super) fn decode(value: &[u8]) -> Result<Slot, TablesError> {
        let mut reader = Reader::new(value, "names")?;
        let slot = Slot {
            file_type: file_type(&mut reader)?,
            ino: Ino(reader.u64()?),
            cookie: reader.u64()?,
        };
        reader.end()?;
        Ok(slot)
    }

    fn encode(self) -> Vec<u8> {
        let mut out = record(17);
        out.push(self.file_type.code());
        out.extend_from_slice(&self.ino.0.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out
    }
}

fn file_type(reader: &mut Reader<'_>) -> Result<FileType, TablesError> {
    let code = reader.u8()?;
    FileType::from_code(code).ok_or_else(|| reader.broken("has an unknown file type"))
}

/// The steps that all operations on names are made of. `parent` is a directory that the
/// operation has read. None of them touches link counts.
impl<T: Tables> State<'_, T> {
    pub(super) fn slot(&mut self, parent: Ino, name: &Name) -> Result<Option<Slot>, TablesError> {
        self.get(keys::name(parent, name))?.map(Slot::decode).transpose()
    }

    /// Adds a name that is not there, behind all others, and stamps the directory.
    pub(super) fn insert_name(
        &mut self,
        parent: Ino,
        name: &Name,
        ino: Ino,
        file_type: FileType,
        time: Timestamp,
    ) -> Result<(), TablesError> {
        let mut cookie = 0;
        self.change_inode(parent, |inode| {
            stamp(inode, time);
            if let Some(directory) = &mut inode.directory {
                cookie = directory.next_cookie;
                directory.next_cookie += 1;
                directory.entries += 1;
            }
        })?;
        self.point_name(parent, name, Slot { file_type, ino, cookie })
    }

    /// Makes an existing name lead to another inode, at the same cookie, and stamps the
    /// directory.
    pub(super) fn replace_name(
        &mut self,
        parent: Ino,
        name: &Name,
        slot: Slot,
        time: Timestamp,
    ) -> Result<(), TablesError> {
        self.change_inode(parent, |inode| stamp(inode, time))?;
        self.point_name(parent, name, slot)
    }

    /// Takes a name away and stamps the directory.
    pub(super) fn remove_name(
        &mut self,
        parent: Ino,
        name: &Name,
        slot: Slot,
        time: Timestamp,
    ) -> Result<(), TablesError> {
        self.change_inode(parent, |inode| {
            stamp(inode, time);
            if let Some(directory) = &mut inode.directory {
                directory.entries = directory.entries.saturating_sub(1);
            }
        })?;
        self.delete(keys::name(parent, name))?;
        self.delete(keys::cookie(parent, slot.cookie))?;
        self.touch(Touched::Entry { parent, name: name.clone() });
        Ok(())
    }

    fn point_name(&mut self, parent: Ino, name: &Name, slot: Slot) -> Result<(), TablesError> {
        self.put(keys::name(parent, name), slot.encode())?;
        self.put(
            keys::cookie(parent, slot.cookie),
            DirEntry::encode(name, slot.ino, slot.file_type),
        )?;
        self.touch(Touched::Entry { parent, name: name.clone() });
        Ok(())
    }
}

/// What a change of its names does to a directory's times.
fn stamp(directory: &mut Inode, time: Timestamp) {
    directory.mtime = time;
    directory.ctime = time;
}
