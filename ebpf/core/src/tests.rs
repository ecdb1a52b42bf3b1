//! The rules of the packet path, on nodes whose maps are plain collections.
//!
//! - [`packets`]: what is sent.
//! - [`node`]: a node's tables; [`flows`]: those that the decisions themselves write.
//! - [`cluster`]: several nodes, and packets on their way between them.
//!
//! Each other file is one rule.

mod cluster;
mod flows;
mod node;
mod packets;

mod addresses;
mod collisions;
mod encrypted;
mod errors;
mod flood;
mod fragments;
mod local_clients;
mod modes;
mod offering;
mod overlay;
mod path_mtu;
mod return_node;
mod sctp;
mod segment;
mod syn;
mod taken_port;
mod timeouts;
mod two_hops;
