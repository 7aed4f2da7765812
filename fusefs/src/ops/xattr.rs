//! Extended attributes, and the ACLs that show among them. `user.fusion.*` are answered by the
//! filesystem itself, can't be set (but for the rules of directories), and are not listed, so that
//! copying programs don't copy
//! them.

use engine::acl::{Acl, AclKind};
use engine::command::{Op, XattrHow};
use engine::ids::Ino;

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::Caller;
use super::rules::{self, Durability, Partition, Rule};

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`]; [`FsError::Unsupported`] for names outside the namespaces
    /// that are kept.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(own) = name.strip_prefix(OWN_PREFIX) {
            return self.own_xattr(ino, own);
        }
        check_namespace(name)?;
        let view = self.ring.view();
        let inode = self.record_in(&view, ino)?;
        // The kernel asks for ACLs and capabilities of all it meets; most files have none.
        if inode.xattr_list_len == 0 {
            return Err(FsError::NoAttribute);
        }
        let value = match AclKind::of_xattr(name) {
            Some(kind) => view.acl(ino, &inode, kind)?.map(|acl| acl.to_xattr()),
            None => view.xattr(ino, name)?,
        };
        value.ok_or(FsError::NoAttribute)
    }

    /// The names of the attributes, each followed by a NUL, as listxattr(2) gives them.
    ///
    /// # Errors
    /// [`FsError::Stale`].
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let view = self.ring.view();
        let mut list = Vec::new();
        if self.record_in(&view, ino)?.xattr_list_len == 0 {
            return Ok(list);
        }
        for name in view.xattrs(ino)? {
            if name.starts_with(OWN_PREFIX) {
                continue;
            }
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    /// Sets an ACL from the attribute that programs see, and with `kill_sgid` takes the
    /// set-group-id bit.
    pub fn set_acl(
        &self,
        caller: Caller,
        ino: Ino,
        kind: AclKind,
        value: &[u8],
        kill_sgid: bool,
        done: FsDone<()>,
    ) {
        match Acl::from_xattr(value) {
            Ok(acl) => self.agree_done(caller, Op::SetAcl { ino, kind, acl, kill_sgid }, done),
            Err(_) => done(Err(FsError::Invalid)),
        }
    }

    pub fn set_xattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: XattrHow,
        done: FsDone<()>,
    ) {
        if let Err(e) = self.check_rule(ino, name, Some(value)) {
            return done(Err(e));
        }
        let op = Op::SetXattr { ino, name: name.to_vec(), value: value.to_vec(), how };
        self.agree_done(caller, op, done);
    }

    pub fn remove_xattr(&self, caller: Caller, ino: Ino, name: &[u8], done: FsDone<()>) {
        if let Some(kind) = AclKind::of_xattr(name) {
            let op = Op::SetAcl { ino, kind, acl: None, kill_sgid: false };
            return self.agree_done(caller, op, done);
        }
        if let Err(e) = self.check_rule(ino, name, None) {
            return done(Err(e));
        }
        self.agree_done(caller, Op::RemoveXattr { ino, name: name.to_vec() }, done);
    }

    /// Whether an attribute may be set (to `value`) or removed.
    fn check_rule(&self, ino: Ino, name: &[u8], value: Option<&[u8]>) -> Result<(), FsError> {
        if !rules::is_rule(name) {
            return check_changeable(name);
        }
        let view = self.ring.view();
        if !self.record_in(&view, ino)?.is_directory() {
            return Err(FsError::ReadOnlyAttribute);
        }
        let Some(value) = value else { return Ok(()) };
        if rules::check(name, value).is_some_and(|checked| checked.is_err()) {
            return Err(FsError::Invalid);
        }
        // What the cluster could not keep is not promised.
        let is_possible = match Durability::parse(value) {
            Ok(Durability::Zone) => view.members()?.len() > 1,
            Ok(Durability::Zones(count)) => usize::from(count) <= view.zones()?.len(),
            _ => true,
        };
        if is_possible { Ok(()) } else { Err(FsError::Invalid) }
    }

    /// `gsn`: the agreement that changed the inode last. `zones`: who holds the bytes,
    /// separated by spaces. `state`: what this node has of them. `durability`, `partition`: the
    /// rules that hold here.
    fn own_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let inode = self.record(ino)?;
        let has_rules = inode.is_file() || inode.is_directory();
        let text = match name {
            b"durability" if has_rules => Durability::of(&self.ring.view(), ino)?.to_string(),
            b"partition" if has_rules => Partition::of(&self.ring.view(), ino)?.to_string(),
            b"gsn" => inode.changed.to_string(),
            b"zones" if inode.is_file() => self.bodies.residence(ino, &inode).zones.join(" "),
            b"state" if inode.is_file() => self.bodies.residence(ino, &inode).state.to_owned(),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(text.into_bytes())
    }
}

fn check_changeable(name: &[u8]) -> Result<(), FsError> {
    if name.starts_with(OWN_PREFIX) {
        return Err(FsError::ReadOnlyAttribute);
    }
    // ACLs have calls of their own.
    if AclKind::of_xattr(name).is_some() {
        return Err(FsError::Unsupported);
    }
    check_namespace(name)
}

fn check_namespace(name: &[u8]) -> Result<(), FsError> {
    if AclKind::of_xattr(name).is_some() {
        return Ok(());
    }
    let kept = [&b"user."[..], b"trusted.", b"security."];
    match kept.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) {
        true => Ok(()),
        false => Err(FsError::Unsupported),
    }
}

const OWN_PREFIX: &[u8] = b"user.fusion.";
