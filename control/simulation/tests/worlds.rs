//! Simulated clusters as a test: as many as `cargo xtask simulate` runs. Without the usual harness, so that
//! it shows how far it is.

use skein_simulation::batch::{SEEDS, run_all};
use std::process::ExitCode;

/// What the usual harness is told where no test is to be left out.
const ALL: &str = "--include-ignored";

fn main() -> ExitCode {
    // A name, or another option of the harness: other tests are asked for.
    if std::env::args().skip(1).any(|argument| argument != ALL) {
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
