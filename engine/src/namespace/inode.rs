//! An inode as the tables keep it.
//!
//! ```text
//! | version u8 | type u8 | mode u16 | uid u32 | gid u32 | nlink u32 | size u64 | changed u64 |
//! | atime | mtime | ctime | btime  (each: seconds i64, nanos u32) | xattr list u32 |
//! | quota u64 | .. |
//!
//! and then, by type:
//! file       | version u64 | valid_len u64 | stored_len u64 | home u64 | writer u16 | holder u16 |
//!            | body tag u8 | body .. |
//!              body: 0 empty; 1 inline bytes ..; 2 body id 32, len u64
//! directory  | parent u64 | entries u64 | next cookie u64 |
//! symlink    | target bytes .. |
//! devices    | rdev u32 |
//! others     nothing
//! ```

use super::codec::{Reader, record};
use super::tables::TablesError;
use crate::command::{Body, Kind};
use crate::ids::{BodyId, Gsn, Ino, NodeId, Version};
use crate::time::Timestamp;

/// Everything agreed about an inode but its names and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub kind: Kind,
    /// Permission bits 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of it; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Bytes. A symlink's target, [`Directory::SIZE_BYTES`] for a directory.
    pub size: u64,
    /// Set at creation and by utimes only; reads update it on their own node, locally.
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// The agreement that changed this record last, write tokens apart.
    pub changed: Gsn,
    /// What `listxattr` gives, in bytes with a NUL for each name; 0 = no extended attributes.
    pub xattr_list_len: u32,
    /// The directory of the quota that counts this inode; `Ino(0)` = none. A quota that was
    /// ended counts nothing, whatever still has its number.
    pub quota: Ino,
    /// Files: changes with each publish and each change of size; strictly grows.
    pub version: Version,
    /// Files: the bytes as last published.
    pub body: Body,
    /// Files: how much of `body` is visible still after truncations, in bytes, at most
    /// `size`. From here to `size` the file reads as zeros.
    pub valid_len: u64,
    /// Files: how much of that is stored, in bytes: the rest are holes. What `stat` shows as
    /// allocated, the same in every zone.
    pub stored_len: u64,
    /// Files: the directory that it was made in or last moved to, whose rules it follows. It may
    /// have other names elsewhere, and that directory may be gone.
    pub home: Ino,
    /// Files: the node with the right to write the body. It counts only while it is a member.
    pub writer: Option<NodeId>,
    /// Files: the node that published `body`, and held all of it durably then.
    pub holder: Option<NodeId>,
    /// Directories only, and always for them.
    pub directory: Option<Directory>,
}

/// What only directories have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where `..` leads. The root's is the root.
    pub parent: Ino,
    /// Number of names in it, `.` and `..` apart.
    pub entries: u64,
    /// The cookie that the next new name gets.
    pub next_cookie: u64,
}

impl Directory {
    /// The size that `stat` gives for a directory: one block, as on ext4.
    pub const SIZE_BYTES: u64 = 4096;
    /// 1 and 2 stand for `.` and `..`.
    pub const FIRST_COOKIE: u64 = 3;

    pub fn new(parent: Ino) -> Directory {
        Directory { parent, entries: 0, next_cookie: Self::FIRST_COOKIE }
    }
}

/// What an inode is, without what only that kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl From<&Kind> for FileType {
    fn from(kind: &Kind) -> FileType {
        match kind {
            Kind::File => FileType::File,
            Kind::Directory => FileType::Directory,
            Kind::Symlink(_) => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice(_) => FileType::CharDevice,
            Kind::BlockDevice(_) => FileType::BlockDevice,
        }
    }
}

impl FileType {
    const ALL: [FileType; 7] = [
        FileType::File,
        FileType::Directory,
        FileType::Symlink,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharDevice,
        FileType::BlockDevice,
    ];

    /// As stored: 1 = file, in the order of the declaration.
    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(super) fn from_code(code: u8) -> Option<FileType> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

impl Inode {
    pub fn file_type(&self) -> FileType {
        FileType::from(&self.kind)
    }

    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Bytes that count for `statfs` and for quotas: those that are stored.
    pub fn charge(&self) -> u64 {
        self.stored_len
    }

    /// Where `..` leads; `None` unless this is a directory.
    pub fn parent(&self) -> Option<Ino> {
        self.directory.map(|directory| directory.parent)
    }

    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = record(160);
        out.push(self.file_type().code());
        out.extend_from_slice(&(self.mode as u16).to_be_bytes());
        out.extend_from_slice(&self.uid.to_be_bytes());
        out.extend_from_slice(&self.gid.to_be_bytes());
        out.extend_from_slice(&self.nlink.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.changed.0.to_be_bytes());
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            out.extend_from_slice(&time.seconds.to_be_bytes());
            out.extend_from_slice(&time.nanos.to_be_bytes());
        }
        out.extend_from_slice(&self.xattr_list_len.to_be_bytes());
        out.extend_from_slice(&self.quota.0.to_be_bytes());
        match &self.kind {
            Kind::File => self.encode_file(&mut out),
            Kind::Directory => {
                let directory = self.directory.expect("a directory's inode has its part");
                out.extend_from_slice(&directory.parent.0.to_be_bytes());
                out.extend_from_slice(&directory.entries.to_be_bytes());
                out.extend_from_slice(&directory.next_cookie.to_be_bytes());
            }
            Kind::Symlink(target) => out.extend_from_slice(target),
            Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => {
                out.extend_from_slice(&rdev.to_be_bytes());
            }
            Kind::Fifo | Kind::Socket => {}
        }
        out
    }

    fn encode_file(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.0.to_be_bytes());
        out.extend_from_slice(&self.valid_len.to_be_bytes());
        out.extend_from_slice(&self.stored_len.to_be_bytes());
        out.extend_from_slice(&self.home.0.to_be_bytes());
        out.extend_from_slice(&self.writer.unwrap_or_default().0.to_be_bytes());
        out.extend_from_slice(&self.holder.unwrap_or_default().0.to_be_bytes());
        match &self.body {
            Body::Empty => out.push(0),
            Body::Inline(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Body::Sealed { id, len } => {
                out.push(2);
                out.extend_from_slice(&id.0);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`TablesError`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Inode, TablesError> {
        let mut reader = Reader::new(bytes, "inodes")?;
        let code = reader.u8()?;
        let mode = u32::from(reader.u16()?);
        let uid = reader.u32()?;
        let gid = reader.u32()?;
        let nlink = reader.u32()?;
        let size = reader.u64()?;
        let changed = Gsn(reader.u64()?);
        let [atime, mtime, ctime, btime] =
            [time(&mut reader)?, time(&mut reader)?, time(&mut reader)?, time(&mut reader)?];
        let xattr_list_len = reader.u32()?;
        let quota = Ino(reader.u64()?);
        let mut inode = Inode {
            kind: Kind::Fifo,
            mode,
            uid,
            gid,
            nlink,
            size,
            atime,
            mtime,
            ctime,
            btime,
            changed,
            xattr_list_len,
            quota,
            version: Version(0),
            body: Body::Empty,
            valid_len: 0,
            stored_len: 0,
            home: Ino(0),
            writer: None,
            holder: None,
            directory: None,
        };
        inode.kind = match FileType::from_code(code) {
            Some(FileType::File) => {
                inode.decode_file(&mut reader)?;
                Kind::File
            }
            Some(FileType::Directory) => {
                inode.directory = Some(Directory {
                    parent: Ino(reader.u64()?),
                    entries: reader.u64()?,
                    next_cookie: reader.u64()?,
                });
                Kind::Directory
            }
            Some(FileType::Symlink) => Kind::Symlink(reader.rest().to_vec()),
            Some(FileType::Fifo) => Kind::Fifo,
            Some(FileType::Socket) => Kind::Socket,
            Some(FileType::CharDevice) => Kind::CharDevice(reader.u32()?),
            Some(FileType::BlockDevice) => Kind::BlockDevice(reader.u32()?),
            None => return Err(reader.broken("has an unknown type")),
        };
        reader.end()?;
        Ok(inode)
    }

    fn decode_file(&mut self, reader: &mut Reader<'_>) -> Result<(), TablesError> {
        self.version = Version(reader.u64()?);
        self.valid_len = reader.u64()?;
        self.stored_len = reader.u64()?;
        self.home = Ino(reader.u64()?);
        self.writer = node(reader.u16()?);
        self.holder = node(reader.u16()?);
        self.body = match reader.u8()? {
            0 => Body::Empty,
            1 => Body::Inline(reader.rest().to_vec()),
            2 => Body::Sealed { id: BodyId(reader.array()?), len: reader.u64()? },
            _ => return Err(reader.broken("has an unknown body")),
        };
        Ok(())
    }
}

/// Node 0 never is a member, so it stands for none.
fn node(number: u16) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

fn time(reader: &mut Reader<'_>) -> Result<Timestamp, TablesError> {
    Ok(Timestamp { seconds: reader.u64()? as i64, nanos: reader.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(kind: Kind) -> Inode {
        Inode {
            directory: (kind == Kind::Directory).then(|| Directory::new(Ino(7))),
            kind,
            mode: 0o4755,
            uid: 1,
            gid: u32::MAX,
            nlink: 3,
            size: 12,
            atime: Timestamp::new(-1, 999_999_999),
            mtime: Timestamp::new(2, 3),
            ctime: Timestamp::new(4, 5),
            btime: Timestamp::new(6, 7),
            changed: Gsn(8),
            xattr_list_len: 9,
            quota: Ino(77),
            version: Version(0),
            body: Body::Empty,
            valid_len: 0,
            stored_len: 0,
            home: Ino(0),
            writer: None,
            holder: None,
        }
    }

    #[test]
    fn every_kind_reads_back_and_no_prefix_of_it_does() {
        let mut file = inode(Kind::File);
        file.version = Version(10);
        file.valid_len = 11;
        file.stored_len = 7;
        file.home = Ino(20);
        file.writer = Some(NodeId(1));
        file.holder = Some(NodeId(2));
        file.body = Body::Sealed { id: BodyId([3; 32]), len: 11 };
        let mut small = file.clone();
        small.body = Body::Inline(b"hello".to_vec());
        for inode in [
            file,
            small,
            inode(Kind::File),
            inode(Kind::Directory),
            inode(Kind::Symlink(b"to/here".to_vec())),
            inode(Kind::Fifo),
            inode(Kind::Socket),
            inode(Kind::CharDevice(0x0103)),
            inode(Kind::BlockDevice(u32::MAX)),
        ] {
            let bytes = inode.encode();
            assert_eq!(Inode::decode(&bytes).as_ref(), Ok(&inode));
            for len in 0..bytes.len() {
                assert_ne!(Inode::decode(&bytes[..len]).ok().as_ref(), Some(&inode));
            }
        }
    }

    #[test]
    fn file_type_codes_are_stable() {
        for (index, file_type) in FileType::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(file_type.code()), index + 1);
            assert_eq!(FileType::from_code(file_type.code()), Some(file_type));
        }
        assert_eq!(FileType::from_code(0), None);
        assert_eq!(FileType::from_code(8), None);
    }
}
