//! How a swarm begins: with this node as its first manager.

use super::{
    InitRequest, LocalState, Node, NodeError,
    address::{self, Addresses, Asked},
    bootstrap, interfaces,
    lifecycle::{internal, membership},
    persist::{Kept, Saved},
    runtime::{Runtime, credentials},
    seat::Seat,
};
use crate::{
    clock,
    identity::{
        ExternalCas, Identity, SecretKey, Vault, apply_spec, cert_expiry, key_and_request, sign,
    },
    raft::Raft,
};
use skein_model::{Cluster, NodeRole};
use std::time::Duration;
use tokio::time::timeout;

/// How long a new group of one member takes to choose it: an election timeout and a sync.
const FOUND_TIMEOUT: Duration = Duration::from_secs(15);

impl Node {
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
        bootstrap::check_name(&request)?;
        let asked = Asked {
            listen: &request.listen_addr,
            advertise: &request.advertise_addr,
            data_path: &request.data_path_addr,
            default_advertise: &self.inner.config.default_advertise_addr,
        };
        let addresses = address::for_init(asked, &interfaces::list().await?)?;
        let choices = bootstrap::check(&request)?;
        let founded = self.found(choices, &addresses).await;
        if founded.is_err() {
            self.forget().await?;
        }
        founded
    }

    async fn found(
        &self,
        choices: bootstrap::Choices,
        addresses: &Addresses,
    ) -> Result<String, NodeError> {
        let advertise = addresses.advertise.unwrap_or(addresses.listen);
        let system = nix::sys::utsname::uname().map_err(internal)?;
        let founder = bootstrap::Founder {
            advertise,
            hostname: system.nodename().to_string_lossy().into_owned(),
            architecture: system.machine().to_string_lossy().into_owned(),
        };
        let now = clock::now();
        let (mut cluster, node, networks) =
            bootstrap::found(&choices, founder, now, &mut rand::rng())?;
        let identity = founder_identity(&cluster, &node.id, cert_expiry(&choices.spec))?;
        let credentials = credentials(identity.clone())?;
        let external_cas = ExternalCas::new(credentials.clone());
        apply_spec(&mut cluster, choices.spec, false, &external_cas, now)
            .await
            .map_err(|error| bootstrap::refused(&error))?;
        let saved = Saved {
            listen: addresses.listen,
            advertise: Some(advertise),
            data_path: addresses.data_path,
            interface: addresses.interface.clone(),
            raft_id: Some(bootstrap::FOUNDER_RAFT_ID),
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
        let seat = Seat::take(&kept, bootstrap::FOUNDER_RAFT_ID, credentials.clone()).await?;
        let node_id = node.id.clone();
        let objects = bootstrap::actions(cluster, node, networks);
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
}

fn founder_identity(
    cluster: &Cluster,
    node_id: &str,
    validity: Duration,
) -> Result<Identity, NodeError> {
    let pair = key_and_request().map_err(internal)?;
    let certificate = sign(
        &cluster.root_ca,
        &pair.csr_pem,
        (&cluster.id, node_id, NodeRole::Manager),
        validity,
        clock::now(),
    );
    let certificate = certificate.map_err(internal)?;
    Identity::new(cluster.root_ca.cert_pem.clone(), certificate, pair.key_pem).map_err(internal)
}

pub(super) async fn await_own_leadership(raft: &Raft) {
    let mut leadership = raft.leadership();
    // Fails only when the member has stopped; the proposal then says so.
    drop(leadership.wait_for(|leadership| leadership.is_self).await);
}
