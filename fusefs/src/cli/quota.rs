//! `fusion quota`: how much may lie below a directory.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, LimitChange, QuotaRequest};
use crate::admin::report::QuotaReport;

#[derive(Subcommand)]
pub enum QuotaVerb {
    /// Limit what may lie below a directory, in every zone (root only)
    Set(SetArgs),
    /// Quotas, with what counts for each
    #[command(after_help = "Examples:\n  fusion quota ls\n  fusion quota ls --json")]
    Ls,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion quota set /srv/tree/home/ann --bytes 10G --inodes 100000\n  \
    fusion quota set /srv/tree/home/ann --bytes none\n  \
    fusion quota set /srv/tree/home/ann --none\n\n\
    A limit that is not named stays as it is. Where quotas lie in each other, all apply. What\n\
    is there already is counted before this returns; if it is too much, it stays, and nothing\n\
    is added. rename and link across the border of a quota fail with EXDEV, so mv copies.")]
pub struct SetArgs {
    /// In a mounted tree
    directory: PathBuf,
    /// Most bytes, as in 500M, 10G, 1T (powers of 1024), or none
    #[arg(long, value_parser = bytes, required_unless_present_any = ["inodes", "none"])]
    bytes: Option<LimitChange>,
    /// Most inodes, the directory itself included, or none
    #[arg(long, value_parser = inodes)]
    inodes: Option<LimitChange>,
    /// End the quota
    #[arg(long, conflicts_with_all = ["bytes", "inodes"])]
    none: bool,
}

impl QuotaVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        match self {
            QuotaVerb::Set(args) => set(args, globals).await,
            QuotaVerb::Ls => {
                let quotas = find::daemon(globals).await?.list_quotas().await?;
                if globals.json {
                    output::print_json(&quotas);
                } else if !quotas.is_empty() {
                    print(&quotas);
                } else if !globals.quiet {
                    println!("no quotas");
                }
                Ok(Exit::Ok)
            }
        }
    }
}

async fn set(args: SetArgs, globals: &Globals) -> Result<Exit, ControlError> {
    let located = find::daemon_of_path(globals, &args.directory).await?;
    if args.none {
        located.client.end_quota(&located.mount, &located.path).await?;
        if globals.json {
            output::print_json(&serde_json::json!({ "ended": located.path }));
        }
        return Ok(Exit::Ok);
    }
    let quota = located
        .client
        .set_quota(&QuotaRequest {
            mount: Some(located.mount),
            path: located.path,
            bytes: args.bytes.unwrap_or_default(),
            inodes: args.inodes.unwrap_or_default(),
        })
        .await?;
    if globals.json {
        output::print_json(&quota);
    } else if !globals.quiet {
        print(&[quota]);
    }
    Ok(Exit::Ok)
}

fn print(quotas: &[QuotaReport]) {
    let mut table =
        output::table(&["directory", "bytes", "of", "inodes", "of", "reserved", "state"]);
    let over = |used: u64, limit: Option<u64>, text: String| match limit {
        Some(limit) if used >= limit => output::bad(&text),
        _ => text,
    };
    for quota in quotas {
        let none = || "-".to_owned();
        let bytes = output::bytes(quota.used_bytes);
        table.add_row([
            quota.path.clone().unwrap_or_else(|| format!("inode {}", quota.ino)),
            over(quota.used_bytes, quota.limit_bytes, bytes),
            quota.limit_bytes.map_or_else(none, output::bytes),
            over(quota.used_inodes, quota.limit_inodes, quota.used_inodes.to_string()),
            quota.limit_inodes.map_or_else(none, |limit| limit.to_string()),
            output::bytes(quota.reserved_bytes),
            quota.state.word().to_owned(),
        ]);
    }
    output::print_table(&table);
}

/// A number of bytes with a unit: K, M, G, T or P.
fn bytes(text: &str) -> Result<LimitChange, String> {
    if text == "none" {
        return Ok(LimitChange::None);
    }
    let form = || "must be like 4096, 500M, 10G or 1T, or none".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let exponent = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 1,
        "M" | "MiB" => 2,
        "G" | "GiB" => 3,
        "T" | "TiB" => 4,
        "P" | "PiB" => 5,
        _ => return Err(form()),
    };
    let number: u64 = digits.parse().map_err(|_| form())?;
    let limit = number.checked_mul(1024_u64.pow(exponent)).filter(|limit| *limit < u64::MAX);
    limit.map(LimitChange::At).ok_or_else(form)
}

fn inodes(text: &str) -> Result<LimitChange, String> {
    match text {
        "none" => Ok(LimitChange::None),
        number => match number.parse() {
            Ok(limit) if limit < u64::MAX => Ok(LimitChange::At(limit)),
            _ => Err("must be a number, or none".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(bytes("10"), Ok(LimitChange::At(10)));
        assert_eq!(bytes("10K"), Ok(LimitChange::At(10_240)));
        assert_eq!(bytes("2GiB"), Ok(LimitChange::At(2 << 30)));
        assert_eq!(bytes("none"), Ok(LimitChange::None));
        for bad in ["", "G", "1.5G", "-1", "1Gb", "16384P", "10 G", "é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
