//! `--force-new-cluster`: a swarm that lost its quorum goes on with this manager alone.

use super::{
    InitRequest, LocalState, Node, NodeError, RemoteManager,
    address::{self, Addresses, Asked},
    bootstrap,
    init::await_own_leadership,
    interfaces,
    lifecycle::{internal, membership},
    persist::Kept,
    request::merge_spec_over,
    runtime::Runtime,
};
use crate::{clock, identity, raft};
use skein_model::{Action, Cluster};
use std::{net::SocketAddr, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// The log's file is free a moment after the member that had it has stopped.
const FILE_WAIT: Duration = Duration::from_secs(10);
const FILE_RETRY: Duration = Duration::from_millis(100);
/// How long the group of one takes to choose its leader, and to write.
const LEAD_TIMEOUT: Duration = Duration::from_secs(20);

impl Node {
    /// Makes the swarm anew, of what this manager has of it. The node's ID, which it keeps.
    ///
    /// # Errors
    /// Not a manager, or a bad request: then all is as before.
    pub(super) async fn revive(&self, request: InitRequest) -> Result<String, NodeError> {
        let before = self.membership();
        let runtime = self.runtime().filter(|runtime| runtime.manager().is_some());
        let Some(runtime) = runtime else {
            return Err(NodeError::not_manager(&before));
        };
        bootstrap::check(&request)?;
        let (kept, identity) = (runtime.kept.clone(), runtime.credentials.identity());
        let addresses = revived_addresses(&request, &kept).await?;
        let advertise = addresses.advertise.unwrap_or(addresses.listen);

        tracing::warn!(
            node = identity.node_id,
            "making the swarm anew with this manager alone"
        );
        self.take_runtime();
        runtime.stop().await;
        let survived = survive(&kept, &identity.node_id, advertise).await;
        let raft_id = match survived {
            Ok(raft_id) => raft_id,
            Err(error) => {
                drop(self.resume(identity, kept));
                return Err(error);
            }
        };
        let own = RemoteManager {
            node_id: identity.node_id.clone(),
            address: advertise.to_string(),
        };
        let changed = kept.change(move |saved| {
            saved.listen = addresses.listen;
            saved.advertise = Some(advertise);
            saved.data_path = addresses.data_path.or(saved.data_path);
            saved.interface = addresses.interface;
            saved.raft_id = Some(raft_id);
            saved.managers = vec![own];
        });
        if let Err(error) = changed.await {
            drop(self.resume(identity, kept));
            return Err(error);
        }
        let pending = membership(&identity, &kept.saved(), LocalState::Pending);
        let attempt = self.begin(pending);
        let runtime = match self.start_member(&identity, &kept, false).await {
            Ok(runtime) => runtime,
            Err(error) => {
                // What was made stays; it may start later.
                drop(self.resume(identity, kept));
                return Err(error);
            }
        };
        let active = membership(&identity, &kept.saved(), LocalState::Active);
        self.settle(active, runtime.clone(), &attempt).await;
        let led = timeout(LEAD_TIMEOUT, lead(&runtime, &request)).await;
        let late = |_| {
            NodeError::internal(format!(
                "the swarm is a new one of this manager alone, but has no leader after {} s, so that what was asked \
                 for with it may not be in force: look at \"docker node ls\" and the log, then ask for it with \
                 \"docker swarm update\"",
                LEAD_TIMEOUT.as_secs()
            ))
        };
        led.map_err(late)??;
        Ok(identity.node_id)
    }
}

/// The addresses asked for; what is not asked for stays.
async fn revived_addresses(request: &InitRequest, kept: &Kept) -> Result<Addresses, NodeError> {
    let saved = kept.saved();
    let mut advertise = request.advertise_addr.clone();
    if let (true, Some(own)) = (advertise.is_empty(), saved.advertise) {
        advertise = own.ip().to_string();
    }
    let asked = Asked {
        listen: &request.listen_addr,
        advertise: &advertise,
        data_path: &request.data_path_addr,
        default_advertise: "",
    };
    address::for_init(asked, &interfaces::list().await?)
}

async fn survive(kept: &Kept, node_id: &str, advertise: SocketAddr) -> Result<u64, NodeError> {
    let keys = kept.with_vault(|vault| vault.log_keys()).await?;
    let deadline = Instant::now() + FILE_WAIT;
    loop {
        let (path, keys) = (kept.folder.raft_file(), keys.clone());
        let (node_id, address) = (node_id.to_owned(), advertise.to_string());
        let surviving = move || raft::survive(&path, &keys, &node_id, &address);
        match tokio::task::spawn_blocking(surviving)
            .await
            .map_err(internal)?
        {
            Ok(raft_id) => return Ok(raft_id),
            Err(error) if Instant::now() >= deadline => {
                return Err(NodeError::internal(format!(
                    "could not make a new swarm of this manager's log: {error}"
                )));
            }
            Err(_) => sleep(FILE_RETRY).await,
        }
    }
}

/// Waits until this manager leads, and makes the changes of the spec that were asked for.
async fn lead(runtime: &Runtime, request: &InitRequest) -> Result<(), NodeError> {
    let manager = runtime.manager().ok_or_else(NodeError::not_member)?;
    let raft = manager.raft();
    await_own_leadership(raft).await;
    let state = raft.linearizable().await.map_err(internal)?;
    let Some(cluster) = state.cluster() else {
        return Ok(());
    };
    let mut cluster = Cluster::clone(cluster);
    let mut spec = merge_spec_over(&cluster.spec, &request.spec)
        .map_err(|error| NodeError::invalid(format!("invalid swarm spec: {error}")))?;
    spec.encryption_config.auto_lock_managers |= request.auto_lock_managers;
    identity::normalize_external_cas(&mut spec.ca_config)
        .map_err(|error| NodeError::invalid(error.to_string()))?;
    identity::apply_spec(
        &mut cluster,
        spec,
        false,
        &runtime.external_cas,
        clock::now(),
    )
    .await
    .map_err(|error| bootstrap::refused(&error))?;
    let update = raft.propose(vec![Action::Update(cluster.into())]);
    update.await.map(drop).map_err(internal)
}
