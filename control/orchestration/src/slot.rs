//! The places of a service's tasks: numbered slots, or nodes.

use crate::restart;
use skein_model::{Service, State, Task, TaskState};
use std::{collections::BTreeMap, sync::Arc};

/// Where a task of a service belongs: its slot, or its node where tasks are bound to nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SlotKey {
    Slot(u64),
    Node(String),
}

impl SlotKey {
    pub(crate) fn of(task: &Task) -> Self {
        if task.mode.is_global() {
            Self::Node(task.node_id.clone())
        } else {
            Self::Slot(task.slot)
        }
    }
}

/// The tasks of one place, oldest first. Never empty.
pub(crate) type Tasks = Vec<Arc<Task>>;

/// All places of a service that have tasks, ended ones included.
pub(crate) fn places(state: &State, service_id: &str) -> BTreeMap<SlotKey, Tasks> {
    let mut places: BTreeMap<SlotKey, Tasks> = BTreeMap::new();
    for task in state.tasks_of_service(service_id) {
        let tasks = places.entry(SlotKey::of(task)).or_default();
        tasks.push(task.clone());
    }
    for tasks in places.values_mut() {
        sort(tasks);
    }
    places
}

/// Oldest first: by what they were made for, and ended ones before those that took over: clocks differ between
/// leaders, versions only grow.
pub(crate) fn sort(tasks: &mut Tasks) {
    let version = |task: &Task| (task.spec_version, is_live(task));
    tasks.sort_by_cached_key(|task| (version(task), task.meta.created_at, task.id.clone()));
}

/// Whether a place has a task: one that is wanted, or one that ended and may have no successor. A node whose task of a
/// global service was told to leave it may have one again.
pub(crate) fn is_occupied(service: &Service, tasks: &Tasks) -> bool {
    if tasks.iter().any(|task| is_live(task)) {
        return true;
    }
    let newest = tasks.last();
    newest.is_some_and(|newest| newest.desired_state == TaskState::Shutdown)
        && is_given_up(service, tasks)
}

/// Whether the newest task ended and may have no successor. One that was told to leave its node has not failed.
pub(crate) fn is_given_up(service: &Service, tasks: &Tasks) -> bool {
    tasks.last().is_some_and(|newest| {
        let has_left = service.spec.mode.is_global() && !restart::ended_by_itself(newest);
        !has_left && !restart::may_restart(service, tasks, newest)
    })
}

/// Whether the task is wanted: it runs, or is on its way there. One of a job that is complete has
/// done what it was wanted for.
pub(crate) fn is_live(task: &Task) -> bool {
    task.is_wanted() && !is_done(task)
}

/// Whether the task has done what a job wanted it for.
pub(crate) fn is_done(task: &Task) -> bool {
    task.mode.is_job() && task.status.state == TaskState::Complete
}
