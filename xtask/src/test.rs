//! All tests.

use crate::{run::run, setup};
use std::process::Command;

/// Unit tests, simulated clusters among them (`control/simulation/tests`); then, unless `unit`, the
/// end-to-end tests.
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
    let units = ["--workspace", "--exclude", "skein-tests"];
    // Of the kernel's maps and programs; without root they are told as ignored.
    let with_kernel = [&units[..], &["--", "--include-ignored"]].concat();
    if unit {
        let is_root = nix::unistd::geteuid().is_root();
        return test(if is_root { &with_kernel } else { &units });
    }
    setup::setup(false)?;
    test(&with_kernel)?;
    // One after the other: a cluster takes the whole machine.
    test(&["-p", "skein-tests", "--", "--test-threads=1"])
}
