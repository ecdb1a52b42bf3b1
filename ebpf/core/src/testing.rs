//! Nodes whose maps are plain collections: what the rules of the packet path are tried on, by tests and by fuzzing.
//!
//! - [`packets`]: what is sent.
//! - [`node`]: a node's tables; [`flows`]: those that the decisions themselves write.
//! - [`cluster`]: several nodes, and packets on their way between them.
#![allow(missing_docs, reason = "for tests alone: the names say it")]

pub mod cluster;
pub mod flows;
pub mod node;
pub mod packets;
