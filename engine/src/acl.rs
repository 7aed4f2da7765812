//! POSIX access control lists, as acl(5) has them.

use minicbor::{Decode, Encode};

/// Which of the two lists of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum AclKind {
    /// Who may use the inode.
    #[n(0)]
    Access,
    /// Directories: what is made in it begins with this access list.
    #[n(1)]
    Default,
}

impl AclKind {
    pub const ALL: [AclKind; 2] = [AclKind::Access, AclKind::Default];

    /// The extended attribute that shows it.
    pub const fn xattr_name(self) -> &'static [u8] {
        match self {
            AclKind::Access => b"system.posix_acl_access",
            AclKind::Default => b"system.posix_acl_default",
        }
    }

    pub fn of_xattr(name: &[u8]) -> Option<AclKind> {
        Self::ALL.into_iter().find(|kind| kind.xattr_name() == name)
    }
}

/// A list. Permissions are three bits each, read 4, write 2, execute 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Acl {
    #[n(0)]
    pub owner: u8,
    #[n(1)]
    pub group: u8,
    #[n(2)]
    pub other: u8,
    /// The most that named users and any group get; a list that names somebody has it.
    #[n(3)]
    pub mask: Option<u8>,
    /// Users with permissions of their own: uid, permissions.
    #[n(4)]
    pub users: Vec<(u32, u8)>,
    /// Groups with permissions of their own: gid, permissions.
    #[n(5)]
    pub groups: Vec<(u32, u8)>,
}

/// Why bytes are no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a POSIX access control list")]
pub struct AclError;

impl Acl {
    /// As many as the kernel can read back: one page.
    pub const ENTRIES_MAX: usize = (4096 - HEADER_BYTES) / ENTRY_BYTES;

    /// Whether it says no more than permission bits do.
    pub fn is_minimal(&self) -> bool {
        self.mask.is_none() && self.users.is_empty() && self.groups.is_empty()
    }

    /// The permission bits 0777 that stand for it: the group's are the mask where there is one.
    pub fn mode(&self) -> u32 {
        let group = self.mask.unwrap_or(self.group);
        u32::from(self.owner) << 6 | u32::from(group) << 3 | u32::from(self.other)
    }

    /// The list that `mode` and this one make together: chmod sets owner, mask and others.
    pub fn with_mode(&self, mode: u32) -> Acl {
        let mut acl = Acl { owner: bits(mode >> 6), other: bits(mode), ..self.clone() };
        match &mut acl.mask {
            Some(mask) => *mask = bits(mode >> 3),
            None => acl.group = bits(mode >> 3),
        }
        acl
    }

    /// The list of something new in a directory whose default list this is, made with `mode`;
    /// what a umask would take off does not count (acl(5), "object creation").
    pub fn inherited(&self, mode: u32) -> Acl {
        self.with_mode(mode & self.mode())
    }

    pub fn is_valid(&self) -> bool {
        let named = self.users.iter().chain(&self.groups);
        let perms = [self.owner, self.group, self.other, self.mask.unwrap_or(0)];
        let all_fit = named.clone().map(|(_, perm)| *perm).chain(perms).all(|perm| perm <= 7);
        let ids_fit = named.clone().all(|(id, _)| *id != UNDEFINED_ID);
        let masked = self.mask.is_some() || named.count() == 0;
        all_fit && ids_fit && masked && self.entries() <= Self::ENTRIES_MAX
    }

    fn entries(&self) -> usize {
        3 + usize::from(self.mask.is_some()) + self.users.len() + self.groups.len()
    }

    /// Reads the value of the extended attribute (linux/posix_acl_xattr.h). `None`: it has no
    /// entries, which takes the list away.
    ///
    /// ```text
    /// | version u32 = 2 | entry .. |    entry: | tag u16 | permissions u16 | id u32 |
    /// ```
    /// Little-endian, entries in the order of their tags.
    ///
    /// # Errors
    /// [`AclError`] for any other bytes.
    pub fn from_xattr(value: &[u8]) -> Result<Option<Acl>, AclError> {
        let (version, mut rest) = value.split_first_chunk::<HEADER_BYTES>().ok_or(AclError)?;
        if u32::from_le_bytes(*version) != XATTR_VERSION {
            return Err(AclError);
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let (mut owner, mut group, mut mask, mut other) = (None, None, None, None);
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        let mut last_tag = 0;
        while let Some((entry, tail)) = rest.split_first_chunk::<ENTRY_BYTES>() {
            let [t0, t1, p0, p1, i0, i1, i2, i3] = *entry;
            let tag = u16::from_le_bytes([t0, t1]);
            let perm = u8::try_from(u16::from_le_bytes([p0, p1])).map_err(|_| AclError)?;
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            if tag < last_tag {
                return Err(AclError);
            }
            let single = match tag {
                TAG_USER => {
                    users.push((id, perm));
                    None
                }
                TAG_GROUP => {
                    groups.push((id, perm));
                    None
                }
                TAG_USER_OBJ => Some(&mut owner),
                TAG_GROUP_OBJ => Some(&mut group),
                TAG_MASK => Some(&mut mask),
                TAG_OTHER => Some(&mut other),
                _ => return Err(AclError),
            };
            if single.is_some_and(|single| single.replace(perm).is_some()) {
                return Err(AclError);
            }
            (last_tag, rest) = (tag, tail);
        }
        let (Some(owner), Some(group), Some(other), []) = (owner, group, other, rest) else {
            return Err(AclError);
        };
        let acl = Acl { owner, group, other, mask, users, groups };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(AclError) }
    }

    /// What [`Self::from_xattr`] reads.
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.entries());
        value.extend_from_slice(&XATTR_VERSION.to_le_bytes());
        let mut entry = |tag: u16, perm: u8, id: u32| {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&u16::from(perm).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        };
        entry(TAG_USER_OBJ, self.owner, UNDEFINED_ID);
        for (uid, perm) in &self.users {
            entry(TAG_USER, *perm, *uid);
        }
        entry(TAG_GROUP_OBJ, self.group, UNDEFINED_ID);
        for (gid, perm) in &self.groups {
            entry(TAG_GROUP, *perm, *gid);
        }
        if let Some(mask) = self.mask {
            entry(TAG_MASK, mask, UNDEFINED_ID);
        }
        entry(TAG_OTHER, self.other, UNDEFINED_ID);
        value
    }
}

fn bits(mode: u32) -> u8 {
    (mode & 7) as u8
}

const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const XATTR_VERSION: u32 = 2;
const TAG_USER_OBJ: u16 = 0x01;
const TAG_USER: u16 = 0x02;
const TAG_GROUP_OBJ: u16 = 0x04;
const TAG_GROUP: u16 = 0x08;
const TAG_MASK: u16 = 0x10;
const TAG_OTHER: u16 = 0x20;
const UNDEFINED_ID: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// `setfacl -m u:1000:rw,g:50:r` on a file of mode 0640, as the kernel hands it over.
    const SETFACL: [u8; 52] = [
        2, 0, 0, 0, //
        0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
        0x02, 0, 6, 0, 0xe8, 0x03, 0, 0, //
        0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
        0x08, 0, 4, 0, 50, 0, 0, 0, //
        0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
        0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, //
    ];

    fn acl() -> Acl {
        let (users, groups) = (vec![(1000, 6)], vec![(50, 4)]);
        Acl { owner: 6, group: 4, other: 0, mask: Some(6), users, groups }
    }

    #[test]
    fn the_kernel_s_bytes_are_read_and_written() {
        assert_eq!(Acl::from_xattr(&SETFACL), Ok(Some(acl())));
        assert_eq!(acl().to_xattr(), SETFACL);
        assert_eq!(Acl::from_xattr(&SETFACL[..4]), Ok(None));
    }

    #[test]
    fn other_bytes_are_no_list() {
        for len in (0..SETFACL.len()).filter(|len| *len != 4) {
            assert_eq!(Acl::from_xattr(&SETFACL[..len]), Err(AclError), "{len} bytes");
        }
        // Another version; a permission of 8; a tag twice; a named user of no id; a name
        // without a mask.
        for (at, byte) in [(0, 3), (6, 8), (12, 0x01), (36, 0x20)] {
            let mut bytes = SETFACL;
            bytes[at] = byte;
            assert_eq!(Acl::from_xattr(&bytes), Err(AclError), "byte {at}");
        }
        let unmasked = Acl { mask: None, ..acl() };
        assert_eq!(Acl::from_xattr(&unmasked.to_xattr()), Err(AclError));
        let nobody = Acl { users: vec![(u32::MAX, 1)], ..acl() };
        assert_eq!(Acl::from_xattr(&nobody.to_xattr()), Err(AclError));
    }

    #[test]
    fn as_many_entries_as_fit_a_page() {
        let mut many = acl();
        many.users = (0..(Acl::ENTRIES_MAX - 5) as u32).map(|uid| (uid, 7)).collect();
        assert!(many.is_valid());
        assert!(many.to_xattr().len() <= 4096);
        assert_eq!(Acl::from_xattr(&many.to_xattr()), Ok(Some(many.clone())));
        many.users.push((1_000_000, 7));
        assert!(!many.is_valid());
    }

    #[test]
    fn the_mode_shows_the_mask_and_chmod_sets_it() {
        assert_eq!(acl().mode(), 0o660);
        let changed = acl().with_mode(0o4751);
        assert_eq!(changed, Acl { owner: 7, other: 1, mask: Some(5), ..acl() });
        let minimal = Acl { mask: None, users: vec![], groups: vec![], ..acl() };
        assert_eq!(minimal.mode(), 0o640);
        assert_eq!(minimal.with_mode(0o711).group, 1);
    }

    #[test]
    fn what_is_made_gets_no_more_than_it_asked_for() {
        let default = Acl { owner: 7, group: 7, other: 5, ..acl() };
        let file = default.inherited(0o666);
        assert_eq!(file, Acl { owner: 6, group: 7, other: 4, mask: Some(6), ..acl() });
        assert_eq!(default.inherited(0o600), Acl { owner: 6, other: 0, mask: Some(0), ..default });
    }
}
