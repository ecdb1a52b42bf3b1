//! The network state of this node, as last heard from the leader.
//!
//! It outlives sessions: a new leader's complete state is compared with it, so that the dataplane
//! only hears of what is new.

use skein_orchestration::network_state::reference;
use skein_proto::network::{
    Kind, Network, NetworkUpdate, Object, ObjectRef, Programmed, object::Object as Content,
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// Objects by kind and ID.
pub type Objects = BTreeMap<(i32, String), Object>;

/// A complete state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Of the leader; only grows.
    pub version: u64,
    /// All there is.
    pub objects: Objects,
}

impl View {
    /// The state after an update.
    pub fn after(&self, update: NetworkUpdate) -> Self {
        let mut objects = if update.complete {
            Objects::new()
        } else {
            self.objects.clone()
        };
        for reference in update.remove {
            objects.remove(&(reference.kind, reference.id));
        }
        for object in update.upsert {
            if let Some(ObjectRef { kind, id }) = reference(&object) {
                objects.insert((kind, id), object);
            }
        }
        Self {
            version: update.version,
            objects,
        }
    }

    /// What one who knows `told` must be told; all of it if that is nothing. `None` if there is no
    /// news.
    pub fn update_from(&self, told: Option<&Self>) -> Option<NetworkUpdate> {
        let nothing = Objects::new();
        let known = told.map_or(&nothing, |told| &told.objects);
        let upsert: Vec<Object> = self
            .objects
            .iter()
            .filter(|(key, object)| known.get(*key) != Some(*object))
            .map(|(_, object)| object.clone())
            .collect();
        let remove: Vec<ObjectRef> = known
            .keys()
            .filter(|key| !self.objects.contains_key(*key))
            .map(|(kind, id)| ObjectRef {
                kind: *kind,
                id: id.clone(),
            })
            .collect();
        let same = told.is_some_and(|told| told.version == self.version);
        if same && upsert.is_empty() && remove.is_empty() {
            return None;
        }
        Some(NetworkUpdate {
            version: self.version,
            complete: told.is_none(),
            upsert,
            remove,
        })
    }

    /// A network, if this node has it.
    pub fn network(&self, id: &str) -> Option<&Network> {
        let object = self.objects.get(&(Kind::Network.into(), id.to_owned()))?;
        match &object.object {
            Some(Content::Network(network)) => Some(network),
            _ => None,
        }
    }
}

/// Where sessions, dataplane and tasks meet over the network state. Clones share it.
#[derive(Clone)]
pub struct NetworkState {
    /// `None` until a leader has told.
    view: watch::Sender<Option<Arc<View>>>,
    /// What the dataplane last answered.
    programmed: watch::Sender<Option<Programmed>>,
}

impl Default for NetworkState {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            view: watch::Sender::new(None),
            programmed: watch::Sender::new(None),
        }
    }
}

impl NetworkState {
    /// Takes an update of the leader's.
    pub fn take(&self, update: NetworkUpdate) {
        self.view.send_modify(|view| {
            let before = view.take().unwrap_or_default();
            *view = Some(Arc::new(before.after(update)));
        });
    }

    /// The state, and its changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    /// A network of the swarm, if this node has been told of it.
    pub fn network(&self, id: &str) -> Option<Network> {
        self.view.borrow().as_ref()?.network(id).cloned()
    }

    /// The dataplane has answered.
    pub fn answered(&self, programmed: Programmed) {
        self.programmed.send_replace(Some(programmed));
    }

    /// The dataplane's answers.
    pub fn answers(&self) -> watch::Receiver<Option<Programmed>> {
        self.programmed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::Node;

    fn node(id: &str, up: bool) -> Object {
        Object {
            object: Some(Content::Node(Node {
                id: id.into(),
                up,
                ..Node::default()
            })),
        }
    }

    fn update(version: u64, complete: bool, upsert: Vec<Object>, remove: &[&str]) -> NetworkUpdate {
        let remove = remove.iter().map(|id| ObjectRef {
            kind: Kind::Node.into(),
            id: (*id).to_owned(),
        });
        NetworkUpdate {
            version,
            complete,
            upsert,
            remove: remove.collect(),
        }
    }

    #[test]
    fn a_new_leader_is_news_only_where_it_differs() {
        let before = View::default().after(update(
            7,
            true,
            vec![node("a", true), node("b", true), node("c", true)],
            &[],
        ));
        let all = before.update_from(None).unwrap();
        assert!(all.complete && all.upsert.len() == 3);
        assert_eq!(before.update_from(Some(&before)), None);

        let after = before.after(update(
            9,
            true,
            vec![node("a", true), node("b", false)],
            &[],
        ));
        let expected = update(9, false, vec![node("b", false)], &["c"]);
        assert_eq!(after.update_from(Some(&before)), Some(expected.clone()));
        assert_eq!(before.after(expected), after);
    }

    #[test]
    fn a_new_version_is_to_be_acknowledged_even_if_nothing_changed() {
        let before = View::default().after(update(7, true, vec![node("a", true)], &[]));
        let after = before.after(update(8, false, vec![], &[]));
        let news = after.update_from(Some(&before)).unwrap();
        assert_eq!(
            (news.version, news.complete, news.upsert.len()),
            (8, false, 0)
        );
    }

    #[test]
    fn networks_are_found_by_id() {
        let state = NetworkState::default();
        assert!(state.network("n").is_none());
        let network = Network {
            id: "n".into(),
            name: "front".into(),
            ..Network::default()
        };
        state.take(update(
            1,
            true,
            vec![Object {
                object: Some(Content::Network(network)),
            }],
            &[],
        ));
        assert_eq!(state.network("n").unwrap().name, "front");
        assert!(state.network("a").is_none());
    }
}
