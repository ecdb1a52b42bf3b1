//! What one member asks of another beside what the library does.

use super::{handover::HandOver, platform::Platform, types::TypeConfig};
use openraft::network::RaftNetworkFactory;
use std::future::Future;
use tonic::Status;

/// The way to another member. Who asks has a deadline.
pub trait Peering: Send + Sync {
    /// Whether the other member hears from a leader; see [`Raft::pre_vote`](super::Raft::pre_vote).
    fn pre_vote(&self) -> impl Future<Output = Result<bool, Status>> + Send;
    /// Has the other member do its part in a hand-over; see [`Raft::ordered`](super::Raft::ordered).
    fn hand_over(&self, order: HandOver) -> impl Future<Output = Result<(), Status>> + Send;
}

/// The way to another member.
pub(super) type Line<P> = <<P as Platform>::Network as RaftNetworkFactory<TypeConfig<P>>>::Network;
