//! How Skein's daemons talk: the gRPC contracts, generated from `proto/`, and their sockets.
//!
//! - [`network`]: the network state that the leader wants on a node; leader -> agent -> dataplane.
//! - [`node`]: everything on the mTLS port: identity, dispatcher, logs, Raft, API forwarding.
//! - [`inspect`]: what `skein` asks the daemons; also its JSON.
//! - [`view`]: a network state as a whole.
//! - [`encoded`]: objects of network states that are encoded once for many nodes.
//! - [`plugin`]: options that pass through the engine.
//! - [`socket`]: unix sockets between processes of one node.

pub mod encoded;
pub mod plugin;
pub mod socket;
pub mod view;

/// What `skein` asks the daemons (`proto/inspect.proto`).
#[allow(missing_docs, reason = "generated; documented in the proto file")]
#[allow(
    clippy::large_enum_variant,
    reason = "of a stream's messages most are the large ones"
)]
pub mod inspect {
    tonic::include_proto!("skein.inspect");
}

/// The desired network state of a node and its acknowledgement (`proto/network.proto`).
#[allow(missing_docs, reason = "generated; documented in the proto file")]
pub mod network {
    tonic::include_proto!("skein.network");
}

/// What nodes and managers say to each other on TCP 2377 (`proto/node.proto`).
#[allow(missing_docs, reason = "generated; documented in the proto file")]
pub mod node {
    tonic::include_proto!("skein.node");
}
