//! Extended attributes. `user.fusion.*` are answered by the filesystem itself, can't be set
//! (but for the rules of directories), and are not listed, so that copying programs don't copy
//! them.

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
        // The kernel asks for security.capability before each write; most files have none.
        if self.record_in(&view, ino)?.xattr_list_len == 0 {
            return Err(FsError::NoAttribute);
        }
        view.xattr(ino, name)?.ok_or(FsError::NoAttribute)
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
    check_namespace(name)
}

/// POSIX ACLs (`system.posix_acl_*`) are not kept: they would have to be enforced on every
/// node, and refusing them is better than keeping them without effect.
fn check_namespace(name: &[u8]) -> Result<(), FsError> {
    let kept = [&b"user."[..], b"trusted.", b"security."];
    match kept.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) {
        true => Ok(()),
        false => Err(FsError::Unsupported),
    }
}

const OWN_PREFIX: &[u8] = b"user.fusion.";
