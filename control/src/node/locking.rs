//! A manager seals its keys with the unlock key that the store says.

use super::{NodeError, persist::Kept};
use crate::{identity::SecretKey, raft::Raft};
use skein_model::Cluster;
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Pause after the disk refused.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until `shutdown`.
pub(super) async fn run(raft: Raft, kept: Kept, renew: Arc<Notify>, shutdown: CancellationToken) {
    let follow = async {
        let mut states = raft.watch();
        loop {
            let cluster = states.borrow_and_update().cluster().cloned();
            let settled = match cluster {
                Some(cluster) => settle(&raft, &kept, &renew, &cluster).await,
                None => Ok(()),
            };
            if let Err(error) = settled {
                tracing::error!(%error, "could not seal the manager's keys as the swarm wants it");
                tokio::time::sleep(RETRY).await;
            } else if states.changed().await.is_err() {
                return;
            }
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

async fn settle(
    raft: &Raft,
    kept: &Kept,
    renew: &Notify,
    cluster: &Cluster,
) -> Result<(), NodeError> {
    let version = cluster.meta.version.index;
    let wanted = SecretKey::parse_unlock(&cluster.unlock_key.0).ok();
    let has = kept.vault.lock_key();
    // After a restart the state may at first be older than what the keys are sealed with.
    if has != wanted && version > kept.vault.lock_version() {
        let locks = has.is_none();
        kept.with_vault(move |vault| vault.set_lock_key(wanted, version))
            .await?;
        tracing::info!(locks, "the manager's keys are sealed anew");
    }
    if let Some(key) = kept.vault.pending_key() {
        // The TLS key was on disk in the clear as well. Here, as a crash may have come in between.
        renew.notify_one();
        let rekeyed = raft.rekey(key).await;
        rekeyed.map_err(|error| {
            NodeError::internal(format!(
                "could not seal the Raft log with a new key: {error}"
            ))
        })?;
        kept.with_vault(|vault| vault.end_rekey()).await?;
    }
    Ok(())
}
