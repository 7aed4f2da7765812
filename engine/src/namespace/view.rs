//! Reads the tables: what every read of the filesystem and of `fusion status` goes through.

use std::collections::BTreeMap;

use super::codec::{Reader, from_cbor};
use super::dedup::{self, Origin};
use super::departed::Departed;
use super::directory::{self, DirEntry};
use super::inode::{FileType, Inode};
use super::join_token::JoinToken;
use super::keys;
use super::lock::LockRow;
use super::quota::{Quota, Reservation};
use super::state_hash::{Summary, Usage};
use super::tables::{Tables, TablesError};
use super::unnamed;
use super::volume::VolumeRecord;
use crate::acl::{Acl, AclKind};
use crate::command::{Member, Name};
use crate::ids::{Gsn, Ino, NodeId, OpId, StateHash, VolumeId, ZoneId};
use crate::outcome::Outcome;

/// The namespace as some tables hold it: the live ones, a snapshot, or an overlay.
///
/// Every method fails with [`TablesError`] if the tables cannot be read or decoded.
#[derive(Clone, Debug)]
pub struct View<T: Tables>(pub T);

impl<T: Tables> View<T> {
    pub fn new(tables: T) -> View<T> {
        View(tables)
    }

    pub fn tables(&self) -> &T {
        &self.0
    }

    /// The inode that `name` leads to. `None` also if `parent` is no directory (any more).
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, TablesError> {
        Ok(self.entry(parent, name)?.map(|(ino, _)| ino))
    }

    /// As [`Self::lookup`], with the inode's type.
    pub fn entry(&self, parent: Ino, name: &Name) -> Result<Option<(Ino, FileType)>, TablesError> {
        let Some(value) = self.0.get(&keys::name(parent, name))? else { return Ok(None) };
        let slot = directory::Slot::decode(&value)?;
        Ok(Some((slot.ino, slot.file_type)))
    }

    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>, TablesError> {
        self.0.get(&keys::inode(ino))?.map(|bytes| Inode::decode(&bytes)).transpose()
    }

    /// Where `..` of a directory leads; `None` if `directory` is none.
    pub fn parent(&self, directory: Ino) -> Result<Option<Ino>, TablesError> {
        Ok(self.inode(directory)?.and_then(|inode| inode.parent()))
    }

    /// Up to `limit` entries of `directory` behind `after_cookie` (0 = from the start), in
    /// order of their cookies. `.` and `..` (cookies 1 and 2) are not among them.
    pub fn read_dir(
        &self,
        directory: Ino,
        after_cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, TablesError> {
        let Some(first) = after_cookie.checked_add(1) else { return Ok(Vec::new()) };
        let from = keys::cookie(directory, first);
        self.collect(&keys::cookies(directory), &from, limit, DirEntry::decode)
    }

    /// The name of `child` in its parent directory, for paths; `None` for the root and for
    /// what is not a directory. Costs a scan of the parent.
    pub fn name_of_directory(&self, child: Ino) -> Result<Option<(Ino, Name)>, TablesError> {
        let Some(parent) = self.parent(child)?.filter(|_| child != Ino::ROOT) else {
            return Ok(None);
        };
        Ok(self.name_within(parent, child)?.map(|name| (parent, name)))
    }

    /// A name of a file in the directory where it got its newest one; `None` if it has no name
    /// there any more. Costs a scan of that directory.
    pub fn name_of_file(&self, child: Ino) -> Result<Option<(Ino, Name)>, TablesError> {
        let Some(home) = self.inode(child)?.map(|inode| inode.home) else { return Ok(None) };
        Ok(self.name_within(home, child)?.map(|name| (home, name)))
    }

    fn name_within(&self, directory: Ino, child: Ino) -> Result<Option<Name>, TablesError> {
        let mut found = Ok(None);
        self.0.scan(&keys::cookies(directory), &[], &mut |key, value| {
            match DirEntry::decode(key, value) {
                Ok(entry) if entry.ino != child => return true,
                Ok(entry) => found = Ok(Some(entry.name)),
                Err(error) => found = Err(error),
            }
            false
        })?;
        found
    }

    /// The value of an extended attribute that is no ACL.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let Some(value) = self.0.get(&keys::xattr(ino, name))? else { return Ok(None) };
        Ok(Some(Reader::new(&value, "xattrs")?.rest().to_vec()))
    }

    /// An ACL of `ino`, whose record is `inode`; `None` also for an access list that says no
    /// more than the mode.
    pub fn acl(&self, ino: Ino, inode: &Inode, kind: AclKind) -> Result<Option<Acl>, TablesError> {
        let Some(row) = self.0.get(&keys::xattr(ino, kind.xattr_name()))? else { return Ok(None) };
        let acl = super::acl::decode(&row)?;
        Ok(Some(match kind {
            AclKind::Access => acl.with_mode(inode.mode),
            AclKind::Default => acl,
        }))
    }

    /// The files of `node` that have had no name yet, each with the start that made it.
    pub fn unnamed(&self, node: NodeId) -> Result<Vec<(Ino, u64)>, TablesError> {
        unnamed::rows(&self.0, node)
    }

    /// The names of the extended attributes, in byte order.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>, TablesError> {
        let mut names = Vec::new();
        self.0.scan(&keys::xattrs(ino), &[], &mut |key, _| {
            names.extend(keys::tail(key).map(<[u8]>::to_vec));
            true
        })?;
        Ok(names)
    }

    /// All members, by id.
    pub fn members(&self) -> Result<Vec<Member>, TablesError> {
        self.collect(keys::MEMBERS, &[], usize::MAX, |_, value| from_cbor(value, "members"))
    }

    pub fn member(&self, node: NodeId) -> Result<Option<Member>, TablesError> {
        self.0.get(&keys::member(node))?.map(|bytes| from_cbor(&bytes, "members")).transpose()
    }

    /// Nodes that were removed, by id.
    pub fn departed(&self) -> Result<Vec<(NodeId, Departed)>, TablesError> {
        self.collect(keys::DEPARTED, &[], usize::MAX, |key, value| {
            let node = keys::node(key).ok_or_else(|| malformed("departed"))?;
            Ok((node, from_cbor(value, "departed")?))
        })
    }

    /// The zones that have members, with their names.
    pub fn zones(&self) -> Result<BTreeMap<ZoneId, String>, TablesError> {
        let members = self.members()?;
        Ok(members.into_iter().map(|member| (member.zone, member.zone_name)).collect())
    }

    /// An id that no node has had: what an admitting node gives to the next one.
    pub fn next_node_id(&self) -> Result<Option<NodeId>, TablesError> {
        let mut highest = NodeId(0);
        for prefix in [keys::MEMBERS, keys::ORIGINS, keys::DEPARTED] {
            self.0.scan(prefix, &[], &mut |key, _| {
                highest = highest.max(keys::node(key).unwrap_or_default());
                true
            })?;
        }
        Ok(highest.0.checked_add(1).map(NodeId))
    }

    /// Number of inodes, and bytes in files.
    pub fn usage(&self) -> Result<Usage, TablesError> {
        Ok(self.summary()?.usage)
    }

    /// Equal on all nodes that applied the same agreements.
    pub fn state_hash(&self) -> Result<StateHash, TablesError> {
        Ok(self.summary()?.state_hash())
    }

    /// The key of the volume's content hashes.
    ///
    /// # Errors
    /// Also if there are no tables yet: they begin with [`super::genesis()`].
    pub fn volume_key(&self) -> Result<[u8; 32], TablesError> {
        let Some(value) = self.0.get(keys::VOLUME)? else {
            return Err(TablesError("there is no volume row".into()));
        };
        let mut reader = Reader::new(&value, "volume")?;
        let key = reader.array()?;
        reader.end()?;
        Ok(key)
    }

    /// The member with the right to write the body of `ino`.
    pub fn token_holder(&self, ino: Ino) -> Result<Option<NodeId>, TablesError> {
        match self.inode(ino)?.and_then(|inode| inode.writer) {
            Some(node) if self.member(node)?.is_some() => Ok(Some(node)),
            _ => Ok(None),
        }
    }

    /// The locks of `ino`, as far as they are agreed.
    pub fn locks(&self, ino: Ino) -> Result<LockRow, TablesError> {
        match self.0.get(&keys::locks(ino))? {
            Some(value) => from_cbor(&value, "locks"),
            None => Ok(LockRow::default()),
        }
    }

    /// The files that are locked, or that a node keeps the locks of.
    pub fn locked(&self) -> Result<Vec<(Ino, LockRow)>, TablesError> {
        self.collect(keys::LOCKS, &[], usize::MAX, |key, value| {
            let ino = keys::number(key).ok_or_else(|| malformed("locks"))?;
            Ok((Ino(ino), from_cbor(value, "locks")?))
        })
    }

    /// Up to where `node` said that it holds its bodies; GSN 0 if it never did.
    pub fn held_upto(&self, node: NodeId) -> Result<Gsn, TablesError> {
        match self.0.get(&keys::held(node))? {
            Some(value) => super::member::decode_held(&value),
            None => Ok(Gsn(0)),
        }
    }

    /// What [`Self::held_upto`] is for each node that reported, by id.
    pub fn held(&self) -> Result<Vec<(NodeId, Gsn)>, TablesError> {
        self.collect(keys::HELD, &[], usize::MAX, |key, value| {
            let node = keys::node(key).ok_or_else(|| malformed("held"))?;
            Ok((node, super::member::decode_held(value)?))
        })
    }

    /// The outcome of a command, if it was applied and is among the origin's last
    /// [`super::OUTCOMES_KEPT`].
    pub fn outcome_of(&self, id: OpId) -> Result<Option<Outcome>, TablesError> {
        dedup::outcome_of(&self.0, id)
    }

    /// How far the commands of `node` were applied.
    pub fn origin(&self, node: NodeId) -> Result<Option<Origin>, TablesError> {
        self.0.get(&keys::origin(node))?.map(|bytes| Origin::decode(&bytes)).transpose()
    }

    /// The quota of a directory.
    pub fn quota(&self, directory: Ino) -> Result<Option<Quota>, TablesError> {
        self.0.get(&keys::quota(directory))?.map(|bytes| Quota::decode(&bytes)).transpose()
    }

    /// All quotas, by directory.
    pub fn quotas(&self) -> Result<Vec<(Ino, Quota)>, TablesError> {
        self.collect(keys::QUOTAS, &[], usize::MAX, |key, value| {
            let directory = keys::number(key).ok_or_else(|| malformed("quotas"))?;
            Ok((Ino(directory), Quota::decode(value)?))
        })
    }

    /// The quota `mark` of an inode and all above it, nearest first.
    pub fn quotas_from(&self, mark: Ino) -> Result<Vec<Quota>, TablesError> {
        let mut quotas = Vec::new();
        let mut at = Some(mark).filter(|mark| *mark != Ino(0));
        while let Some(directory) = at
            && let Some(quota) = self.quota(directory)?
        {
            at = quota.parent;
            quotas.push(quota);
        }
        Ok(quotas)
    }

    /// What nodes have reserved, by quota and node.
    pub fn reservations(&self) -> Result<Vec<(Ino, NodeId, Reservation)>, TablesError> {
        self.collect(keys::RESERVATIONS, &[], usize::MAX, |key, value| {
            let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
            let quota = key.get(1..9).and_then(number);
            let node = keys::tail(key).and_then(|tail| tail.try_into().ok());
            match (quota, node.map(u16::from_be_bytes)) {
                (Some(quota), Some(node)) => {
                    Ok((Ino(quota), NodeId(node), Reservation::decode(value)?))
                }
                _ => Err(malformed("reservations")),
            }
        })
    }

    pub fn join_token(&self, id: u64) -> Result<Option<JoinToken>, TablesError> {
        self.0.get(&keys::join_token(id))?.map(|bytes| from_cbor(&bytes, "join tokens")).transpose()
    }

    /// All join tokens that were neither used nor revoked, by id; expired ones too.
    pub fn join_tokens(&self) -> Result<Vec<(u64, JoinToken)>, TablesError> {
        self.collect(keys::JOIN_TOKENS, &[], usize::MAX, |key, value| {
            let id = keys::number(key).ok_or_else(|| malformed("join tokens"))?;
            Ok((id, from_cbor(value, "join tokens")?))
        })
    }

    /// The child volumes, by id. Only the root volume has any.
    pub fn volumes(&self) -> Result<Vec<(VolumeId, VolumeRecord)>, TablesError> {
        self.collect(keys::VOLUMES, &[], usize::MAX, |key, value| {
            let id = keys::volume_id(key).ok_or_else(|| malformed("volumes"))?;
            Ok((id, from_cbor(value, "volumes")?))
        })
    }

    /// Visits every inode with a number of at least `from`, ascending, until `visit` returns
    /// false: for placement, checks and collection.
    pub fn inodes(
        &self,
        from: Ino,
        visit: &mut dyn FnMut(Ino, Inode) -> bool,
    ) -> Result<(), TablesError> {
        let mut ended = Ok(());
        self.0.scan(keys::INODES, &keys::inode(from), &mut |key, value| {
            let number = keys::number(key).ok_or_else(|| malformed("inodes"));
            match number.and_then(|number| Ok((Ino(number), Inode::decode(value)?))) {
                Ok((ino, inode)) => visit(ino, inode),
                Err(error) => {
                    ended = Err(error);
                    false
                }
            }
        })?;
        ended
    }

    /// Up to `limit` decoded rows whose keys begin with `prefix`, from the key `from` on.
    fn collect<R>(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        decode: impl Fn(&[u8], &[u8]) -> Result<R, TablesError>,
    ) -> Result<Vec<R>, TablesError> {
        let mut rows = Vec::new();
        let mut ended = Ok(());
        if limit == 0 {
            return Ok(rows);
        }
        self.0.scan(prefix, from, &mut |key, value| {
            match decode(key, value) {
                Ok(row) => rows.push(row),
                Err(error) => ended = Err(error),
            }
            ended.is_ok() && rows.len() < limit
        })?;
        ended.map(|()| rows)
    }

    fn summary(&self) -> Result<Summary, TablesError> {
        Summary::load(&self.0)
    }
}

fn malformed(table: &str) -> TablesError {
    TablesError(format!("a key of {table} is malformed"))
}
