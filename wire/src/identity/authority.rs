//! The cluster's own certificate authority.
//!
//! Its private key is with every node that may admit others: made by the first node, handed to
//! later voters inside the join, so that any zone can admit while others are cut off. A thief of
//! the key can issue certificates, yet members accept only keys that the agreed state names.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use super::name::{NodeName, hex, is_valid_name};
use super::{IdentityError, now_unix_s, random};
use crate::token::AUTHORITY_HASH_BYTES;

/// An authority that can issue: its certificate with its private key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) const DAY_S: u64 = 24 * 3600;
/// How long a node's certificate lives. Renewed at half life.
pub const NODE_LIFE_S: u64 = 90 * DAY_S;
/// The authority lives long; it is replaced by rotation, not by waiting.
const AUTHORITY_LIFE_S: u64 = 20 * 365 * DAY_S;
/// Certificates are valid from a day ago: clocks of new machines are often behind.
const CLOCK_ERROR_S: u64 = DAY_S;

impl Authority {
    /// A new authority for a new cluster.
    pub fn create(cluster: &[u8; 16]) -> Result<Authority, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = validity(AUTHORITY_LIFE_S);
        params.distinguished_name.push(DnType::CommonName, format!("fusion {}", hex(cluster)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority from its certificate (DER) and private key (PKCS #8, DER).
    ///
    /// # Errors
    /// [`IdentityError`] if either is damaged, or they don't belong together.
    pub fn from_parts(certificate: &[u8], key: &[u8]) -> Result<Authority, IdentityError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
        let spki = spki_of(&certificate)?;
        if spki != key_spki(&key) {
            return Err(IdentityError::Refused(
                "the authority's key is not its certificate's".into(),
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority { certificate, issuer })
    }

    /// DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PKCS #8, DER.
    pub fn private_key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// What a join token says of the authority.
    pub fn hash(&self) -> [u8; AUTHORITY_HASH_BYTES] {
        authority_hash(&self.certificate)
    }

    /// Issues a certificate, valid for [`NODE_LIFE_S`], for the key that signed `csr` (DER). Only
    /// the key is taken from it: the name is ours to give. Returns DER.
    ///
    /// # Errors
    /// [`IdentityError::Request`] if `csr` is damaged or not signed by its own key,
    /// [`IdentityError::Name`] if the zone's name cannot stand in a certificate.
    pub fn issue(
        &self,
        csr: &[u8],
        name: &NodeName,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        if !is_valid_name(&name.zone) {
            return Err(IdentityError::Name(name.zone.clone()));
        }
        let csr = parse_csr(csr)?;
        let mut params = validity(NODE_LIFE_S);
        let uri = name.to_string();
        params.distinguished_name.push(DnType::CommonName, format!("node {}", name.node));
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&csr.public_key, &self.issuer)?.der().clone())
    }
}

/// What a join token says of the authority with this certificate (DER).
pub fn authority_hash(certificate: &[u8]) -> [u8; AUTHORITY_HASH_BYTES] {
    *blake3::hash(certificate).as_bytes().first_chunk().expect("a BLAKE3 has 32 bytes")
}

/// BLAKE3 of the key that asks in `csr` (DER), whose signature proves that the asker has it.
pub fn csr_key_hash(csr: &[u8]) -> Result<[u8; 32], IdentityError> {
    use rcgen::PublicKeyData;
    Ok(super::key_hash(&parse_csr(csr)?.public_key.subject_public_key_info()))
}

fn parse_csr(csr: &[u8]) -> Result<CertificateSigningRequestParams, IdentityError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(|error| IdentityError::Request(error.to_string()))
}

fn validity(life_s: u64) -> CertificateParams {
    let at = |unix_s| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(unix_s);
    let now_s = now_unix_s();
    let mut params = CertificateParams::default();
    params.not_before = at(now_s.saturating_sub(CLOCK_ERROR_S));
    params.not_after = at(now_s + life_s);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()));
    params
}

pub(crate) fn key_spki(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData;
    key.subject_public_key_info()
}

pub(crate) fn spki_of(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| IdentityError::Refused(error.to_string()))?;
    Ok(parsed.subject_public_key_info().as_ref().to_vec())
}
