//! Benchmarks: a program of their own, which is built when it is wanted.

use crate::{cluster::build, run::run, setup};
use std::process::Command;

/// Builds everything as users do, and runs `skein-bench`.
///
/// # Errors
/// It cannot be built, or a benchmark fails.
pub fn bench(args: &[String]) -> anyhow::Result<()> {
    setup::setup(false)?;
    let program = build::release()?.join("skein-bench");
    run(Command::new(program).args(args))
}
