//! Skein's own tools: setup, the kernel programs' build, clusters on one machine, demo, tests.
//!
//! [`cluster`] is a library: the end-to-end tests and the benchmarks make their clusters with it.

pub mod check;
pub mod cluster;
pub mod demo;
pub mod ebpf;
pub mod guard;
mod image;
pub mod process;
mod run;
pub mod setup;
pub mod test;

pub use image::IMAGE;
pub use run::{Step, output, wait_until};

use anyhow::Context as _;
use std::path::PathBuf;

/// The workspace's root.
pub fn root() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.parent().map_or(root.clone(), PathBuf::from)
}

/// The program `xtask` itself: this one, or, in a test, the one beside it.
///
/// # Errors
/// It was not built.
pub fn own_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    if own.file_name().is_some_and(|name| name == "xtask") {
        return Ok(own);
    }
    let built = target_dir()?.join("debug/xtask");
    anyhow::ensure!(
        built.exists(),
        "{} is missing: run the tests with `cargo xtask test`",
        built.display()
    );
    Ok(built)
}

/// Where cargo builds: from this program's own place.
///
/// # Errors
/// This program's place is unknown.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(std::path::absolute(dir)?);
    }
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    // <target>/debug/xtask, <target>/debug/deps/<test>
    let profile = own.ancestors().find(|dir| {
        dir.file_name()
            .is_some_and(|name| name == "debug" || name == "release")
    });
    let target = profile.and_then(|profile| profile.parent());
    Ok(target.map_or_else(|| root().join("target"), PathBuf::from))
}
