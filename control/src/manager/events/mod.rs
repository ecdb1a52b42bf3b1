//! What happens to the swarm's objects, told to whoever listens on this manager.
//!
//! Every manager tells the same, from its own copy of the store: by comparing each state with the one
//! before it. Two changes that come at once are told as one, and nothing is told of what changed while
//! this manager was away. Which managers can be reached the leader alone knows, and tells.

mod message;

pub use message::Message;

use super::store::Store;
use crate::raft::{Leadership, platform};
use parking_lot::Mutex;
use skein_model::State;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Events kept for those who ask what was: as many as Docker keeps.
const KEPT_MAX: usize = 256;
/// Events that a listener may lag behind before it loses some; as many as Docker's own channel has,
/// doubled, since an update of many nodes comes at once.
const LAG_MAX: usize = 2048;

/// Between two looks at which managers answer the leader: well below the time after which one is found not
/// to.
const REACHABILITY_LOOK: Duration = Duration::from_secs(1);

/// Events from now on.
pub type Live = broadcast::Receiver<Arc<Message>>;

/// The events of this manager. Clones share them.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Mutex<Recorded>>,
}

struct Recorded {
    past: VecDeque<Arc<Message>>,
    /// `None` once the manager has ended.
    live: Option<broadcast::Sender<Arc<Message>>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            inner: Arc::new(Mutex::new(Recorded {
                past: VecDeque::new(),
                live: Some(broadcast::Sender::new(LAG_MAX)),
            })),
        }
    }
}

impl Events {
    /// Listens to the store until `shutdown`.
    pub(super) fn start<S: Store>(store: S, shutdown: CancellationToken) -> Self {
        let events = Self::default();
        let told = events.clone();
        // Before the task runs: what changes from now on is told.
        let (mut states, leadership) = (store.watch(), store.leadership());
        let seen = states.borrow_and_update().clone();
        let led_by = leader(&leadership);
        platform::spawn::<S::Platform>(async move {
            shutdown
                .run_until_cancelled(told.listen(store, (states, seen), (leadership, led_by)))
                .await;
            told.inner.lock().live = None;
        });
        events
    }

    /// What was told so far, oldest first, and what will be. `None` once this manager has ended.
    pub fn listen_from_now(&self) -> Option<(Vec<Arc<Message>>, Live)> {
        let inner = self.inner.lock();
        let live = inner.live.as_ref()?.subscribe();
        Some((inner.past.iter().cloned().collect(), live))
    }

    /// Tells what differs from what was seen so far.
    async fn listen<S: Store>(
        &self,
        store: S,
        (mut states, mut seen): (watch::Receiver<State>, State),
        (mut leadership, mut led_by): (watch::Receiver<Leadership>, Option<String>),
    ) {
        let mut reachable = BTreeMap::new();
        let mut look_at = platform::now::<S::Platform>() + REACHABILITY_LOOK;
        loop {
            tokio::select! {
                biased;
                () = platform::sleep_until::<S::Platform>(look_at) => {
                    look_at = platform::now::<S::Platform>() + REACHABILITY_LOOK;
                    let before = std::mem::take(&mut reachable);
                    if leadership.borrow().is_self {
                        reachable = reachability(&store);
                    }
                    let changed = reachable.iter().filter(|(id, now)| {
                        before.get(*id).is_some_and(|before| before != *now)
                    });
                    let now = store.now();
                    self.tell(changed.filter_map(|(id, reachable)| {
                        let node = seen.node(id)?;
                        Some(Message::of_reachability(node, *reachable, now))
                    }));
                }
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let state = states.borrow_and_update().clone();
                    let now = store.now();
                    let changes = state.changes_since(&seen);
                    self.tell(changes.iter().filter_map(|change| Message::of_change(change, now)));
                    seen = state;
                }
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // While none is known, the last one is still told of as the leader.
                    let Some(next) = leader(&leadership).filter(|next| led_by.as_ref() != Some(next)) else {
                        continue;
                    };
                    let now = store.now();
                    let of = |id: &String, leads| {
                        let node = seen.node(id)?;
                        Some(Message::of_leadership(node, leads, now))
                    };
                    let before = led_by.as_ref().and_then(|id| of(id, false));
                    let after = of(&next, true);
                    // The first leader that is heard of after a start is no change.
                    if led_by.is_some() {
                        self.tell(before.into_iter().chain(after));
                    }
                    led_by = Some(next);
                }
            }
        }
    }

    fn tell(&self, messages: impl Iterator<Item = Message>) {
        let mut inner = self.inner.lock();
        for message in messages.map(Arc::new) {
            if inner.past.len() == KEPT_MAX {
                inner.past.pop_front();
            }
            inner.past.push_back(message.clone());
            if let Some(live) = &inner.live {
                // An error means that nobody listens now.
                let _ = live.send(message);
            }
        }
    }
}

/// Which managers answer, by node.
fn reachability(store: &impl Store) -> BTreeMap<String, bool> {
    let members = store.members().into_iter();
    members
        .map(|member| (member.node_id, store.reachable(member.raft_id)))
        .collect()
}

/// The node that leads.
fn leader(leadership: &watch::Receiver<Leadership>) -> Option<String> {
    let now = leadership.borrow();
    now.leader.as_ref().map(|leader| leader.node_id.clone())
}

#[cfg(test)]
mod tests;
