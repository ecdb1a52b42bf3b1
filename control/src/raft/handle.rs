use super::{Leadership, Member, ProposeError};
use skein_model::{Action, Applied, State};
use std::sync::Arc;
use tokio::sync::watch;

/// This manager's place in the Raft group. Clones are handles of the same.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    state: watch::Receiver<State>,
    leadership: watch::Receiver<Leadership>,
}

impl Raft {
    /// The newest state that this manager has applied. May be behind the leader's.
    pub fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// Changes after every apply.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.inner.state.clone()
    }

    /// A state that holds everything committed before the call. Only the leader has it.
    ///
    /// # Errors
    /// This manager does not lead, or cannot reach a quorum.
    pub async fn linearizable(&self) -> Result<State, ProposeError> {
        todo!()
    }

    /// Proposes a transaction and waits until it is applied here. Only the leader can.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, _actions: Vec<Action>) -> Result<Applied, ProposeError> {
        todo!()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The members of the group, as this manager knows them.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }

    /// Whether a member answered this manager lately; only the leader calls all members.
    pub fn reachable(&self, _raft_id: u64) -> bool {
        todo!()
    }
}
