//! One host: a process with namespaces of its own, and what is done on it.

use super::{Attach, Daemon};
use crate::run::{output, sh, wait_until};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, sethostname},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

/// From a daemon's start to its socket: engines on a loaded machine take their time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From the kill of a host's first process to the end of the last.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A host of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    /// Its first process.
    process: i32,
    /// The process that waits for it.
    keeper: i32,
    folder: PathBuf,
    binaries: PathBuf,
    /// Its cgroup, below the root of each hierarchy.
    cgroup: String,
}

/// Arguments of the process that becomes a host.
#[derive(Args)]
pub struct HoldArgs {
    /// Host name.
    #[arg(long)]
    name: String,
    /// Folder with what is private to it.
    #[arg(long)]
    folder: PathBuf,
    /// Its directory in the cgroup v2 hierarchy.
    #[arg(long)]
    cgroup: PathBuf,
}

/// What a host has of its own, below its folder.
const PRIVATE: [(&str, &str); 2] = [("var-lib", "/var/lib"), ("etc-docker", "/etc/docker")];
/// Where a host sees its own part of the cgroup v2 hierarchy.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup/unified";

/// What unties a host from the process that made it, written to its keeper's standard input.
const UNTIE: &[u8] = b"!";

/// What ties a host to this process: if it ends, however it does, so does the host.
pub(super) struct Tie(ChildStdin);

impl Tie {
    /// The host outlives this process.
    pub(super) fn untie(mut self) -> anyhow::Result<()> {
        let written = self.0.write_all(UNTIE);
        written.context("a host ended before the cluster was whole")
    }
}

/// The process that makes a host and waits for it. It prints the number of the host's first process
/// when that is ready.
///
/// # Errors
/// Namespaces or mounts are refused.
pub fn hold(args: &HoldArgs) -> anyhow::Result<()> {
    // In the new mount namespace the cgroup's path is hidden by the host's own: so it is opened now.
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).context("the kernel refuses new namespaces")?;
    let (mut ready, tell) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            drop(ready);
            let end = be_host(args, tell).map(drop);
            end.with_context(|| format!("host {}", args.name))
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut said = [0];
            ready
                .read_exact(&mut said)
                .context("the host ended before it was ready")?;
            println!("{child}");
            // No thread may be made here: it would belong to the new pid namespace.
            let input = std::io::stdin();
            fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let mut tied = true;
            while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
                if tied {
                    match (&input).read(&mut said) {
                        // Whoever made the host has ended.
                        Ok(0) => drop(kill(child, Signal::SIGKILL)),
                        Ok(_) => tied = false,
                        Err(_) => {}
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
    }
}

fn be_host(args: &HoldArgs, mut tell: UnixStream) -> anyhow::Result<std::convert::Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    sethostname(&args.name)?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
    for (name, at) in PRIVATE {
        let from = args.folder.join(name);
        mount(Some(&from), at, none, MsFlags::MS_BIND, none).with_context(|| at.to_owned())?;
    }
    let mode = Some("mode=755");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), mode).context("/run")?;
    for folder in [
        "/run/skein",
        "/run/docker/plugins",
        "/run/pids",
        "/run/lock",
    ] {
        fs::create_dir_all(folder)?;
    }
    let bpffs = "/sys/fs/bpf";
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), none).context(bpffs)?;
    let bind = MsFlags::MS_BIND;
    mount(Some(&args.cgroup), CGROUP_MOUNT, none, bind, none)
        .or_else(|_| mount(Some(&args.cgroup), "/sys/fs/cgroup", none, bind, none))
        .context("cannot show the host its cgroup")?;
    tell.write_all(b"!")?;
    drop(tell);
    loop {
        // The first process inherits orphans; there are none only before the first start.
        if waitpid(None, None).is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Where the cgroup v2 hierarchy is mounted on this machine.
fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        (filesystem.starts_with("cgroup2 ") && at.starts_with("/sys/fs/cgroup")).then_some(at)
    });
    if let Some(found) = found {
        return Ok(found.into());
    }
    let at = Path::new(CGROUP_MOUNT);
    fs::create_dir_all(at).context("cannot make a mount point for cgroup v2")?;
    sh(&format!("mount -t cgroup2 none {CGROUP_MOUNT}"))?;
    Ok(at.into())
}

/// All cgroup hierarchies: the v1 controllers, and v2.
fn cgroup_roots() -> anyhow::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let roots = mounts.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup").then(|| at.into())
    });
    Ok(roots.collect())
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

    /// Whether it runs the daemons.
    pub fn is_node(&self) -> bool {
        self.name.starts_with('n')
    }

    /// Skein's Docker API, as seen from outside.
    pub fn socket(&self) -> PathBuf {
        self.outside(Daemon::Control.socket())
    }

    fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process))
    }

    /// A command on the host, in its cgroup.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process.to_string());
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--"]);
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
        self.docker_at("docker", Daemon::Control, args)
    }

    /// Runs the docker CLI against the node's engine, past Skein.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn engine(&self, args: &[&str]) -> anyhow::Result<String> {
        self.docker_at("docker", Daemon::Engine, args)
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

    fn attach_path(&self) -> PathBuf {
        self.folder.join("attach")
    }

    /// Chooses the hook that serves uplinks, from the next start of its dataplane on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn set_attach(&self, attach: Attach) -> anyhow::Result<()> {
        let path = self.attach_path();
        fs::write(&path, attach.name()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts daemons in the order given, those that do not run, and waits until each is ready.
    ///
    /// # Errors
    /// One ends, or is not ready in time; with the end of its log.
    pub fn start(&self, daemons: &[Daemon]) -> anyhow::Result<()> {
        for daemon in daemons {
            if !self.is_running(*daemon) {
                self.spawn(*daemon)?;
            }
            self.wait_for(*daemon)?;
        }
        Ok(())
    }

    fn spawn(&self, daemon: Daemon) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path(daemon))?;
        // What an earlier one left would look like a daemon that is ready.
        let (socket, pid) = (daemon.socket(), pid_file(daemon));
        self.run(&format!("rm -f {socket} {pid} /run/docker.pid"))?;
        let containers = format!("/{}/containers", self.cgroup);
        let mut command = self.command("sh");
        command.args(["-c", "echo $$ > $0; exec \"$@\""]);
        command.arg(pid_file(daemon));
        command.args(daemon.command(&self.binaries, &containers));
        if daemon == Daemon::Dataplane {
            let attach = fs::read_to_string(self.attach_path());
            command
                .arg("--attach")
                .arg(attach.as_deref().unwrap_or(Attach::default().name()));
        }
        command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        command
            .spawn()
            .with_context(|| format!("cannot start {} on {}", daemon.name(), self.name))?;
        Ok(())
    }

    fn wait_for(&self, daemon: Daemon) -> anyhow::Result<()> {
        let what = format!("{} on {} is ready", daemon.name(), self.name);
        let socket = self.outside(daemon.socket());
        let ready = wait_until(&what, START_TIMEOUT, || {
            if !self.is_running(daemon) && self.outside(&pid_file(daemon)).exists() {
                return Ok(Err("it ended"));
            }
            let connection = UnixStream::connect(&socket)?;
            if daemon != Daemon::Dataplane {
                ping(connection)?;
            }
            Ok(Ok(()))
        })
        .map_err(|error| error.context(self.end_of_log(daemon)))?;
        ready.map_err(|why| anyhow::anyhow!("{what}: {why}: {}", self.end_of_log(daemon)))
    }

    fn end_of_log(&self, daemon: Daemon) -> String {
        let log = self.log(daemon).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Whether a daemon runs.
    pub fn is_running(&self, daemon: Daemon) -> bool {
        let process = |pid| self.outside(&format!("/proc/{pid}"));
        self.pid_of(daemon)
            .is_some_and(|pid| is_alive(process(pid)))
    }

    fn pid_of(&self, daemon: Daemon) -> Option<i32> {
        let pid = fs::read_to_string(self.outside(&pid_file(daemon))).ok()?;
        pid.trim().parse().ok()
    }

    /// Names of the daemons that run.
    pub fn running(&self) -> Vec<&'static str> {
        let running = Daemon::ALL
            .iter()
            .filter(|daemon| self.is_running(**daemon));
        running.map(|daemon| daemon.name()).collect()
    }

    /// Kills daemons at once.
    ///
    /// # Errors
    /// The host is gone.
    pub fn kill(&self, daemons: &[Daemon]) -> anyhow::Result<()> {
        for daemon in daemons.iter().filter(|daemon| self.is_running(**daemon)) {
            let pid = self.pid_of(*daemon).context("a daemon without a number")?;
            self.run(&format!("kill -9 {pid}"))?;
            wait_until("a killed daemon ends", REMOVE_TIMEOUT, || {
                ensure!(!self.is_running(*daemon), "{} still runs", daemon.name());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Stops all its processes where they are.
    ///
    /// # Errors
    /// The host is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        // All but the first process and the one that says it.
        self.shell("kill -STOP -1").map(drop)
    }

    pub(super) fn resume(&self) -> anyhow::Result<()> {
        self.shell("kill -CONT -1").map(drop)
    }

    fn log_path(&self, daemon: Daemon) -> PathBuf {
        let logs = self.folder.parent().unwrap_or(&self.folder).join("logs");
        logs.join(format!("{}.{}", self.name, daemon.name()))
    }

    /// What a daemon has said so far.
    ///
    /// # Errors
    /// It never started.
    pub fn log(&self, daemon: Daemon) -> anyhow::Result<String> {
        let path = self.log_path(daemon);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
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

/// Whether the process of a folder of /proc runs. A zombie runs no more.
pub(super) fn is_alive(process: impl AsRef<Path>) -> bool {
    let stat = fs::read_to_string(process.as_ref().join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn pid_file(daemon: Daemon) -> String {
    format!("/run/pids/{}", daemon.name())
}

/// Asks an HTTP server of the Docker API whether it is there.
fn ping(mut connection: UnixStream) -> anyhow::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.lines().next() {
        Some(line) if line.contains(" 200 ") => Ok(()),
        line => bail!("it answers {line:?}"),
    }
}

/// Removes a cgroup and those below it, deepest first; processes in it may take a moment to go.
fn remove_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    wait_until("a cgroup empties", REMOVE_TIMEOUT, || {
        fs::remove_dir(cgroup).with_context(|| format!("cannot remove {}", cgroup.display()))
    })
}
