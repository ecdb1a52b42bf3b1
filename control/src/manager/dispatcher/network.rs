use skein_model::State;
use skein_orchestration::network_state::{network_state, reference};
use skein_proto::network::{NetworkUpdate, Object, ObjectRef};
use std::collections::BTreeMap;

/// The network state of one node, as its dataplane was told of it.
pub(super) struct Updates {
    node_id: String,
    /// By kind and ID; `None` until all was told.
    told: Option<BTreeMap<(i32, String), Object>>,
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
        let objects: BTreeMap<_, _> = network_state(state, &self.node_id)
            .into_iter()
            .filter_map(|object| {
                let reference = reference(&object)?;
                Some(((reference.kind, reference.id), object))
            })
            .collect();
        let complete = self.told.is_none();
        let told = self.told.get_or_insert_default();
        let upsert: Vec<_> = objects
            .iter()
            .filter(|(key, object)| told.get(*key) != Some(*object))
            .map(|(_, object)| object.clone())
            .collect();
        let remove: Vec<_> = told
            .keys()
            .filter(|key| !objects.contains_key(*key))
            .map(|(kind, id)| ObjectRef {
                kind: *kind,
                id: id.clone(),
            })
            .collect();
        *told = objects;
        if !complete && upsert.is_empty() && remove.is_empty() {
            return None;
        }
        Some(NetworkUpdate {
            version: state.index(),
            complete,
            upsert,
            remove,
        })
    }
}
