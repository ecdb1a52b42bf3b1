//! A member's role follows its certificate while it runs: a manager starts, or ends; one whose Raft
//! member ended by itself starts again; and one that is reached elsewhere says so.

use super::{
    Node, NodeError, address, interfaces,
    role_plan::{Situation, Step},
    runtime::{Runtime, is_manager},
    seat::{self, Seat},
};
use crate::{agent::RaftSeat, backoff};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause after a failure; it doubles with each that follows within [`RETRY_MAX`] of the one before.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(16);
/// Between looks at the machine's addresses: one that changed is noticed well before the others give the node up.
const ADDRESS_LOOK: Duration = Duration::from_secs(5);
/// How long the manager's own store may take to have the address that the leader has put into its own.
const ADDRESS_WAIT: Duration = Duration::from_secs(5);

/// Runs until `shutdown`.
pub(super) async fn run(node: Node, runtime: Runtime, shutdown: CancellationToken) {
    let follow = async {
        let mut generation = runtime.credentials.generation();
        let mut orders = runtime.orders();
        let mut failures = 0;
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
                    () = tokio::time::sleep(ADDRESS_LOOK) => continue,
                    () = runtime.await_address(false) => continue,
                    reason = runtime.manager_failure() => {
                        runtime.stop_manager().await;
                        NodeError::internal(format!("Raft ended: {reason}"))
                    }
                },
                Err(error) => error,
            };
            if began.elapsed() > RETRY_MAX {
                failures = 0;
            }
            let retry = backoff::pause(RETRY_MIN, RETRY_MAX, failures);
            tracing::warn!(%error, ?retry, "this node does not have its role; it is taken up again");
            tokio::time::sleep(retry).await;
            failures += 1;
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

/// Takes steps until all is as it is to be.
async fn settle(node: &Node, runtime: &Runtime, place: &RaftSeat) -> Result<(), NodeError> {
    follow_address(runtime).await?;
    loop {
        let identity = runtime.credentials.identity();
        let (address, stored) = (runtime.address(), runtime.stored_address());
        let situation = Situation {
            certified: identity.role,
            place: *place,
            raft_id: runtime.kept.saved().raft_id,
            joined_at: runtime.joined_at(),
            has_log: runtime.kept.folder.has_raft_log(),
            runs: runtime.manager().is_some(),
            address: address.as_deref(),
            stored_address: stored.as_deref(),
        };
        match situation.next() {
            Step::Rest => return Ok(()),
            Step::Take(id) => {
                let credentials = runtime.credentials.clone();
                let seat = Seat::take(&runtime.kept, id, credentials).await?;
                runtime.start_manager(node, seat).await?;
                tracing::info!("this node is a manager now");
            }
            Step::Join => {
                let credentials = runtime.credentials.clone();
                let seat = Seat::join(&runtime.kept, credentials, &runtime.managers).await?;
                runtime.start_manager(node, seat).await?;
                tracing::info!("this node is a manager now");
            }
            Step::GiveUp => {
                leave_seat(runtime).await?;
                match is_manager(&identity) {
                    true => {
                        tracing::info!("gave up an earlier seat among the managers, to join anew")
                    }
                    false => tracing::info!("this node is a worker now"),
                }
            }
            Step::Readdress => readdress(runtime).await?,
        }
    }
}

/// Notes the address that the machine has now, in place of one that it has no more.
async fn follow_address(runtime: &Runtime) -> Result<(), NodeError> {
    let saved = runtime.kept.saved();
    let (Some(advertised), Some(interface)) = (saved.advertise, saved.interface) else {
        return Ok(());
    };
    let Some(now) = address::moved(advertised, &interface, &interfaces::list().await?) else {
        return Ok(());
    };
    tracing::warn!(interface, before = %advertised, %now, "this machine has another address");
    let changed = runtime
        .kept
        .change(move |saved| saved.advertise = Some(now));
    changed.await?;
    runtime.announce_address();
    Ok(())
}

/// Tells the leader where this manager is reached now, and waits until its own store says so.
async fn readdress(runtime: &Runtime) -> Result<(), NodeError> {
    let Some(manager) = runtime.manager() else {
        return Ok(());
    };
    let raft = manager.raft();
    let mut saved = runtime.kept.saved();
    let address = saved.advertise.unwrap_or(saved.listen).to_string();
    if raft.leadership().borrow().is_self {
        let node_id = runtime.credentials.identity().node_id;
        let told = raft.add_manager(&node_id, &address).await;
        told.map_err(|error| NodeError::unavailable(error.to_string()))?;
    } else {
        seat::join_group(&mut saved, &runtime.credentials, &runtime.managers).await?;
    }
    tracing::info!(address, "the managers reach this one at its new address");
    runtime.managers.set_own(address, saved.listen);
    // Whoever waits in vain asks once more.
    let _ = tokio::time::timeout(ADDRESS_WAIT, runtime.await_address(true)).await;
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
