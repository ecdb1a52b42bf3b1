//! The network state of one node: the whole at first, then what changes; and what its kernel has of it.

use crate::manager::{kernels::Kernels, sessions::Session};
use skein_orchestration::network_state::{NetworkStates, Told};
use skein_proto::network::EncodedUpdate;
use std::sync::Arc;

/// The network state of one node, as its dataplane was told of it.
pub(super) struct Updates {
    session: Session,
    kernels: Kernels,
    /// `None` until all was told.
    told: Option<Told>,
}

impl Updates {
    /// Nothing has been told yet.
    pub(super) fn of(session: Session, kernels: Kernels) -> Self {
        Self {
            session,
            kernels,
            told: None,
        }
    }

    /// What the dataplane must be told.
    pub(super) fn next(&mut self, states: &Arc<NetworkStates>) -> Option<EncodedUpdate> {
        let (told, update) = states.update(&self.session.node_id, self.told.as_ref());
        self.told = Some(told);
        match &update {
            Some(update) => self.kernels.told(&self.session, update.version),
            // Most changes are of tasks on networks that the node does not have.
            None => self.kernels.holds(&self.session, states.index()),
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Node, Object, Proposal, State, Task, Timestamp};

    fn with(state: &State, object: impl Into<Object>) -> State {
        let mut state = state.clone();
        let proposal = Proposal {
            at: Timestamp::from_unix_nanos(1),
            actions: vec![Action::Create(object.into())],
        };
        state.apply(state.index() + 1, &proposal).unwrap();
        state
    }

    fn node(id: &str) -> Node {
        Node {
            id: id.into(),
            data_path_addr: "198.18.0.1".into(),
            ..Node::default()
        }
    }

    #[test]
    fn tasks_on_no_network_are_no_news() {
        let session = Session::new("a", "s".to_owned());
        let mut updates = Updates::of(session, Kernels::default());
        let state = with(&State::default(), node("a"));
        let states = Arc::new(NetworkStates::default().after(&state));
        let first = updates.next(&states).unwrap();
        assert!(first.complete && first.version == 1);
        assert_eq!(updates.next(&states), None);
        let task = Task {
            id: "t".into(),
            node_id: "a".into(),
            ..Task::default()
        };
        let state = with(&state, task);
        let states = Arc::new(states.after(&state));
        assert_eq!(updates.next(&states), None);
        let state = with(&state, node("b"));
        let states = Arc::new(states.after(&state));
        let second = updates.next(&states).unwrap();
        assert_eq!((second.version, second.upsert.len()), (3, 1));
        assert!(!second.complete);
    }
}
