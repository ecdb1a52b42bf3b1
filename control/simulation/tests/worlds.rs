//! Simulated clusters as a test: as many as `cargo xtask simulate` runs. Without the usual harness, so that
//! it shows how far it is.

use skein_simulation::batch::{SEEDS, run_all};
use std::process::ExitCode;

/// Options of the usual harness by which other tests are asked for, or none are to run.
const OTHERS: [&str; 2] = ["--ignored", "--list"];

fn main() -> ExitCode {
    let is_left_out = |argument: String| {
        // A name, too, is that of other tests.
        !argument.starts_with('-') || OTHERS.contains(&argument.as_str())
    };
    if std::env::args().skip(1).any(is_left_out) {
        return ExitCode::SUCCESS;
    }
    match run_all(0, SEEDS) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
