//! The tasks of one node, and what they need: all at first, then what changes.

use super::{
    dependencies::{Batches, Dependencies, News},
    values::{Ask, Values},
};
use parking_lot::Mutex;
use skein_model::{Meta, Payloads, State, Task, TaskGroup, TaskState, TaskStatus};
use skein_orchestration::drain;
use skein_proto::node::AssignmentsMessage;
use std::{collections::BTreeMap, sync::Arc};

/// The tasks of one node, as one agent was told of them.
pub(super) struct Assignments {
    node_id: String,
    /// `None` until the agent was told all.
    told: Option<BTreeMap<String, Arc<Task>>>,
    /// What messages and questions were made of last.
    seen: Option<Seen>,
    dependencies: Dependencies,
    /// Also of those who ask the drivers.
    values: Arc<Mutex<Values>>,
}

/// All that messages and questions are made of.
struct Seen {
    tasks: TaskGroup,
    payloads: Payloads,
    /// How many came from drivers.
    answers: u64,
}

impl Seen {
    fn is_same(&self, now: &Self) -> bool {
        self.tasks.is_same(&now.tasks)
            && self.payloads.is_same(&now.payloads)
            && self.answers == now.answers
    }

    /// The tasks that the agent is to have, as it is told of them.
    fn tasks(&self) -> BTreeMap<String, Arc<Task>> {
        self.tasks
            .iter()
            .filter(|task| task.status.state >= TaskState::Assigned)
            .map(|task| (task.id.clone(), drain::as_told(task)))
            .collect()
    }
}

impl Assignments {
    /// Nothing has been told yet.
    pub(super) fn of(node_id: &str) -> Self {
        Self {
            node_id: node_id.to_owned(),
            told: None,
            seen: None,
            dependencies: Dependencies::default(),
            values: Arc::default(),
        }
    }

    /// Where answers of drivers go.
    pub(super) fn values(&self) -> Arc<Mutex<Values>> {
        self.values.clone()
    }

    fn look(&self, state: &State) -> Seen {
        Seen {
            tasks: state.group_of_node(&self.node_id),
            payloads: state.payloads(),
            answers: self.values.lock().answers(),
        }
    }

    /// What drivers are to be asked now, given a state, and what the agent must be told of it, in this
    /// order. It knows its own reports, so that a task of which only the status changed is no news. Of the
    /// end of a task that still drains it hears nothing.
    pub(super) fn next(&mut self, state: &State) -> (Vec<Ask>, Vec<AssignmentsMessage>) {
        let now = self.look(state);
        // Not every change that wakes a session is of these.
        if self.seen.as_ref().is_some_and(|seen| seen.is_same(&now)) {
            return (Vec::new(), Vec::new());
        }
        let tasks = now.tasks();
        self.seen = Some(now);
        let asks = self.values.lock().next(state, tasks.values());
        (asks, self.news(state, tasks))
    }

    fn news(
        &mut self,
        state: &State,
        tasks: BTreeMap<String, Arc<Task>>,
    ) -> Vec<AssignmentsMessage> {
        let complete = self.told.is_none();
        let told = self.told.get_or_insert_default();
        let news: Vec<_> = tasks
            .values()
            .filter(|task| {
                told.get(&task.id)
                    .is_none_or(|before| differs(before, task))
            })
            .cloned()
            .collect();
        let removed_task_ids: Vec<_> = told
            .keys()
            .filter(|id| !tasks.contains_key(*id))
            .cloned()
            .collect();
        let News {
            before,
            removed_secret_ids,
            removed_config_ids,
        } = self
            .dependencies
            .next(state, &self.values.lock(), tasks.values());
        *told = tasks;
        let mut batches = Batches::default();
        for task in &news {
            batches.add(&**task, |message| &mut message.tasks);
        }
        let last = AssignmentsMessage {
            complete,
            removed_task_ids,
            removed_secret_ids,
            removed_config_ids,
            ..batches.messages.pop().unwrap_or_default()
        };
        let mut messages = before;
        messages.append(&mut batches.messages);
        if last != AssignmentsMessage::default() {
            messages.push(last);
        }
        messages
    }
}

fn differs(before: &Arc<Task>, after: &Arc<Task>) -> bool {
    if Arc::ptr_eq(before, after) || before.meta.version == after.meta.version {
        return false;
    }
    let bare = |task: &Task| Task {
        status: TaskStatus::default(),
        meta: Meta::default(),
        ..task.clone()
    };
    bare(before) != bare(after)
}

#[cfg(test)]
mod tests;
