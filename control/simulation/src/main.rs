//! Runs simulated clusters, one seed after the other, until one breaks an invariant; that one is run again,
//! and tells all that happens.

use clap::Parser;
use skein_simulation::batch::{self, SEEDS};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "skein-simulation")]
struct Cli {
    /// How many worlds to run.
    #[arg(long, default_value_t = SEEDS, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The seed of the first one; the others follow.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run the world of this seed alone, and print all that happens; with `RUST_LOG`, also what the
    /// managers and the consensus library log.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    replay: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.replay {
        Some(seed) => {
            log_by_environment();
            batch::replay(seed)
        }
        None => batch::run_all(cli.first, cli.seeds).inspect_err(|failure| {
            println!("{failure}\nagain, with all that happens:");
            log_by_environment();
            let again = batch::replay(failure.seed);
            if again.as_ref() != Err(failure) {
                println!("it was not the same again: something in it is not drawn from the seed");
            }
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What managers and consensus log: as `RUST_LOG` says.
fn log_by_environment() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_ansi(false)
        .without_time()
        .init();
}
