//! Simulated clusters: see `control/simulation`.

use crate::run::run;
use clap::Args;
use std::process::Command;

/// Which worlds to run.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct SimulateArgs {
    /// How many, one seed after the other; unless said, as many as the tests run.
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The first seed; unless said, 0.
    #[arg(long)]
    pub first: Option<u64>,
    /// The world of this seed alone; print all that happens in it.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    pub replay: Option<u64>,
    /// Optimise it: that takes minutes to build, and a world a fraction of the time. The worlds are the same.
    #[arg(long)]
    pub release: bool,
}

/// Runs the worlds, until one breaks an invariant.
///
/// # Errors
/// One does.
pub fn simulate(args: SimulateArgs) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // What it builds first is seen.
    command.args(["run", "--package", "skein-simulation"]);
    if args.release {
        command.arg("--release");
    }
    command.arg("--");
    let given = [
        ("--seeds", args.seeds),
        ("--first", args.first),
        ("--replay", args.replay),
    ];
    for (option, value) in given {
        if let Some(value) = value {
            command.args([option, &value.to_string()]);
        }
    }
    run(command.current_dir(crate::root()))
}
