//! What other members ask by gRPC.

use super::{
    Raft, RaftSlot,
    leadership_transfer::{LeadershipTransfer, Step},
    network::TARGET_METADATA,
    platform::Daemon,
    types::{TypeConfig, Vote},
    wire,
};
use crate::rpc::{Caller, Managers, PeerIdentity};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use serde::{Serialize, de::DeserializeOwned};
use skein_proto::node::{
    HealthRequest, HealthResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, Manager, PreVoteRequest, PreVoteResponse, RaftMessage,
    TransferLeadershipRequest, TransferLeadershipResponse, raft_client::RaftClient, raft_server,
    transfer_leadership_request,
};
use std::{net::SocketAddr, time::Duration};
use tonic::{Request, Response, Status};

/// How long a prospective member may take to answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// What managers call on each other.
#[derive(Clone)]
pub struct RaftService {
    raft: RaftSlot,
    managers: Managers,
}

/// The service, for the mTLS server.
pub type RaftServer = raft_server::RaftServer<RaftService>;

impl RaftService {
    /// Serves the member in `raft`, as soon as there is one. `managers` are those that the node was told
    /// of.
    pub fn server(raft: RaftSlot, managers: Managers) -> RaftServer {
        RaftServer::new(Self { raft, managers })
            .max_decoding_message_size(wire::MESSAGE_MAX)
            .max_encoding_message_size(wire::MESSAGE_MAX)
    }

    /// The member that a call is for.
    fn target<T>(&self, request: &Request<T>) -> Result<&Raft, Status> {
        let raft = self.raft.get()?;
        let asked = request.metadata().get(TARGET_METADATA);
        let asked = asked.and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
        if asked != Some(raft.id()) {
            return Err(Status::unavailable(format!(
                "member {} of the Raft group is not here",
                asked.unwrap_or_default()
            )));
        }
        Ok(raft)
    }
}

fn decode<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, Status> {
    serde_json::from_slice(&message.payload).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Status {
    Status::invalid_argument(format!("unreadable Raft message: {error}"))
}

fn answer(value: &impl Serialize) -> Result<Response<RaftMessage>, Status> {
    let payload = serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Response::new(RaftMessage { payload }))
}

/// The node ID of the caller, which must be the one it speaks of.
fn caller_is<T>(request: &Request<T>, node_id: &str) -> Result<(), Status> {
    let peer = request.extensions().get::<PeerIdentity>();
    if peer.is_some_and(|peer| peer.node_id == node_id) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "only node {node_id} may ask this for itself"
    )))
}

/// The address to advertise: where it names no host, the one that the caller calls from.
fn advertised(address: &str, caller: Option<&Caller>) -> Result<String, Status> {
    let Ok(given) = address.parse::<SocketAddr>() else {
        return Ok(address.to_owned());
    };
    if !given.ip().is_unspecified() {
        return Ok(address.to_owned());
    }
    let caller = caller.ok_or_else(|| Status::invalid_argument("no address to advertise"))?;
    Ok(SocketAddr::new(caller.address.ip(), given.port()).to_string())
}

impl RaftService {
    fn check_leader<T>(
        &self,
        raft: &Raft,
        request: &Request<T>,
        vote: &Vote,
    ) -> Result<(), Status> {
        let caller = request.extensions().get::<PeerIdentity>();
        if caller.is_some_and(|caller| raft.takes_leader(caller, vote, &self.managers.known())) {
            return Ok(());
        }
        Err(Status::permission_denied(
            "only members of the group may lead it",
        ))
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let raft = self.target(&request)?;
        let append: AppendEntriesRequest<TypeConfig<Daemon>> = decode(request.get_ref())?;
        self.check_leader(raft, &request, &append.vote)?;
        answer(&raft.openraft().append_entries(append).await)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let raft = self.target(&request)?;
        let vote: VoteRequest<u64> = decode(request.get_ref())?;
        let caller = request.extensions().get::<PeerIdentity>();
        if !caller.is_some_and(|caller| raft.takes_candidate(caller, &vote.vote)) {
            return Err(Status::permission_denied(
                "only members of the group may stand for election, each under its own ID",
            ));
        }
        answer(&raft.openraft().vote(vote).await)
    }

    async fn pre_vote(
        &self,
        request: Request<PreVoteRequest>,
    ) -> Result<Response<PreVoteResponse>, Status> {
        let raft = self.target(&request)?;
        let caller = request.extensions().get::<PeerIdentity>();
        let unknown = || Status::unauthenticated("a member's certificate is needed");
        let led = raft.pre_vote(caller.ok_or_else(unknown)?).await?;
        Ok(Response::new(PreVoteResponse { led }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        let raft = self.target(&request)?;
        let order = request.get_ref();
        let caller = request.extensions().get::<PeerIdentity>();
        let vote = Vote::new_committed(order.term, order.leader);
        if !caller.is_some_and(|caller| raft.takes_candidate(caller, &vote)) {
            return Err(Status::permission_denied(
                "only the leader may hand the lead over",
            ));
        }
        let step = match order.step() {
            transfer_leadership_request::Step::Probe => Step::Probe,
            transfer_leadership_request::Step::Yield => Step::Yield,
            transfer_leadership_request::Step::TimeoutNow => Step::TimeoutNow,
            transfer_leadership_request::Step::Unspecified => {
                return Err(Status::invalid_argument("no known step of a hand-over"));
            }
        };
        let order = LeadershipTransfer {
            vote,
            successor: order.successor,
            step,
        };
        let done = raft.handle_transfer(order).await;
        done.map_err(Status::failed_precondition)?;
        Ok(Response::new(TransferLeadershipResponse {}))
    }

    async fn install_snapshot(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let raft = self.target(&request)?;
        let piece = wire::decode_snapshot(&request.get_ref().payload).map_err(unreadable)?;
        self.check_leader(raft, &request, &piece.vote)?;
        answer(&raft.openraft().install_snapshot(piece).await)
    }

    async fn join_group(
        &self,
        request: Request<JoinGroupRequest>,
    ) -> Result<Response<JoinGroupResponse>, Status> {
        let JoinGroupRequest { node_id, address } = request.get_ref();
        caller_is(&request, node_id)?;
        let raft = self.raft.get()?;
        raft.linearizable().await?;
        let address = advertised(address, request.extensions().get::<Caller>())?;
        self.dial_back(&address).await?;
        let (raft_id, managers) = raft.add_manager(node_id, &address).await?;
        let managers = managers.into_iter().map(|(node_id, member)| Manager {
            node_id,
            address: member.addr,
        });
        Ok(Response::new(JoinGroupResponse {
            raft_id,
            managers: managers.collect(),
            index: raft.state().index(),
        }))
    }

    async fn leave_group(
        &self,
        request: Request<LeaveGroupRequest>,
    ) -> Result<Response<LeaveGroupResponse>, Status> {
        let node_id = &request.get_ref().node_id;
        caller_is(&request, node_id)?;
        let raft = self.raft.get()?;
        raft.remove_manager(node_id).await?;
        Ok(Response::new(LeaveGroupResponse {}))
    }

    async fn health(
        &self,
        _request: Request<HealthRequest>,
    ) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse {}))
    }
}

impl RaftService {
    async fn dial_back(&self, address: &str) -> Result<(), Status> {
        let unreachable = |reason: &dyn std::fmt::Display| {
            tracing::warn!(address, %reason, "a prospective manager does not answer");
            Status::failed_precondition(format!(
                "could not connect to prospective new cluster member using its advertised address: \
                 {address}: {reason}"
            ))
        };
        let channel = self.managers.credentials().channel(address);
        let mut client = RaftClient::new(channel.map_err(|error| unreachable(&error))?);
        tokio::time::timeout(HEALTH_TIMEOUT, client.health(HealthRequest {}))
            .await
            .map_err(|error| unreachable(&error))?
            .map_err(|error| unreachable(&error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_becomes_the_callers() {
        assert_eq!(advertised("h:2377", None).unwrap(), "h:2377");
        assert_eq!(advertised("10.0.0.1:1", None).unwrap(), "10.0.0.1:1");
        let error = advertised("0.0.0.0:2377", None).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}
