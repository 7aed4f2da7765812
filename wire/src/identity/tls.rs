//! The TLS rules: version 1.3, our own authority and no other, certificates from both sides.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::authority::{authority_hash, spki_of};
use super::name::NodeName;
use super::{IdentityError, NodeIdentity, key_hash};
use crate::token::AUTHORITY_HASH_BYTES;

/// Consensus messages.
pub(crate) const ALPN_RING: &[u8] = b"fusion-ring/1";
/// Questions and answers.
pub(crate) const ALPN_BULK: &[u8] = b"fusion-bulk/1";
/// A machine becomes a node: the only one without a client certificate.
pub(crate) const ALPN_JOIN: &[u8] = b"fusion-join/1";

/// Nodes are known by their certificate's URI; the name that TLS insists on is a constant.
pub(crate) const SERVER_NAME: &str = "fusion";

/// Checks that `authority` issued `certificate` for node use and that it is valid `at`; returns
/// whom it names.
pub(crate) fn verify(
    authority: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
    at: UnixTime,
) -> Result<NodeName, IdentityError> {
    check(authority, certificate, at).map_err(|error| IdentityError::Refused(error.to_string()))?;
    identify(certificate).map(|(name, _)| name)
}

/// Whom a certificate names, and its key's hash. Says nothing about who issued it.
pub(crate) fn identify(
    certificate: &CertificateDer<'_>,
) -> Result<(NodeName, [u8; 32]), IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| IdentityError::Refused(error.to_string()))?;
    let mut names = parsed.valid_uri_names().map(NodeName::parse);
    match (names.next(), names.next()) {
        (Some(Some(name)), None) => Ok((name, key_hash(&spki_of(certificate)?))),
        _ => Err(IdentityError::Refused("it does not name a node".into())),
    }
}

/// The first and last second (Unix) of a certificate's validity.
pub(crate) fn validity(
    authority: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
) -> Result<(u64, u64), IdentityError> {
    // webpki tells the ends only to those who come too early or too late.
    let outside = |unix_s| {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix_s));
        check(authority, certificate, at)
    };
    match (outside(0), outside(u64::from(u32::MAX) << 8)) {
        (
            Err(webpki::Error::CertNotValidYet { not_before, .. }),
            Err(webpki::Error::CertExpired { not_after, .. }),
        ) => Ok((not_before.as_secs(), not_after.as_secs())),
        (Err(error), _) | (_, Err(error)) => Err(IdentityError::Refused(error.to_string())),
        _ => Err(IdentityError::Refused("it is valid at any time".into())),
    }
}

fn check(
    authority: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
    at: UnixTime,
) -> Result<(), webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(authority)?;
    let parsed = webpki::EndEntityCert::try_from(certificate)?;
    // Node certificates serve both directions, so one usage stands for both.
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        parsed.verify_for_usage(
            provider().signature_verification_algorithms.all,
            std::slice::from_ref(&anchor),
            &[],
            at,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

/// The one set of algorithms: ring's, the cheaper AES first (both are beyond attack).
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

/// Whom to believe on the other side.
#[derive(Debug)]
enum Trust {
    /// Nodes of our own cluster.
    Authority(CertificateDer<'static>),
    /// The cluster whose authority a join token names.
    Hash([u8; AUTHORITY_HASH_BYTES]),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: CryptoProvider,
}

impl Verifier {
    fn new(trust: Trust) -> Arc<Verifier> {
        Arc::new(Verifier { trust, provider: provider() })
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let authority = match &self.trust {
            Trust::Authority(authority) => authority,
            Trust::Hash(hash) => intermediates
                .iter()
                .find(|certificate| authority_hash(certificate) == *hash)
                .ok_or(CertificateError::UnknownIssuer)?,
        };
        check(authority, end_entity, now).map_err(refusal)?;
        identify(end_entity).map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        Ok(())
    }
}

fn refusal(error: webpki::Error) -> rustls::Error {
    let reason = match error {
        webpki::Error::BadDer => CertificateError::BadEncoding,
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    reason.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    // A joiner has no certificate yet. The two other protocols insist on one, by ALPN, right
    // after the handshake (endpoint/accept.rs).
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// What a node offers to those who call.
pub(crate) fn server(identity: &NodeIdentity) -> Result<rustls::ServerConfig, rustls::Error> {
    let verifier = Verifier::new(Trust::Authority(identity.authority().clone()));
    let (chain, key) = credentials(identity);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = [ALPN_RING, ALPN_BULK, ALPN_JOIN].map(<[u8]>::to_vec).to_vec();
    // Connections are long; a resumed one would only be a second way in to keep safe.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// How a node calls another of its cluster.
pub(crate) fn client(
    identity: &NodeIdentity,
    alpn: &[u8],
) -> Result<rustls::ClientConfig, rustls::Error> {
    let (chain, key) = credentials(identity);
    let config = client_builder(Trust::Authority(identity.authority().clone()))?
        .with_client_auth_cert(chain, key)?;
    Ok(finish_client(config, alpn))
}

/// How a machine calls the cluster that its join token names.
pub(crate) fn joiner(
    authority_hash: [u8; AUTHORITY_HASH_BYTES],
) -> Result<rustls::ClientConfig, rustls::Error> {
    let config = client_builder(Trust::Hash(authority_hash))?.with_no_client_auth();
    Ok(finish_client(config, ALPN_JOIN))
}

type ClientBuilder = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(trust: Trust) -> Result<ClientBuilder, rustls::Error> {
    Ok(rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(trust)))
}

fn finish_client(mut config: rustls::ClientConfig, alpn: &[u8]) -> rustls::ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config
}

/// The chain holds the authority too: a joiner looks for its hash there.
fn credentials(identity: &NodeIdentity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![identity.certificate().clone(), identity.authority().clone()];
    let key = PrivatePkcs8KeyDer::from(identity.key_bytes().to_vec());
    (chain, key.into())
}
