//! What the nodes' networks are to be, made once for all of them from each state of the store.

use super::{kernels::Kernels, store::Store};
use crate::raft::platform::{self, Platform};
use skein_orchestration::network_state::NetworkStates;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tracing::warn;

/// Time before the next attempt when the states could not be made.
const RETRY: Duration = Duration::from_millis(500);

/// The network states of all nodes, while this manager leads. Clones share them.
#[derive(Clone)]
pub(super) struct Networks {
    made: watch::Sender<Option<Arc<NetworkStates>>>,
    kernels: Kernels,
}

impl Networks {
    /// None are made yet.
    pub(super) fn new(kernels: Kernels) -> Self {
        Self {
            made: watch::Sender::new(None),
            kernels,
        }
    }

    /// The newest, and those that follow; `None` while this manager does not lead.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<NetworkStates>>> {
        self.made.subscribe()
    }

    /// This manager leads no more.
    pub(super) fn forget(&self) {
        self.made.send_replace(None);
    }

    /// Those of a later state. Nobody is woken for what is nothing new: the next ones only need not begin
    /// so far back.
    fn take(&self, made: Arc<NetworkStates>) {
        self.made.send_if_modified(|known| {
            let same = known.as_ref().filter(|same| made.says_nothing_new(same));
            if let Some(same) = same {
                self.kernels.same(same.index(), made.index());
            }
            let is_new = same.is_none();
            *known = Some(made);
            is_new
        });
    }

    /// Makes them from each state of the store, until Raft has ended. What comes while one is made is
    /// skipped but for the newest.
    pub(super) async fn follow<S: Store>(&self, store: &S) {
        let mut states = store.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let before = self.made.borrow().clone();
            let same = before
                .as_ref()
                .filter(|made| made.network_index() == state.network_index());
            if let Some(same) = same {
                // Nobody need look at it.
                self.kernels.same(same.index(), state.index());
            } else {
                // The first is made of everything there is.
                let making = move || Ok(Arc::new(before.unwrap_or_default().after(&state)));
                if let Ok(made) = S::Platform::blocking(making).await {
                    self.take(made);
                } else {
                    warn!("the nodes' networks could not be found out; see the message above");
                    self.forget();
                    platform::sleep::<S::Platform>(RETRY).await;
                    continue;
                }
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }
}
