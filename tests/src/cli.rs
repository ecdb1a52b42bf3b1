//! The docker CLIs on this machine.

use anyhow::{Context as _, ensure};
use std::{path::Path, process::Command};

/// Where CLIs are: Debian's, which every machine must have, and one that its owner may have put
/// beside it.
const REQUIRED: &str = "/usr/bin/docker";
const OPTIONAL: &str = "/usr/local/bin/docker";

/// An installed docker CLI.
#[derive(Clone, Debug)]
pub struct Cli {
    /// The program.
    pub path: String,
    /// Of the program, such as `20.10.24`.
    pub version: String,
}

/// All that there are. Says which, and which is missing.
///
/// # Errors
/// Debian's is missing, or one does not run.
pub fn installed() -> anyhow::Result<Vec<Cli>> {
    ensure!(
        Path::new(REQUIRED).exists(),
        "{REQUIRED} is missing: run `cargo xtask setup`"
    );
    let mut found = vec![of(REQUIRED)?];
    if Path::new(OPTIONAL).exists() {
        found.push(of(OPTIONAL)?);
    } else {
        println!("SKIPPED: there is no second docker CLI at {OPTIONAL}");
    }
    for cli in &found {
        println!("docker {} is {}", cli.version, cli.path);
    }
    Ok(found)
}

fn of(path: &str) -> anyhow::Result<Cli> {
    let said = Command::new(path)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {path}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // Docker version 20.10.24+dfsg1, build 297e128
    let version = said
        .strip_prefix("Docker version ")
        .and_then(|rest| rest.split([',', '+', ' ']).next())
        .with_context(|| format!("{path} says {said:?} of its version"))?;
    Ok(Cli {
        path: path.to_owned(),
        version: version.to_owned(),
    })
}
