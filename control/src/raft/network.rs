//! The ways to the other members, over gRPC.

use super::{
    contacts::Contacts,
    leadership_transfer::{LeadershipTransfer, Step},
    peering::Peering,
    platform::Daemon,
    types::{Peer, TypeConfig},
    wire,
};
use crate::rpc::Credentials;
use openraft::{
    error::{
        InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, RemoteError,
        Unreachable,
    },
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use skein_proto::node::{
    PreVoteRequest, RaftMessage, TransferLeadershipRequest, raft_client::RaftClient,
    transfer_leadership_request,
};
use tonic::{Request, Response, Status, transport::Channel};

/// Metadata of a call: the Raft ID of the member it is meant for. Another one at that address does
/// not answer it.
pub const TARGET_METADATA: &str = "skein-raft-id";

/// Makes the connections to the other members.
#[derive(Clone)]
pub struct Network {
    pub credentials: Credentials,
    pub contacts: Contacts<Daemon>,
}

impl RaftNetworkFactory<TypeConfig<Daemon>> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        let client = self.credentials.channel(&node.address).map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(wire::MESSAGE_MAX)
                .max_encoding_message_size(wire::MESSAGE_MAX)
        });
        Connection {
            target,
            client: client.map_err(|error| Unreachable::new(&error)),
            contacts: self.contacts.clone(),
        }
    }
}

/// The way to one other member.
pub struct Connection {
    target: u64,
    client: Result<RaftClient<Channel>, Unreachable>,
    contacts: Contacts<Daemon>,
}

type Failure<E> = RPCError<u64, Peer, E>;

impl Peering for Connection {
    async fn pre_vote(&self) -> Result<bool, Status> {
        let asked = self.asked(PreVoteRequest {});
        let answer = self.client()?.pre_vote(asked).await?;
        Ok(answer.into_inner().led)
    }

    async fn transfer_leadership(&self, order: LeadershipTransfer) -> Result<(), Status> {
        let step = match order.step {
            Step::Probe => transfer_leadership_request::Step::Probe,
            Step::Yield => transfer_leadership_request::Step::Yield,
            Step::TimeoutNow => transfer_leadership_request::Step::TimeoutNow,
        };
        let leader = order.vote.leader_id();
        let asked = self.asked(TransferLeadershipRequest {
            term: leader.term,
            leader: leader.node_id,
            successor: order.successor,
            step: step.into(),
        });
        self.client()?.transfer_leadership(asked).await?;
        Ok(())
    }
}

impl Connection {
    /// A request that is this member's alone.
    fn asked<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let target = self.target.into();
        request.metadata_mut().insert(TARGET_METADATA, target);
        request
    }

    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    fn client(&self) -> Result<RaftClient<Channel>, Status> {
        let client = self.client.clone();
        client.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// One call: `payload` there, and the answer, which may be the other member's error.
    async fn call<A, E, F>(
        &self,
        payload: serde_json::Result<Vec<u8>>,
        option: &RPCOption,
        call: impl FnOnce(RaftClient<Channel>, Request<RaftMessage>) -> F,
    ) -> Result<A, Failure<E>>
    where
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
        F: Future<Output = Result<Response<RaftMessage>, Status>>,
    {
        let client = self.client.clone()?;
        let payload = payload.map_err(|error| NetworkError::new(&error))?;
        let request = self.asked(RaftMessage { payload });
        let answer = tokio::time::timeout(option.hard_ttl(), call(client, request))
            .await
            .map_err(|error| NetworkError::new(&error))?
            .map_err(|status| Unreachable::new(&status))?;
        self.contacts.answered(self.target);
        serde_json::from_slice::<Result<A, E>>(&answer.into_inner().payload)
            .map_err(|error| NetworkError::new(&error))?
            .map_err(|error| RemoteError::new(self.target, error).into())
    }
}

fn json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(value)
}

impl RaftNetwork<TypeConfig<Daemon>> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<Daemon>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<RaftError<u64>>> {
        let payload = json(&rpc);
        let bytes = payload.as_ref().map_or(0, Vec::len);
        if let Some(fewer) = wire::fewer_entries(rpc.entries.len(), bytes) {
            // Openraft then sends as many.
            return Err(PayloadTooLarge::new_entries_hint(fewer).into());
        }
        self.call(payload, &option, |mut client, request| async move {
            client.append(request).await
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<RaftError<u64>>> {
        self.call(json(&rpc), &option, |mut client, request| async move {
            client.vote(request).await
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig<Daemon>>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<RaftError<u64, InstallSnapshotError>>> {
        let payload = wire::encode_snapshot(rpc);
        self.call(payload, &option, |mut client, request| async move {
            client.install_snapshot(request).await
        })
        .await
    }
}
