//! Brings a demo up: makes what is missing, starts what is down, waits until all is usable.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::plan::{NODES_MAX, Plan, Size, Zone, apply_csv};
use super::process::{self, Process};
use super::wan;
use crate::admin::control::{ControlError, FailureKind, MemberRole};
use crate::admin::report::NodeState;
use crate::doctor::{FuseAccess, fuse_access};

/// What to bring up.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Zones of a new demo; `None` = 3, or what is there.
    pub zones: Option<usize>,
    /// Nodes in each zone of a new demo; `None` = 1, or what is there.
    pub nodes: Option<usize>,
    /// The last zone of a new demo is a witness.
    pub witness: bool,
    /// Round trips in milliseconds, one per pair.
    pub round_trips_ms: Option<Vec<f64>>,
    /// The text of a `wan.csv`.
    pub wan_csv: Option<String>,
}

/// A demo that is up.
#[derive(Debug)]
pub struct Up {
    pub plan: Plan,
    /// It did not exist before.
    pub fresh: bool,
    /// The processes that were started now.
    pub started: Vec<String>,
}

/// How long all zones together may take to become usable.
const USABLE_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the daemons.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Brings the demo at `root` up. `say` gets a line per step.
///
/// # Errors
/// `Refused` if this user may not mount; else what went wrong at which zone.
pub async fn up(root: &Path, wishes: &Wishes, say: &dyn Fn(&str)) -> Result<Up, ControlError> {
    if let FuseAccess::Forbidden { detail, fix } = fuse_access() {
        return Err(
            ControlError::refused(detail).hint(format!("{fix}\n`fusion doctor` checks everything"))
        );
    }
    make_directories(root)?;
    let _lock = lock(root)?;
    let before = Plan::load(root)?;
    let fresh = before.is_none();
    let mut plan = match before {
        Some(plan) => grown(plan, wishes)?,
        None => Plan::new(root, size(wishes)?)?,
    };
    shape_links(&mut plan, wishes)?;
    for zone in plan.zones.iter().filter(|zone| !zone.witness) {
        make_directory(&plan.mount(&zone.name), true)?;
    }
    plan.save()?;
    wan::write_config(&plan)?;

    let mut started = Vec::new();
    let relay = Process::relay(&plan);
    if relay.start().await? {
        started.push(relay.name.clone());
    } else {
        wan::reshape(&plan).await?;
    }
    started.extend(start_joined(&plan, say).await?);
    for at in 0..plan.zones.len() {
        if !plan.zones[at].joined {
            let name = plan.zones[at].name.clone();
            make_zone(&plan, at, say).await?;
            plan.zones[at].joined = true;
            plan.save()?;
            Process::of_zone(&plan, &name).start().await?;
            wait_for_voters(&plan, &plan.zones[..=at]).await?;
            started.push(name);
        }
    }
    wait_usable(&plan, started.is_empty()).await?;
    Ok(Up { plan, fresh, started })
}

/// Starts one zone's daemon, and returns when it answers and its mount does.
///
/// # Errors
/// As [`up`].
pub async fn start_zone(plan: &Plan, zone: &str) -> Result<bool, ControlError> {
    let started = Process::of_zone(plan, zone).start().await?;
    mount_answers(plan, plan.zone(zone)?).await?;
    Ok(started)
}

fn size(wishes: &Wishes) -> Result<Size, ControlError> {
    let (zones, nodes_per_zone) = (wishes.zones.unwrap_or(3), wishes.nodes.unwrap_or(1));
    if zones == 0 || nodes_per_zone == 0 || zones.saturating_mul(nodes_per_zone) > NODES_MAX {
        return Err(ControlError::usage(format!(
            "a demo has at least one zone of one node, and at most {NODES_MAX} nodes"
        )));
    }
    if wishes.witness && zones < 2 {
        return Err(ControlError::usage("a witness needs another zone to vote with"));
    }
    Ok(Size { zones, nodes_per_zone, witness: wishes.witness })
}

/// The plan as it is; a demo does not grow.
fn grown(plan: Plan, wishes: &Wishes) -> Result<Plan, ControlError> {
    let zones = plan.zone_names().len();
    let per_zone = plan.nodes_of(&plan.zones[0].zone).len();
    let other = wishes.zones.is_some_and(|count| count != zones)
        || wishes.nodes.is_some_and(|count| count != per_zone);
    match other {
        true => Err(ControlError::usage(format!("this demo has {zones} zones"))
            .hint("make another one (--root DIR), or remove this one: fusion demo down --purge")),
        false => Ok(plan),
    }
}

fn shape_links(plan: &mut Plan, wishes: &Wishes) -> Result<(), ControlError> {
    if let Some(csv) = &wishes.wan_csv {
        apply_csv(plan, csv)?;
    }
    match &wishes.round_trips_ms {
        Some(round_trips_ms) => plan.set_round_trips(round_trips_ms),
        None => Ok(()),
    }
}

fn make_directories(root: &Path) -> Result<(), ControlError> {
    for name in ["mnt", "store", "log", "run"] {
        make_directory(&root.join(name), false)?;
    }
    Ok(())
}

fn make_directory(path: &Path, may_be_mounted: bool) -> Result<(), ControlError> {
    match std::fs::create_dir_all(path) {
        // A dead mount is there, and neither a file nor a directory to stat(2).
        Err(_) if may_be_mounted && crate::mount_table::is_mounted(path) => Ok(()),
        Err(error) => {
            Err(ControlError::failed(format!("{} cannot be made: {error}", path.display()))
                .hint("choose another place: --root DIR"))
        }
        Ok(()) => Ok(()),
    }
}

/// Keeps a second `up` or `down` of the same demo waiting until the returned file is dropped.
pub(super) fn lock(root: &Path) -> Result<File, ControlError> {
    let path = root.join("run/lock");
    let lock = || -> std::io::Result<File> {
        let file = File::options().create(true).append(true).open(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    lock().map_err(|error| {
        ControlError::failed(format!("{} cannot be locked: {error}", path.display()))
    })
}

/// Starts the daemons whose stores exist, all at once: after a stop of the whole demo none
/// has a majority before the others run.
async fn start_joined(plan: &Plan, say: &dyn Fn(&str)) -> Result<Vec<String>, ControlError> {
    let mut starts = tokio::task::JoinSet::new();
    for zone in plan.zones.iter().filter(|zone| zone.joined) {
        let process = Process::of_zone(plan, &zone.name);
        if process.pid().is_none() {
            say(&format!("{}: start", zone.name));
            starts.spawn(async move { process.start().await.map(|_| process.name) });
        }
    }
    let mut started = Vec::new();
    while let Some(outcome) = starts.join_next().await {
        started.push(outcome.expect("a start does not panic")?);
    }
    started.sort();
    Ok(started)
}

/// Makes the store of the zone number `at`: the first by `fusion init`, the others by a token.
async fn make_zone(plan: &Plan, at: usize, say: &dyn Fn(&str)) -> Result<(), ControlError> {
    let zone = &plan.zones[at];
    let store = plan.store(&zone.name);
    // What a stop in the middle left; nobody has relied on it.
    if store.exists() {
        std::fs::remove_dir_all(&store).map_err(|error| {
            ControlError::failed(format!("{} cannot be removed: {error}", store.display()))
        })?;
    }
    let store = store.to_string_lossy().into_owned();
    let listen = super::plan::loopback(zone.port).to_string();
    let place =
        ["--store", &store, "--name", &zone.name, "--listen", &listen, "--advertise", &listen];
    if at == 0 {
        say(&format!("{}: fusion init", zone.name));
        process::run_verb(&[&["init", "--zone", &zone.zone], &place[..]].concat()).await?;
    } else {
        say(&format!("{}: fusion token create, fusion join", zone.name));
        let role = if zone.witness { MemberRole::Witness } else { MemberRole::Voter };
        let sponsor = process::client(plan, &plan.zones[0].name).with_timeout(USABLE_PATIENCE);
        let token = sponsor.create_token(&zone.zone, role, Duration::from_secs(3600)).await?;
        process::run_verb(&[&["join", &token.token], &place[..]].concat()).await?;
    }
    Ok(())
}

/// Waits until the first node sees all of `nodes`, one of each zone voting.
async fn wait_for_voters(plan: &Plan, nodes: &[Zone]) -> Result<(), ControlError> {
    let first = &plan.zones[0].name;
    let names: Vec<&str> = nodes.iter().map(|zone| zone.name.as_str()).collect();
    let mut zones: Vec<&str> = nodes.iter().map(|zone| zone.zone.as_str()).collect();
    zones.dedup();
    wait_until(&format!("{} follow the order", names.join(", ")), async || {
        process::client(plan, first).status().await.is_ok_and(|status| {
            let heard = status.nodes.iter().filter(|node| node.state == NodeState::Ok).count();
            status.ring.voters.len() == zones.len() && heard == nodes.len()
        })
    })
    .await
}

/// Waits until every node knows the present voters, has a quorum, and an answering mount.
/// Zones behind a cut link need only answer.
async fn wait_usable(plan: &Plan, all_ran: bool) -> Result<(), ControlError> {
    let any_cut = plan.links.iter().any(|link| link.shape.cut);
    for zone in &plan.zones {
        mount_answers(plan, zone).await?;
        if any_cut || all_ran {
            continue;
        }
        wait_until(&format!("{} follows the agreed order", zone.name), async || {
            let Ok(status) = process::client(plan, &zone.name).status().await else {
                return false;
            };
            let epoch = newest_epoch(plan).await;
            status.state == NodeState::Ok && status.ring.quorum && Some(status.ring.epoch) == epoch
        })
        .await?;
    }
    Ok(())
}

/// The newest epoch that any daemon knows.
async fn newest_epoch(plan: &Plan) -> Option<u32> {
    let mut newest = None;
    for zone in &plan.zones {
        let status = process::client(plan, &zone.name).status().await;
        newest = newest.max(status.ok().map(|status| status.ring.epoch));
    }
    newest
}

async fn mount_answers(plan: &Plan, zone: &Zone) -> Result<(), ControlError> {
    if zone.witness {
        return Ok(());
    }
    let mount = plan.mount(&zone.name);
    wait_until(&format!("the mount {} answers", mount.display()), async || {
        let mount = mount.clone();
        // stat(2) can hang on a mount whose daemon hangs: not on this thread.
        tokio::task::spawn_blocking(move || {
            crate::mount_table::is_mounted(&mount) && std::fs::metadata(&mount).is_ok()
        })
        .await
        .is_ok_and(|answers| answers)
    })
    .await
}

/// Looks at `condition` until it holds.
///
/// # Errors
/// `Timeout` naming `what`.
pub async fn wait_until(what: &str, condition: impl AsyncFn() -> bool) -> Result<(), ControlError> {
    let start = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    while start.elapsed() < USABLE_PATIENCE {
        looks.tick().await;
        if let Ok(true) = tokio::time::timeout(USABLE_PATIENCE, condition()).await {
            return Ok(());
        }
    }
    Err(ControlError::new(
        FailureKind::Timeout,
        format!("waited {} s until {what}, in vain", USABLE_PATIENCE.as_secs()),
    )
    .hint("look: fusion demo status, and the logs in the demo's log directory"))
}
