//! What differs between two states.

use super::{Event, State};
use crate::Object;
use imbl::{OrdMap, ordmap::DiffItem};
use std::sync::Arc;

impl State {
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
    for item in before.diff(after) {
        let (before, after) = match item {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
            DiffItem::Remove(_, old) => (Some(old), None),
        };
        changes.push(Event {
            before: before.cloned().map(&object),
            after: after.cloned().map(&object),
        });
    }
}
