//! Init, join, leave and resume: how the membership changes.

use super::{
    Config, InitRequest, Inner, JoinRequest, LocalState, Membership, Node, NodeError,
    NodeErrorKind, Place, RemoteManager,
    address::{self, Addresses},
    cleanup,
    error::EXPIRED,
    founding, interfaces, joining,
    persist::{Folder, Kept, Saved},
    runtime::{Runtime, Seat, credentials, is_manager},
};
use crate::{
    agent::dataplane::clear,
    blocking::blocking,
    clock,
    identity::{Identity, JoinToken, SecretKey, Stored, Vault, cert_expiry, key_and_request, sign},
    raft::Raft,
    rpc::Managers,
};
use parking_lot::RwLock;
use skein_model::{Availability, Cluster, NodeRole, Reachability};
use skein_proto::node::{
    ApiRequest, LeaveGroupRequest, api_client::ApiClient, raft_client::RaftClient,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long the API waits for a join; it goes on in the background after that.
const JOIN_WAIT: Duration = Duration::from_secs(20);
/// How long a new group of one member takes to choose it: an election timeout and a sync.
const FOUND_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the managers may take to let this one go.
const LEAVE_GROUP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long the leader may take to say which managers answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed start; it doubles.
const RESUME_MIN: Duration = Duration::from_millis(100);
const RESUME_MAX: Duration = Duration::from_secs(30);

/// From a manager's place in the group to its vote: it hears all that was written before.
const VOTE_WAIT: Duration = Duration::from_secs(60);
const JOIN_GOES_ON: &str = "Timeout was reached before node joined. The attempt to join the swarm \
     will continue in the background. Use the \"docker info\" command to see the current swarm \
     status of your node.";
const LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to \
     ignore this message.";
const LEAVING_MANAGER: &str = "You are attempting to leave the swarm on a node that is \
     participating as a manager. ";
const LAST_MANAGER: &str = "Removing the last manager erases all current state of the swarm. Use \
     `--force` to ignore this message. ";
const INACTIVE_MANAGER: &str = "Doing so may lose the consensus of your cluster. ";
const LOST_CONSENSUS: &str = "The only way to restore a swarm that has lost consensus is to \
     reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

impl Node {
    /// The node as it was when it last ran. A member starts in the background, again and again until
    /// it succeeds; [`membership`](Self::membership) tells.
    ///
    /// # Errors
    /// The state folder cannot be used, or what is in it is broken.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let folder = Folder::new(config.state_dir.clone());
        let stored = {
            let folder = folder.clone();
            blocking::<_, NodeError>(move || {
                let stored = Vault::load(&folder.certificates(), None).map_err(internal)?;
                if matches!(stored, Stored::Nothing) {
                    folder.wipe()?;
                }
                Ok(stored)
            })
            .await?
        };
        let node = Self {
            inner: Arc::new(Inner {
                config,
                folder,
                place: RwLock::default(),
                changing: Mutex::default(),
            }),
        };
        match stored {
            Stored::Nothing => {}
            Stored::Locked(identity) => {
                let saved = node.folder().load()?;
                let locked = membership(&identity, &saved, LocalState::Locked);
                tracing::warn!(node = locked.node_id, "this manager is locked: unlock it");
                node.begin(locked);
            }
            Stored::Open(identity, vault) => {
                let saved = node.folder().load()?;
                drop(node.resume(identity, Kept::new(node.folder().clone(), vault, saved)));
            }
        }
        Ok(node)
    }

    /// Starts the member in the background, again and again until it succeeds.
    pub(super) fn resume(&self, identity: Identity, kept: Kept) -> tokio::task::JoinHandle<()> {
        let attempt = self.begin(membership(&identity, &kept.saved(), LocalState::Pending));
        tokio::spawn(self.clone().keep_resuming(identity, kept, attempt))
    }

    async fn keep_resuming(self, identity: Identity, kept: Kept, attempt: CancellationToken) {
        let mut pause = RESUME_MIN;
        loop {
            let started = tokio::select! {
                started = self.start_member(&identity, &kept, false) => started,
                () = attempt.cancelled() => return,
            };
            let error = match started {
                Ok(runtime) => {
                    let active = membership(&identity, &kept.saved(), LocalState::Active);
                    return self.settle(active, runtime, &attempt).await;
                }
                Err(error) => error,
            };
            tracing::error!(%error, retry = ?pause, "could not start as a member of the swarm");
            let mut failed = membership(&identity, &kept.saved(), LocalState::Error);
            failed.error = error.message;
            self.inner.place.write().membership = failed;
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RESUME_MAX),
                () = attempt.cancelled() => return,
            }
        }
    }

    /// Creates a swarm with this node as its first manager. The node's ID.
    ///
    /// # Errors
    /// Already a member, a bad request, or a failure to start; nothing is left behind then.
    pub async fn init(&self, request: InitRequest) -> Result<String, NodeError> {
        let _changing = self.inner.changing.lock().await;
        if request.force_new_cluster && self.membership().state != LocalState::Inactive {
            return self.revive(request).await;
        }
        self.check_inactive()?;
        founding::check_name(&request)?;
        let asked = (
            request.listen_addr.as_str(),
            request.advertise_addr.as_str(),
            request.data_path_addr.as_str(),
        );
        let addresses = address::for_init(asked, &interfaces::list().await?)?;
        let choices = founding::check(&request)?;
        let founded = self.found(choices, &addresses).await;
        if founded.is_err() {
            self.forget().await?;
        }
        founded
    }

    async fn found(
        &self,
        choices: founding::Choices,
        addresses: &Addresses,
    ) -> Result<String, NodeError> {
        let advertise = addresses.advertise.unwrap_or(addresses.listen);
        let system = nix::sys::utsname::uname().map_err(internal)?;
        let founder = founding::Founder {
            advertise,
            hostname: system.nodename().to_string_lossy().into_owned(),
            architecture: system.machine().to_string_lossy().into_owned(),
        };
        let now = clock::now();
        let (cluster, node, networks) = founding::found(choices, founder, now)?;
        let identity = founder_identity(&cluster, &node.id)?;
        let saved = Saved {
            listen: addresses.listen,
            advertise: Some(advertise),
            data_path: addresses.data_path,
            raft_id: Some(founding::FOUNDER_RAFT_ID),
            managers: Vec::new(),
        };
        let vault = Vault::new(self.folder().certificates());
        let kept = Kept::new(self.folder().clone(), vault, saved.clone());
        let lock = SecretKey::parse_unlock(&cluster.unlock_key.0).ok();
        kept.write(move |kept| {
            kept.folder.wipe()?;
            kept.folder.create()?;
            kept.folder.save(&saved)?;
            kept.vault.set_lock_key(lock, 0).map_err(internal)
        })
        .await?;
        let credentials = credentials(identity.clone())?;
        let seat = Seat::take(&kept, founding::FOUNDER_RAFT_ID, credentials.clone()).await?;
        let node_id = node.id.clone();
        let objects = founding::actions(cluster, node, networks);
        let filled = async {
            let raft = &seat.raft;
            raft.found(&node_id, &advertise.to_string()).await?;
            await_own_leadership(raft).await;
            raft.propose(objects).await
        };
        let filled = timeout(FOUND_TIMEOUT, filled).await.map_err(|_| {
            NodeError::internal(format!(
                "the new swarm did not start within {FOUND_TIMEOUT:?}: is the disk too slow?"
            ))
        });
        if let Err(error) = filled.and_then(|filled| filled.map_err(internal)) {
            seat.give_up().await;
            return Err(error);
        }
        // From here on it is a membership that a restart resumes.
        let own = identity.clone();
        if let Err(error) = kept.with_vault(move |vault| vault.save(&own)).await {
            seat.give_up().await;
            return Err(error);
        }
        let runtime = Runtime::start(self, credentials, kept.clone(), Some(seat)).await?;
        let active = membership(&identity, &kept.saved(), LocalState::Active);
        let attempt = self.begin(active.clone());
        self.settle(active, runtime, &attempt).await;
        tracing::info!(node = node_id, %advertise, "created a swarm");
        Ok(node_id)
    }

    /// Joins a swarm, in the role that the token stands for.
    ///
    /// # Errors
    /// Already a member, a bad request or token, or no manager answers.
    pub async fn join(&self, request: JoinRequest) -> Result<(), NodeError> {
        let changing = self.inner.changing.lock().await;
        self.check_inactive()?;
        let remote = request
            .remote_addrs
            .first()
            .ok_or_else(|| NodeError::invalid("at least 1 RemoteAddr is required to join"))?;
        let remote = address::remote_address(remote)?;
        let asked = (
            request.listen_addr.as_str(),
            request.advertise_addr.as_str(),
            request.data_path_addr.as_str(),
        );
        let mut addresses = address::for_join(asked, &interfaces::list().await?)?;
        let token = JoinToken::parse(&request.join_token)
            .map_err(|error| NodeError::invalid(error.to_string()))?;
        if addresses.advertise.is_none() {
            let source = source_towards(&remote).await;
            let port = addresses.listen.port();
            addresses.advertise = source.map(|ip| std::net::SocketAddr::new(ip, port));
        }
        let attempt = self.begin(Membership {
            state: LocalState::Pending,
            ..Membership::default()
        });
        let (node, availability) = (self.clone(), request.availability);
        let joining = tokio::spawn(async move {
            let joined = tokio::select! {
                joined = node.become_member(&remote, &token, availability, &addresses, &attempt) => joined,
                () = attempt.cancelled() => return Err(NodeError::not_member()),
            };
            if let Err(error) = &joined {
                tracing::error!(%error, "could not join the swarm");
                node.forget().await?;
            }
            joined
        });
        drop(changing);
        match timeout(JOIN_WAIT, joining).await {
            Ok(joined) => joined.map_err(internal)?,
            Err(_) => Err(NodeError::unavailable(JOIN_GOES_ON)),
        }
    }

    async fn become_member(
        &self,
        remote: &str,
        token: &JoinToken,
        availability: Availability,
        addresses: &Addresses,
        attempt: &CancellationToken,
    ) -> Result<(), NodeError> {
        let identity = joining::obtain(remote, token, availability).await?;
        let saved = Saved {
            listen: addresses.listen,
            advertise: addresses.advertise,
            data_path: addresses.data_path,
            raft_id: None,
            managers: vec![RemoteManager {
                node_id: String::new(),
                address: remote.to_owned(),
            }],
        };
        let vault = Vault::new(self.folder().certificates());
        let kept = Kept::new(self.folder().clone(), vault, saved.clone());
        // From here on whoever leaves keeps this from writing. One who was quicker has ended it.
        if attempt.is_cancelled() {
            return Err(NodeError::not_member());
        }
        let certificate = identity.clone();
        kept.write(move |kept| {
            kept.folder.wipe()?;
            kept.folder.create()?;
            kept.folder.save(&saved)?;
            kept.vault.save(&certificate).map_err(internal)
        })
        .await?;
        let runtime = self.start_member(&identity, &kept, true).await?;
        if let Some(manager) = runtime.manager()
            && timeout(VOTE_WAIT, manager.raft().await_vote())
                .await
                .is_err()
        {
            tracing::warn!(
                "joined the managers, but has no vote after {VOTE_WAIT:?}: until then, the swarm \
                 does not survive the loss of the others"
            );
        }
        let active = membership(&identity, &kept.saved(), LocalState::Active);
        tracing::info!(
            node = active.node_id,
            manager = active.is_manager,
            "joined a swarm"
        );
        self.settle(active, runtime, attempt).await;
        Ok(())
    }

    /// Starts what the certificate says. `joins`: a manager is let into the Raft group first, rather
    /// than in the background.
    pub(super) async fn start_member(
        &self,
        identity: &Identity,
        kept: &Kept,
        joins: bool,
    ) -> Result<Runtime, NodeError> {
        let (_, until) = identity.validity().map_err(internal)?;
        if until < clock::now() {
            return Err(NodeError::unavailable(EXPIRED));
        }
        let credentials = credentials(identity.clone())?;
        let seat = match (is_manager(identity), kept.saved().raft_id) {
            (true, Some(id)) => Some(Seat::take(kept, id, credentials.clone()).await?),
            (true, None) if joins => {
                let managers = Managers::new(credentials.clone(), kept.saved().managers);
                Some(Seat::join(kept, credentials.clone(), &managers).await?)
            }
            _ => None,
        };
        Runtime::start(self, credentials, kept.clone(), seat).await
    }

    /// Leaves the swarm and forgets it.
    ///
    /// # Errors
    /// Not a member; or a manager, and not `force`.
    pub async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let _changing = self.inner.changing.lock().await;
        let membership = self.membership();
        if membership.state == LocalState::Inactive {
            return Err(NodeError::not_member());
        }
        if membership.state == LocalState::Locked && !force {
            return Err(NodeError::unavailable(LOCKED));
        }
        if membership.is_manager && !force {
            return Err(self.refuse_to_leave().await);
        }
        let runtime = self.take_runtime();
        if let Some(runtime) = runtime {
            if let Some(manager) = runtime.manager() {
                leave_group(manager.raft(), &runtime.managers, &membership.node_id).await;
            }
            runtime.stop().await;
        }
        cleanup::clean(&self.inner.config.engine, &membership.node_id).await;
        // Last: the containers' endpoints are taken away before their networks are unknown.
        let dataplane = &self.inner.config.dataplane;
        if let Err(error) = clear(dataplane).await {
            tracing::warn!(
                socket = %dataplane.display(),
                "the dataplane was not told that the node left the swarm, and keeps its published \
                 ports: {}; with skein-dataplane running, join a swarm and leave it to clear them",
                error.message()
            );
        }
        self.forget().await?;
        tracing::info!(node = membership.node_id, "left the swarm");
        Ok(())
    }

    async fn refuse_to_leave(&self) -> NodeError {
        let why = match self.manager() {
            None => format!("{INACTIVE_MANAGER}{LOST_CONSENSUS}"),
            Some(manager) => {
                let members = manager.raft().members().len();
                let reachable = self.reachable_managers(manager.raft()).await;
                reason_to_stay(members, reachable)
            }
        };
        NodeError::unavailable(format!("{LEAVING_MANAGER}{why}"))
    }

    /// How many managers answer the leader, which alone calls them all; without one, this one does.
    async fn reachable_managers(&self, raft: &Raft) -> usize {
        if raft.leadership().borrow().is_self {
            let members = raft.members();
            return members.iter().filter(|m| raft.reachable(m.raft_id)).count();
        }
        let asked = async {
            let mut client = ApiClient::new(self.leader_channel().await.ok()?);
            let request = ApiRequest {
                method: "GET".into(),
                uri: "/nodes".into(),
                ..ApiRequest::default()
            };
            let mut chunks = client.call(request).await.ok()?.into_inner();
            let mut body = Vec::new();
            while let Some(chunk) = chunks.message().await.ok()? {
                body.extend_from_slice(&chunk.data);
            }
            let nodes: Vec<skein_model::Node> = serde_json::from_slice(&body).ok()?;
            let status = nodes.into_iter().filter_map(|node| node.manager_status);
            Some(
                status
                    .filter(|s| s.reachability == Reachability::Reachable)
                    .count(),
            )
        };
        timeout(ASK_TIMEOUT, asked)
            .await
            .ok()
            .flatten()
            .unwrap_or(1)
    }

    /// Takes what runs away from the membership, and ends what tries to start.
    pub(super) fn take_runtime(&self) -> Option<Arc<Runtime>> {
        let mut place = self.inner.place.write();
        place.attempt.cancel();
        place.runtime.take()
    }

    /// Ends this node's part without leaving the swarm.
    pub async fn stop(&self) {
        let _changing = self.inner.changing.lock().await;
        let runtime = self.take_runtime();
        if let Some(runtime) = runtime {
            runtime.stop().await;
        }
    }

    fn check_inactive(&self) -> Result<(), NodeError> {
        match self.membership().state {
            LocalState::Inactive => Ok(()),
            _ => Err(NodeError::already_member()),
        }
    }

    /// Notes that an attempt to become or to be a member begins; the token ends it.
    pub(super) fn begin(&self, membership: Membership) -> CancellationToken {
        let mut place = self.inner.place.write();
        place.membership = membership;
        place.attempt = CancellationToken::new();
        place.attempt.clone()
    }

    /// Notes that an attempt succeeded, unless it was ended meanwhile.
    pub(super) async fn settle(
        &self,
        membership: Membership,
        runtime: Runtime,
        attempt: &CancellationToken,
    ) {
        let runtime = Arc::new(runtime);
        let too_late = {
            let mut place = self.inner.place.write();
            if !attempt.is_cancelled() {
                place.membership = membership;
                place.runtime = Some(runtime.clone());
            }
            attempt.is_cancelled()
        };
        if too_late {
            runtime.stop().await;
        }
    }

    async fn forget(&self) -> Result<(), NodeError> {
        let folder = self.folder().clone();
        let wiped = blocking(move || folder.forget()).await;
        *self.inner.place.write() = Place::default();
        wiped
    }
}

fn founder_identity(cluster: &Cluster, node_id: &str) -> Result<Identity, NodeError> {
    let pair = key_and_request().map_err(internal)?;
    let certificate = sign(
        &cluster.root_ca,
        &pair.csr_pem,
        (&cluster.id, node_id, NodeRole::Manager),
        cert_expiry(&cluster.spec),
        clock::now(),
    );
    let certificate = certificate.map_err(internal)?;
    Identity::new(cluster.root_ca.cert_pem.clone(), certificate, pair.key_pem).map_err(internal)
}

pub(super) fn membership(identity: &Identity, saved: &Saved, state: LocalState) -> Membership {
    let advertised = saved.advertise.map(|address| address.ip().to_string());
    Membership {
        state,
        node_id: identity.node_id.clone(),
        node_addr: advertised.unwrap_or_default(),
        is_manager: is_manager(identity),
        cluster_id: identity.cluster_id.clone(),
        error: String::new(),
    }
}

/// Why a manager of `members`, of which `reachable` answer, must not leave just so.
fn reason_to_stay(members: usize, reachable: usize) -> String {
    if members <= 1 {
        return LAST_MANAGER.to_owned();
    }
    let left = reachable.saturating_sub(1);
    let unreachable = members.saturating_sub(reachable);
    // Swarm's rule: those that would be left are no majority of all there are now.
    if reachable <= unreachable + 2 {
        return format!(
            "Removing this node leaves {left} managers out of {members}. Without a Raft quorum \
             your swarm will be inaccessible. {LOST_CONSENSUS}"
        );
    }
    format!("{INACTIVE_MANAGER}{LOST_CONSENSUS}")
}

pub(super) async fn await_own_leadership(raft: &Raft) {
    let mut leadership = raft.leadership();
    // Fails only when the member has stopped; the proposal then says so.
    drop(leadership.wait_for(|leadership| leadership.is_self).await);
}

/// Asks the leader to let this manager go. Without it the others count a dead member, so failing is
/// logged, not fatal: the user has asked with force.
async fn leave_group(raft: &Raft, managers: &Managers, node_id: &str) {
    if raft.members().len() <= 1 {
        return;
    }
    let left = timeout(LEAVE_GROUP_TIMEOUT, async {
        if raft.leadership().borrow().is_self {
            let removed = raft.remove_manager(node_id).await;
            return removed.map_err(|error| error.to_string());
        }
        let channel = managers.leader().await.map_err(|error| error.to_string())?;
        let node_id = node_id.to_owned();
        let mut client = RaftClient::new(channel);
        let left = client.leave_group(LeaveGroupRequest { node_id }).await;
        left.map(|_| ())
            .map_err(|status| status.message().to_owned())
    });
    match left.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, "the other managers did not let this one go"),
        Err(_) => tracing::warn!("the other managers did not let this one go in time"),
    }
}

/// The address that packets to `remote` leave from.
async fn source_towards(remote: &str) -> Option<std::net::IpAddr> {
    let target = tokio::net::lookup_host(remote).await.ok()?.next()?;
    let any: std::net::IpAddr = if target.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    // A connected UDP socket sends nothing, but is routed.
    let socket = tokio::net::UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

pub(super) fn internal(error: impl std::fmt::Display) -> NodeError {
    NodeError::new(NodeErrorKind::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_why_it_must_stay() {
        assert_eq!(reason_to_stay(1, 1), LAST_MANAGER);
        let quorum = reason_to_stay(3, 2);
        assert!(quorum.starts_with("Removing this node leaves 1 managers out of 3. "));
        assert!(quorum.ends_with(LOST_CONSENSUS));
        assert!(reason_to_stay(3, 3).starts_with(INACTIVE_MANAGER));
        let two = reason_to_stay(2, 2);
        assert!(two.starts_with("Removing this node leaves 1 managers out of 2. "));
    }
}
