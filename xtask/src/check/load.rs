//! Requests that go on while something happens.

use crate::{
    cluster::{Cluster, Host},
    run::output_within,
};
use anyhow::{Context as _, ensure};
use std::{
    process::{Child, Stdio},
    time::Duration,
};

/// How much longer than asked a load may take: its last request, and a loaded machine.
const MARGIN: Duration = Duration::from_secs(30);

/// Requests one after the other from the client to one node, a connection each, for some seconds.
pub struct Load {
    process: Child,
    limit: Duration,
}

impl Load {
    /// Begins.
    ///
    /// # Errors
    /// The client cannot be entered.
    pub fn begin(cluster: &Cluster, node: &Host, port: u16, seconds: u32) -> anyhow::Result<Self> {
        let script = format!(
            "ok=0; bad=0; end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do \
             if said=$(curl -sS -o /dev/null -m 2 http://{}:{port}/ 2>&1); then ok=$((ok+1)); \
             else bad=$((bad+1)); echo \"$(date +%T.%N) $said\"; fi; done; echo $ok $bad",
            node.address()
        );
        let mut load = cluster.client()?.command("sh");
        let load = load.args(["-c", &script]).stdout(Stdio::piped());
        Ok(Self {
            process: load.spawn()?,
            limit: Duration::from_secs(seconds.into()) + MARGIN,
        })
    }

    /// How many were answered; one that was not is an error.
    ///
    /// # Errors
    /// A request failed, or none was made.
    pub fn end(self) -> anyhow::Result<String> {
        let Counts { ok, bad, said } = self.counts()?;
        ensure!(
            bad == 0 && ok != 0,
            "{bad} requests failed, {ok} were answered: {said}"
        );
        Ok(format!("{ok} of {ok} requests answered"))
    }

    /// How many were answered, and how many were not.
    ///
    /// # Errors
    /// The load did not come to its end.
    pub fn counts(self) -> anyhow::Result<Counts> {
        let output = output_within(self.process, self.limit).context("requests under load")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = said.lines().last().and_then(|line| line.split_once(' '));
        let (ok, bad) = counts.context("the load did not end")?;
        Ok(Counts {
            ok: ok.parse()?,
            bad: bad.parse()?,
            said,
        })
    }
}

/// What became of the requests of a load.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Answered.
    pub ok: usize,
    /// Not answered.
    pub bad: usize,
    /// A line for each that was not: when, and what curl said of it. Then the counts.
    pub said: String,
}
