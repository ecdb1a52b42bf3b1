//! Simulated clusters: the real managers, their consensus and their decisions, with agents, engines,
//! disks and a network that are made up, on one thread and in virtual time. All that happens is drawn
//! from a seed: the same seed is the same world, step by step.
//!
//! A world ([`world`]) founds a cluster, lets [`client`]s make [`changes`] while [`faults`] strike, ends the
//! faults, and waits until the cluster has settled. Whatever is seen on the way goes to the
//! [`history`], which shows it to the [`invariants`].
//!
//! [`batch`] runs many.
//!
//! - [`executor`]: tasks and time. [`platform`]: what the managers stand on.
//! - [`network`], [`transport`], [`disk`], [`engine`]: what is made up.
//! - [`daemon`]: what runs on a host that is a member, and what it does about its role; [`membership`]: what it keeps.
//! - [`member`]: the real manager of a host. [`agent`]: the node's agent. [`route`]: how both reach the leader.

pub mod agent;
pub mod batch;
pub mod changes;
pub mod client;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod executor;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod member;
pub mod membership;
pub mod network;
pub mod platform;
pub mod route;
pub mod transport;
pub mod world;

pub use world::{Outcome, Setup, simulate};

use network::Host;
use skein_model::{Kind, Object, State};

/// Where managers listen.
const PORT: u16 = 2377;

/// The address of a host.
pub fn ip_of(host: Host) -> String {
    format!("198.18.0.{}", host.0)
}

/// Where a host's manager listens.
pub fn address_of(host: Host) -> String {
    format!("{}:{PORT}", ip_of(host))
}

/// The host with an address.
pub fn host_at(address: &str) -> Option<Host> {
    let ip = address.strip_suffix(&format!(":{PORT}"))?;
    let number = ip.strip_prefix("198.18.0.")?;
    Some(Host(number.parse().ok()?))
}

/// An object of a state.
pub fn object(state: &State, kind: Kind, id: &str) -> Option<Object> {
    match kind {
        Kind::Cluster => state.cluster().cloned().map(Object::Cluster),
        Kind::Node => state.node(id).cloned().map(Object::Node),
        Kind::Service => state.service(id).cloned().map(Object::Service),
        Kind::Task => state.task(id).cloned().map(Object::Task),
        Kind::Network => state.network(id).cloned().map(Object::Network),
        Kind::Secret => state.secret(id).cloned().map(Object::Secret),
        Kind::Config => state.config(id).cloned().map(Object::Config),
    }
}

#[cfg(test)]
mod tests;
