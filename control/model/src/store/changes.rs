//! What differs between two states.

use super::{Event, State};
use crate::{Network, Node, Object, Service, Task};
use imbl::{OrdMap, ordmap::DiffItem};
use std::{collections::BTreeSet, sync::Arc};

/// One object in two states; at least one is there.
pub type Change<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

impl State {
    /// The nodes that differ from an earlier state, by ID, as they were and as they are. States share
    /// what did not change between them, and of that nothing is looked at.
    pub fn changed_nodes<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Change<'a, Node>> + 'a {
        changed(&before.nodes, &self.nodes)
    }

    /// As [`changed_nodes`](Self::changed_nodes).
    pub fn changed_networks<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Change<'a, Network>> + 'a {
        changed(&before.networks, &self.networks)
    }

    /// As [`changed_nodes`](Self::changed_nodes).
    pub fn changed_services<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Change<'a, Service>> + 'a {
        changed(&before.services, &self.services)
    }

    /// As [`changed_nodes`](Self::changed_nodes).
    pub fn changed_tasks<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = Change<'a, Task>> + 'a {
        changed(&before.tasks, &self.tasks)
    }

    /// The IDs of the nodes of which something differs from an earlier state: what they are, or their tasks.
    pub fn changed_node_ids<'a>(&'a self, before: &'a Self) -> BTreeSet<&'a str> {
        let nodes = self.changed_nodes(before);
        let nodes = nodes.filter_map(|(old, new)| Some(new.or(old)?.id.as_str()));
        let tasks = self.tasks_by_node.changed(&before.tasks_by_node);
        nodes.chain(tasks).collect()
    }

    /// What changed of the objects that users name, from an earlier state to this one: of one kind after
    /// the other, by ID. One that came and went between the two is not among them, and one that changed
    /// twice is once. Tasks are left out: most changes are theirs, and who follows those has the indices.
    pub fn changes_since(&self, before: &Self) -> Vec<Event> {
        let mut changes = Vec::new();
        collect(&mut changes, &before.nodes, &self.nodes, Object::Node);
        collect(
            &mut changes,
            &before.networks,
            &self.networks,
            Object::Network,
        );
        collect(&mut changes, &before.secrets, &self.secrets, Object::Secret);
        collect(&mut changes, &before.configs, &self.configs, Object::Config);
        collect(
            &mut changes,
            &before.services,
            &self.services,
            Object::Service,
        );
        changes
    }
}

fn collect<T: PartialEq>(
    changes: &mut Vec<Event>,
    before: &OrdMap<String, Arc<T>>,
    after: &OrdMap<String, Arc<T>>,
    object: impl Fn(Arc<T>) -> Object,
) {
    changes.extend(changed(before, after).map(|(before, after)| Event {
        before: before.cloned().map(&object),
        after: after.cloned().map(&object),
    }));
}

fn changed<'a, T: PartialEq>(
    before: &'a OrdMap<String, Arc<T>>,
    after: &'a OrdMap<String, Arc<T>>,
) -> impl Iterator<Item = Change<'a, T>> + 'a {
    before.diff(after).map(|item| match item {
        DiffItem::Add(_, new) => (None, Some(new)),
        DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
        DiffItem::Remove(_, old) => (Some(old), None),
    })
}
