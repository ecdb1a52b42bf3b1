//! A manager's seat: its Raft member, and the port at which it is reached.

use super::{
    NodeError, RemoteManager,
    persist::{Kept, Saved},
    runtime::STOP_TIMEOUT,
};
use crate::{
    raft::{Raft, RaftService, RaftSlot},
    rpc::{self, Credentials, Managers, Standing},
};
use skein_proto::node::{JoinGroupRequest, raft_client::RaftClient};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// One attempt to become a member of the Raft group: the leader dials back and asks its quorum.
const JOIN_GROUP_TIMEOUT: Duration = Duration::from_secs(20);
const JOIN_GROUP_ATTEMPTS: usize = 8;
const JOIN_GROUP_RETRY: Duration = Duration::from_millis(500);

/// A Raft member and the port it is reached at, before anything else runs.
pub(super) struct Seat {
    pub raft: Raft,
    pub slot: RaftSlot,
    pub listener: std::net::TcpListener,
    /// The state of the store in which the node joined the group; 0: at some time before.
    pub joined_at: u64,
}

impl Seat {
    /// Takes the port and starts Raft member `id`.
    pub async fn take(kept: &Kept, id: u64, credentials: Credentials) -> Result<Self, NodeError> {
        let listener = listen(kept.saved().listen)?;
        Self::start(kept, id, credentials, RaftSlot::default(), listener).await
    }

    /// Becomes a member of the group of `managers`, under an ID that the leader gives.
    pub async fn join(
        kept: &Kept,
        credentials: Credentials,
        managers: &Managers,
    ) -> Result<Self, NodeError> {
        let mut saved = kept.saved();
        let (slot, listener) = (RaftSlot::default(), listen(saved.listen)?);
        // The leader dials back before it lets a member in: somebody must answer.
        let greeting = CancellationToken::new();
        let _ends = greeting.clone().drop_guard();
        let service = RaftService::server(slot.clone(), managers.clone());
        let serving = tokio::spawn(rpc::serve(
            clone_listener(&listener)?,
            credentials.clone(),
            Routes::new(service),
            Arc::new(|_| Standing::AsCertified),
            greeting.clone(),
        ));
        let (id, joined_at) = join_group(&mut saved, &credentials, managers).await?;
        saved.raft_id = Some(id);
        kept.change(|kept| *kept = saved).await?;
        greeting.cancel();
        if let Ok(Err(error)) = serving.await {
            tracing::warn!(%error, "the server for the managers' greeting failed");
        }
        let seat = Self::start(kept, id, credentials, slot, listener).await?;
        Ok(Self { joined_at, ..seat })
    }

    async fn start(
        kept: &Kept,
        id: u64,
        credentials: Credentials,
        slot: RaftSlot,
        listener: std::net::TcpListener,
    ) -> Result<Self, NodeError> {
        let file = kept.folder.raft_file();
        let keys = kept.with_vault(|vault| vault.log_keys()).await?;
        let raft = Raft::start(&file, keys, id, credentials).await;
        let raft = raft.map_err(|error| {
            let file = file.display();
            NodeError::internal(format!("could not start Raft from {file}: {error}"))
        })?;
        slot.fill(raft.clone());
        Ok(Self {
            raft,
            slot,
            listener,
            joined_at: 0,
        })
    }

    /// Ends the Raft member, and frees its file and the port.
    pub async fn give_up(self) {
        if tokio::time::timeout(STOP_TIMEOUT, self.raft.stop())
            .await
            .is_err()
        {
            tracing::warn!("the Raft member did not end within {STOP_TIMEOUT:?}");
        }
    }
}

/// Asks the leader for a place in the group, or to reach this node's manager at its address from now on. Its Raft ID,
/// and a state of the store that has it.
pub(super) async fn join_group(
    saved: &mut Saved,
    credentials: &Credentials,
    managers: &Managers,
) -> Result<(u64, u64), NodeError> {
    let node_id = credentials.identity().node_id;
    let address = saved.advertise.unwrap_or(saved.listen).to_string();
    let mut last = String::new();
    for _ in 0..JOIN_GROUP_ATTEMPTS {
        let channel = managers.leader().await;
        let channel = channel.map_err(|error| NodeError::unavailable(error.to_string()))?;
        let request = JoinGroupRequest {
            node_id: node_id.clone(),
            address: address.clone(),
        };
        let mut client = RaftClient::new(channel);
        let call = tokio::time::timeout(JOIN_GROUP_TIMEOUT, client.join_group(request));
        let status = match call.await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                saved.managers = response
                    .managers
                    .into_iter()
                    .map(RemoteManager::from)
                    .collect();
                if let Some(own) = saved.managers.iter().find(|m| m.node_id == node_id) {
                    // Where it named no host, the leader has seen which it is.
                    saved.advertise = own.address.parse().ok().or(saved.advertise);
                }
                managers.update(saved.managers.clone());
                return Ok((response.raft_id, response.index));
            }
            Ok(Err(status)) => status,
            Err(_) => tonic::Status::deadline_exceeded(format!(
                "the managers' leader did not answer within {} s",
                JOIN_GROUP_TIMEOUT.as_secs()
            )),
        };
        last = status.message().to_owned();
        if matches!(
            status.code(),
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied
        ) {
            break;
        }
        managers.redirect(&status);
        tokio::time::sleep(JOIN_GROUP_RETRY).await;
    }
    Err(NodeError::unavailable(format!(
        "can't initialize raft node: {last}"
    )))
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, NodeError> {
    let failed = |error| NodeError::internal(format!("could not listen on tcp {address}: {error}"));
    // Sets SO_REUSEADDR, so that a restart need not wait for old connections.
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

pub(super) fn clone_listener(listener: &std::net::TcpListener) -> Result<TcpListener, NodeError> {
    let clone = listener.try_clone().and_then(TcpListener::from_std);
    clone.map_err(|error| NodeError::internal(format!("could not listen: {error}")))
}
