//! A node's own key and certificate.

use std::time::Duration;

use engine::ids::NodeId;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use super::authority::{Authority, NODE_LIFE_S, authority_hash, key_spki, spki_of};
use super::name::NodeName;
use super::{IdentityError, key_hash, now_unix_s, tls};
use crate::token::AUTHORITY_HASH_BYTES;

/// A node's private key. Its hash is the node's identity in the agreed state.
pub struct NodeKey(KeyPair);

impl NodeKey {
    pub fn generate() -> Result<NodeKey, IdentityError> {
        Ok(NodeKey(KeyPair::generate()?))
    }

    /// From PKCS #8, DER.
    pub fn from_der(der: &[u8]) -> Result<NodeKey, IdentityError> {
        Ok(NodeKey(KeyPair::try_from(&PrivatePkcs8KeyDer::from(der))?))
    }

    /// PKCS #8, DER.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// Asks for a certificate; DER. The signature proves that we have the key.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.der().to_vec())
    }

    pub fn key_hash(&self) -> [u8; 32] {
        key_hash(&key_spki(&self.0))
    }
}

/// All that a node needs to prove who it is, and to know the others.
#[derive(Clone)]
pub struct NodeIdentity {
    name: NodeName,
    key_hash: [u8; 32],
    key: Vec<u8>,
    expires_unix_s: u64,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

impl NodeIdentity {
    /// Puts an identity together and checks that its parts belong together: the certificate is
    /// the key's and the authority's. It may have expired: that is for its use to find.
    ///
    /// # Errors
    /// [`IdentityError::Refused`] if they don't.
    pub fn new(
        key: &NodeKey,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<NodeIdentity, IdentityError> {
        if spki_of(&certificate)? != key_spki(&key.0) {
            return Err(IdentityError::Refused("it is not for this node's key".into()));
        }
        let (not_before_s, not_after_s) = tls::validity(&authority, &certificate)?;
        let then_s = now_unix_s().clamp(not_before_s, not_after_s.max(not_before_s));
        let name = tls::verify(&authority, &certificate, at(then_s))?;
        Ok(NodeIdentity {
            name,
            key_hash: key.key_hash(),
            key: key.to_der(),
            expires_unix_s: not_after_s,
            certificate,
            authority,
        })
    }

    /// The identity of a cluster's first node, from its new authority.
    pub fn first(authority: &Authority, name: &NodeName) -> Result<NodeIdentity, IdentityError> {
        let key = NodeKey::generate()?;
        let certificate = authority.issue(&key.csr()?, name)?;
        NodeIdentity::new(&key, certificate, authority.certificate().clone())
    }

    /// The same node with a new certificate from `authority`.
    pub fn renewed(&self, authority: &Authority) -> Result<NodeIdentity, IdentityError> {
        let key = self.key();
        let certificate = authority.issue(&key.csr()?, &self.name)?;
        NodeIdentity::new(&key, certificate, authority.certificate().clone())
    }

    /// The same node with a certificate (DER) that a member issued.
    ///
    /// # Errors
    /// [`IdentityError::Refused`] if it is not for this node, its key and its cluster.
    pub fn with_certificate(&self, certificate: &[u8]) -> Result<NodeIdentity, IdentityError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let renewed = NodeIdentity::new(&self.key(), certificate, self.authority.clone())?;
        match renewed.name == self.name {
            true => Ok(renewed),
            false => Err(IdentityError::Refused("it names another node".into())),
        }
    }

    pub fn node(&self) -> NodeId {
        self.name.node
    }

    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// BLAKE3 of the public key.
    pub fn key_hash(&self) -> [u8; 32] {
        self.key_hash
    }

    pub fn key(&self) -> NodeKey {
        NodeKey::from_der(&self.key).expect("it was a key when the identity was made")
    }

    /// DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate, DER.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// What a join token says of the authority.
    pub fn authority_hash(&self) -> [u8; AUTHORITY_HASH_BYTES] {
        authority_hash(&self.authority)
    }

    /// Seconds since the Unix epoch at which the certificate ends.
    pub fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// Whether half of the certificate's life is over.
    pub fn is_renewal_due(&self) -> bool {
        self.expires_unix_s < now_unix_s() + NODE_LIFE_S / 2
    }

    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.key
    }
}

// By hand: the private key does not get into logs.
impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeIdentity({})", self.name)
    }
}

fn at(unix_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
}
