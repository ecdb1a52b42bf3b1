//! A member's role follows its certificate while it runs: a manager starts, or ends; one whose Raft
//! member ended by itself starts again.

use super::{
    Node, NodeError,
    runtime::{Runtime, is_manager},
    seat::Seat,
};
use crate::agent::Place;
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
        let mut orders = runtime.orders();
        let mut retry = RETRY_MIN;
        loop {
            generation.mark_unchanged();
            let began = Instant::now();
            let place = orders.borrow_and_update().place;
            let settled = settle(&node, &runtime, &place).await;
            let error = match settled {
                Ok(()) => tokio::select! {
                    changed = generation.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    changed = orders.changed() => match changed {
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

/// Whether the group has let this node's member go, though the node is to be a manager: it was demoted, and promoted
/// again before it had another certificate. `own` is the ID that it has, `joined_at` the state of the store in which it
/// got it; what was said of earlier ones is past.
fn has_lost_its_seat(place: &Place, own: Option<u64>, joined_at: u64) -> bool {
    let is_gone = own.is_some_and(|own| own != place.raft_id) && !place.is_member;
    place.is_manager && is_gone && place.index > joined_at
}

async fn settle(node: &Node, runtime: &Runtime, place: &Place) -> Result<(), NodeError> {
    let wanted = is_manager(&runtime.credentials.identity());
    let own = runtime.kept.saved().raft_id;
    if wanted && has_lost_its_seat(place, own, runtime.joined_at()) {
        tracing::info!("the managers have let this one go, and want it again: it joins them anew");
        leave_seat(runtime).await?;
    }
    let runs = runtime.manager().is_some();
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
        leave_seat(runtime).await?;
        tracing::info!("this node is a worker now");
    }
    Ok(())
}

/// Ends what a manager has, and forgets its log.
async fn leave_seat(runtime: &Runtime) -> Result<(), NodeError> {
    runtime.stop_manager().await;
    // The ID goes first: under it there must never be an empty log.
    runtime.kept.change(|saved| saved.raft_id = None).await?;
    runtime.kept.write(|kept| kept.folder.wipe_raft()).await?;
    let forgotten = runtime.kept.with_vault(|vault| vault.forget_log_keys());
    forgotten.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_lost_when_the_group_has_let_it_go_and_the_node_is_wanted() {
        let place = Place {
            is_manager: true,
            raft_id: 0,
            is_member: false,
            index: 90,
        };
        assert!(has_lost_its_seat(&place, Some(7), 0), "let go and wanted");
        assert!(has_lost_its_seat(
            &Place {
                raft_id: 8,
                ..place
            },
            Some(7),
            80
        ));
        for (kept, own, joined_at, why) in [
            (
                Place {
                    raft_id: 7,
                    ..place
                },
                Some(7),
                0,
                "about to be one",
            ),
            (
                Place {
                    is_member: true,
                    ..place
                },
                Some(7),
                0,
                "the group needs its vote",
            ),
            (
                Place {
                    is_manager: false,
                    ..place
                },
                Some(7),
                0,
                "it is to be a worker",
            ),
            (place, Some(7), 90, "it was told so before it joined"),
            (place, None, 0, "it has none"),
            (Place::default(), Some(7), 0, "nothing was said yet"),
        ] {
            assert!(!has_lost_its_seat(&kept, own, joined_at), "{why}");
        }
    }
}
