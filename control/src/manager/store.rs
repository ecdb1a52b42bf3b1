//! What the manager's parts need of the replicated store.

use crate::raft::{self, Leadership, Member, ProposeError, Raft, platform::Platform};
use skein_model::{Action, Applied, Draft, State, Timestamp};
use std::future::Future;
use tokio::sync::watch;
use tonic::Status;

/// The replicated store as one manager sees it: [`Raft`], or one in memory.
pub(super) trait Store: Clone + Send + Sync + 'static {
    /// What gives the manager over it time, tasks and randomness.
    type Platform: Platform;
    /// See [`Raft::state`].
    fn state(&self) -> State;
    /// See [`Raft::watch`].
    fn watch(&self) -> watch::Receiver<State>;
    /// See [`Raft::linearizable`].
    fn linearizable(&self) -> impl Future<Output = Result<State, ProposeError>> + Send;
    /// See [`Raft::settled`].
    fn settled(&self) -> impl Future<Output = Result<State, ProposeError>> + Send;
    /// See [`Raft::propose`].
    fn propose(
        &self,
        actions: Vec<Action>,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send;
    /// See [`Raft::leadership`].
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// See [`Raft::members`].
    fn members(&self) -> Vec<Member>;
    /// See [`Raft::reachable`].
    fn reachable(&self, raft_id: u64) -> bool;
    /// The wall clock.
    fn now(&self) -> Timestamp;
}

impl<P: Platform> Store for Raft<P> {
    type Platform = P;
    fn state(&self) -> State {
        self.state()
    }
    fn watch(&self) -> watch::Receiver<State> {
        self.watch()
    }
    async fn linearizable(&self) -> Result<State, ProposeError> {
        self.linearizable().await
    }
    async fn settled(&self) -> Result<State, ProposeError> {
        self.settled().await
    }
    async fn propose(&self, actions: Vec<Action>) -> Result<Applied, ProposeError> {
        self.propose(actions).await
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership()
    }
    fn members(&self) -> Vec<Member> {
        self.members()
    }
    fn reachable(&self, raft_id: u64) -> bool {
        self.reachable(raft_id)
    }
    fn now(&self) -> Timestamp {
        self.now()
    }
}

/// The term in which this manager leads, else the answer that says who does.
#[allow(clippy::result_large_err, reason = "tonic's error type")]
pub(super) fn check_leading(store: &impl Store) -> Result<u64, Status> {
    let leadership = store.leadership().borrow().clone();
    if leadership.is_self {
        return Ok(leadership.term);
    }
    Err(crate::rpc::not_leader(leadership.leader))
}

/// Ends once this manager does not lead.
pub(super) async fn no_leader(leadership: &mut watch::Receiver<Leadership>) {
    // An error means that Raft has ended, and with it every term.
    let _ = leadership.wait_for(|now| !now.is_self).await;
}

/// Changes the store, again from the start where others were quicker.
pub(super) async fn commit<S: Store>(
    store: &S,
    make: impl FnMut(&mut Draft) -> Result<(), Status> + Send,
) -> Result<(), Status> {
    let read = || std::future::ready(Ok(store.state()));
    let propose = |actions| store.propose(actions);
    raft::change(read, || store.now(), propose, make).await
}

/// See [`raft::propose_all`].
pub(super) async fn propose_all<S: Store>(store: &S, draft: Draft) -> Result<(), ProposeError> {
    raft::propose_all(draft, |actions| store.propose(actions)).await
}
