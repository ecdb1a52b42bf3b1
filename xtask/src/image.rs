//! The demo image: one static program.

use crate::{
    cluster::Host,
    run::{run, sh},
};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Name of the image in every engine.
pub const IMAGE: &str = "skein-demo";

/// Static, so that the image is one file.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the demo server.
pub fn build_demo() -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build
        .args(["build", "-p", "skein-demo", "--target", TARGET])
        .current_dir(crate::root())
        .env("CARGO_TARGET_DIR", crate::target_dir()?)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut build)
}

/// The demo server's program, which is a client of it, too: `skein-demo --help`.
///
/// # Errors
/// It was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = crate::target_dir()?.join(TARGET).join("debug/skein-demo");
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// Imports the demo server, and a busybox to look around with, into a node's engine.
///
/// # Errors
/// The engine refuses.
pub fn import(host: &Host) -> anyhow::Result<()> {
    let folder = crate::target_dir()?.join("skein-image");
    // Others may bring a cluster up at the same time: one writes, the next reads whole files.
    let lock = fs::File::create(folder.with_extension("lock"))?;
    lock.lock().context("cannot lock the image's folder")?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for dir in ["tmp", "etc", "proc", "sys", "dev", "data"] {
        fs::create_dir_all(folder.join(dir))?;
    }
    fs::copy(binary()?, bin.join("skein-demo"))?;
    fs::copy("/bin/busybox", bin.join("busybox"))
        .context("there is no /bin/busybox: run `cargo xtask setup`")?;
    for applet in [
        "sh", "sleep", "wget", "nslookup", "ping", "cat", "ls", "echo", "nc", "id", "env",
        "hostname", "ip", "true", "false", "ps", "kill",
    ] {
        let link = bin.join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", &link)?;
        }
    }
    let tar = folder.with_extension("tar");
    sh(&format!(
        "tar -C {} -cf {} .",
        folder.display(),
        tar.display()
    ))?;
    let mut import = host.command("docker");
    import.args(["--host", "unix:///run/docker.sock", "import"]);
    import.args(["--change", "ENTRYPOINT [\"/bin/skein-demo\"]"]);
    import.args(["--change", "ENV PATH=/bin"]);
    import.args(["--change", "EXPOSE 8080"]);
    import.args(["-", &format!("{IMAGE}:latest")]);
    run(import.stdin(fs::File::open(&tar)?).stdout(Stdio::null()))
}
