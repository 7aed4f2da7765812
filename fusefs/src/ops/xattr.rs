//! Extended attributes, and the ACLs that show among them. `user.fusion.*` are answered by the
//! filesystem itself, can't be set (but for the rules of directories), and are not listed, so that
//! copying programs don't copy
//! them.

use std::sync::Arc;

use engine::acl::{Acl, AclKind};
use engine::command::{Op, XattrHow};
use engine::ids::Ino;
use engine::namespace::XATTR_LIST_LEN_MAX;
use engine::outcome::Refusal;

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::orphans::Orphan;
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
        if let Some(value) = self.orphans.with(ino, |orphan| orphan.xattr(name)) {
            return value.ok_or(FsError::NoAttribute);
        }
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
        let inode = self.record_in(&view, ino)?;
        let names = match self.orphans.with(ino, |orphan| orphan.xattrs.keys().cloned().collect()) {
            Some(names) => names,
            None if inode.xattr_list_len == 0 => Vec::new(),
            None => view.xattrs(ino)?,
        };
        for name in names {
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
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        kind: AclKind,
        value: &[u8],
        kill_sgid: bool,
        done: FsDone<()>,
    ) {
        match Acl::from_xattr(value) {
            Ok(acl) => {
                let op = Op::SetAcl { ino, kind, acl: acl.clone(), kill_sgid };
                let change =
                    move |orphan: &mut Orphan| orphan.set_acl(kind, acl.as_ref(), kill_sgid);
                self.agree_or_pinned(caller, ino, op, change, done);
            }
            Err(_) => done(Err(FsError::Invalid)),
        }
    }

    pub fn set_xattr(
        self: &Arc<Self>,
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
        let (name, value) = (name.to_vec(), value.to_vec());
        let op = Op::SetXattr { ino, name: name.clone(), value: value.clone(), how };
        let change = move |orphan: &mut Orphan| orphan.set_xattr(&name, &value, how);
        self.agree_or_pinned(caller, ino, op, change, done);
    }

    /// Why an attribute cannot be set that must be there and must not be, as ext4 has it.
    pub fn refuse_xattr(&self, ino: Ino, name: &[u8]) -> FsError {
        match self.xattr(ino, name) {
            Ok(_) => Refusal::Exists.into(),
            Err(e) => e,
        }
    }

    pub fn remove_xattr(self: &Arc<Self>, caller: Caller, ino: Ino, name: &[u8], done: FsDone<()>) {
        if let Some(kind) = AclKind::of_xattr(name) {
            let op = Op::SetAcl { ino, kind, acl: None, kill_sgid: false };
            let change = move |orphan: &mut Orphan| orphan.set_acl(kind, None, false);
            return self.agree_or_pinned(caller, ino, op, change, done);
        }
        if let Err(e) = self.check_rule(ino, name, None) {
            return done(Err(e));
        }
        let name = name.to_vec();
        let op = Op::RemoveXattr { ino, name: name.clone() };
        let change = move |orphan: &mut Orphan| match orphan.xattrs.remove(&name) {
            Some(_) => Ok(()),
            None => Err(FsError::NoAttribute),
        };
        self.agree_or_pinned(caller, ino, op, change, done);
    }

    /// Has `op` agreed, or does the same to the copy of an inode that has no name, or loses its
    /// last one meanwhile.
    fn agree_or_pinned(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        op: Op,
        change: impl Fn(&mut Orphan) -> Result<(), FsError> + Send + 'static,
        done: FsDone<()>,
    ) {
        let fs = Arc::clone(self);
        let change_pinned = move || {
            let now = fs.ring.now();
            fs.orphans.with(ino, |orphan| {
                change(orphan)?;
                orphan.inode.ctime = now;
                Ok(())
            })
        };
        if let Some(result) = change_pinned() {
            return done(result);
        }
        let agreed: FsDone<()> = Box::new(move |result| match result {
            Err(FsError::Refused(Refusal::NotFound)) => {
                done(change_pinned().unwrap_or(Err(Refusal::NotFound.into())));
            }
            result => done(result),
        });
        self.agree_done(caller, op, agreed);
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

impl Orphan {
    fn xattr(&self, name: &[u8]) -> Option<Vec<u8>> {
        let value = self.xattrs.get(name)?;
        if AclKind::of_xattr(name) != Some(AclKind::Access) {
            return Some(value.clone());
        }
        // chmod has changed what is in the list, too.
        let acl = Acl::from_xattr(value).ok()??;
        Some(acl.with_mode(self.inode.mode).to_xattr())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8], how: XattrHow) -> Result<(), FsError> {
        match (how, self.xattrs.contains_key(name)) {
            (XattrHow::Create, true) => return Err(Refusal::Exists.into()),
            (XattrHow::Replace, false) => return Err(FsError::NoAttribute),
            (_, true) => {}
            (_, false) => {
                let names = self.xattrs.keys().map(|name| name.len() + 1).sum::<usize>();
                if names + name.len() + 1 > XATTR_LIST_LEN_MAX as usize {
                    return Err(Refusal::NoSpace.into());
                }
            }
        }
        self.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    /// As the order does it for inodes with names.
    fn set_acl(
        &mut self,
        kind: AclKind,
        acl: Option<&Acl>,
        kill_sgid: bool,
    ) -> Result<(), FsError> {
        if acl.is_some_and(|acl| !acl.is_valid()) {
            return Err(FsError::Invalid);
        }
        if kind == AclKind::Default && !self.inode.is_directory() {
            return if acl.is_some() { Err(Refusal::Denied.into()) } else { Ok(()) };
        }
        self.xattrs.remove(kind.xattr_name());
        let Some(acl) = acl else { return Ok(()) };
        if kind == AclKind::Access {
            let kept = if kill_sgid { 0o5000 } else { 0o7000 };
            self.inode.mode = (self.inode.mode & kept) | acl.mode();
        }
        if kind == AclKind::Default || !acl.is_minimal() {
            self.xattrs.insert(kind.xattr_name().to_vec(), acl.to_xattr());
        }
        Ok(())
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
    match kept.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() > prefix.len() => Ok(()),
        Some(_) => Err(FsError::Invalid),
        None => Err(FsError::Unsupported),
    }
}

const OWN_PREFIX: &[u8] = b"user.fusion.";
