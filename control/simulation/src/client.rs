//! Users of the cluster: they change it as the API does, and remember what they were told.

use crate::{
    changes,
    executor::{self, Random},
    history::{History, Seen},
    member::Managers,
    membership::Memberships,
    network::{Host, Network},
    platform::Simulated,
};
use futures::FutureExt as _;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_control::{
    manager::{Manager, QuorumView},
    raft::ProposeError,
};
use skein_model::Applied;
use std::time::Duration;

/// How long a client waits for an answer: as long as the API's own proposals take at most, and a bit.
const PATIENCE: Duration = Duration::from_secs(12);
/// How many managers a client asks one after the other.
const ATTEMPTS: u32 = 4;
/// Between two changes.
const THINK_MS: (u64, u64) = (50, 1_500);

/// A client on a host of its own.
#[derive(Clone)]
pub struct Client {
    /// Where it is.
    pub host: Host,
    /// What carries its messages.
    pub network: Network,
    /// Whom they reach.
    pub managers: Managers,
    /// Where managers are.
    pub memberships: Memberships,
    /// Sees what it was told.
    pub history: History,
}

/// What a manager answered.
struct ClientReply {
    /// Of what it read.
    index: u64,
    /// What was asked for.
    what: String,
    /// Nothing if it asked for nothing, or for what is refused.
    applied: Vec<Applied>,
}

impl Client {
    /// Changes the cluster again and again.
    pub async fn run(self) {
        loop {
            let think = Random.random_range(THINK_MS.0..=THINK_MS.1);
            executor::sleep(Duration::from_millis(think)).await;
            self.change_something().await;
        }
    }

    async fn change_something(&self) {
        let mut target = self.memberships.managers().into_iter().choose(&mut Random);
        for _ in 0..ATTEMPTS {
            let Some(to) = target else { return };
            let acknowledged = self.history.greatest_acknowledged();
            let managers = self.managers.clone();
            let handle = move || {
                let manager = managers.get(to);
                async move { Some(answer(manager?).await) }.boxed()
            };
            let answer = self.network.call(self.host, to, handle);
            target = match executor::timeout(PATIENCE, answer).await {
                Ok(Ok(Some(Ok(answer)))) => {
                    self.take(answer, acknowledged);
                    return;
                }
                Ok(Ok(Some(Err(ProposeError::NotLeader { leader })))) => {
                    leader.and_then(|leader| crate::host_at(&leader.address))
                }
                // What was asked for may be done or not.
                Ok(Ok(Some(Err(_)))) | Err(_) => return,
                Ok(Ok(None) | Err(_)) => {
                    self.memberships.managers().into_iter().choose(&mut Random)
                }
            };
        }
    }

    fn take(&self, answer: ClientReply, acknowledged: u64) {
        let (index, what) = (answer.index, answer.what);
        self.history.see(&Seen::Read {
            acknowledged,
            index,
        });
        if answer.applied.is_empty() {
            self.history.tell("refused", what.to_string());
        }
        for applied in answer.applied {
            let index = applied.index;
            self.history
                .tell("acknowledged", format!("{what} at index {index}"));
            self.history.acknowledged(index, &applied.events);
        }
    }
}

/// What the manager's API does with a request.
async fn answer(manager: Manager<Simulated>) -> Result<ClientReply, ProposeError> {
    let raft = manager.raft();
    let state = raft.linearizable().await?;
    let index = state.index();
    let group = QuorumView::of(raft.members(), |id| raft.reachable(id));
    let Some((what, proposals)) = changes::draw(&state, &group, raft.now()) else {
        return Ok(ClientReply {
            index,
            what: "nothing".to_owned(),
            applied: Vec::new(),
        });
    };
    let mut applied = Vec::new();
    for actions in proposals {
        match raft.propose(actions).await {
            Ok(made) => applied.push(made),
            Err(ProposeError::Rejected(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(ClientReply {
        index,
        what,
        applied,
    })
}
