//! The daemons and the demo server, built as the caller is.

use crate::run::{Step, run};
use std::{path::PathBuf, process::Command};

/// Builds, and returns the folder of the binaries.
///
/// # Errors
/// What the compiler says.
pub fn daemons() -> anyhow::Result<PathBuf> {
    build(crate::is_release())
}

/// Builds as users do, and the benchmarks with it, so that all use the same builds of the libraries.
///
/// # Errors
/// What the compiler says.
pub(crate) fn release() -> anyhow::Result<PathBuf> {
    build(true)
}

fn build(release: bool) -> anyhow::Result<PathBuf> {
    let step = Step::begin_commands("build skein-control, skein-dataplane and the demo server");
    let target = crate::target_dir()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build
        // As the tests are built, so that both use the same builds of the libraries.
        .args(["build", "--workspace", "--bins", "--exclude", "xtask"])
        .args(if release {
            // No benchmark simulates.
            &["--release", "--exclude", "skein-simulation"][..]
        } else {
            &["--exclude", "skein-bench"]
        })
        .current_dir(crate::root())
        .env("CARGO_TARGET_DIR", &target);
    for (name, _) in std::env::vars_os() {
        // What cargo says of the calling test: build scripts that depend on it would run again, and
        // all that depends on them be built again.
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            build.env_remove(name);
        }
    }
    run(&mut build)?;
    crate::image::build_demo()?;
    step.end("built");
    let profile = if release {
        crate::RELEASE
    } else {
        crate::DEBUG
    };
    Ok(target.join(profile))
}
