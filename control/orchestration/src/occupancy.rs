//! What a task has of its node and of its networks, from when and until when.
//!
//! The store has what was last heard of a task, so each of these errs to the side on which its asker
//! loses less: an address is given out twice if it is freed too early, a place stays empty if it is
//! freed too late. Until when a task has its addresses the store itself must know:
//! [`Task::holds_addresses`].

use crate::node_failure;
use skein_model::{State, Task, TaskState};

/// Whether the task has its node, and has not ended as far as anybody has said: it may be on its networks,
/// with its addresses and its ports. One that is bound to a node has it once the scheduler has confirmed it.
pub(crate) fn is_placed(task: &Task) -> bool {
    task.status.state >= TaskState::Assigned && !task.status.state.is_terminal()
}

/// Whether the task takes something of what its node has for containers: resources, ports, places that the
/// scheduler counts. A user's own container has that of the engine, and nobody plans for it.
pub(crate) fn takes_room(task: &Task) -> bool {
    is_placed(task) && !task.is_attachment()
}

/// Whether anything but time can become of the task's container: it may run still, and its node is there to
/// say so. Of a node that is gone nobody waits for word, whatever runs there; for the others it
/// [is placed](is_placed).
pub(crate) fn may_run(state: &State, task: &Task) -> bool {
    is_placed(task) && !node_failure::is_gone(state, &task.node_id)
}

/// Whether the task goes with its node: it has one, or is bound to it and waits for the scheduler.
pub(crate) fn is_bound(task: &Task) -> bool {
    !task.node_id.is_empty() && !task.status.state.is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{NodeState, Runtime};

    #[test]
    fn each_has_its_own_bounds() {
        let mut fixture = Fixture::default();
        fixture.node("up", |_| {});
        fixture.node("down", |node| node.status.state = NodeState::Down);
        let mut has = |node: &str, state| {
            fixture.task("t", |task| {
                task.node_id = node.into();
                task.status.state = state;
            });
            let task = fixture.state.task("t").unwrap();
            (
                task.holds_addresses(),
                is_bound(task),
                is_placed(task),
                takes_room(task),
                may_run(&fixture.state, task),
            )
        };
        for (node, state, expected) in [
            ("", TaskState::Pending, (true, false, false, false, false)),
            ("up", TaskState::Pending, (true, true, false, false, false)),
            ("up", TaskState::Assigned, (true, true, true, true, true)),
            ("up", TaskState::Running, (true, true, true, true, true)),
            ("down", TaskState::Running, (true, true, true, true, false)),
            ("gone", TaskState::Running, (true, true, true, true, false)),
            (
                "up",
                TaskState::Complete,
                (false, false, false, false, false),
            ),
            (
                "up",
                TaskState::Orphaned,
                (false, false, false, false, false),
            ),
        ] {
            assert_eq!(has(node, state), expected, "{node} {state}");
        }
        fixture.task("t", |task| {
            task.status.state = TaskState::Running;
            task.spec.runtime = Runtime::Attachment;
        });
        let attachment = fixture.state.task("t").unwrap();
        assert!(is_placed(attachment) && !takes_room(attachment));
    }
}
