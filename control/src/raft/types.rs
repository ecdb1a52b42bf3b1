//! The types that openraft is built with here.

use super::{piece::Reader, platform::Platform};
use openraft::{RaftTypeConfig, impls::OneshotResponder};
use serde::{Deserialize, Serialize};
use skein_model::{Applied, Proposal, Rejection};
use std::marker::PhantomData;

/// What openraft is told of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node's ID in the cluster.
    pub node_id: String,
    /// `host:port`
    pub address: String,
}

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The change was made.
    Applied(Applied),
    /// The store refused it.
    Rejected(Rejection),
    /// An entry of Raft's own: blank, or a change of membership.
    Internal,
}

/// Skein's use of openraft, on one platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig<P>(PhantomData<P>);

impl<P: Platform> RaftTypeConfig for TypeConfig<P> {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = Peer;
    type Entry = Entry<P>;
    type SnapshotData = Reader;
    type AsyncRuntime = P::Runtime;
    type Responder = OneshotResponder<Self>;
}

/// An entry of the log.
pub type Entry<P> = openraft::Entry<TypeConfig<P>>;
/// Which entry.
pub type LogId = openraft::LogId<u64>;
/// Whom a member follows.
pub type Vote = openraft::Vote<u64>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
/// The group, as of an entry.
pub type StoredMembership = openraft::StoredMembership<u64, Peer>;
/// A disk failed.
pub type StorageError = openraft::StorageError<u64>;
/// A disk failed in one operation.
pub type StorageIoError = openraft::StorageIOError<u64>;
