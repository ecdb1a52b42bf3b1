//! Parts of the store that are compared as wholes: two states share what did not change between them, so
//! that whether something did is known without a look at any of it.

use crate::{Config, Secret, Task};
use imbl::{OrdMap, ordmap::DiffItem};
use std::sync::Arc;

/// The tasks of one service, or of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskGroup(OrdMap<String, Arc<Task>>);

impl TaskGroup {
    /// By ID.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.0.values()
    }

    /// Whether the tasks are the same as in another state, where one came of the other. Known at once;
    /// `false` only says that a task may have changed.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.0.is_empty() && other.0.is_empty()) || self.0.ptr_eq(&other.0)
    }
}

/// All secrets and configs.
#[derive(Clone, Debug, Default)]
pub struct Payloads {
    secrets: OrdMap<String, Arc<Secret>>,
    configs: OrdMap<String, Arc<Config>>,
}

impl Payloads {
    pub(super) fn new(
        secrets: OrdMap<String, Arc<Secret>>,
        configs: OrdMap<String, Arc<Config>>,
    ) -> Self {
        Self { secrets, configs }
    }

    /// As [`TaskGroup::is_same`].
    pub fn is_same(&self, other: &Self) -> bool {
        let secrets = self.secrets.is_empty() && other.secrets.is_empty();
        let configs = self.configs.is_empty() && other.configs.is_empty();
        (secrets || self.secrets.ptr_eq(&other.secrets))
            && (configs || self.configs.ptr_eq(&other.configs))
    }
}

/// Tasks by the ID of what they belong to. Nothing is kept of owners without tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TaskGroups(OrdMap<String, TaskGroup>);

impl TaskGroups {
    pub(super) fn of(&self, owner: &str) -> TaskGroup {
        self.0.get(owner).cloned().unwrap_or_default()
    }

    pub(super) fn tasks(&self, owner: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.0.get(owner).into_iter().flat_map(TaskGroup::iter)
    }

    /// The owners whose tasks differ from what they were before.
    pub(super) fn changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        before.0.diff(&self.0).map(|item| match item {
            DiffItem::Add(owner, _) | DiffItem::Remove(owner, _) => owner.as_str(),
            DiffItem::Update { new, .. } => new.0.as_str(),
        })
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Puts a task in place of what it was before, which may have been another's.
    pub(super) fn put(
        &mut self,
        before: Option<&Task>,
        task: &Arc<Task>,
        owner: impl Fn(&Task) -> &String,
    ) {
        if let Some(before) = before.filter(|before| owner(before) != owner(task)) {
            self.remove(owner(before), &before.id);
        }
        match self.0.get_mut(owner(task)) {
            Some(group) => drop(group.0.insert(task.id.clone(), task.clone())),
            None => {
                let group = TaskGroup(OrdMap::unit(task.id.clone(), task.clone()));
                self.0.insert(owner(task).clone(), group);
            }
        }
    }

    pub(super) fn remove(&mut self, owner: &str, id: &str) {
        let Some(group) = self.0.get_mut(owner) else {
            return;
        };
        group.0.remove(id);
        if group.0.is_empty() {
            self.0.remove(owner);
        }
    }
}
