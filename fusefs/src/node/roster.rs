//! The members of each volume beside the database, in `STORE/members-VOLUME`: whom to ask when
//! the database is lost.
//!
//! `| CBOR: members | blake3 32 of what precedes |`

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use engine::command::Member;
use engine::ids::VolumeId;

const PREFIX: &str = "members-";

fn path(store: &Path, volume: VolumeId) -> PathBuf {
    store.join(format!("{PREFIX}{}", volume.0))
}

/// Notes them durably, if they are others than those that are there.
///
/// # Errors
/// When the file cannot be written; the one that was there stays.
pub fn save(store: &Path, volume: VolumeId, members: &[Member]) -> io::Result<()> {
    if load(store, volume).is_some_and(|known| known == members) {
        return Ok(());
    }
    let mut bytes = minicbor::to_vec(members).expect("a Vec takes any bytes");
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    let path = path(store, volume);
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(store)?.sync_all()
}

/// The members that were noted last; `None` if there is no such file, or it is damaged.
pub fn load(store: &Path, volume: VolumeId) -> Option<Vec<Member>> {
    let bytes = fs::read(path(store, volume)).ok()?;
    let (cbor, hash) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(cbor) != *hash {
        return None;
    }
    minicbor::decode(cbor).ok()
}

/// The volumes of which members were noted.
pub fn volumes(store: &Path) -> Vec<VolumeId> {
    let names = fs::read_dir(store).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok().map(VolumeId)).collect()
}

#[cfg(test)]
mod tests {
    use engine::command::MemberRole;
    use engine::ids::{NodeId, ZoneId};

    use super::*;

    const V: VolumeId = VolumeId(7);

    #[test]
    fn what_was_noted_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let member = Member {
            id: NodeId(7),
            name: "z7".into(),
            zone: ZoneId(1),
            zone_name: "z".into(),
            address: "127.0.0.1:1".into(),
            key_hash: [3; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        assert_eq!(load(dir.path(), V), None);
        save(dir.path(), V, std::slice::from_ref(&member)).expect("it can be written");
        assert_eq!(load(dir.path(), V), Some(vec![member]));
        assert_eq!(volumes(dir.path()), [V]);
        let good = fs::read(path(dir.path(), V)).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(path(dir.path(), V), &bad).expect("it can be written");
            assert_eq!(load(dir.path(), V), None, "byte {at} changed unnoticed");
        }
    }
}
