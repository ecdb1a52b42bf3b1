//! All tests.

use crate::{run::run, setup};
use std::process::Command;

/// Unit tests; then, unless `unit`, the end-to-end tests.
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
    if unit {
        return test(&["--workspace", "--exclude", "skein-tests"]);
    }
    setup::setup(false)?;
    test(&["--workspace", "--exclude", "skein-tests"])?;
    // One after the other: a cluster takes the whole machine.
    test(&["-p", "skein-tests", "--", "--test-threads=1"])
}
