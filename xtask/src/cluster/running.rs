//! The daemons that run on a host: started, waited for, killed, read.

use super::{Attach, Daemon, Forwarding, Host};
use crate::{process::is_alive, run::wait_until};
use anyhow::{Context as _, bail, ensure};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// From a daemon's start to its socket: engines on a loaded machine take their time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The option that is a program of the dataplane, in place of the one that was built.
const PROGRAM: &str = "program";
/// From a daemon's kill to its end.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

impl Host {
    /// Options of the host's dataplane, by a file each.
    fn option_path(&self, option: &str) -> PathBuf {
        self.folder.join(option)
    }

    fn set_option(&self, option: &str, value: &str) -> anyhow::Result<()> {
        let path = self.option_path(option);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Chooses the hook that serves uplinks, from the next start of its dataplane on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn set_attach(&self, attach: Attach) -> anyhow::Result<()> {
        self.set_option("attach", attach.name())
    }

    /// Chooses the forwarding to other nodes, from the next start of its dataplane on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn set_forwarding(&self, forwarding: Forwarding) -> anyhow::Result<()> {
        self.set_option("forwarding", forwarding.name())
    }

    /// Chooses another build of the dataplane, from its next start on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn set_dataplane(&self, program: &Path) -> anyhow::Result<()> {
        self.set_option(PROGRAM, &program.to_string_lossy())
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
        let mut line = daemon.command(&self.binaries, &containers);
        if daemon == Daemon::Dataplane
            && let Ok(chosen) = fs::read_to_string(self.option_path(PROGRAM))
        {
            line[0] = chosen;
        }
        command.args(line);
        if daemon == Daemon::Dataplane {
            for (option, default) in [
                ("attach", Attach::default().name()),
                ("forwarding", Forwarding::default().name()),
            ] {
                // None was chosen.
                let chosen = fs::read_to_string(self.option_path(option));
                command.arg(format!("--{option}"));
                command.arg(chosen.as_deref().unwrap_or(default));
            }
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
            // Of one that has not written its ID yet, nothing is known.
            if self.pid_of(daemon).is_some() && !self.is_running(daemon) {
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
        self.process_of(daemon).is_some()
    }

    /// The folder of /proc of a daemon that runs, as seen from outside.
    pub fn process_of(&self, daemon: Daemon) -> Option<PathBuf> {
        let process = self.outside(&format!("/proc/{}", self.pid_of(daemon)?));
        is_alive(&process).then_some(process)
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
        self.end(daemons, "KILL")
    }

    /// Stops daemons as a service manager does, and waits for their ends.
    ///
    /// # Errors
    /// One does not end in time, or the host is gone.
    pub fn stop(&self, daemons: &[Daemon]) -> anyhow::Result<()> {
        self.end(daemons, "TERM")
    }

    fn end(&self, daemons: &[Daemon], signal: &str) -> anyhow::Result<()> {
        for daemon in daemons.iter().filter(|daemon| self.is_running(**daemon)) {
            let pid = self.pid_of(*daemon).context("a daemon without a number")?;
            self.run(&format!("kill -{signal} {pid}"))?;
            wait_until("a daemon ends", KILL_TIMEOUT, || {
                ensure!(!self.is_running(*daemon), "{} still runs", daemon.name());
                Ok(())
            })?;
        }
        Ok(())
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
