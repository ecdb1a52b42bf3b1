//! Nothing stays behind.

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use xtask::{cluster::Cluster, wait_until};

/// Hosts end within a moment of their maker.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// A cluster of one node is up within this time.
const UP_TIMEOUT: Duration = Duration::from_secs(90);

/// What a cluster makes on this machine: namespaces, mounts, processes, BPF programs, cgroups.
#[derive(Debug, PartialEq)]
struct Things {
    namespaces: BTreeSet<String>,
    mounts: usize,
    daemons: usize,
    programs: usize,
    cgroups: usize,
}

fn things() -> anyhow::Result<Things> {
    let mut namespaces = BTreeSet::new();
    let mut daemons = 0;
    for process in fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        for kind in ["net", "mnt", "pid"] {
            if let Ok(namespace) = fs::read_link(path.join("ns").join(kind)) {
                namespaces.insert(namespace.display().to_string());
            }
        }
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let is_daemon = ["skein-control", "skein-dataplan", "dockerd", "containerd"];
        daemons += usize::from(is_daemon.iter().any(|daemon| name.starts_with(daemon)));
    }
    let bpftool = Command::new("bpftool").args(["-j", "prog"]).output()?;
    let programs: serde_json::Value = serde_json::from_slice(&bpftool.stdout)?;
    let programs = programs.as_array().context("bpftool lists no programs")?;
    let is_ours = |program: &&serde_json::Value| {
        program["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("skein_"))
    };
    let cgroups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter();
    let cgroups = cgroups.filter_map(|root| fs::read_dir(root).ok()).flatten();
    let is_cgroup = |entry: &Result<fs::DirEntry, _>| {
        let name = entry.as_ref().map(fs::DirEntry::file_name);
        name.is_ok_and(|name| name.to_string_lossy().starts_with("skein-"))
    };
    Ok(Things {
        namespaces,
        mounts: fs::read_to_string("/proc/mounts")?.lines().count(),
        daemons,
        programs: programs.iter().filter(is_ours).count(),
        cgroups: cgroups.filter(is_cgroup).count(),
    })
}

fn await_nothing_left(before: &Things) -> anyhow::Result<()> {
    wait_until("nothing is left", GONE_TIMEOUT, || {
        let after = things()?;
        ensure!(after == *before, "before {before:?}, after {after:?}");
        Ok(())
    })
}

/// `cargo xtask` with a cluster folder of its own, so that a cluster that somebody uses stays.
fn xtask(target: &Path, args: &[&str]) -> anyhow::Result<Child> {
    let mut xtask = Command::new(xtask::own_program()?);
    xtask.args(args).env("CARGO_TARGET_DIR", target);
    Ok(xtask.stdout(Stdio::null()).spawn()?)
}

fn finish(mut child: Child) -> anyhow::Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "xtask failed: {status}");
    Ok(())
}

#[test]
fn a_cluster_taken_down_or_interrupted_leaves_nothing() -> anyhow::Result<()> {
    let own = tempdir()?;
    let before = things()?;
    finish(xtask(&own, &["cluster", "up", "--nodes", "1"])?)?;
    ensure!(things()? != before, "nothing was made");
    finish(xtask(&own, &["cluster", "down"])?)?;
    await_nothing_left(&before)?;

    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut up = xtask(&own, &["cluster", "up", "--nodes", "1"])?;
        wait_until("it begins", UP_TIMEOUT, || {
            ensure!(things()?.programs > before.programs, "no programs yet");
            Ok(())
        })?;
        kill(Pid::from_raw(up.id().cast_signed()), signal)?;
        up.wait()?;
        if signal == Signal::SIGKILL {
            // Nobody was left to clear the folders and cgroups away: the next run does.
            wait_until("its hosts end", GONE_TIMEOUT, || {
                let now = things()?;
                ensure!(now.daemons == before.daemons && now.programs == before.programs);
                Ok(())
            })?;
            finish(xtask(
                &own,
                &["cluster", "up", "--nodes", "1", "--no-init"],
            )?)?;
            finish(xtask(&own, &["cluster", "down"])?)?;
        }
        await_nothing_left(&before)?;
    }
    fs::remove_dir_all(&own)?;
    Ok(())
}

#[test]
fn a_test_that_fails_leaves_nothing() -> anyhow::Result<()> {
    let before = things()?;
    let cluster = skein_tests::swarm("failing", 1, 1)?;
    ensure!(things()? != before, "nothing was made");
    // As an error or a panic in a test would.
    drop::<Cluster>(cluster);
    await_nothing_left(&before)
}

/// A folder to build in, with what is built already.
fn tempdir() -> anyhow::Result<std::path::PathBuf> {
    let target = xtask::target_dir()?;
    let own = target.join("skein-teardown");
    if own.exists() {
        fs::remove_dir_all(&own)?;
    }
    fs::create_dir_all(&own)?;
    for built in ["debug", "x86_64-unknown-linux-gnu"] {
        std::os::unix::fs::symlink(target.join(built), own.join(built))?;
    }
    Ok(own)
}
