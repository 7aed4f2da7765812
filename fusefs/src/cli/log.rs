//! `fusion log`: the agreed order, readable.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::{Exit, Globals, find, output};
use crate::admin::client::Client;
use crate::admin::control::{ControlError, FailureKind, LogQuery};
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
    fusion log show --path /srv/tree/report.pdf --from 1\n  \
    fusion log show --json | jq -r '.commands[] | select(.outcome != \"ok\") | .op'")]
pub struct ShowArgs {
    /// The first agreement; the newest ones if not given
    #[arg(long, value_name = "GSN")]
    from: Option<u64>,
    /// Agreements at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion log follow\n  \
    fusion log follow --from 1 --all --json --retry\n  \
    fusion log follow --zone paris --path /srv/tree/report.pdf\n\n\
    Ends with 4 when the daemon goes away. Whoever notes the GSN of the last line goes on with\n\
    --from and the next one, at this node or at any other that keeps it.")]
pub struct FollowArgs {
    /// The first agreement; from now on if not given
    #[arg(long, value_name = "GSN")]
    from: Option<u64>,
    /// Go on by itself when the daemon is back
    #[arg(long)]
    retry: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Args)]
struct FilterArgs {
    /// Also those without commands
    #[arg(long)]
    all: bool,
    /// Only commands of this node
    #[arg(long)]
    node: Option<String>,
    /// Only commands of nodes of this zone
    #[arg(long)]
    zone: Option<String>,
    /// Only commands of this user
    #[arg(long, value_name = "NUMBER")]
    uid: Option<u32>,
    /// Only commands that name this path in a mounted tree, or the file that is there now
    #[arg(long)]
    path: Option<PathBuf>,
    /// The order of this volume; the root volume's if not given
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
}

/// Agreements asked for at once.
const PAGE: usize = 1000;
/// A daemon that went away is looked for so often.
const RETRY_EVERY: Duration = Duration::from_millis(500);

impl LogVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        match self {
            LogVerb::Show(args) => show(globals, args).await,
            LogVerb::Follow(args) => follow(globals, args).await,
        }
    }
}

impl FilterArgs {
    /// Whom to ask, and for what.
    async fn query(self, globals: &Globals) -> Result<(Client, LogQuery), ControlError> {
        let (client, path) = match &self.path {
            Some(path) => {
                let located = find::daemon_of_path(globals, path).await?;
                (located.client, Some(located.path))
            }
            None => (find::daemon(globals).await?, None),
        };
        let query = LogQuery {
            changes: !self.all,
            node: self.node,
            zone: self.zone,
            uid: self.uid,
            volume: self.volume,
            path,
            ..LogQuery::default()
        };
        Ok((client, query))
    }
}

async fn show(globals: &Globals, args: ShowArgs) -> Result<Exit, ControlError> {
    let (client, mut query) = args.filter.query(globals).await?;
    let mut columns = Columns::default();
    let mut left = args.limit;
    query.from = args.from.unwrap_or(0);
    while left > 0 {
        query.limit = left.min(PAGE);
        let entries = client.log(&query).await?;
        for entry in &entries {
            match globals.json {
                true => output::print_json_line(entry),
                false => columns.print(entry),
            }
        }
        let Some(last) = entries.last() else { break };
        query.from = last.gsn + 1;
        left = left.saturating_sub(entries.len());
    }
    Ok(Exit::Ok)
}

async fn follow(globals: &Globals, args: FollowArgs) -> Result<Exit, ControlError> {
    let (client, mut query) = args.filter.query(globals).await?;
    let mut columns = Columns::default();
    query.from = match args.from {
        Some(from) => from.max(1),
        None => {
            let newest = LogQuery { limit: 1, volume: query.volume.clone(), ..LogQuery::default() };
            client.log(&newest).await?.last().map_or(1, |entry| entry.gsn + 1)
        }
    };
    let mut told = false;
    loop {
        let mut next = query.from;
        let each = |line: &[u8]| {
            next = match globals.json {
                true => print_line(line)?,
                false => {
                    let entry: LogEntry = parse(line)?;
                    columns.print(&entry);
                    entry.gsn + 1
                }
            };
            told = false;
            Ok(())
        };
        let Err(error) = client.follow_log(&query, each).await else { continue };
        query.from = next;
        if error.kind != FailureKind::NoDaemon || !args.retry {
            return Err(match error.kind {
                FailureKind::NoDaemon => error.hint(format!("go on with --from {next}")),
                _ => error,
            });
        }
        if !told && !globals.quiet {
            eprintln!("fusion: {}; going on when it is back", error.message);
        }
        told = true;
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// Hands a line on as it came; gives the GSN after it.
fn print_line(line: &[u8]) -> Result<u64, ControlError> {
    #[derive(Deserialize)]
    struct Place {
        gsn: u64,
    }
    let place: Place = parse(line)?;
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(line).and_then(|()| stdout.write_all(b"\n"));
    written.map_err(|error| ControlError::failed(format!("cannot write: {error}")))?;
    Ok(place.gsn + 1)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, ControlError> {
    serde_json::from_slice(line).map_err(|error| {
        ControlError::failed(format!("the daemon's answer cannot be read: {error}"))
            .hint("the daemon and this program may be of different versions: `fusion version`")
    })
}

/// Columns that line up as well as lines allow that are printed as they come: each is as wide
/// as the widest so far.
#[derive(Default)]
struct Columns {
    widths: [usize; 6],
}

impl Columns {
    fn print(&mut self, entry: &LogEntry) {
        let (gsn, time) = (entry.gsn.to_string(), utc(entry.time));
        if entry.commands.is_empty() {
            let cells = [gsn, time, entry.lane.clone(), "-".into(), entry.kind.clone(), "-".into()];
            return println!("{}", self.line(&cells, &entry.note));
        }
        for command in &entry.commands {
            let who = format!("{}:{}", command.uid, command.gid);
            let cells = [
                gsn.clone(),
                time.clone(),
                format!("{}/{}", command.zone, command.node),
                who,
                command.op.clone(),
                command.outcome.clone(),
            ];
            let reason = command.reason.as_ref().map(|reason| format!("  ({reason})"));
            let detail = format!("{}{}", command.detail, reason.unwrap_or_default());
            println!("{}", self.line(&cells, &detail));
        }
    }

    fn line(&mut self, cells: &[String; 6], rest: &str) -> String {
        let mut line = String::new();
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', *width - cell.chars().count() + 2));
        }
        line.push_str(rest);
        line.truncate(line.trim_end().len());
        line
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
    #[test]
    fn columns_grow_with_what_comes() {
        let cells = |texts: [&str; 6]| texts.map(str::to_owned);
        let mut columns = Columns::default();
        let narrow = columns.line(&cells(["9", "t", "z1", "0:0", "mkdir", "ok"]), "i1/a");
        assert_eq!(narrow, "9  t  z1  0:0  mkdir  ok  i1/a");
        let wide = columns.line(&cells(["10", "t", "z1", "0:0", "create", "EEXIST"]), "i1/a");
        assert_eq!(wide, "10  t  z1  0:0  create  EEXIST  i1/a");
        let after = columns.line(&cells(["11", "t", "z1", "0:0", "mkdir", "ok"]), "");
        assert_eq!(after, "11  t  z1  0:0  mkdir   ok");
    }
}
