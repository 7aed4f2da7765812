//! `fusion log`: the agreed order, readable.

use clap::{Args, Subcommand};

use super::{Exit, Globals, find, output};
use crate::admin::client::Client;
use crate::admin::control::{ControlError, LogQuery};
use crate::admin::report::LogEntry;

#[derive(Subcommand)]
pub enum LogVerb {
    /// Agreements that are there
    Show(ShowArgs),
    /// Agreements as they come
    Follow(FollowArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion log show                     # the newest 50\n  \
    fusion log show --from 1 --limit 10\n  \
    fusion log show --json | jq -r 'select(.kind==\"commands\") | .commands[].op'")]
pub struct ShowArgs {
    /// The first agreement; the newest ones if not given
    #[arg(long, value_name = "GSN")]
    from: Option<u64>,
    /// Agreements at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Also those without commands that change the tree
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion log follow\n  \
    fusion log follow --from 1 --json")]
pub struct FollowArgs {
    /// The first agreement; from now on if not given
    #[arg(long, value_name = "GSN")]
    from: Option<u64>,
    /// Also those without commands that change the tree
    #[arg(long)]
    all: bool,
}

/// Agreements asked for at once.
const PAGE: usize = 1000;
/// A follower asks again after so long without news.
const WAIT_MS: u64 = 20_000;

impl LogVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        match self {
            LogVerb::Show(args) => show(globals, &client, &args).await,
            LogVerb::Follow(args) => follow(globals, &client, &args).await,
        }
    }
}

async fn show(globals: &Globals, client: &Client, args: &ShowArgs) -> Result<Exit, ControlError> {
    let mut from = args.from.unwrap_or(0);
    let mut left = args.limit;
    while left > 0 {
        let limit = left.min(PAGE);
        let entries = client.log(LogQuery { from, limit, wait_ms: None }).await?;
        for entry in &entries {
            print(globals, entry, args.all);
        }
        let Some(last) = entries.last() else { break };
        // With `from` 0 the answer is the newest page, and there is nothing after it.
        if args.from.is_none() || entries.len() < limit {
            break;
        }
        from = last.gsn + 1;
        left -= entries.len();
    }
    Ok(Exit::Ok)
}

async fn follow(
    globals: &Globals,
    client: &Client,
    args: &FollowArgs,
) -> Result<Exit, ControlError> {
    let client =
        client.with_timeout(globals.patience() + std::time::Duration::from_millis(WAIT_MS));
    let mut from = match args.from {
        Some(from) => from.max(1),
        None => {
            let newest = client.log(LogQuery { from: 0, limit: 1, wait_ms: None }).await?;
            newest.last().map_or(1, |entry| entry.gsn + 1)
        }
    };
    loop {
        let query = LogQuery { from, limit: PAGE, wait_ms: Some(WAIT_MS) };
        for entry in client.log(query).await? {
            print(globals, &entry, args.all);
            from = entry.gsn + 1;
        }
    }
}

fn print(globals: &Globals, entry: &LogEntry, all: bool) {
    let changes_nothing = entry.commands.is_empty() && entry.kind != "reconfigure";
    if changes_nothing && !all {
        return;
    }
    if globals.json {
        output::print_json_line(entry);
        return;
    }
    let time = utc(entry.time);
    if entry.commands.is_empty() {
        println!("{:>8}  {time}  {:<8} {:<16} {}", entry.gsn, entry.lane, entry.kind, entry.note);
    }
    for command in &entry.commands {
        println!(
            "{:>8}  {time}  {:<8} {:<16} {}",
            entry.gsn, command.node, command.op, command.detail
        );
    }
}

/// Seconds since 1970 as `2026-11-20 21:04:05.123` (UTC).
fn utc(seconds: f64) -> String {
    let milliseconds = (seconds * 1e3) as i64;
    let (days, of_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    // Days to a civil date: H. Hinnant, "chrono-compatible low-level date algorithms",
    // civil_from_days; an era has 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}",
        of_day / 3_600_000,
        of_day / 60_000 % 60,
        of_day / 1000 % 60,
        of_day % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_over_leap_days_and_before_1970() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(951_782_400.5), "2000-02-29 00:00:00.500");
        assert_eq!(utc(1_772_323_199.0), "2026-02-28 23:59:59.000");
        assert_eq!(utc(-1.0), "1969-12-31 23:59:59.000");
    }
}
