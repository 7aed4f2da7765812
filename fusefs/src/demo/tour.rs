//! Shows what the cluster does: a file crosses, a zone is cut off, everything heals.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::links;
use super::plan::Plan;
use super::process;
use super::up::wait_until;
use crate::admin::control::ControlError;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub holds: bool,
    pub text: String,
}

/// How long a file may take to appear, or a healed zone to follow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks for a file.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How long a call in the cut-off zone is watched to see that it waits. Far above what an
/// agreement takes anywhere on Earth.
const WATCH: Duration = Duration::from_millis(1500);
const SPEED_BYTES: usize = 64 << 20;
const BLOCK_BYTES: usize = 1 << 20;

/// Walks through a running demo with at least two zones; `show` gets each step as it is done.
///
/// # Errors
/// If the relay or a daemon goes away meanwhile.
pub async fn tour(plan: &mut Plan, show: &dyn Fn(&Step)) -> Result<bool, ControlError> {
    let mut all_hold = true;
    let mut done = |step: Step| {
        all_hold &= step.holds;
        show(&step);
    };
    let directory = format!("tour-{}", std::process::id());
    let first = plan.zones[0].name.clone();
    on_disk({
        let path = plan.mount(&first).join(&directory);
        move || std::fs::create_dir(path)
    })
    .await?;

    done(crossing(plan, &directory).await?);
    done(speed(plan, &directory).await?);
    // With standbys or a witness, other things happen when a zone is cut off.
    let plain = plan.zones.iter().all(|zone| zone.name == zone.zone && !zone.witness);
    if plain && plan.zones.len() >= 3 {
        for step in cut_and_heal(plan, &directory).await? {
            done(step);
        }
    }
    done(equal_hashes(plan).await?);
    on_disk({
        let path = plan.mount(&first).join(&directory);
        move || std::fs::remove_dir_all(path)
    })
    .await?;
    Ok(all_hold)
}

/// Writes in the first zone, reads in the others.
async fn crossing(plan: &Plan, directory: &str) -> Result<Step, ControlError> {
    let writer = &plan.zones[0].name;
    let file = Path::new(directory).join("hello");
    let content = format!("written in {writer}\n");
    let mounted = plan.zones[1..].iter().filter(|zone| !zone.witness);
    let readers: Vec<Waiting> =
        mounted.map(|zone| await_file(plan, &zone.name, &file, &content)).collect();
    let start = Instant::now();
    write_file(plan, writer, &file, &content).await?;
    let mut texts = Vec::new();
    let mut holds = true;
    for reader in readers {
        let (text, seen) = reader.outcome(start).await;
        holds &= seen;
        texts.push(text);
    }
    Ok(Step { holds, text: format!("a file written in {writer}: {}", texts.join(", ")) })
}

/// Sequential write with fsync, in the first zone and beside its store.
async fn speed(plan: &Plan, directory: &str) -> Result<Step, ControlError> {
    let zone = &plan.zones[0].name;
    let here = plan.mount(zone).join(directory).join("speed");
    let beside = plan.root.join("run/speed");
    let mounted = on_disk(move || write_speed(&here)).await?;
    let local = on_disk(move || write_speed(&beside)).await?;
    let text = format!(
        "{} MiB written and synced in {zone} at {mounted:.0} MiB/s; on the disk below at {local:.0} MiB/s",
        SPEED_BYTES >> 20
    );
    Ok(Step { holds: true, text })
}

/// MiB per second. The file is removed.
fn write_speed(path: &Path) -> std::io::Result<f64> {
    // Not zeros: a filesystem may store those without writing them.
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at * 31 % 251) as u8).collect();
    let start = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..SPEED_BYTES / BLOCK_BYTES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    drop(file);
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok((SPEED_BYTES >> 20) as f64 / seconds)
}

/// Cuts the last zone off, works on both sides, heals.
async fn cut_and_heal(plan: &mut Plan, directory: &str) -> Result<Vec<Step>, ControlError> {
    let (first, second) = (plan.zones[0].name.clone(), plan.zones[1].name.clone());
    let last = plan.zones[plan.zones.len() - 1].name.clone();
    let mut steps = Vec::new();

    links::cut_zone(plan, &last).await?;
    let file = Path::new(directory).join("without");
    let content = format!("written while {last} was cut off\n");
    let reader = await_file(plan, &second, &file, &content);
    let start = Instant::now();
    write_file(plan, &first, &file, &content).await?;
    let (text, holds) = reader.outcome(start).await;
    steps.push(Step { holds, text: format!("{last} cut off; a file written in {first}: {text}") });

    let hello = plan.mount(&last).join(directory).join("hello");
    let reads = on_disk(move || std::fs::read(hello)).await.is_ok();
    let made = plan.mount(&last).join(directory).join("made-behind-the-cut");
    let mut make = tokio::task::spawn_blocking(move || std::fs::create_dir(made));
    let waits = tokio::time::timeout(WATCH, &mut make).await.is_err();
    steps.push(Step {
        holds: reads && waits,
        text: format!(
            "{last} alone: reading what it has {}; mkdir {}",
            if reads { "goes on" } else { "fails" },
            if waits { "waits" } else { "did not wait" }
        ),
    });

    let reader = await_file(plan, &last, &file, &content);
    links::heal(plan).await?;
    let healed = Instant::now();
    if waits {
        let completed = matches!(tokio::time::timeout(PATIENCE, &mut make).await, Ok(Ok(Ok(()))));
        let after = milliseconds(healed);
        let text = if completed {
            format!("completed {after} later")
        } else {
            "did not complete".to_owned()
        };
        steps.push(Step { holds: completed, text: format!("healed; the waiting mkdir {text}") });
    }
    let (text, holds) = reader.outcome(healed).await;
    steps.push(Step { holds, text: format!("what {last} missed: {text}") });
    Ok(steps)
}

/// Waits until all zones are at one GSN and compares their state hashes.
async fn equal_hashes(plan: &Plan) -> Result<Step, ControlError> {
    let equal = std::cell::RefCell::new(None);
    let outcome = wait_until("all zones have the same state", async || {
        let mut states = Vec::new();
        for zone in &plan.zones {
            let Ok(status) = process::client(plan, &zone.name).status().await else { return false };
            let Some(own) = status.own() else { return false };
            states.push((own.gsn_applied, own.state_hash.clone()));
        }
        let same = states.iter().all(|state| *state == states[0]);
        if same {
            *equal.borrow_mut() = Some(states[0].clone());
        }
        same
    })
    .await;
    Ok(match equal.into_inner() {
        Some((gsn, hash)) => Step {
            holds: true,
            text: format!(
                "all {} state hashes are equal at GSN {gsn}: {}",
                plan.zones.len(),
                &hash[..hash.len().min(16)]
            ),
        },
        None => {
            let why = outcome.err().map_or_else(String::new, |error| error.message);
            Step { holds: false, text: format!("the state hashes did not become equal: {why}") }
        }
    })
}

/// A reader that looks for a file in another zone.
struct Waiting {
    zone: String,
    thread: tokio::task::JoinHandle<Option<Instant>>,
}

fn await_file(plan: &Plan, zone: &str, file: &Path, content: &str) -> Waiting {
    let path = plan.mount(zone).join(file);
    let content = content.to_owned();
    let thread = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if std::fs::read(&path).is_ok_and(|bytes| bytes == content.as_bytes()) {
                return Some(Instant::now());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        None
    });
    Waiting { zone: zone.to_owned(), thread }
}

impl Waiting {
    /// What it saw, counted from `start`, and whether it saw the file.
    async fn outcome(self, start: Instant) -> (String, bool) {
        match self.thread.await.ok().flatten() {
            Some(at) => {
                let milliseconds = at.saturating_duration_since(start).as_secs_f64() * 1e3;
                (format!("read in {} {milliseconds:.1} ms later", self.zone), true)
            }
            None => (format!("not seen in {} within {} s", self.zone, PATIENCE.as_secs()), false),
        }
    }
}

async fn write_file(
    plan: &Plan,
    zone: &str,
    file: &Path,
    content: &str,
) -> Result<(), ControlError> {
    let path: PathBuf = plan.mount(zone).join(file);
    let content = content.to_owned();
    on_disk(move || std::fs::write(path, content)).await
}

/// Runs calls on a mount, which may take long, on a thread of their own.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ControlError> {
    let patient = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await;
    match patient {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => {
            Err(ControlError::failed(format!("a call on the mount failed: {error}")))
        }
        Ok(Err(panic)) => Err(ControlError::failed(panic.to_string())),
        Err(_) => Err(ControlError::timeout(format!(
            "a call on the mount took over {} s",
            PATIENCE.as_secs()
        ))
        .hint("look: fusion demo status, and the logs in the demo's log directory")),
    }
}

fn milliseconds(since: Instant) -> String {
    format!("{:.1} ms", since.elapsed().as_secs_f64() * 1e3)
}
