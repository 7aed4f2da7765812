//! `fusion token`: rights to join.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, MemberRole};

#[derive(Subcommand)]
pub enum TokenVerb {
    /// Make a single-use token and print the whole join command
    Create(CreateArgs),
    /// Tokens that are not used yet
    #[command(after_help = "Example:\n  fusion token list")]
    List,
    /// Make a token useless
    Revoke(RevokeArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion token create --zone tokyo\n  \
    fusion token create --zone berlin --role witness\n  \
    fusion token create --zone tokyo --lifetime 10m")]
pub struct CreateArgs {
    /// Zone of the node that will use it
    #[arg(long)]
    zone: String,
    /// What the node will be: a voter (or its zone's standby), a witness that votes and keeps no
    /// bodies, or an observer
    #[arg(long, value_enum, default_value_t = Role::Voter)]
    role: Role,
    /// How long it is good: 90s, 10m, 1h, 2d
    #[arg(long, default_value = "1h", value_parser = lifetime)]
    lifetime: Duration,
}

/// As `--role` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Voter,
    Witness,
    Observer,
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> MemberRole {
        match role {
            Role::Voter => MemberRole::Voter,
            Role::Witness => MemberRole::Witness,
            Role::Observer => MemberRole::Observer,
        }
    }
}

#[derive(Args)]
#[command(after_help = "Example:\n  fusion token revoke 00c4d2a19be07f35")]
pub struct RevokeArgs {
    /// As `fusion token list` shows it
    id: String,
}

impl TokenVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        match self {
            TokenVerb::Create(args) => {
                let created =
                    client.create_token(&args.zone, args.role.into(), args.lifetime).await?;
                if globals.json {
                    output::print_json(&created);
                } else {
                    println!("fusion join {} --advertise HOST:PORT", created.token);
                    if !globals.quiet {
                        let minutes = created.expires_in_seconds / 60;
                        eprintln!(
                            "run it on the new {} of zone {}; once, within {minutes} minutes",
                            created.role, created.zone
                        );
                    }
                }
            }
            TokenVerb::List => {
                let tokens = client.list_tokens().await?;
                if globals.json {
                    output::print_json(&tokens);
                } else {
                    let mut table = output::table(&["token", "zone", "role", "expires in"]);
                    for token in tokens {
                        let left = match token.expires_in_seconds {
                            seconds if seconds < 0 => "expired".to_owned(),
                            seconds => format!("{} min", (seconds + 59) / 60),
                        };
                        table.add_row([token.id, token.zone, token.role, left]);
                    }
                    output::print_table(&table);
                }
            }
            TokenVerb::Revoke(args) => {
                client.revoke_token(&args.id).await?;
                if globals.json {
                    output::print_json(&serde_json::json!({ "revoked": args.id }));
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// A number with a unit: s, m, h or d.
fn lifetime(text: &str) -> Result<Duration, String> {
    let form = || "must be like 90s, 10m, 1h or 2d".to_owned();
    let split =
        text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(form)?;
    let (number, unit) = text.split_at(split);
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(form()),
    };
    let number: u32 = number.parse().map_err(|_| form())?;
    let seconds = u64::from(number) * unit_seconds;
    // A token that is good for long is a key lying about.
    if (1..=30 * 86_400).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err("must be between 1s and 30d".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_units_and_bounds() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "0s", "31d", "10", "1w", "é"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
