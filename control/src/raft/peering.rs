//! What one member asks of another beside what the library does.

use super::{leadership_transfer::LeadershipTransfer, platform::Platform, types::TypeConfig};
use openraft::network::RaftNetworkFactory;
use std::future::Future;
use tonic::Status;

/// The way to another member. Who asks has a deadline.
pub trait Peering: Send + Sync {
    /// Whether the other member hears from a leader; see [`Raft::pre_vote`](super::Raft::pre_vote).
    fn pre_vote(&self) -> impl Future<Output = Result<bool, Status>> + Send;
    /// Has the other member do its part in a hand-over; see [`Raft::handle_transfer`](super::Raft::handle_transfer).
    fn transfer_leadership(
        &self,
        order: LeadershipTransfer,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// The way to another member.
pub(super) type Line<P> = <<P as Platform>::Network as RaftNetworkFactory<TypeConfig<P>>>::Network;
