//! Who leads, as the rest of the manager is told: a leader is announced once a quorum has confirmed it, and while one
//! answers it.

use super::{
    Leadership, Member,
    handle::PROPOSE_TIMEOUT,
    platform::{self, Platform},
    types::{Peer, TypeConfig},
};
use openraft::ServerState;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between attempts of a leader to be confirmed by a quorum.
pub(super) const CONFIRM_RETRY: Duration = Duration::from_millis(100);

pub(super) fn member(raft_id: u64, peer: &Peer) -> Member {
    Member {
        raft_id,
        node_id: peer.node_id.clone(),
        address: peer.address.clone(),
        votes: true,
    }
}

/// Tells who leads, until `stop`; while `followed` is not so, nobody does.
pub(super) async fn announce<P: Platform>(
    raft: openraft::Raft<TypeConfig<P>>,
    id: u64,
    announce: watch::Sender<Leadership>,
    mut followed: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let follows = *followed.borrow_and_update();
        let (seen, claims) = {
            let metrics = metrics.borrow_and_update();
            let leader = metrics.current_leader.filter(|_| follows);
            let leader = leader.and_then(|id| {
                let members = metrics.membership_config.membership();
                Some(member(id, members.get_node(&id)?))
            });
            let claims = follows && metrics.state == ServerState::Leader;
            let seen = Leadership {
                term: metrics.vote.leader_id().get_term(),
                is_self: claims && metrics.current_leader == Some(id),
                leader,
            };
            (seen, claims)
        };
        let confirmed = !claims || {
            let before = announce.borrow().clone();
            let is_known = before.is_self && before.term == seen.term;
            is_known || confirm(&raft).await
        };
        if confirmed {
            announce.send_if_modified(|known| {
                let changed = *known != seen;
                *known = seen;
                changed
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
            changed = followed.changed() => if changed.is_err() { break },
            () = platform::sleep::<P>(CONFIRM_RETRY), if !confirmed => {}
        }
    }
    announce.send_replace(Leadership::default());
}

/// Whether a quorum says that this member leads; its state then is as new as any.
async fn confirm<P: Platform>(raft: &openraft::Raft<TypeConfig<P>>) -> bool {
    let confirmed = platform::timeout::<P, _>(PROPOSE_TIMEOUT, raft.ensure_linearizable()).await;
    matches!(confirmed, Some(Ok(_)))
}
