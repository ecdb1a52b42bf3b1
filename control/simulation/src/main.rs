//! Runs simulated clusters, one seed after the other, until one breaks an invariant.

use clap::Parser;
use skein_simulation::{
    Setup,
    batch::{self, SEEDS},
};
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
            tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::from_default_env())
                .with_ansi(false)
                .without_time()
                .init();
            let setup = Setup {
                tells: true,
                ..Setup::default()
            };
            batch::run(seed, &setup).map(drop)
        }
        None => batch::run_all(cli.first, cli.seeds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
