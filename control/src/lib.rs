//! Skein's control plane.
//!
//! - [`node`]: the membership of this machine: init, join, leave, resume.
//! - [`identity`]: certificates and join tokens.
//! - [`raft`]: the replicated store.
//! - [`rpc`]: the mTLS port, and the clients of it.
//! - [`agent`]: runs tasks on the node's container engine.

pub mod agent;
pub mod identity;
pub mod node;
pub mod raft;
pub mod rpc;
