//! A member's role follows its certificate while it runs: a manager starts, or ends; one whose Raft
//! member ended by itself starts again.

use super::{
    Node, NodeError,
    runtime::{Runtime, is_manager},
    seat::Seat,
};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause after a failure; it doubles with each that follows within [`RETRY_MAX`] of the one before.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(16);

/// Runs until `shutdown`.
pub(super) async fn run(node: Node, runtime: Runtime, shutdown: CancellationToken) {
    let follow = async {
        let mut generation = runtime.credentials.generation();
        let mut retry = RETRY_MIN;
        loop {
            generation.mark_unchanged();
            let began = Instant::now();
            let settled = settle(&node, &runtime).await;
            let error = match settled {
                Ok(()) => tokio::select! {
                    changed = generation.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    reason = runtime.manager_failure() => {
                        runtime.stop_manager().await;
                        NodeError::internal(format!("Raft ended: {reason}"))
                    }
                },
                Err(error) => error,
            };
            if began.elapsed() > RETRY_MAX {
                retry = RETRY_MIN;
            }
            tracing::warn!(%error, ?retry, "this node does not have its role; it is taken up again");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

async fn settle(node: &Node, runtime: &Runtime) -> Result<(), NodeError> {
    let (wanted, runs) = (
        is_manager(&runtime.credentials.identity()),
        runtime.manager().is_some(),
    );
    if wanted && !runs {
        let credentials = runtime.credentials.clone();
        let seat = match runtime.kept.saved().raft_id {
            Some(id) => Seat::take(&runtime.kept, id, credentials).await?,
            None => Seat::join(&runtime.kept, credentials, &runtime.managers).await?,
        };
        runtime.start_manager(node, seat).await?;
        tracing::info!("this node is a manager now");
    }
    if !wanted && (runs || runtime.kept.saved().raft_id.is_some()) {
        runtime.stop_manager().await;
        // The ID goes first: under it there must never be an empty log.
        runtime.kept.change(|saved| saved.raft_id = None).await?;
        runtime.kept.write(|kept| kept.folder.wipe_raft()).await?;
        runtime
            .kept
            .with_vault(|vault| vault.forget_log_keys())
            .await?;
        tracing::info!("this node is a worker now");
    }
    Ok(())
}
