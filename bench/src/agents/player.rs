//! The process that plays the agents, as whoever has started it sees it.

use super::told::Told;
use crate::api::Api;
use anyhow::{Context as _, bail, ensure};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};
use xtask::cluster::Cluster;

/// For all of them to join. A machine that needs longer is too small for this.
const LIMIT: Duration = Duration::from_secs(900);
/// From a change to its arrival; far beyond what is to be held.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// Lines from the agents that wait to be read.
const LINES: usize = 65_536;

/// The process that plays the agents. Dropped, it ends.
pub struct Agents {
    process: Child,
    /// It ends when this is closed.
    input: Option<ChildStdin>,
    told: Receiver<Told>,
    /// Why sessions ended that were to go on.
    ended: Vec<String>,
}

impl Agents {
    /// Starts as many of them outside of the cluster, which join by its first node.
    ///
    /// # Errors
    /// There is no join token, or the process does not start.
    pub fn start(cluster: &Cluster, api: &Api, count: u32, seed: u64) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let manager = cluster.node("n1")?.address();
        let mut command = cluster.client()?.command(&own.to_string_lossy());
        command.args(["agents", "--manager", &format!("{manager}:2377")]);
        command.args(["--token", &api.worker_token()?]);
        command.args(["--count", &count.to_string(), "--seed", &seed.to_string()]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the agents")?;
        let input = process.stdin.take();
        let output = process
            .stdout
            .take()
            .context("the agents cannot tell anything")?;
        Ok(Self {
            process,
            input,
            told: read(output),
            ended: Vec::new(),
        })
    }

    /// Waits for the next line that is not of sessions.
    fn next(&mut self, limit: Duration) -> anyhow::Result<Told> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let told = self.told.recv_timeout(left);
            let told =
                told.with_context(|| format!("the agents told nothing for {} s", limit.as_secs()))?;
            match told {
                Told::Registered => {}
                Told::Ended { reason } => self.ended.push(reason),
                Told::Refused { reason } => bail!("an agent could not join: {reason}"),
                told => return Ok(told),
            }
        }
    }

    /// Waits until all have joined.
    ///
    /// # Errors
    /// One is refused, or they do not in time.
    pub fn await_joined(&mut self, count: u32) -> anyhow::Result<()> {
        for n in 0..count {
            let told = self
                .next(LIMIT)
                .with_context(|| format!("{n} of {count} agents joined"))?;
            ensure!(
                told == Told::Joined,
                "before all had joined, the agents told {told:?}"
            );
        }
        Ok(())
    }

    /// Milliseconds from `since` until an agent is told to run, or to end, a task of a service.
    ///
    /// # Errors
    /// None is in time.
    pub fn await_arrival(
        &mut self,
        service: &str,
        runs: bool,
        since: Instant,
    ) -> anyhow::Result<f64> {
        let wanted = Told::Arrived {
            service: service.to_owned(),
            runs,
        };
        loop {
            let told = self.next(ARRIVAL_LIMIT);
            let told = told.with_context(|| format!("a task of {service} did not arrive"))?;
            // Tasks are told of more than once: to be ready, then to run.
            if told == wanted {
                return Ok(since.elapsed().as_secs_f64() * 1e3);
            }
        }
    }

    /// Ends it; returns why sessions ended before.
    ///
    /// # Errors
    /// It failed.
    pub fn end(mut self) -> anyhow::Result<Vec<String>> {
        while let Ok(told) = self.told.try_recv() {
            if let Told::Ended { reason } = told {
                self.ended.push(reason);
            }
        }
        drop(self.input.take());
        let status = self.process.wait().context("cannot wait for the agents")?;
        ensure!(status.success(), "the agents ended with {status}");
        Ok(std::mem::take(&mut self.ended))
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // It has ended already, or nobody needs it any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads lines as they come; it ends with the process, or when nobody takes them.
fn read(output: ChildStdout) -> Receiver<Told> {
    let (sender, receiver) = sync_channel(LINES);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match Told::read(&line) {
                Ok(told) => {
                    if sender.send(told).is_err() {
                        return;
                    }
                }
                Err(error) => eprintln!("{error:#}"),
            }
        }
    });
    receiver
}
