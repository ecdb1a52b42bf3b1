use serde::{Deserialize, Serialize};
use skein_model::{Applied, Proposal, Rejection};
use std::io::Cursor;

/// What openraft is told of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node_id: String,
    /// `host:port`
    pub address: String,
}

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Applied(Applied),
    Rejected(Rejection),
    /// An entry of Raft's own: blank, or a change of membership.
    Internal,
}

openraft::declare_raft_types!(
    /// Skein's use of openraft.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub type StoredMembership = openraft::StoredMembership<u64, Peer>;
pub type StorageError = openraft::StorageError<u64>;
pub type StorageIoError = openraft::StorageIOError<u64>;
