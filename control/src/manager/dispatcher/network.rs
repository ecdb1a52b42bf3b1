use crate::manager::{kernels::Kernels, sessions::Session};
use skein_model::State;
use skein_orchestration::network_state::network_state;
use skein_proto::{network::NetworkUpdate, view::View};

/// The network state of one node, as its dataplane was told of it.
pub(super) struct Updates {
    session: Session,
    kernels: Kernels,
    /// `None` until all was told.
    told: Option<View>,
    /// [`State::network_index`] of the state that was looked at last.
    seen: Option<u64>,
}

impl Updates {
    /// Nothing has been told yet.
    pub(super) fn of(session: Session, kernels: Kernels) -> Self {
        Self {
            session,
            kernels,
            told: None,
            seen: None,
        }
    }

    /// What the dataplane must be told of a state.
    pub(super) fn next(&mut self, state: &State) -> Option<NetworkUpdate> {
        // A thousand nodes ask this of every state.
        if self.seen.replace(state.network_index()) == Some(state.network_index()) {
            self.kernels.holds(&self.session, state.index());
            return None;
        }
        let view = View::new(state.index(), network_state(state, &self.session.node_id));
        // Most changes of the store concern no network: their versions alone are no news.
        if let Some(told) = &self.told
            && told.objects == view.objects
        {
            self.kernels.holds(&self.session, state.index());
            return None;
        }
        let update = view.update_from(self.told.as_ref());
        self.kernels.told(&self.session, view.version);
        self.told = Some(view);
        update
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Node, Object, Proposal, Task, Timestamp};
    use tokio_util::sync::CancellationToken;

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
        let session = Session {
            node_id: "a".to_owned(),
            id: "s".to_owned(),
            ended: CancellationToken::new(),
        };
        let mut updates = Updates::of(session, Kernels::default());
        let state = with(&State::default(), node("a"));
        let first = updates.next(&state).unwrap();
        assert!(first.complete && first.version == 1);
        assert_eq!(updates.next(&state), None);
        let task = Task {
            id: "t".into(),
            node_id: "a".into(),
            ..Task::default()
        };
        let state = with(&state, task);
        assert_eq!(updates.next(&state), None);
        let state = with(&state, node("b"));
        let second = updates.next(&state).unwrap();
        assert_eq!((second.version, second.upsert.len()), (3, 1));
        assert!(!second.complete);
    }
}
