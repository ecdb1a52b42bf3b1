//! What keeps a member's list of managers as it is said to be.

use super::{RemoteManager, persist::Kept};
use crate::{raft::Raft, rpc::Managers};
use tokio_util::sync::CancellationToken;

/// Keeps a manager's own list of managers, and of who leads, what Raft says it is.
pub(super) async fn follow_leader(raft: Raft, managers: Managers, shutdown: CancellationToken) {
    let (mut state, mut leadership) = (raft.watch(), raft.leadership());
    loop {
        let known = {
            let state = state.borrow_and_update();
            let members = state.cluster().map(|cluster| cluster.managers.clone());
            members.unwrap_or_default().into_iter()
        };
        let known = known.map(|(node_id, member)| RemoteManager {
            node_id,
            address: member.addr,
        });
        managers.update(known.collect());
        let leader = leadership.borrow_and_update().leader.clone();
        managers.point_to(leader.map(|leader| leader.address));
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Writes down the managers that the node hears of, so that it finds one after a restart.
pub(super) async fn keep_managers(kept: Kept, managers: Managers, shutdown: CancellationToken) {
    let mut known = managers.watch();
    loop {
        tokio::select! {
            changed = known.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        let now = known.borrow_and_update().clone();
        if let Err(error) = kept.change(|saved| saved.managers = now).await {
            tracing::warn!(%error, "could not write down the managers");
        }
    }
}
