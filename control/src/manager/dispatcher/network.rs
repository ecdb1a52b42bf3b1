use skein_model::State;
use skein_orchestration::network_state::network_state;
use skein_proto::{network::NetworkUpdate, view::View};

/// The network state of one node, as its dataplane was told of it.
pub(super) struct Updates {
    node_id: String,
    /// `None` until all was told.
    told: Option<View>,
}

impl Updates {
    /// Nothing has been told yet.
    pub(super) fn of(node_id: &str) -> Self {
        Self {
            node_id: node_id.to_owned(),
            told: None,
        }
    }

    /// What the dataplane must be told of a state.
    pub(super) fn next(&mut self, state: &State) -> Option<NetworkUpdate> {
        let view = View::new(state.index(), network_state(state, &self.node_id));
        // Most changes of the store concern no network: their versions alone are no news.
        if let Some(told) = &self.told
            && told.objects == view.objects
        {
            return None;
        }
        let update = view.update_from(self.told.as_ref());
        self.told = Some(view);
        update
    }
}
