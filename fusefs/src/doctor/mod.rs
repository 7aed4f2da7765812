//! What this machine lacks, and a line that repairs each.

mod fuse;
mod network;
mod storage;

use std::path::Path;

use serde::Serialize;

pub use fuse::{FuseAccess, fuse_access};

/// One look at one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, as in `/dev/fuse`.
    pub subject: String,
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// A command or a change that repairs it; empty when nothing needs repair.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Good,
    /// Works, but slower or less safely than it could.
    Doubtful,
    Bad,
}

impl Finding {
    fn good(subject: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding {
            subject: subject.into(),
            verdict: Verdict::Good,
            detail: detail.into(),
            fix: String::new(),
        }
    }

    fn wrong(
        verdict: Verdict,
        subject: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { subject: subject.into(), verdict, detail: detail.into(), fix: fix.into() }
    }
}

/// Looks at everything; `store` is the directory of a store or of a future one.
pub fn examine(store: &Path) -> Vec<Finding> {
    let mut findings = fuse::examine();
    findings.extend(storage::examine(store));
    findings.extend(network::examine());
    findings
}
