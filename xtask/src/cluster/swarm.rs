//! The nodes form a swarm, by the docker CLI as a user would do it.

use super::{Cluster, Shape};
use crate::run::{Step, wait_until};
use anyhow::ensure;
use std::time::Duration;

/// Joining takes a certificate, a place in the Raft group, and a first heartbeat.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the first node a manager, lets the others join, and waits until all are ready.
pub fn form(cluster: &Cluster, shape: &Shape) -> anyhow::Result<()> {
    let step = Step::begin("form a swarm");
    let first = cluster.host("n1")?;
    first.docker(&[
        "swarm",
        "init",
        "--advertise-addr",
        &first.address().to_string(),
    ])?;
    let address = format!("{}:2377", first.address());
    for (host, n) in cluster.nodes().zip(1..).skip(1) {
        let role = if n <= shape.managers {
            "manager"
        } else {
            "worker"
        };
        let token = first.docker(&["swarm", "join-token", "-q", role])?;
        host.docker(&["swarm", "join", "--token", token.trim(), &address])?;
    }
    wait_until("all nodes are ready", FORM_TIMEOUT, || {
        let nodes = first.docker(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"])?;
        let ready = nodes
            .lines()
            .filter(|line| line.starts_with("Ready"))
            .count();
        let managers = nodes
            .lines()
            .filter(|line| line.ends_with("Leader") || line.ends_with("Reachable"))
            .count();
        ensure!(
            ready == usize::from(shape.nodes) && managers == usize::from(shape.managers),
            "docker node ls says: {nodes}"
        );
        Ok(())
    })?;
    step.end(&format!(
        "{} managers of {} nodes",
        shape.managers, shape.nodes
    ));
    Ok(())
}
