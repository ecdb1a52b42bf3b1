//! The replicated store: consensus over the cluster's [`State`]. No type of the consensus library
//! leaves this module.

mod attempts;
mod compaction;
mod contacts;
mod disk;
mod force_new_cluster;
mod group;
mod handle;
mod leadership;
mod leadership_transfer;
mod log;
mod membership;
mod network;
mod peer_authorization;
mod peering;
mod piece;
pub(crate) mod platform;
mod pre_vote;
mod service;
mod snapshots;
mod state_machine;
mod types;
mod wire;

pub use attempts::{change, propose_all};
pub use force_new_cluster::survive;
pub(crate) use group::warn_if_even;
pub use handle::{PROPOSE_TIMEOUT, Raft};
pub use service::{RaftServer, RaftService};

/// What a simulation of the group needs to put its own foundations under it; nobody else does.
pub mod foundation {
    pub use super::{
        compaction::Extent,
        contacts::Contacts,
        handle::{Clock, Parts},
        leadership_transfer::{LeadershipTransfer, Step},
        peering::Peering,
        piece::{Bytes, Reader},
        platform::{Done, Loaded, Platform, Storage},
        state_machine::{Builder, Machine},
        types::{
            Entry, LogId, Outcome, Peer, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
            Vote,
        },
    };
}

use skein_model::Rejection;
use std::sync::{Arc, OnceLock};
use tonic::Status;

/// Where the services of a manager find its [`Raft`], once it runs.
#[derive(Clone, Default)]
pub struct RaftSlot(Arc<OnceLock<Raft>>);

impl RaftSlot {
    /// Puts the member in, once.
    pub fn fill(&self, raft: Raft) {
        if self.0.set(raft).is_err() {
            tracing::error!("a second Raft member was started for one membership");
        }
    }

    /// The member.
    ///
    /// # Errors
    /// UNAVAILABLE while there is none.
    pub fn get(&self) -> Result<&Raft, Status> {
        let starting = || Status::unavailable("this manager is being prepared");
        self.0.get().ok_or_else(starting)
    }
}

/// A member of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its ID in the group; never used again once it has left.
    pub raft_id: u64,
    /// The node's ID in the cluster.
    pub node_id: String,
    /// Where managers and agents reach it: `198.18.0.1:2377`.
    pub address: String,
    /// Whether it counts for a quorum: one that is new does not until it has caught up.
    pub votes: bool,
}

/// Who leads, as this manager knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term: grows with every election.
    pub term: u64,
    /// `None` while no leader is known.
    pub leader: Option<Member>,
    /// Whether this manager is the leader.
    pub is_self: bool,
}

/// Why a proposal or a linearizable read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader.
    #[error("this manager is not the leader")]
    NotLeader {
        /// Who it is, if known.
        leader: Option<Member>,
    },
    /// The store refused the change; nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The group must not be changed so.
    #[error("{0}")]
    Refused(String),
    /// No quorum answers in time. The change may yet be made.
    #[error("{NO_LEADER}")]
    NoLeader,
    /// Too slow, or stopped. The change may yet be made.
    #[error("{0}")]
    Unavailable(String),
}

/// Swarm's words for a cluster whose managers found no majority.
pub const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers \
     are online. Make sure more than half of the managers are online.";

#[cfg(test)]
mod tests;
