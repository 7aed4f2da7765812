//! Extended attributes. `user.fusion.*` are answered by the filesystem itself, can't be set,
//! and are not listed, so that copying programs don't copy them.

use engine::command::{Op, XattrHow};
use engine::ids::Ino;

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::Caller;

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
        if let Err(e) = check_changeable(name) {
            return done(Err(e));
        }
        let op = Op::SetXattr { ino, name: name.to_vec(), value: value.to_vec(), how };
        self.agree_done(caller, op, done);
    }

    pub fn remove_xattr(&self, caller: Caller, ino: Ino, name: &[u8], done: FsDone<()>) {
        if let Err(e) = check_changeable(name) {
            return done(Err(e));
        }
        self.agree_done(caller, Op::RemoveXattr { ino, name: name.to_vec() }, done);
    }

    /// `gsn`: the agreement that changed the inode last. `zones`: who holds the bytes,
    /// separated by spaces. `state`: what this node has of them.
    fn own_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let inode = self.record(ino)?;
        let text = match name {
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
