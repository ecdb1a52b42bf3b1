//! All tests.

use crate::{
    run::run,
    setup,
    simulate::{SimulateArgs, simulate},
};
use std::process::Command;

/// Unit tests and simulated clusters; then, unless `unit`, the end-to-end tests.
///
/// # Errors
/// A test fails.
pub fn test(unit: bool) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let test = |args: &[&str]| {
        run(Command::new(&cargo)
            .arg("test")
            .args(args)
            .current_dir(crate::root()))
    };
    if !unit {
        setup::setup(false)?;
    }
    test(&["--workspace", "--exclude", "skein-tests"])?;
    simulate(SimulateArgs::default())?;
    if unit {
        return Ok(());
    }
    // One after the other: a cluster takes the whole machine.
    test(&["-p", "skein-tests", "--", "--test-threads=1"])
}
