//! A larger sealed body in a file of its own:
//!
//! ```text
//! | body .. | manifest .. | footer 68 |
//! footer: | body id 32 | body len u64 | stage u64 | manifest len u32 | version u16 | flags u16
//!         | crc32c u32 of manifest and footer so far | magic "FUSBODY1" |      (little endian)
//! ```
//!
//! `stage` is the stage that became this container, or 0: after a crash it tells which file's
//! bytes these are.
//!
//! The body comes first and raw, so that the file that was written *is* the container, holes
//! and alignment included, and the kernel can read it directly. The footer comes last, so
//! that a file with a whole footer is complete. Its checksum does not cover the body: the
//! chunk hashes in the manifest do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::ids::BodyId;

use super::index::ContainerPlace;
use super::stage::StageId;
use crate::StoreError;
use crate::layout::Area;

const MAGIC: &[u8; 8] = b"FUSBODY1";
const VERSION: u16 = 1;
pub const FOOTER_BYTES: usize = 68;

/// A manifest lists chunks of 64 KiB and more at about 40 bytes each; this is enough for more
/// than a terabyte, and bounds what a damaged length can make us allocate.
pub const MANIFEST_BYTES_MAX: usize = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    pub id: BodyId,
    pub body_len: u64,
    pub stage: Option<StageId>,
    pub manifest_len: u32,
}

/// The length of the container file at `place`.
pub fn file_len(place: ContainerPlace) -> u64 {
    place.body_len + u64::from(place.manifest_len) + FOOTER_BYTES as u64
}

impl Footer {
    pub fn place(&self, area: Area) -> ContainerPlace {
        ContainerPlace { area, body_len: self.body_len, manifest_len: self.manifest_len }
    }

    fn encode(&self, manifest: &[u8]) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..32].copy_from_slice(&self.id.0);
        bytes[32..40].copy_from_slice(&self.body_len.to_le_bytes());
        // Boots count from 1, so no stage is 0.
        let stage = self.stage.map_or(0, |stage| stage.0);
        bytes[40..48].copy_from_slice(&stage.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.manifest_len.to_le_bytes());
        bytes[52..54].copy_from_slice(&VERSION.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(manifest), &bytes[..56]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
        bytes[60..].copy_from_slice(MAGIC);
        bytes
    }
}

/// Turns a file whose first `body_len` bytes are the body into a container, durably: appends
/// manifest and footer, then syncs all of it.
pub fn finish(
    file: &File,
    path: &Path,
    id: BodyId,
    stage: Option<StageId>,
    body_len: u64,
    manifest: &[u8],
) -> Result<Footer, StoreError> {
    let manifest_len = u32::try_from(manifest.len())
        .ok()
        .filter(|_| manifest.len() <= MANIFEST_BYTES_MAX)
        .ok_or_else(|| StoreError::Invalid("the manifest is too large".to_owned()))?;
    let footer = Footer { id, body_len, stage, manifest_len };
    let write = || {
        // What an interrupted earlier attempt appended.
        file.set_len(body_len)?;
        file.write_all_at(manifest, body_len)?;
        file.write_all_at(&footer.encode(manifest), body_len + u64::from(manifest_len))?;
        file.sync_data()
    };
    write().map_err(StoreError::io("write", path))?;
    Ok(footer)
}

/// Reads and checks manifest and footer. `Err(detail)` if the file is not the whole container
/// of `id`.
pub fn read(file: &File, id: BodyId) -> Result<(Footer, Vec<u8>), String> {
    let text = |error: std::io::Error| error.to_string();
    let file_len = file.metadata().map_err(text)?.len();
    let at = file_len.checked_sub(FOOTER_BYTES as u64).ok_or("it is too short")?;
    let mut bytes = [0; FOOTER_BYTES];
    file.read_exact_at(&mut bytes, at).map_err(text)?;
    let stage = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes"));
    let found = Footer {
        id: BodyId(bytes[..32].try_into().expect("32 bytes")),
        body_len: u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")),
        stage: (stage != 0).then_some(StageId(stage)),
        manifest_len: u32::from_le_bytes(bytes[48..52].try_into().expect("4 bytes")),
    };
    if &bytes[60..] != MAGIC {
        return Err("it has no footer".to_owned());
    }
    let version = u16::from_le_bytes([bytes[52], bytes[53]]);
    if version != VERSION {
        return Err(format!("its version {version} is unknown"));
    }
    // Before the lengths are used: the manifest's is bounded by the file's.
    let manifest_len = u64::from(found.manifest_len);
    if found.body_len.checked_add(manifest_len) != Some(at) {
        return Err("its lengths do not add up".to_owned());
    }
    let mut manifest = vec![0; found.manifest_len as usize];
    file.read_exact_at(&mut manifest, found.body_len).map_err(text)?;
    if found.encode(&manifest) != bytes {
        return Err("the checksum of its manifest and footer does not match".to_owned());
    }
    if found.id != id {
        return Err(format!("it holds body {}", found.id));
    }
    Ok((found, manifest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_of_manifest_and_footer_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let id = BodyId([5; 32]);
        file.write_all_at(b"the body", 0).unwrap();
        let footer = finish(&file, &path, id, Some(StageId(7)), 8, b"manifest").unwrap();
        assert_eq!(read(&file, id).unwrap(), (footer, b"manifest".to_vec()));
        assert!(read(&file, BodyId([6; 32])).is_err());

        let good = std::fs::read(&path).unwrap();
        for bit in 8 * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&bad, 0).unwrap();
            assert!(read(&file, id).is_err(), "bit {bit} flipped unnoticed");
        }
        file.write_all_at(&good, 0).unwrap();
        for len in 0..good.len() as u64 {
            file.set_len(len).unwrap();
            assert!(read(&file, id).is_err());
        }
    }
}
