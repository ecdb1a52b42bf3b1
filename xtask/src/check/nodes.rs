//! The nodes of a swarm, as the CLI shows them.

use crate::cluster::Host;
use anyhow::Context as _;

/// The name of the node that leads the managers, as `host` sees it.
///
/// # Errors
/// Nobody leads.
pub fn leader(host: &Host) -> anyhow::Result<String> {
    let format = "{{.Hostname}} {{.ManagerStatus}}";
    let nodes = host.docker(&["node", "ls", "--format", format])?;
    let leader = nodes.lines().find_map(|line| line.strip_suffix(" Leader"));
    Ok(leader.context("no manager leads")?.to_owned())
}
