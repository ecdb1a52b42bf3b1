//! A network state, whole: what updates make of it, and what they tell of it.

use crate::network::{Kind, Network, NetworkUpdate, Object, ObjectRef, object::Object as Content};
use std::collections::BTreeMap;

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
    /// A state of its own.
    pub fn new(version: u64, objects: impl IntoIterator<Item = Object>) -> Self {
        let keyed = objects.into_iter().filter_map(|object| {
            let ObjectRef { kind, id } = reference(&object)?;
            Some(((kind, id), object))
        });
        Self {
            version,
            objects: keyed.collect(),
        }
    }

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

/// Kind and ID of an object; `None` for an empty message.
pub fn reference(object: &Object) -> Option<ObjectRef> {
    let (kind, id) = match object.object.as_ref()? {
        Content::Settings(_) => (Kind::Settings, "settings"),
        Content::Node(node) => (Kind::Node, node.id.as_str()),
        Content::Network(network) => (Kind::Network, network.id.as_str()),
        Content::Service(service) => (Kind::Service, service.id.as_str()),
        Content::Endpoint(endpoint) => (Kind::Endpoint, endpoint.id.as_str()),
    };
    Some(ObjectRef {
        kind: kind.into(),
        id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Node;

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
}
