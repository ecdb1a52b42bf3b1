//! Skein's control plane.
//!
//! - [`node`]: the membership of this machine: init, join, leave, resume.
//! - [`identity`]: certificates and join tokens.
//! - [`manager`]: decides what runs where while it leads, serves the agents, brokers logs.
//! - [`raft`]: the replicated store.
//! - [`rpc`]: the mTLS port, and the clients of it.
//! - [`agent`]: runs tasks on the node's container engine.
//! - [`api`]: the Docker-compatible API.
//! - [`metrics`]: for Prometheus.

pub mod agent;
pub mod api;
mod backoff;
mod blocking;
pub mod clock;
mod exchange;
pub mod identity;
pub mod manager;
pub mod metrics;
pub mod node;
pub mod raft;
pub mod rpc;
mod single_flight;
mod strict;
#[cfg(test)]
mod testing;
