//! How a node comes to be a member of a swarm that is there.

use super::{
    JoinRequest, LocalState, Membership, Node, NodeError, NodeErrorKind, RemoteManager,
    address::{self, Asked},
    certificate_request, interfaces,
    lifecycle::{RESUME_MAX, RESUME_MIN, internal, membership},
    persist::{Joining, Kept, Saved},
};
use crate::{
    backoff,
    blocking::blocking,
    identity::{Identity, JoinToken, Vault},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the API waits for a join; it goes on in the background after that.
const JOIN_WAIT: Duration = Duration::from_secs(20);
/// From a manager's place in the group to its vote: it hears all that was written before.
const VOTE_WAIT: Duration = Duration::from_secs(60);
const JOIN_GOES_ON: &str = "Timeout was reached before node joined. The attempt to join the swarm \
     will continue in the background. Use the \"docker info\" command to see the current swarm \
     status of your node.";

/// How long a join is tried. Clones are the same.
#[derive(Clone, Debug, Default)]
struct Patience(Arc<AtomicBool>);

impl Patience {
    /// The user was told that it goes on. After a restart, too, which may be one of all machines at once: until the
    /// managers are there, or the node leaves. Until then, the user waits to hear why it failed, and asks again.
    fn go_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether another attempt may come to something, and is to be made.
    fn outlasts(&self, error: &NodeError) -> bool {
        self.0.load(Ordering::Relaxed) && error.kind == NodeErrorKind::Unavailable
    }
}

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
        let joining = Joining {
            remote,
            token: token.as_str().to_owned(),
            availability: request.availability,
            addresses,
        };
        let (folder, kept) = (self.folder().clone(), joining.clone());
        blocking(move || folder.save_joining(&kept)).await?;
        let patience = Patience::default();
        let joining = self.spawn_join(joining, token, patience.clone());
        drop(changing);
        match timeout(JOIN_WAIT, joining).await {
            Ok(joined) => joined.map_err(internal)?,
            Err(_) => {
                patience.go_on();
                Err(NodeError::unavailable(JOIN_GOES_ON))
            }
        }
    }

    /// Goes on with a join that a restart broke off.
    pub(super) fn resume_join(&self, joining: Joining) -> Result<(), NodeError> {
        let token = JoinToken::parse(&joining.token)
            .map_err(|error| NodeError::invalid(error.to_string()))?;
        tracing::info!(remote = joining.remote, "going on to join a swarm");
        let patience = Patience::default();
        patience.go_on();
        drop(self.spawn_join(joining, token, patience));
        Ok(())
    }

    /// Joins in the background. Where that fails, nothing of it stays.
    fn spawn_join(
        &self,
        joining: Joining,
        token: JoinToken,
        patience: Patience,
    ) -> JoinHandle<Result<(), NodeError>> {
        let attempt = self.begin(Membership {
            state: LocalState::Pending,
            ..Membership::default()
        });
        let node = self.clone();
        tokio::spawn(async move {
            let joined = tokio::select! {
                joined = node.become_member(&joining, &token, &patience, &attempt) => joined,
                () = attempt.cancelled() => return Err(NodeError::not_member()),
            };
            if let Err(error) = &joined {
                tracing::error!(%error, "could not join the swarm");
                node.forget().await?;
            }
            joined
        })
    }

    async fn become_member(
        &self,
        joining: &Joining,
        token: &JoinToken,
        patience: &Patience,
        attempt: &CancellationToken,
    ) -> Result<(), NodeError> {
        let remote = &joining.remote;
        let waits = |reason: &str| {
            tracing::warn!(reason, "waiting for a certificate, to join the swarm");
            self.note_trouble(attempt, reason);
        };
        let mut failures = 0;
        let identity = loop {
            match certificate_request::obtain(remote, token, joining.availability, waits).await {
                Err(error) if patience.outlasts(&error) => {
                    waits(&error.message);
                    sleep(backoff::pause(RESUME_MIN, RESUME_MAX, failures)).await;
                    failures += 1;
                }
                obtained => break obtained?,
            }
        };
        let joined = self
            .take_place(identity.clone(), joining, patience, attempt)
            .await;
        if joined.is_err() {
            certificate_request::withdraw(remote, &identity).await;
        }
        joined
    }

    /// Becomes what the certificate says.
    async fn take_place(
        &self,
        identity: Identity,
        joining: &Joining,
        patience: &Patience,
        attempt: &CancellationToken,
    ) -> Result<(), NodeError> {
        let Joining {
            remote, addresses, ..
        } = joining;
        let saved = Saved {
            listen: addresses.listen,
            advertise: addresses.advertise,
            data_path: addresses.data_path,
            interface: addresses.interface.clone(),
            raft_id: None,
            managers: vec![RemoteManager {
                node_id: String::new(),
                address: remote.clone(),
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
            // A crash in the midst of this leaves what is joined, or a member that a restart resumes.
            kept.folder.wipe_but_joining()?;
            kept.folder.create()?;
            kept.folder.save(&saved)?;
            kept.vault.save(&certificate).map_err(internal)?;
            kept.folder.joined()
        })
        .await?;
        let runtime = match self.start_member(&identity, &kept, true).await {
            // What is kept is a member, which goes on as it would after a restart.
            Err(error) if patience.outlasts(&error) => {
                tracing::warn!(%error, "has a certificate, and goes on to take the node's place");
                self.clone()
                    .keep_resuming(identity, kept, attempt.clone())
                    .await;
                return Ok(());
            }
            started => started?,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Config;
    use std::{path::Path, time::Instant};

    fn config(state_dir: &Path) -> Config {
        Config {
            state_dir: state_dir.join("control"),
            engine: state_dir.join("engine.sock"),
            prefers_present_images: false,
            dataplane: state_dir.join("dataplane.sock"),
            default_advertise_addr: String::new(),
        }
    }

    /// A manager that takes every connection and says nothing.
    async fn silent_manager() -> (tokio::net::TcpListener, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    async fn is_asked(manager: &tokio::net::TcpListener) {
        let asked = timeout(Duration::from_secs(20), manager.accept()).await;
        asked.expect("the manager is asked").unwrap();
    }

    #[tokio::test]
    async fn a_join_goes_on_after_a_restart_until_the_node_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let (manager, remote) = silent_manager().await;
        let request = JoinRequest {
            listen_addr: "127.0.0.1:0".into(),
            advertise_addr: "127.0.0.1".into(),
            remote_addrs: vec![remote],
            join_token: format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25)),
            ..JoinRequest::default()
        };
        let node = Node::start(config(directory.path())).await.unwrap();
        let joining = node.clone();
        let asked = tokio::spawn(async move { joining.join(request).await });
        is_asked(&manager).await;
        assert_eq!(node.membership().state, LocalState::Pending);
        node.stop().await;
        asked.abort();

        let node = Node::start(config(directory.path())).await.unwrap();
        assert_eq!(node.membership().state, LocalState::Pending);
        is_asked(&manager).await;
        let begun = Instant::now();
        node.leave(false).await.unwrap();
        assert_eq!(node.membership().state, LocalState::Inactive);
        assert!(begun.elapsed() < Duration::from_secs(60));

        let node = Node::start(config(directory.path())).await.unwrap();
        assert_eq!(node.membership().state, LocalState::Inactive);
    }

    #[test]
    fn only_a_join_that_goes_on_outlasts_managers_that_are_away() {
        let away = NodeError::unavailable("no manager answers");
        let wrong = NodeError::invalid("A valid join token is necessary to join this cluster");
        let patience = Patience::default();
        assert!(!patience.outlasts(&away), "the user waits for it");
        patience.clone().go_on();
        assert!(patience.outlasts(&away));
        assert!(!patience.outlasts(&wrong));
    }
}
