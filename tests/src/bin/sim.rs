//! Runs the ring simulator: see `USAGE`.

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::simulator::{Options, Report, replay, replay_deviation, run, run_deviations};

/// A run's time goes into small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: sim [--seeds N] [--start S] [--deviations] [--jobs J] [--seconds T] [--keep-going]
       sim --replay SEED [--deviation D]

  --seeds N        run N seeds (1000)
  --start S        from S on (0)
  --deviations     of each seed's short plan run every deviation: a crash at each effect of
                   each node, a loss or a delay of each message; thousands of schedules a seed
  --jobs J         on J threads (all cores); a seed gives the same run whatever J is
  --seconds T      begin no further seeds after T seconds
  --keep-going     go on after a violation
  --replay SEED    print the event log of one seed
  --deviation D    of its Dth deviation";

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|word| word == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(Arguments { replay: Some(seed), deviation, .. }) => replay_one(seed, deviation),
        Ok(arguments) => run_many(&arguments),
        Err(message) => {
            eprintln!("sim: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    seeds: u64,
    start: u64,
    jobs: u64,
    seconds: Option<u64>,
    deviations: bool,
    keep_going: bool,
    replay: Option<u64>,
    deviation: Option<u64>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let mut arguments = Arguments {
            seeds: 1000,
            start: 0,
            jobs: cores,
            seconds: None,
            deviations: false,
            keep_going: false,
            replay: None,
            deviation: None,
        };
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().ok_or(format!("{word} needs a number"))?;
                value.parse().map_err(|_| format!("{word} needs a number, not '{value}'"))
            };
            match word.as_str() {
                "--seeds" => arguments.seeds = number()?,
                "--start" => arguments.start = number()?,
                "--jobs" => arguments.jobs = number()?.max(1),
                "--seconds" => arguments.seconds = Some(number()?),
                "--replay" => arguments.replay = Some(number()?),
                "--deviation" => arguments.deviation = Some(number()?),
                "--deviations" => arguments.deviations = true,
                "--keep-going" => arguments.keep_going = true,
                _ => return Err(format!("unknown argument '{word}'")),
            }
        }
        Ok(arguments)
    }
}

fn replay_one(seed: u64, deviation: Option<u64>) -> ExitCode {
    let (log, violation) = match deviation {
        None => replay(seed, Options::default()),
        Some(number) => replay_deviation(seed, number, Options::default()),
    };
    let verdict = violation.as_deref().unwrap_or("no violation");
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in log {
        // Whoever reads only the beginning closes the pipe; that is no failure.
        if writeln!(out, "{line}").is_err() {
            return ExitCode::SUCCESS;
        }
    }
    let written = writeln!(out, "seed {seed}: {verdict}").and_then(|()| out.flush());
    if violation.is_none() || written.is_err() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In steps, which threads take one after the other.
fn run_many(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let end = arguments.start.saturating_add(arguments.seeds);
    let next = AtomicU64::new(arguments.start);
    let failed = AtomicBool::new(false);
    let total = Mutex::new(Report::default());
    let work = || {
        loop {
            let late =
                arguments.seconds.is_some_and(|seconds| begin.elapsed().as_secs() >= seconds);
            if late || failed.load(Ordering::Relaxed) && !arguments.keep_going {
                return;
            }
            let step = if arguments.deviations { 1 } else { STEP };
            let first = next.fetch_add(step, Ordering::Relaxed);
            if first >= end {
                return;
            }
            let report = run_step(arguments, first, end.min(first + step));
            failed.fetch_or(!report.failures.is_empty(), Ordering::Relaxed);
            total.lock().expect("no thread panics").add(report);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.jobs).map(|_| scope.spawn(work)).collect();
        // A long run shows that it is alive.
        let mut told = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let schedules = total.lock().expect("no thread panics").schedules;
                let (taken, took_s) = (next.load(Ordering::Relaxed), begin.elapsed().as_secs());
                eprintln!("seeds to {taken}: {schedules} schedules in {took_s} s");
            }
        }
    });
    let mut total = total.into_inner().expect("no thread panics");
    total.failures.sort_by_key(|failure| (failure.seed, failure.deviation));
    let taken = next.into_inner().min(end);
    println!("seeds {} to {} (exclusive), {} s", arguments.start, taken, begin.elapsed().as_secs());
    print!("{total}");
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_step(arguments: &Arguments, first: u64, end: u64) -> Report {
    let options = Options { keep_going: arguments.keep_going };
    if !arguments.deviations {
        return run(first..end, options);
    }
    let mut report = Report::default();
    (first..end).for_each(|seed| report.add(run_deviations(seed, options)));
    report
}

/// Seeds that a thread takes at once: some seconds of work.
const STEP: u64 = 100;

const TELL_EVERY: Duration = Duration::from_secs(30);
