//! Renews this node's certificate at half of its life, and when the operator asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::ids::VolumeId;
use parking_lot::Mutex;
use wire::{Ask, NodeIdentity, Request, Response, Wire};

use super::admission::Admission;
use super::clock;
use super::setup::failed;
use crate::admin::control::ControlError;
use crate::admin::report::CertificateReport;
use crate::ops::ports::Ring;

pub struct Renewal {
    identity: Mutex<NodeIdentity>,
    dir: PathBuf,
    wire: Arc<Wire>,
    ring: Arc<dyn Ring>,
    admission: Arc<Admission>,
}

/// A certificate lives for 90 days: an hour more or less does not matter.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Renewal {
    pub fn new(
        identity: NodeIdentity,
        dir: PathBuf,
        wire: Arc<Wire>,
        ring: Arc<dyn Ring>,
        admission: Arc<Admission>,
    ) -> Renewal {
        Renewal { identity: Mutex::new(identity), dir, wire, ring, admission }
    }

    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            if !self.identity.lock().is_renewal_due() {
                continue;
            }
            match self.renew().await {
                Ok(report) => {
                    let days = report.expires_in_seconds / 86_400;
                    tracing::info!(days, "the certificate is renewed");
                }
                Err(error) => tracing::warn!(error = error.message, "no new certificate yet"),
            }
        }
    }

    pub fn report(&self) -> CertificateReport {
        let identity = self.identity.lock();
        let expires = i64::try_from(identity.expires_unix_s()).unwrap_or(i64::MAX);
        CertificateReport {
            name: identity.name().to_string(),
            expires_in_seconds: expires.saturating_sub(clock::timestamp().seconds),
            renewal_due: identity.is_renewal_due(),
            authority: hex(&identity.authority_hash()),
            key: hex(&identity.key_hash()),
            issues: self.admission.authority.is_some(),
        }
    }

    /// Gets a new certificate for the same key, from this node's own authority key or from a
    /// member that has it, and uses it from then on.
    pub async fn renew(&self) -> Result<CertificateReport, ControlError> {
        let identity = self.identity.lock().clone();
        let renewed = match &self.admission.authority {
            Some(authority) => identity.renewed(authority).map_err(failed)?,
            None => self.ask(&identity).await?,
        };
        let (dir, saved) = (self.dir.clone(), renewed.clone());
        tokio::task::spawn_blocking(move || saved.save(&dir))
            .await
            .map_err(failed)?
            .map_err(failed)?;
        self.wire.renew(&renewed).map_err(failed)?;
        *self.identity.lock() = renewed;
        Ok(self.report())
    }

    async fn ask(&self, identity: &NodeIdentity) -> Result<NodeIdentity, ControlError> {
        let csr = identity.key().csr().map_err(failed)?;
        let me = self.ring.me();
        let members = self.ring.view().members().map_err(failed)?;
        let mut reasons = Vec::new();
        for member in members.into_iter().filter(|member| member.id != me) {
            let ask = Ask::Renew { csr: csr.clone() };
            let request = Request::new(VolumeId::ROOT, self.ring.applied_gsn(), ask);
            let answer =
                tokio::time::timeout(ANSWER_TIMEOUT, self.wire.call(member.id, request)).await;
            match answer {
                Ok(Ok(Response::Certificate(der))) => {
                    return identity.with_certificate(&der).map_err(failed);
                }
                Ok(Ok(Response::Refused { message, .. })) => {
                    reasons.push(format!("{}: {message}", member.name));
                }
                Ok(Err(error)) => reasons.push(format!("{}: {error}", member.name)),
                _ => reasons.push(format!("{}: no answer", member.name)),
            }
        }
        Err(ControlError::failed(format!("nobody issued a certificate ({})", reasons.join("; ")))
            .hint("a voter has the authority's key: is one reachable?"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
