//! A POSIX filesystem as simple as can be: whole paths to inodes, and inodes with their bytes.
//!
//! Nothing is counted or indexed: links are counted by looking at all paths, emptiness by
//! looking for longer paths. So it shares neither code nor ideas with the namespace.

use std::collections::{BTreeMap, BTreeSet};

use engine::command::{Body, Command, Cred, Kind, Name, Op, RenameHow, SetAttr, XattrHow};
use engine::ids::{Ino, NodeId};
use engine::time::Timestamp;

pub type Path = Vec<Name>;

pub struct Posix {
    pub paths: BTreeMap<Path, Ino>,
    pub nodes: BTreeMap<Ino, Node>,
    members: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A file's bytes, zeros and all.
    pub bytes: Vec<u8>,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub writer: Option<NodeId>,
    /// How often the bytes were replaced or cut.
    pub changes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    Enoent,
    Eexist,
    Enotdir,
    Eisdir,
    Enotempty,
    Eperm,
    Einval,
    Enodata,
    /// The write token is somebody else's.
    Held(NodeId),
    /// The base of a publish is not the current version.
    Stale,
}

use Errno::*;

/// What a success has to tell: the inode that `open(O_CREAT)` found.
pub type Result<T = Option<Ino>> = std::result::Result<T, Errno>;

impl Posix {
    pub fn new(members: &[NodeId]) -> Posix {
        let zero = Timestamp::new(0, 0);
        let root = Node::new(Kind::Directory, 0o755, Cred::default(), zero);
        Posix {
            paths: BTreeMap::from([(Path::new(), Ino::ROOT)]),
            nodes: BTreeMap::from([(Ino::ROOT, root)]),
            members: members.iter().copied().collect(),
        }
    }

    /// Names of a file; for a directory 2 and the directories in it.
    pub fn links(&self, ino: Ino) -> usize {
        match self.path_of_directory(ino) {
            Ok(path) => 2 + self.children(&path).filter(|&ino| self.is_directory(ino)).count(),
            Err(_) => self.paths.values().filter(|&&named| named == ino).count(),
        }
    }

    /// `stale`: a publish has another base than the current version. The model keeps no
    /// versions.
    pub fn apply(&mut self, command: &Command, stale: bool) -> Result {
        match &command.op {
            Op::Make { .. } => return self.make(command),
            Op::Link { ino, parent, name } => self.link(command, *ino, *parent, name)?,
            Op::Unlink { parent, name } => self.unlink(command, *parent, name)?,
            Op::Rmdir { parent, name, .. } => self.rmdir(command, *parent, name)?,
            Op::Rename { .. } => self.rename(command)?,
            Op::SetAttr { ino, set } => self.set_attr(command, *ino, set)?,
            Op::SetXattr { ino, name, value, how } => {
                let attributes = &mut self.node(*ino)?.xattrs;
                let is_same = attributes.get(name) == Some(value);
                match (how, attributes.contains_key(name)) {
                    (XattrHow::Create, true) => return Err(Eexist),
                    (XattrHow::Replace, false) => return Err(Enodata),
                    _ => attributes.insert(name.clone(), value.clone()),
                };
                if !is_same {
                    self.node(*ino)?.ctime = command.time;
                }
            }
            Op::RemoveXattr { ino, name } => {
                self.node(*ino)?.xattrs.remove(name).ok_or(Enodata)?;
                self.node(*ino)?.ctime = command.time;
            }
            Op::Publish { .. } => self.publish(command, stale)?,
            Op::TakeToken { ino, node } => {
                self.writable(*ino, *node)?;
                self.node(*ino)?.writer = Some(*node);
            }
            Op::ReleaseToken { ino, node } => {
                let writer = &mut self.node(*ino)?.writer;
                *writer = writer.filter(|holder| holder != node);
            }
            other => panic!("{other:?} is no POSIX operation"),
        }
        Ok(None)
    }

    fn make(&mut self, command: &Command) -> Result {
        let Op::Make { parent, name, ino, kind, mode, exclusive, umask } = &command.op else {
            panic!("it is a make");
        };
        let directory = self.path_of_directory(*parent)?;
        let path = [directory, vec![name.clone()]].concat();
        if let Some(&there) = self.paths.get(&path) {
            return match (kind, *exclusive, &self.nodes[&there].kind) {
                (Kind::File, false, Kind::File) => Ok(Some(there)),
                (Kind::File, false, Kind::Directory) => Err(Eisdir),
                _ => Err(Eexist),
            };
        }
        let mut node = Node::new(kind.clone(), *mode & !umask, command.cred, command.time);
        match kind {
            Kind::Symlink(_) => node.mode = 0o777,
            Kind::File => node.writer = Some(command.id.origin),
            _ => {}
        }
        let above = &self.nodes[parent];
        if above.mode & 0o2000 != 0 {
            node.gid = above.gid;
            node.mode |= if *kind == Kind::Directory { 0o2000 } else { 0 };
        }
        self.paths.insert(path, *ino);
        self.nodes.insert(*ino, node);
        self.stamp(*parent, command.time);
        Ok(Some(*ino))
    }

    fn link(&mut self, command: &Command, ino: Ino, parent: Ino, name: &Name) -> Result<()> {
        self.node(ino)?;
        let path = [self.path_of_directory(parent)?, vec![name.clone()]].concat();
        if self.paths.contains_key(&path) {
            return Err(Eexist);
        }
        if self.is_directory(ino) {
            return Err(Eperm);
        }
        self.paths.insert(path, ino);
        self.node(ino)?.ctime = command.time;
        self.stamp(parent, command.time);
        Ok(())
    }

    fn unlink(&mut self, command: &Command, parent: Ino, name: &Name) -> Result<()> {
        let path = [self.path_of_directory(parent)?, vec![name.clone()]].concat();
        let ino = *self.paths.get(&path).ok_or(Enoent)?;
        if self.is_directory(ino) {
            return Err(Eisdir);
        }
        self.paths.remove(&path);
        self.node(ino)?.ctime = command.time;
        self.stamp(parent, command.time);
        self.forget_unnamed();
        Ok(())
    }

    fn rmdir(&mut self, command: &Command, parent: Ino, name: &Name) -> Result<()> {
        let path = [self.path_of_directory(parent)?, vec![name.clone()]].concat();
        let ino = *self.paths.get(&path).ok_or(Enoent)?;
        if !self.is_directory(ino) {
            return Err(Enotdir);
        }
        if self.children(&path).next().is_some() {
            return Err(Enotempty);
        }
        self.paths.remove(&path);
        self.stamp(parent, command.time);
        self.forget_unnamed();
        Ok(())
    }

    fn rename(&mut self, command: &Command) -> Result<()> {
        let Op::Rename { from_parent, from_name, to_parent, to_name, how, .. } = &command.op else {
            panic!("it is a rename");
        };
        let from_directory = self.path_of_directory(*from_parent)?;
        let to_directory = self.path_of_directory(*to_parent)?;
        let from = [from_directory, vec![from_name.clone()]].concat();
        let to = [to_directory, vec![to_name.clone()]].concat();
        let moved = *self.paths.get(&from).ok_or(Enoent)?;
        let target = self.paths.get(&to).copied();
        let exchange = *how == RenameHow::Exchange;
        match target {
            Some(_) if *how == RenameHow::NoReplace => return Err(Eexist),
            None if exchange => return Err(Enoent),
            _ => {}
        }
        if to != from && to.starts_with(&from) {
            // Below a file there are no paths, so `from` is a directory.
            return Err(Einval);
        }
        if to != from && from.starts_with(&to) {
            return Err(if exchange { Einval } else { Enotempty });
        }
        if target == Some(moved) {
            return Ok(());
        }
        if let Some(target) = target.filter(|_| !exchange) {
            match (self.is_directory(moved), self.is_directory(target)) {
                (true, false) => return Err(Enotdir),
                (false, true) => return Err(Eisdir),
                _ if self.children(&to).next().is_some() => return Err(Enotempty),
                _ => {}
            }
            self.paths.remove(&to);
        }
        let leaving = self.take_subtree(&from);
        let coming = self.take_subtree(&to);
        self.put_subtree(&to, leaving);
        self.put_subtree(&from, coming);
        for changed in [Some(moved), target].into_iter().flatten() {
            self.node(changed)?.ctime = command.time;
        }
        self.stamp(*from_parent, command.time);
        self.stamp(*to_parent, command.time);
        self.forget_unnamed();
        Ok(())
    }

    fn set_attr(&mut self, command: &Command, ino: Ino, set: &SetAttr) -> Result<()> {
        let symlink = matches!(self.node(ino)?.kind, Kind::Symlink(_));
        if set.mode.is_some() && symlink {
            return Err(Einval);
        }
        if set.size.is_some() {
            self.writable(ino, command.id.origin)?;
        }
        let node = self.node(ino)?;
        node.mode = set.mode.map_or(node.mode, |mode| mode & 0o7777);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        if set.uid.or(set.gid).is_some() && node.kind != Kind::Directory {
            node.mode &= if node.mode & 0o010 == 0 { 0o3777 } else { 0o1777 };
        }
        if let Some(size) = set.size {
            let size = usize::try_from(size).expect("sizes are small here");
            node.changes += u64::from(size != node.bytes.len());
            node.bytes.resize(size, 0);
            node.mtime = command.time;
        }
        node.atime = set.atime.unwrap_or(node.atime);
        node.mtime = set.mtime.unwrap_or(node.mtime);
        node.ctime = command.time;
        Ok(())
    }

    fn publish(&mut self, command: &Command, stale: bool) -> Result<()> {
        let Op::Publish { ino, body: Body::Inline(bytes), size, mtime, ctime, .. } = &command.op
        else {
            panic!("it is a publish of inline bytes");
        };
        self.writable(*ino, command.id.origin)?;
        if stale {
            return Err(Stale);
        }
        let node = self.node(*ino)?;
        node.bytes.clone_from(bytes);
        node.bytes.resize(usize::try_from(*size).expect("sizes are small here"), 0);
        node.changes += 1;
        node.mtime = *mtime;
        node.ctime = node.ctime.max(command.time.min(*ctime));
        Ok(())
    }

    /// A regular file whose token no other member has.
    fn writable(&mut self, ino: Ino, node: NodeId) -> Result<()> {
        match self.node(ino)?.kind {
            Kind::File => {}
            Kind::Directory => return Err(Eisdir),
            _ => return Err(Einval),
        }
        match self.nodes[&ino].writer {
            Some(holder) if holder != node && self.members.contains(&holder) => Err(Held(holder)),
            _ => Ok(()),
        }
    }

    fn node(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Enoent)
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.kind == Kind::Directory)
    }

    fn path_of_directory(&self, ino: Ino) -> Result<Path> {
        let node = self.nodes.get(&ino).ok_or(Enoent)?;
        if node.kind != Kind::Directory {
            return Err(Enotdir);
        }
        let (path, _) =
            self.paths.iter().find(|&(_, &named)| named == ino).expect("directories have a path");
        Ok(path.clone())
    }

    fn children<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = Ino> + 'a {
        let below = |other: &Path| other.len() == path.len() + 1 && other.starts_with(path);
        self.paths.iter().filter(move |(other, _)| below(other)).map(|(_, &ino)| ino)
    }

    fn take_subtree(&mut self, path: &Path) -> Vec<(Path, Ino)> {
        let (inside, others) = std::mem::take(&mut self.paths)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(other, _)| other.starts_with(path));
        self.paths = others;
        inside.into_iter().map(|(other, ino)| (other[path.len()..].to_vec(), ino)).collect()
    }

    fn put_subtree(&mut self, path: &Path, subtree: Vec<(Path, Ino)>) {
        for (rest, ino) in subtree {
            self.paths.insert([path.clone(), rest].concat(), ino);
        }
    }

    /// What adding or removing a name does to a directory.
    fn stamp(&mut self, ino: Ino, time: Timestamp) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.mtime = time;
            node.ctime = time;
        }
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<Ino> = self.paths.values().copied().collect();
        self.nodes.retain(|ino, _| named.contains(ino));
    }
}

impl Node {
    fn new(kind: Kind, mode: u32, cred: Cred, time: Timestamp) -> Node {
        Node {
            kind,
            mode,
            uid: cred.uid,
            gid: cred.gid,
            bytes: Vec::new(),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            xattrs: BTreeMap::new(),
            writer: None,
            changes: 0,
        }
    }

    /// As `stat` gives it.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Directory => 4096,
            Kind::Symlink(target) => target.len() as u64,
            _ => self.bytes.len() as u64,
        }
    }
}
