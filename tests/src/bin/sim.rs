//! Runs the ring simulator: `sim --seeds N [--start S] [--keep-going]`, or
//! `sim --replay SEED` for the event log of one seed.

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Instant;

use engine::simulator::{Options, Report, replay, run};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(Arguments { replay: Some(seed), .. }) => replay_one(seed),
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
    keep_going: bool,
    replay: Option<u64>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments { seeds: 1000, start: 0, keep_going: false, replay: None };
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().ok_or(format!("{word} needs a number"))?;
                value.parse().map_err(|_| format!("{word} needs a number, not '{value}'"))
            };
            match word.as_str() {
                "--seeds" => arguments.seeds = number()?,
                "--start" => arguments.start = number()?,
                "--replay" => arguments.replay = Some(number()?),
                "--keep-going" => arguments.keep_going = true,
                _ => return Err(format!("unknown argument '{word}'")),
            }
        }
        Ok(arguments)
    }
}

fn replay_one(seed: u64) -> ExitCode {
    let (log, violation) = replay(seed, Options::default());
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

/// In steps, so that a long run shows that it is alive.
fn run_many(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let options = Options { keep_going: arguments.keep_going, ..Options::default() };
    let end = arguments.start.saturating_add(arguments.seeds);
    let mut total = Report::default();
    let mut next = arguments.start;
    while next < end && (arguments.keep_going || total.failures.is_empty()) {
        let last = end.min(next + STEP);
        total.add(run(next..last, options));
        next = last;
        eprintln!("seeds to {next}: {} s", begin.elapsed().as_secs());
    }
    print!("{total}");
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const STEP: u64 = 500;

const USAGE: &str = "usage: sim [--seeds N] [--start S] [--keep-going] | sim --replay SEED";
