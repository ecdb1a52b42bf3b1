//! Runs simulated clusters, one seed after the other, until one breaks an invariant.

use clap::Parser;
use parking_lot::Mutex;
use skein_simulation::{Outcome, Setup, simulate};
use std::{
    collections::BTreeMap,
    panic::catch_unwind,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Between lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(name = "skein-simulation")]
struct Cli {
    /// How many worlds to run.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The seed of the first one; the others follow.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run the world of this seed alone, and print all that happens.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    replay: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = match cli.replay {
        Some(seed) => {
            let setup = Setup {
                tells: true,
                ..Setup::default()
            };
            run(seed, &setup).err().map(|failure| (seed, failure))
        }
        None => run_all(cli.first, cli.seeds),
    };
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, failure)) => {
            eprintln!("seed {seed}:\n{failure}");
            eprintln!("see all of it again: cargo xtask simulate --replay {seed}");
            ExitCode::FAILURE
        }
    }
}

/// One world; why it failed.
fn run(seed: u64, setup: &Setup) -> Result<Outcome, String> {
    let outcome = catch_unwind(|| simulate(seed, setup)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a message"))
    })?;
    match &outcome.violation {
        None => Ok(outcome),
        Some(violation) => Err(violation.to_string()),
    }
}

/// Runs worlds on all cores until one fails: the one with the smallest seed of those begun.
fn run_all(first: u64, seeds: u64) -> Option<(u64, String)> {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let end = first.saturating_add(seeds);
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
    let told = Mutex::new(began);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match run(seed, &Setup::default()) {
                        Ok(outcome) => {
                            let mut counts = counts.lock();
                            for (kind, count) in outcome.counts {
                                *counts.entry(kind).or_default() += count;
                            }
                        }
                        Err(failure) => {
                            let mut failed = failed.lock();
                            if failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                                *failed = Some((seed, failure));
                            }
                        }
                    }
                    let mut told = told.lock();
                    if told.elapsed() > PROGRESS {
                        *told = Instant::now();
                        let seconds = began.elapsed().as_secs();
                        println!("{} of {seeds} worlds ({seconds} s)", seed - first);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed.is_none() {
        let seconds = began.elapsed().as_secs_f32();
        println!(
            "{seeds} worlds, seeds {first} to {}: all invariants hold ({seconds:.1} s)",
            end - 1
        );
        let counts = counts.into_inner();
        let counts: Vec<_> = counts
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        println!("seen: {}", counts.join(", "));
    }
    failed
}
