//! One host: what it has of its own, and commands on it.

use super::{
    Daemon,
    cgroup::{cgroup_roots, cgroup2_root, is_frozen, remove_cgroup, set_frozen},
    hold::{PRIVATE, Tie},
};
use crate::run::{output, wait_until};
use anyhow::{Context as _, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// From the kill of a host's first process to the end of the last.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A host of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    pub(super) name: String,
    address: Ipv4Addr,
    /// Its first process.
    process: i32,
    /// The process that waits for it.
    keeper: i32,
    pub(super) folder: PathBuf,
    pub(super) binaries: PathBuf,
    /// Its cgroup, below the root of each hierarchy.
    pub(super) cgroup: String,
}

impl Host {
    pub(super) fn make(
        cluster: &Path,
        name: &str,
        address: Ipv4Addr,
        binaries: &Path,
    ) -> anyhow::Result<(Self, Tie)> {
        let folder = cluster.join(name);
        for (private, _) in PRIVATE {
            fs::create_dir_all(folder.join(private))?;
        }
        fs::create_dir_all("/etc/docker")?;
        fs::create_dir_all(cluster.join("logs"))?;
        // One process may have several clusters.
        let of = cluster.file_name().unwrap_or_default().to_string_lossy();
        let cgroup = format!("skein-{}-{of}-{name}", std::process::id());
        let own = cgroup2_root()?.join(&cgroup);
        fs::create_dir_all(own.join("daemons"))
            .with_context(|| format!("cannot make the cgroup {}", own.display()))?;
        let mut holder = Command::new(crate::own_program()?);
        holder
            .arg("hold")
            .arg("--name")
            .arg(name)
            .arg("--folder")
            .arg(&folder);
        holder.arg("--cgroup").arg(&own).stdin(Stdio::piped());
        // Ctrl-C in the terminal is for the process that made it.
        holder.process_group(0);
        let log = fs::File::create(cluster.join("logs").join(format!("{name}.host")))?;
        let mut holder = holder.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let log = cluster.join("logs").join(format!("{name}.host"));
        let process = line.trim().parse().with_context(|| {
            let said = fs::read_to_string(log).unwrap_or_default();
            format!("host {name} did not start: {said}")
        })?;
        let tie = holder.stdin.take().context("no way to tie a host")?;
        let host = Self {
            name: name.to_owned(),
            address,
            process,
            keeper: holder.id().cast_signed(),
            folder,
            binaries: binaries.to_owned(),
            cgroup,
        };
        Ok((host, Tie(tie)))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its first process, as seen from outside.
    pub fn process(&self) -> i32 {
        self.process
    }

    /// Its network namespace.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.process))
    }

    /// Whether it runs the daemons.
    pub fn is_node(&self) -> bool {
        self.name.starts_with('n')
    }

    /// Skein's Docker API, as seen from outside.
    pub fn socket(&self) -> PathBuf {
        self.socket_of(Daemon::Control)
    }

    /// A daemon's socket, as seen from outside.
    pub fn socket_of(&self, daemon: Daemon) -> PathBuf {
        self.outside(daemon.socket())
    }

    /// The folder with what was built for it.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// A path of the host, as seen from outside.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process))
    }

    /// A command on the host, in its cgroup.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process.to_string());
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--"]);
        // `skein`, by its name as on users' machines.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.binaries.display()));
        command.args([
            "sh",
            "-c",
            // Into the host's cgroup first: it decides what is a local client.
            "for d in /sys/fs/cgroup/unified /sys/fs/cgroup; do \
             [ -e $d/daemons/cgroup.procs ] && { echo 0 > $d/daemons/cgroup.procs; break; }; done; \
             exec \"$@\"",
            "sh",
            program,
        ]);
        command
    }

    /// Runs a command line without quoting on the host, and returns what it printed.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        output(self.command(program).args(words))
    }

    /// The same through a shell.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn shell(&self, script: &str) -> anyhow::Result<String> {
        output(self.command("sh").args(["-c", script]))
    }

    /// Runs the docker CLI against Skein on this node.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn docker(&self, args: &[&str]) -> anyhow::Result<String> {
        self.docker_of(Daemon::Control, args)
    }

    /// Runs the docker CLI against the node's engine, past Skein.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn engine(&self, args: &[&str]) -> anyhow::Result<String> {
        self.docker_of(Daemon::Engine, args)
    }

    /// Runs the docker CLI against one of the node's daemons that serve its API.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn docker_of(&self, daemon: Daemon, args: &[&str]) -> anyhow::Result<String> {
        self.docker_at("docker", daemon, args)
    }

    /// Runs one of several docker CLIs, by its path, against Skein on this node.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn docker_by(&self, cli: &str, args: &[&str]) -> anyhow::Result<String> {
        self.docker_at(cli, Daemon::Control, args)
    }

    fn docker_at(&self, cli: &str, daemon: Daemon, args: &[&str]) -> anyhow::Result<String> {
        let mut docker = self.command(cli);
        docker
            .arg("--host")
            .arg(format!("unix://{}", daemon.socket()));
        output(docker.args(args))
    }

    /// Stops all its processes where they are.
    ///
    /// # Errors
    /// The host is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        set_frozen(&self.cgroup, true)
    }

    /// Whether its processes are stopped.
    ///
    /// # Errors
    /// The host is gone.
    pub fn is_paused(&self) -> anyhow::Result<bool> {
        is_frozen(&self.cgroup)
    }

    pub(super) fn resume(&self) -> anyhow::Result<()> {
        set_frozen(&self.cgroup, false)
    }

    /// Whether its keeper runs still.
    pub(super) fn is_kept(&self) -> bool {
        // The keeper's number might be another's by now: so ours is asked for by name and folder.
        let folder = self.folder.display().to_string();
        fs::read_to_string(format!("/proc/{}/cmdline", self.keeper))
            .is_ok_and(|line| line.contains("hold") && line.contains(&folder))
    }

    /// Ends everything on it, and removes what it had.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        if self.is_kept() {
            let _ = kill(Pid::from_raw(self.process), Signal::SIGKILL);
            let gone = format!("/proc/{}/ns/pid", self.process);
            wait_until("the host ends", REMOVE_TIMEOUT, || {
                ensure!(
                    fs::metadata(&gone).is_err(),
                    "host {} is there still",
                    self.name
                );
                Ok(())
            })?;
            // Ours or another process's child: either way it ends now.
            let _ = waitpid(Pid::from_raw(self.keeper), None);
        }
        for root in cgroup_roots()? {
            remove_cgroup(&root.join(&self.cgroup))?;
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}
