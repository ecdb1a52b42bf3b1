//! Simulated clusters: see `control/simulation`.

use crate::run::run;
use clap::Args;
use std::process::Command;

/// How many worlds to run unless asked otherwise: each takes about a second of one core.
pub const SEEDS: u64 = 500;

/// Which worlds to run.
#[derive(Args, Clone, Copy, Debug)]
pub struct SimulateArgs {
    /// How many, one seed after the other.
    #[arg(long, default_value_t = SEEDS)]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    pub first: u64,
    /// The world of this seed alone; print all that happens in it.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    pub replay: Option<u64>,
}

/// Runs the worlds, until one breaks an invariant.
///
/// # Errors
/// One does.
pub fn simulate(args: SimulateArgs) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--package", "skein-simulation", "--"]);
    match args.replay {
        Some(seed) => command.args(["--replay", &seed.to_string()]),
        None => {
            let (seeds, first) = (args.seeds.to_string(), args.first.to_string());
            command.args(["--seeds", &seeds, "--first", &first])
        }
    };
    run(command.current_dir(crate::root()))
}
