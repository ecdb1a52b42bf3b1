//! How a node comes to be a member of a swarm that is there.

use super::{
    JoinRequest, LocalState, Membership, Node, NodeError, RemoteManager,
    address::{self, Addresses, Asked},
    interfaces, joining,
    lifecycle::{internal, membership},
    persist::{Kept, Saved},
};
use crate::identity::{Identity, JoinToken, Vault};
use skein_model::Availability;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the API waits for a join; it goes on in the background after that.
const JOIN_WAIT: Duration = Duration::from_secs(20);
/// From a manager's place in the group to its vote: it hears all that was written before.
const VOTE_WAIT: Duration = Duration::from_secs(60);
const JOIN_GOES_ON: &str = "Timeout was reached before node joined. The attempt to join the swarm \
     will continue in the background. Use the \"docker info\" command to see the current swarm \
     status of your node.";

impl Node {
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
        let asked = Asked {
            listen: &request.listen_addr,
            advertise: &request.advertise_addr,
            data_path: &request.data_path_addr,
            default_advertise: &self.inner.config.default_advertise_addr,
        };
        let interfaces = interfaces::list().await?;
        let mut addresses = address::for_join(asked, &interfaces)?;
        let token = JoinToken::parse(&request.join_token)
            .map_err(|error| NodeError::invalid(error.to_string()))?;
        if addresses.advertise.is_none()
            && let Some(source) = source_towards(&remote).await
        {
            addresses.advertise_own(source, &interfaces);
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
        let waits = |reason: &str| {
            tracing::warn!(reason, "waiting for a certificate, to join the swarm");
            self.note_trouble(attempt, reason);
        };
        let identity = joining::obtain(remote, token, availability, waits).await?;
        let joined = self
            .take_place(identity.clone(), remote, addresses, attempt)
            .await;
        if joined.is_err() {
            joining::withdraw(remote, &identity).await;
        }
        joined
    }

    /// Becomes what the certificate says.
    async fn take_place(
        &self,
        identity: Identity,
        remote: &str,
        addresses: &Addresses,
        attempt: &CancellationToken,
    ) -> Result<(), NodeError> {
        let saved = Saved {
            listen: addresses.listen,
            advertise: addresses.advertise,
            data_path: addresses.data_path,
            interface: addresses.interface.clone(),
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
