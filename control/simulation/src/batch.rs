//! Many worlds, one seed after the other on all cores, until one breaks an invariant.

use crate::{Outcome, Setup, simulate};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt,
    panic::catch_unwind,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How many worlds are run unless asked otherwise, and with the unit tests: as many as two idle cores run in a
/// minute.
pub const SEEDS: u64 = 500;

/// Between lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

/// A world that broke an invariant, or in which something panicked.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what } = self;
        writeln!(f, "seed {seed}:\n{what}")?;
        write!(f, "see it again: cargo xtask simulate --replay {seed}")
    }
}

/// Runs the world of a seed.
///
/// # Errors
/// It fails.
pub fn run(seed: u64, setup: &Setup) -> Result<Outcome, Failure> {
    let outcome = catch_unwind(|| simulate(seed, setup)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = format!("panicked: {}", text.unwrap_or("without a message"));
        Failure { seed, what }
    })?;
    match &outcome.violation {
        None => Ok(outcome),
        Some(violation) => Err(Failure {
            seed,
            what: violation.to_string(),
        }),
    }
}

/// Runs the world of a seed, and prints all that happens.
///
/// # Errors
/// It fails.
pub fn replay(seed: u64) -> Result<(), Failure> {
    let setup = Setup {
        tells: true,
        ..Setup::default()
    };
    run(seed, &setup).map(drop)
}

/// Runs the worlds of `seeds` seeds, the first of which is `first`; prints how far it is.
///
/// # Errors
/// One fails: that with the smallest seed of those begun.
pub fn run_all(first: u64, seeds: u64) -> Result<(), Failure> {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let end = first.saturating_add(seeds);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
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
                            if failed.as_ref().is_none_or(|first| seed < first.seed) {
                                *failed = Some(failure);
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
    if let Some(failure) = failed.into_inner() {
        return Err(failure);
    }
    let seconds = began.elapsed().as_secs_f32();
    println!(
        "{seeds} worlds, seeds {first} to {}: all invariants hold ({seconds:.1} s)",
        end.saturating_sub(1)
    );
    let counts = counts.into_inner();
    let counts: Vec<_> = counts
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    println!("seen: {}", counts.join(", "));
    Ok(())
}
