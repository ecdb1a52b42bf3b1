//! Skein's end-to-end suites: every test has a cluster of its own, of network namespaces, with real
//! engines, real docker CLIs and real clients. `cargo xtask test` runs them.

pub mod api;
pub mod bulk;
pub mod cli;
pub mod kernel;
pub mod ledger;
pub mod load;
pub mod other_build;
pub mod parity;
pub mod plugin;
pub mod sockets;

use anyhow::Context as _;
use xtask::cluster::{Attach, Cluster, Host, Shape};

/// How often something is done again: `usual` times, or as often as `SKEIN_ROUNDS` says, for a longer look.
///
/// # Errors
/// It says no number.
pub fn rounds(usual: u32) -> anyhow::Result<u32> {
    from_env("SKEIN_ROUNDS", usual)
}

/// A number that whoever runs the tests may say.
pub(crate) fn from_env(name: &str, usual: u32) -> anyhow::Result<u32> {
    match std::env::var(name) {
        Ok(said) => said.parse().with_context(|| format!("{name} is {said:?}")),
        Err(_) => Ok(usual),
    }
}

/// Nodes outside of any swarm that are there for one test.
///
/// # Errors
/// They do not come up.
pub fn outsiders(name: &str, nodes: u8) -> anyhow::Result<Cluster> {
    let shape = Shape {
        nodes,
        managers: 1,
        init: false,
        attach: Attach::Auto,
    };
    Cluster::up(name, &shape)
}

/// A swarm of `nodes` nodes, the first `managers` of them managers, that is there for one test.
///
/// # Errors
/// It does not come up.
pub fn swarm(name: &str, nodes: u8, managers: u8) -> anyhow::Result<Cluster> {
    let shape = Shape {
        nodes,
        managers,
        init: true,
        attach: Attach::Auto,
    };
    Cluster::up(name, &shape)
}

/// Makes an overlay of one subnet, through the CLI.
///
/// # Errors
/// It was refused.
pub fn overlay(manager: &Host, name: &str, subnet: &str) -> anyhow::Result<()> {
    let create = [
        "network", "create", "-d", "overlay", "--subnet", subnet, name,
    ];
    manager.docker(&create)?;
    Ok(())
}
