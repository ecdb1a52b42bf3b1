//! Skein's own tools: setup, the kernel programs' build, clusters on one machine, demo, tests,
//! benchmarks.
//!
//! [`cluster`] is a library: the end-to-end tests and the benchmarks make their clusters with it.

pub mod bench;
pub mod check;
pub mod cluster;
pub mod demo;
pub mod ebpf;
pub mod fuzz;
pub mod guard;
pub mod image;
pub mod process;
mod run;
pub mod setup;
pub mod simulate;
pub mod test;

pub use image::IMAGE;
pub use run::{Step, output, wait_until};

use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The workspace's root.
pub fn root() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.parent().map_or(root.clone(), PathBuf::from)
}

/// The program `xtask` itself: this one, or, in a test or a benchmark, the one beside it.
///
/// # Errors
/// It was not built.
pub fn own_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    if own.file_name().is_some_and(|name| name == "xtask") {
        return Ok(own);
    }
    let built = target_dir()?.join(DEBUG).join("xtask");
    anyhow::ensure!(
        built.exists(),
        "{} is missing: run tests and benchmarks by `cargo xtask`",
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
    let target = profile_dir(&own).and_then(Path::parent);
    Ok(target.map_or_else(|| root().join("target"), PathBuf::from))
}

/// Whether this program is built as users build it: benchmarks are.
pub(crate) fn is_release() -> bool {
    let own = std::env::current_exe().unwrap_or_default();
    profile_dir(&own).is_some_and(|dir| dir.ends_with(RELEASE))
}

/// Where the binaries of a build as users do it are, below [`target_dir`].
pub(crate) const RELEASE: &str = "release";
/// Where those of other builds are.
pub(crate) const DEBUG: &str = "debug";

/// Of `<target>/debug/xtask` or `<target>/debug/deps/<test>`: `<target>/debug`.
fn profile_dir(program: &Path) -> Option<&Path> {
    let mut folders = program.ancestors();
    folders.find(|dir| dir.ends_with(DEBUG) || dir.ends_with(RELEASE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_in_the_folder_of_its_profile() {
        for (program, profile) in [
            ("/w/target/debug/xtask", Some("/w/target/debug")),
            ("/w/target/debug/deps/flows-1", Some("/w/target/debug")),
            ("/w/target/release/skein-bench", Some("/w/target/release")),
            ("/release/w/debug/xtask", Some("/release/w/debug")),
            ("/usr/bin/xtask", None),
        ] {
            assert_eq!(profile_dir(Path::new(program)), profile.map(Path::new));
        }
    }
}
