//! The nodes form a swarm, by the docker CLI as a user would do it.

use super::{Daemon, Host};
use crate::run::{Step, wait_until};
use anyhow::{Context as _, ensure};
use std::time::Duration;

/// Joining takes a certificate, a place in the Raft group, and a first heartbeat.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the first node a manager, lets the others join, the first `managers` as such, and waits until
/// all are ready. The swarm is Skein's, or the engines' own: `of` is the daemon that is asked.
///
/// # Errors
/// There is no node, one refuses, or not all are ready in time.
pub fn form(nodes: &[&Host], managers: usize, of: Daemon) -> anyhow::Result<()> {
    let step = Step::begin("form a swarm");
    let (first, others) = nodes.split_first().context("a swarm without nodes")?;
    let own = first.address().to_string();
    first.docker_of(of, &["swarm", "init", "--advertise-addr", &own])?;
    let address = format!("{own}:2377");
    for (host, n) in others.iter().zip(2..) {
        let role = if n <= managers { "manager" } else { "worker" };
        let token = first.docker_of(of, &["swarm", "join-token", "-q", role])?;
        host.docker_of(of, &["swarm", "join", "--token", token.trim(), &address])?;
    }
    let (all, format) = (nodes.len(), "{{.Status}} {{.ManagerStatus}}");
    wait_until("all nodes are ready", FORM_TIMEOUT, || {
        let nodes = first.docker_of(of, &["node", "ls", "--format", format])?;
        let ready = nodes
            .lines()
            .filter(|line| line.starts_with("Ready"))
            .count();
        let reachable = nodes
            .lines()
            .filter(|line| line.ends_with("Leader") || line.ends_with("Reachable"))
            .count();
        ensure!(
            ready == all && reachable == managers,
            "docker node ls says: {nodes}"
        );
        Ok(())
    })?;
    step.end(&format!("{managers} managers of {all} nodes"));
    Ok(())
}
