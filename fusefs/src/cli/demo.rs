//! `fusion demo`: three zones on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Exit, Globals, absolute, output, path_text, status};
use crate::admin::control::ControlError;
use crate::admin::report::Status;
use crate::demo::down::down;
use crate::demo::links;
use crate::demo::plan::Plan;
use crate::demo::process::{self, Process};
use crate::demo::report::{DemoReport, report};
use crate::demo::tour::{Step, tour};
use crate::demo::up::{Up, Wishes, start_zone, up};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion demo                        # start (or complete) it and show what it does\n  \
    fusion demo up --rtt 20,80,90      # round trips z1-z2, z1-z3, z2-z3 in milliseconds\n  \
    fusion demo up --nodes 2           # two nodes in each zone: one votes, one stands by\n  \
    fusion demo up --witness           # two zones and a witness\n  \
    fusion demo cut z3                 # cut a zone off; fusion demo heal\n  \
    fusion demo kill z2                # kill -9; fusion demo up starts it again\n  \
    fusion demo down                   # stop; --purge deletes the stores too")]
pub struct DemoArgs {
    #[command(subcommand)]
    verb: Option<DemoVerb>,
    #[command(flatten)]
    up: UpArgs,
    /// Where the demo lives; /var/tmp/fusion-demo for root, else ~/.local/share/fusion-demo
    #[arg(long, global = true, env = "FUSION_DEMO_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum DemoVerb {
    /// Start what is not running, and show what it does when it is new
    Up(UpArgs),
    /// Stop all processes and unmount
    #[command(after_help = "Example:\n  fusion demo down --purge")]
    Down {
        /// Also delete the stores
        #[arg(long)]
        purge: bool,
    },
    /// Zones, links and processes
    #[command(
        after_help = "Example:\n  fusion demo status --json | jq '.zones[] | {name, mount, pid}'"
    )]
    Status,
    /// Show again what it does
    #[command(after_help = "Example:\n  fusion demo tour")]
    Tour,
    /// Cut a zone off from all others
    #[command(after_help = "Example:\n  fusion demo cut z3")]
    Cut { zone: String },
    /// Mend all cut links
    #[command(after_help = "Example:\n  fusion demo heal")]
    Heal,
    /// Change the link between two zones, both directions
    Link(LinkArgs),
    /// Kill a zone's daemon as a crash would
    #[command(after_help = "Example:\n  fusion demo kill z2 && fusion demo up")]
    Kill { zone: String },
    /// Stop a zone's daemon in order and start it again
    #[command(after_help = "Example:\n  fusion demo restart z2")]
    Restart { zone: String },
}

#[derive(Args, Clone, Debug, Default, PartialEq)]
struct UpArgs {
    /// Number of zones of a new demo; 3 if not given
    #[arg(long, value_name = "N")]
    zones: Option<usize>,
    /// Nodes in each zone of a new demo: z1, z1b, z1c ...; 1 if not given
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// The last zone of a new demo is a witness: it votes, and has no bodies and no mount
    #[arg(long)]
    witness: bool,
    /// Round trips in milliseconds, one for each pair: z1-z2, z1-z3, z2-z3
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', value_parser = at_least_zero)]
    rtt: Option<Vec<f64>>,
    /// Shapes of links, one per line: from, to, one-way ms, jitter ms, loss, rate
    #[arg(long, value_name = "FILE", conflicts_with = "rtt")]
    wan: Option<PathBuf>,
    /// Only start; don't show what it does
    #[arg(long)]
    no_tour: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion demo link z1 z2 --rtt 40 --loss 0.1\n  \
    fusion demo link z1 z3 --cut\n  \
    fusion demo link z1 z3 --mend --rate 100")]
struct LinkArgs {
    a: String,
    b: String,
    /// Round trip in milliseconds
    #[arg(long, value_name = "MS", value_parser = at_least_zero)]
    rtt: Option<f64>,
    /// Random delay on top, each way, in milliseconds
    #[arg(long, value_name = "MS", value_parser = at_least_zero)]
    jitter: Option<f64>,
    /// Packets that vanish, in percent
    #[arg(long, value_name = "PERCENT", value_parser = at_least_zero)]
    loss: Option<f64>,
    /// Speed each way in Mbit/s; 0 = no limit
    #[arg(long, value_name = "MBIT", value_parser = at_least_zero)]
    rate: Option<f64>,
    /// Cut it
    #[arg(long)]
    cut: bool,
    /// Mend it
    #[arg(long, conflicts_with = "cut")]
    mend: bool,
}

impl DemoArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let root = match &self.root {
            Some(root) => absolute(root)?,
            None => default_root()?,
        };
        path_text(&root)?;
        if self.verb.is_some() && self.up != UpArgs::default() {
            return Err(ControlError::usage(
                "--zones, --nodes, --witness, --rtt, --wan and --no-tour belong behind `up`",
            )
            .hint("fusion demo up --rtt 20,80,90"));
        }
        match self.verb.unwrap_or(DemoVerb::Up(self.up)) {
            DemoVerb::Up(args) => bring_up(globals, &root, args).await,
            DemoVerb::Down { purge } => take_down(globals, &root, purge).await,
            DemoVerb::Status => {
                let report = report(&Plan::existing(&root)?).await;
                print_report(globals, &report);
                Ok(if report.running { Exit::Ok } else { Exit::Degraded })
            }
            DemoVerb::Tour => {
                let mut plan = Plan::existing(&root)?;
                show_tour(&mut plan).await
            }
            verb => {
                change(&mut Plan::existing(&root)?, verb).await?;
                if globals.json {
                    output::print_json(&report(&Plan::existing(&root)?).await);
                }
                Ok(Exit::Ok)
            }
        }
    }
}

/// Nodes tell each other how they do about once a second.
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(50);
const SETTLE_LOOKS_MAX: usize = 100;

/// The verbs that change something of a running demo.
async fn change(plan: &mut Plan, verb: DemoVerb) -> Result<(), ControlError> {
    match verb {
        DemoVerb::Cut { zone } => links::cut_zone(plan, &zone).await,
        DemoVerb::Heal => links::heal(plan).await,
        DemoVerb::Link(args) => {
            links::shape_pair(plan, &args.a, &args.b, |shape| {
                shape.one_way_ms = args.rtt.map_or(shape.one_way_ms, |rtt| rtt / 2.0);
                shape.jitter_ms = args.jitter.unwrap_or(shape.jitter_ms);
                shape.loss_percent = args.loss.unwrap_or(shape.loss_percent);
                shape.rate_mbit =
                    args.rate.map_or(shape.rate_mbit, |rate| (rate > 0.0).then_some(rate));
                shape.cut = (shape.cut || args.cut) && !args.mend;
            })
            .await
        }
        DemoVerb::Kill { zone } => {
            plan.zone(&zone)?;
            Process::of_zone(plan, &zone).kill().await
        }
        DemoVerb::Restart { zone } => {
            plan.zone(&zone)?;
            Process::of_zone(plan, &zone).stop(Duration::from_secs(30)).await?;
            start_zone(plan, &zone).await.map(drop)
        }
        DemoVerb::Up(_) | DemoVerb::Down { .. } | DemoVerb::Status | DemoVerb::Tour => Ok(()),
    }
}

async fn bring_up(globals: &Globals, root: &Path, args: UpArgs) -> Result<Exit, ControlError> {
    let wan_csv = match &args.wan {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
            ControlError::usage(format!("{} cannot be read: {error}", path.display()))
        })?),
        None => None,
    };
    let (zones, nodes, witness) = (args.zones, args.nodes, args.witness);
    let wishes = Wishes { zones, nodes, witness, round_trips_ms: args.rtt, wan_csv };
    let quiet = globals.quiet || globals.json;
    let say = |line: &str| {
        if !quiet {
            eprintln!("{line}");
        }
    };
    let Up { mut plan, fresh, started } = up(root, &wishes, &say).await?;
    let report = report(&plan).await;
    if globals.json {
        output::print_json(&report);
        return Ok(Exit::Ok);
    }
    if globals.quiet {
        return Ok(Exit::Ok);
    }
    if started.is_empty() {
        println!("the demo at {} runs already", root.display());
    } else if !fresh {
        println!("started {}", started.join(", "));
    }
    print_report(globals, &report);
    let exit = if fresh && !args.no_tour && plan.zones.len() > 1 {
        println!();
        let exit = show_tour(&mut plan).await?;
        println!();
        if let Some(status) = settled_status(&plan).await {
            status::print_status(&status);
        }
        exit
    } else {
        Exit::Ok
    };
    print_invitation(&plan);
    Ok(exit)
}

/// The first zone's status once it has heard that all nodes are where it is; after a moment
/// as it is.
async fn settled_status(plan: &Plan) -> Option<Status> {
    let client = process::client(plan, &plan.zones[0].name);
    let mut looks = tokio::time::interval(SETTLE_LOOK_EVERY);
    let mut last = None;
    for _ in 0..SETTLE_LOOKS_MAX {
        looks.tick().await;
        let Ok(status) = client.status().await else { continue };
        let own = status.own().map(|own| (own.gsn_applied, own.state));
        let settled = status.nodes.iter().all(|node| Some((node.gsn_applied, node.state)) == own);
        last = Some(status);
        if settled {
            break;
        }
    }
    last
}

async fn take_down(globals: &Globals, root: &Path, purge: bool) -> Result<Exit, ControlError> {
    let quiet = globals.quiet || globals.json;
    if purge
        && !globals.yes
        && !output::confirm(&format!("delete the stores at {}?", root.display()))
    {
        return Err(ControlError::refused("nothing was stopped or deleted"));
    }
    let was_there = down(root, purge, &|line| {
        if !quiet {
            eprintln!("{line}");
        }
    })
    .await?;
    if globals.json {
        output::print_json(
            &serde_json::json!({ "root": root, "running": false, "purged": purge && was_there }),
        );
    } else if !globals.quiet {
        match (was_there, purge) {
            (false, _) => println!("there is no demo at {}", root.display()),
            (true, true) => println!("stopped, and everything of it at {} removed", root.display()),
            (true, false) => println!(
                "stopped; the stores are kept at {} (fusion demo up goes on with them)",
                root.display()
            ),
        }
    }
    Ok(Exit::Ok)
}

async fn show_tour(plan: &mut Plan) -> Result<Exit, ControlError> {
    let all_hold = tour(plan, &|step: &Step| {
        let mark = if step.holds { output::good("ok") } else { output::bad("NO") };
        println!("{mark}  {}", step.text);
    })
    .await?;
    Ok(if all_hold { Exit::Ok } else { Exit::Degraded })
}

fn print_report(globals: &Globals, report: &DemoReport) {
    if globals.json {
        output::print_json(report);
        return;
    }
    let mut table =
        output::table(&["zone", "mount", "round trip", "applied", "behind", "state", "process"]);
    for zone in &report.zones {
        let daemon = zone.daemon.as_ref();
        table.add_row([
            zone.name.clone(),
            match zone.mounted {
                true => zone.mount.clone(),
                false => format!("{} (not mounted)", zone.mount),
            },
            output::milliseconds(daemon.and_then(|daemon| daemon.quorum_rtt_ms)),
            daemon.map_or_else(|| "-".to_owned(), |daemon| daemon.gsn_applied.to_string()),
            daemon.map_or_else(|| "?".to_owned(), |daemon| output::lag(&daemon.lag)),
            daemon.map_or_else(|| output::bad("down"), |daemon| status::state_word(daemon.state)),
            zone.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ]);
    }
    output::print_table(&table);
    let links: Vec<String> = report
        .links
        .iter()
        .map(|link| {
            let what =
                if link.cut { output::bad("cut") } else { output::milliseconds(Some(link.rtt_ms)) };
            format!("{}-{} {what}", link.a, link.b)
        })
        .collect();
    if !links.is_empty() {
        println!("links  {}", links.join("   "));
    }
}

fn print_invitation(plan: &Plan) {
    let mounts: Vec<String> =
        plan.zones.iter().map(|zone| plan.mount(&zone.name).display().to_string()).collect();
    let last = &plan.zones[plan.zones.len() - 1].name;
    println!("\n{}", output::bold("It is yours to play with:"));
    println!("  cp -r /usr/include {}/ ; ls {}/include", mounts[0], mounts[mounts.len() - 1]);
    println!(
        "  fusion demo cut {last} ; fusion demo heal ; fusion demo kill {last} ; fusion demo up"
    );
    println!("  fusion status --watch ; fusion log follow ; fusion where FILE");
    println!("  stop it: ./x demo down   (or: fusion demo down; --purge deletes the stores)");
}

/// Where a demo lives unless told.
fn default_root() -> Result<PathBuf, ControlError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/tmp/fusion-demo"));
    }
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    data.map(|data| data.join("fusion-demo")).ok_or_else(|| {
        ControlError::usage("neither HOME nor XDG_DATA_HOME is set")
            .hint("say where the demo shall live: --root DIR")
    })
}

fn at_least_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("must be a number of at least 0".to_owned()),
    }
}
