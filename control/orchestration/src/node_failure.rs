//! What becomes of tasks on nodes that are gone, and nobody will report on again.

use crate::{Wake, occupancy::is_bound, settled::Scope};
use skein_model::{Availability, Draft, NodeState, State, Task, TaskState, Timestamp};
use std::{sync::Arc, time::Duration};

/// From when on the tasks of a node that stays down are given up: Swarm's time.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Whether nothing runs there as far as anybody can tell: the node is down, or was removed.
pub(crate) fn is_gone(state: &State, node_id: &str) -> bool {
    state
        .node(node_id)
        .is_none_or(|node| node.status.state == NodeState::Down)
}

/// Whether tasks must leave the node.
pub(crate) fn must_leave(state: &State, node_id: &str) -> bool {
    is_gone(state, node_id)
        || state
            .node(node_id)
            .is_some_and(|node| node.spec.availability == Availability::Drain)
}

/// Gives up the tasks of nodes that were removed, or are down for a day.
pub(crate) fn orphan(draft: &mut Draft, scope: &Scope, wake: &mut Wake) {
    let now = draft.now();
    let tasks: Vec<(Arc<Task>, bool)> = scope
        .tasks(draft)
        .filter(|task| is_bound(task))
        .filter_map(|task| match draft.node(&task.node_id) {
            None => Some((task.clone(), true)),
            Some(node) if node.status.state == NodeState::Down => {
                // Later changes of the node by users only make this later.
                let due = node.meta.updated_at + ORPHAN_AFTER;
                let waits = wake.waits(now, due, ORPHAN_AFTER);
                (!waits).then(|| (task.clone(), false))
            }
            Some(_) => None,
        })
        .collect();
    for (task, removed) in tasks {
        let given_up = match removed {
            true => given_up_with_node(&task, now),
            false => given_up(&task, now),
        };
        draft.put(given_up);
    }
}

/// The task, on which nobody will report again as its node was removed.
pub(crate) fn given_up_with_node(task: &Task, now: Timestamp) -> Task {
    let mut task = given_up(task, now);
    task.status.message = "Task belonged to a node that has been deleted".into();
    task
}

fn given_up(task: &Task, now: Timestamp) -> Task {
    let mut task = task.clone();
    task.status.state = TaskState::Orphaned;
    task.status.timestamp = now;
    task.status.applied_at = now;
    task
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn tasks_of_lost_nodes_are_given_up_in_the_end() {
        let mut fixture = Fixture::default();
        fixture.node("a", |node| node.status.state = NodeState::Down);
        for (id, node) in [("on-down", "a"), ("on-removed", "b"), ("waiting", "")] {
            fixture.task(id, |task| {
                task.node_id = node.into();
                task.status.state = TaskState::Running;
            });
        }
        let orphaned = |fixture: &mut Fixture| {
            let mut wake = Wake::default();
            let mut draft = fixture.draft();
            let scope = Scope::all(&draft);
            orphan(&mut draft, &scope, &mut wake);
            fixture.commit(draft);
            let mut ids = Vec::new();
            for task in fixture.state.tasks() {
                if task.status.state == TaskState::Orphaned {
                    ids.push(task.id.clone());
                }
            }
            (ids, wake.earliest())
        };
        let due = fixture.now + ORPHAN_AFTER;
        let (ids, wake) = orphaned(&mut fixture);
        assert_eq!((ids, wake), (vec!["on-removed".into()], Some(due)));
        fixture.now = due;
        assert_eq!(orphaned(&mut fixture).0, ["on-down", "on-removed"]);
    }
}
