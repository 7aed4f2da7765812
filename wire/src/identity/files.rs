//! The identity on disk: PEM files under `STORE/identity/`, readable by their owner only.
//!
//! | file | content | where |
//! |---|---|---|
//! | `authority.pem` | the authority's certificate | every node |
//! | `authority-key.pem` | its private key | nodes that admit others |
//! | `node-key.pem` | the node's private key | every node |
//! | `node.pem` | the node's certificate | every node, once it has joined |

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{Authority, IdentityError, NodeIdentity, NodeKey};

pub const AUTHORITY: &str = "authority.pem";
pub const AUTHORITY_KEY: &str = "authority-key.pem";
pub const NODE: &str = "node.pem";
pub const NODE_KEY: &str = "node-key.pem";

const CERTIFICATE_TAG: &str = "CERTIFICATE";
const KEY_TAG: &str = "PRIVATE KEY";
/// No file of ours comes near; a larger one is not ours.
const FILE_MAX_BYTES: u64 = 1 << 20;

impl NodeIdentity {
    /// Reads the identity that [`NodeIdentity::save`] wrote into `dir`.
    pub fn load(dir: &Path) -> Result<NodeIdentity, IdentityError> {
        let key = NodeKey::load(dir)?;
        let certificate = read_certificate(&dir.join(NODE))?;
        let authority = read_certificate(&dir.join(AUTHORITY))?;
        NodeIdentity::new(&key, certificate, authority)
    }

    /// Writes key and certificates into `dir`, durably; the certificate last, so that a crash
    /// leaves a node that has not joined rather than one without its key.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        self.key().save(dir)?;
        write(&dir.join(AUTHORITY), CERTIFICATE_TAG, self.authority())?;
        write(&dir.join(NODE), CERTIFICATE_TAG, self.certificate())
    }

    /// Whether `dir` holds a node's certificate.
    pub fn exists(dir: &Path) -> bool {
        dir.join(NODE).exists()
    }
}

impl NodeKey {
    pub fn load(dir: &Path) -> Result<NodeKey, IdentityError> {
        let path = dir.join(NODE_KEY);
        NodeKey::from_der(&read_key(&path)?)
            .map_err(|error| IdentityError::Damaged { path, reason: error.to_string() })
    }

    /// The key in `dir`; made there if there is none, so that a join that is tried again asks
    /// for the same key.
    pub fn load_or_create(dir: &Path) -> Result<NodeKey, IdentityError> {
        if dir.join(NODE_KEY).exists() {
            return NodeKey::load(dir);
        }
        let key = NodeKey::generate()?;
        key.save(dir)?;
        Ok(key)
    }

    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        write(&dir.join(NODE_KEY), KEY_TAG, &self.to_der())
    }
}

impl Authority {
    /// Reads the authority from `dir`, or `None` if this node holds no authority key.
    pub fn load(dir: &Path) -> Result<Option<Authority>, IdentityError> {
        let path = dir.join(AUTHORITY_KEY);
        if !path.exists() {
            return Ok(None);
        }
        let certificate = read_certificate(&dir.join(AUTHORITY))?;
        let key = read_key(&path)?;
        let authority = Authority::from_parts(&certificate, &key)
            .map_err(|error| IdentityError::Damaged { path, reason: error.to_string() })?;
        Ok(Some(authority))
    }

    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        write(&dir.join(AUTHORITY), CERTIFICATE_TAG, self.certificate())?;
        write(&dir.join(AUTHORITY_KEY), KEY_TAG, &self.private_key())
    }
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let text = read(path)?;
    CertificateDer::from_pem_slice(&text).map_err(|error| damaged(path, &error))
}

fn read_key(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.into(), mode });
    }
    let key = PrivatePkcs8KeyDer::from_pem_slice(&read(path)?);
    Ok(key.map_err(|error| damaged(path, &error))?.secret_pkcs8_der().to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let len = fs::metadata(path).map_err(failed("read", path))?.len();
    if len > FILE_MAX_BYTES {
        let reason = format!("it has {len} bytes");
        return Err(IdentityError::Damaged { path: path.into(), reason });
    }
    fs::read(path).map_err(failed("read", path))
}

/// Replaces `path` as a whole, durably.
fn write(path: &Path, tag: &str, der: &[u8]) -> Result<(), IdentityError> {
    let text = pem(tag, der);
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
    let part = path.with_extension("pem.part");
    let replace = || -> io::Result<()> {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        fs::File::open(dir)?.sync_all()
    };
    replace().map_err(failed("write", path))
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = PathBuf::from(path);
    move |source| IdentityError::File { verb, path, source }
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Damaged { path: path.into(), reason: error.to_string() }
}

fn pem(tag: &str, der: &[u8]) -> String {
    let digits = base64(der);
    let lines: Vec<&str> = digits
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", lines.join("\n"))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * at) & 63) as usize] as char;
            text.push(if at <= three.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeName;
    use engine::ids::NodeId;

    fn first() -> (Authority, NodeIdentity) {
        let cluster = [7; 16];
        let authority = Authority::create(&cluster).unwrap();
        let name = NodeName { cluster, zone: "z1".into(), node: NodeId(1) };
        let identity = NodeIdentity::first(&authority, &name).unwrap();
        (authority, identity)
    }

    #[test]
    fn an_identity_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        let (authority, identity) = first();
        assert!(!NodeIdentity::exists(&dir));
        identity.save(&dir).unwrap();
        assert!(Authority::load(&dir).unwrap().is_none(), "no key, no authority");
        authority.save(&dir).unwrap();

        let loaded = NodeIdentity::load(&dir).unwrap();
        assert_eq!(loaded.name(), identity.name());
        assert_eq!(loaded.key_hash(), identity.key_hash());
        assert_eq!(loaded.certificate(), identity.certificate());
        let again = Authority::load(&dir).unwrap().expect("the key is there");
        assert_eq!(again.hash(), authority.hash());
        let renewed = loaded.renewed(&again).unwrap();
        assert_eq!(renewed.key_hash(), identity.key_hash());
        assert!(!renewed.is_renewal_due());
    }

    #[test]
    fn key_files_are_private_and_stay_so() {
        let dir = tempfile::tempdir().unwrap();
        let (_, identity) = first();
        identity.save(dir.path()).unwrap();
        let path = dir.path().join(NODE_KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = NodeIdentity::load(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { mode: 0o644, .. }), "{error}");
    }

    #[test]
    fn damaged_files_are_errors() {
        let (_, identity) = first();
        for file in [AUTHORITY, NODE, NODE_KEY] {
            let dir = tempfile::tempdir().unwrap();
            identity.save(dir.path()).unwrap();
            let path = dir.path().join(file);
            let text = fs::read(&path).unwrap();
            for damage in [&text[..text.len() / 2], b"", b"-----BEGIN CERTIFICATE-----\n"] {
                fs::write(&path, damage).unwrap();
                assert!(NodeIdentity::load(dir.path()).is_err(), "{file}");
            }
        }
    }

    #[test]
    fn an_identity_of_mixed_parts_is_refused() {
        let (_, one) = first();
        let (_, two) = first();
        let (certificate, authority) = (one.certificate().clone(), one.authority().clone());
        assert!(NodeIdentity::new(&two.key(), certificate.clone(), authority).is_err());
        assert!(NodeIdentity::new(&one.key(), certificate, two.authority().clone()).is_err());
    }
}
