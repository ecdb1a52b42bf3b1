//! Nothing stays behind.

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use skein_tests::swarm;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use xtask::{cluster::cgroup_roots, process::is_alive, wait_until};

/// Hosts end within a moment of their maker.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// A cluster of one node is up within this time, on a loaded machine.
const UP_TIMEOUT: Duration = Duration::from_secs(120);

/// What one cluster has made on this machine. Others may have clusters of theirs.
#[derive(Debug, Default)]
struct Things {
    processes: BTreeSet<String>,
    namespaces: BTreeSet<PathBuf>,
    programs: BTreeSet<u64>,
    cgroups: BTreeSet<PathBuf>,
}

impl Things {
    /// What the cluster in a folder has.
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let record = fs::read_to_string(folder.join("cluster.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        let hosts = record["hosts"].as_array().context("no hosts")?;
        let mut things = Self::default();
        for host in hosts {
            let first = format!("/proc/{}", host["process"]);
            let space = fs::read_link(Path::new(&first).join("ns/pid"))?;
            for process in processes().filter(|process| in_space(process, &space)) {
                things.add_process(&process)?;
            }
            let cgroup = host["cgroup"].as_str().context("no cgroup")?;
            let own = cgroup_roots()?.into_iter().map(|root| root.join(cgroup));
            things.cgroups.extend(own.filter(|own| own.exists()));
        }
        ensure!(!things.processes.is_empty() && !things.cgroups.is_empty());
        Ok(things)
    }

    fn add_process(&mut self, process: &Path) -> anyhow::Result<()> {
        let name = process.file_name().context("no process")?;
        self.processes.insert(name.to_string_lossy().into_owned());
        self.namespaces.extend(namespaces(process));
        for fd in fs::read_dir(process.join("fdinfo")).into_iter().flatten() {
            let Ok(info) = fs::read_to_string(fd?.path()) else {
                continue;
            };
            let ids = info
                .lines()
                .filter_map(|line| line.strip_prefix("prog_id:"));
            self.programs
                .extend(ids.filter_map(|id| id.trim().parse::<u64>().ok()));
        }
        Ok(())
    }

    fn await_end(&self, folder: &Path) -> anyhow::Result<()> {
        wait_until("nothing is left", GONE_TIMEOUT, || {
            let processes = self.processes.iter();
            let left: Vec<_> = processes
                .filter(|id| is_alive(Path::new("/proc").join(id)))
                .collect();
            ensure!(left.is_empty(), "processes {left:?} are left");
            let now: BTreeSet<_> = processes_namespaces();
            let left: Vec<_> = self.namespaces.intersection(&now).collect();
            ensure!(left.is_empty(), "namespaces {left:?} are left");
            let now = programs()?;
            let left: Vec<_> = self.programs.intersection(&now).collect();
            ensure!(left.is_empty(), "programs {left:?} are left");
            let left: Vec<_> = self.cgroups.iter().filter(|path| path.exists()).collect();
            ensure!(left.is_empty(), "cgroups {left:?} are left");
            let mounts = fs::read_to_string("/proc/mounts")?;
            let own = folder.display().to_string();
            ensure!(!mounts.contains(&own), "mounts are left: {mounts}");
            ensure!(!folder.exists(), "{own} is left");
            Ok(())
        })
    }
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_number = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    all.map(|entry| entry.path()).filter(is_number)
}

fn in_space(process: &Path, space: &Path) -> bool {
    fs::read_link(process.join("ns/pid")).is_ok_and(|own| own == space)
}

/// The namespaces of a process that are not this one's own.
fn namespaces(process: &Path) -> BTreeSet<PathBuf> {
    let of = |process: &Path, kind: &str| fs::read_link(process.join("ns").join(kind)).ok();
    let own = Path::new("/proc/self");
    ["net", "mnt", "pid", "uts", "ipc"]
        .into_iter()
        .filter(|kind| of(process, kind) != of(own, kind))
        .filter_map(|kind| of(process, kind))
        .collect()
}

fn processes_namespaces() -> BTreeSet<PathBuf> {
    processes()
        .flat_map(|process| namespaces(&process))
        .collect()
}

fn programs() -> anyhow::Result<BTreeSet<u64>> {
    let listed = Command::new("bpftool").args(["-j", "prog"]).output()?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let listed = listed.as_array().context("bpftool lists no programs")?;
    Ok(listed.iter().filter_map(|one| one["id"].as_u64()).collect())
}

/// `cargo xtask` with clusters of its own, so that one that somebody uses stays.
struct Xtask {
    target: PathBuf,
}

impl Xtask {
    /// With what is built already.
    fn new() -> anyhow::Result<Self> {
        let built = xtask::target_dir()?;
        let target = built.join("skein-teardown");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::create_dir_all(&target)?;
        for folder in ["debug", "x86_64-unknown-linux-gnu"] {
            std::os::unix::fs::symlink(built.join(folder), target.join(folder))?;
        }
        Ok(Self { target })
    }

    fn begin(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut xtask = Command::new(xtask::own_program()?);
        xtask.args(args).env("CARGO_TARGET_DIR", &self.target);
        Ok(xtask.stdout(Stdio::null()).spawn()?)
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<()> {
        let status = self.begin(args)?.wait()?;
        ensure!(status.success(), "xtask {args:?} failed: {status}");
        Ok(())
    }

    fn cluster(&self) -> PathBuf {
        self.target.join("skein-clusters/default")
    }
}

#[test]
fn a_cluster_taken_down_leaves_nothing() -> anyhow::Result<()> {
    let xtask = Xtask::new()?;
    xtask.run(&["cluster", "up", "--nodes", "1"])?;
    let made = Things::of(&xtask.cluster())?;
    ensure!(!made.programs.is_empty(), "no kernel programs in {made:?}");
    // Whatever was done to it.
    for command in ["pause", "start", "kill", "start", "pause"] {
        xtask.run(&["cluster", command, "n1"])?;
    }
    xtask.run(&["cluster", "down"])?;
    made.await_end(&xtask.cluster())?;
    // There is nothing to do, which is no failure.
    xtask.run(&["cluster", "down"])
}

#[test]
fn an_interrupted_run_leaves_nothing() -> anyhow::Result<()> {
    let xtask = Xtask::new()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut up = xtask.begin(&["cluster", "up", "--nodes", "1"])?;
        let made = wait_until("kernel programs are there", UP_TIMEOUT, || {
            let made = Things::of(&xtask.cluster())?;
            ensure!(!made.programs.is_empty());
            Ok(made)
        })?;
        kill(Pid::from_raw(up.id().cast_signed()), signal)?;
        let status = up.wait()?;
        if signal == Signal::SIGKILL {
            // Nobody was left to clear files away: the next run does.
            xtask.run(&["cluster", "up", "--nodes", "1", "--no-init"])?;
            xtask.run(&["cluster", "down"])?;
        } else {
            let shells = 128 + signal as i32;
            ensure!(status.code() == Some(shells), "{signal}: {status}");
        }
        made.await_end(&xtask.cluster())?;
    }
    Ok(())
}

#[test]
fn a_test_that_fails_leaves_nothing() -> anyhow::Result<()> {
    let cluster = swarm("failing", 1, 1)?;
    let folder = xtask::target_dir()?.join("skein-clusters/failing");
    let made = Things::of(&folder)?;
    // As an error or a panic in a test would.
    drop(cluster);
    made.await_end(&folder)
}
