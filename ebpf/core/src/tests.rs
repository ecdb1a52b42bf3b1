//! The rules of the packet path, on the nodes of [`crate::testing`]. Each file is one rule.

use crate::testing::{cluster, flows, node, packets};

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
