//! A locked manager is given the unlock key.

use super::{LocalState, Node, NodeError, NodeErrorKind, persist::Kept};
use crate::identity::{IdentityError, KeyFileError, SecretKey, Stored, Vault};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the API waits for the manager to start; it goes on in the background after that.
const START_WAIT: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(50);

impl Node {
    /// Opens the keys of a locked manager, and starts it. A manager that has not started within [`START_WAIT`] was
    /// unlocked all the same: it goes on, and `docker info` says of its state.
    ///
    /// # Errors
    /// It is not locked, or this is not the key.
    pub async fn unlock(&self, text: &str) -> Result<(), NodeError> {
        let changing = self.inner.changing.lock().await;
        if self.manager().is_some() {
            let kind = NodeErrorKind::Conflict;
            return Err(NodeError::new(kind, "swarm is not locked"));
        }
        let membership = self.membership();
        if membership.state != LocalState::Locked {
            return Err(NodeError::not_manager(&membership));
        }
        let key = SecretKey::parse_unlock(text);
        let key = key.map_err(|error| NodeError::invalid(error.to_string()))?;
        let dir = self.folder().certificates();
        let loading = tokio::task::spawn_blocking(move || Vault::load(&dir, Some(&key)));
        let loaded = loading.await;
        let loaded = loaded.map_err(|error| NodeError::internal(error.to_string()))?;
        let stored = loaded.map_err(|error| match error {
            IdentityError::Key(KeyFileError::WrongKey) => NodeError::new(
                NodeErrorKind::WrongKey,
                "swarm could not be unlocked: invalid key provided",
            ),
            error => NodeError::internal(error.to_string()),
        })?;
        let Stored::Open(identity, vault) = stored else {
            return Err(NodeError::internal(
                "the node's certificate is gone: leave the swarm with \"docker swarm leave --force\", and join again",
            ));
        };
        let saved = self.folder().load()?;
        tracing::info!(node = identity.node_id, "this manager was unlocked");
        drop(self.resume(identity, Kept::new(self.folder().clone(), vault, saved)));
        drop(changing);
        let started = timeout(START_WAIT, async {
            loop {
                let membership = self.membership();
                match membership.state {
                    LocalState::Pending => sleep(START_POLL).await,
                    LocalState::Error => {
                        let reason = membership.error;
                        return Err(NodeError::internal(format!(
                            "swarm component could not be started: {reason}"
                        )));
                    }
                    _ => return Ok(()),
                }
            }
        });
        started.await.unwrap_or(Ok(()))
    }
}
