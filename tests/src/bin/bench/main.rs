//! `./x bench [local | ring | distance [MATRIX ..] | followers]`: what the mount costs, beside the
//! local disk in the same run; how many commands the ring agrees on, and the flushes of each; what
//! distance costs, beside the round trip to the nearest majority; what those who follow the order
//! cost the writers.
//!
//! Figures of one run on one machine: medians of several rounds, and ratios. Nothing here is
//! asserted; a busy machine moves all columns alike.

mod distance;
mod followers;
mod local;
mod matrix;
mod ring;

use std::process::ExitCode;

use anyhow::Context;
use tests::cluster::{Cluster, Wishes};

const SMALL_BYTES: usize = 4 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = match arguments.split_first() {
        None => local::run().and_then(|()| distance::run(&[])),
        Some((part, [])) if part == "local" => local::run(),
        Some((part, matrices)) if part == "distance" => distance::run(matrices),
        Some((part, [])) if part == "ring" => ring::run(),
        Some((part, [])) if part == "followers" => followers::run(),
        Some(_) => {
            eprintln!("usage: bench [local | ring | distance [MATRIX ..] | followers]");
            return ExitCode::from(2);
        }
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn started(wishes: &Wishes) -> anyhow::Result<Cluster> {
    Cluster::start_with(wishes).context("this machine has no usable /dev/fuse")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
