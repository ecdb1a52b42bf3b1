//! What becomes of a task when its node reports.

use crate::{enforcer, reaper};
use skein_model::{Draft, Kind, Task, TaskState, TaskStatus, Timestamp};

/// Takes what a node says of a task. That of a task which is gone, or is another node's, changes nothing.
///
/// A task that is to be removed goes with its end: whoever counts the tasks of a removed stack sees none
/// that has ended and is still there.
pub fn take_report(draft: &mut Draft, node_id: &str, task_id: &str, reported: TaskStatus) {
    let task = draft.task(task_id).filter(|task| task.node_id == node_id);
    let Some(next) = task.and_then(|task| report(task, reported, draft.now())) else {
        return;
    };
    if reaper::may_go(&next) {
        draft.remove(Kind::Task, task_id);
    } else {
        draft.put(next);
    }
}

/// The task with what its node says of it; `None` where that is nothing new. An observed state never
/// goes back, and the first end of a task is its last.
fn report(task: &Task, reported: TaskStatus, now: Timestamp) -> Option<Task> {
    let before = &task.status;
    if reported.state < before.state || before.state.is_terminal() {
        return None;
    }
    let mut status = reported;
    if enforcer::is_unfit(task) {
        status.message.clone_from(&before.message);
        status.err.clone_from(&before.err);
        if status.state == TaskState::Shutdown {
            status.state = TaskState::Rejected;
        }
    }
    status.given_up = before.given_up.or(status.given_up);
    status.running_since = before.running_since;
    if status.state == before.state {
        status.applied_at = before.applied_at;
    } else {
        status.applied_at = now;
        if status.state == TaskState::Running {
            status.running_since = now;
        }
    }
    let same = TaskStatus {
        timestamp: before.timestamp,
        ..status.clone()
    };
    if same == *before {
        return None;
    }
    Some(Task {
        status,
        ..task.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use proptest::prelude::*;

    const STATES: [TaskState; 11] = [
        TaskState::New,
        TaskState::Assigned,
        TaskState::Accepted,
        TaskState::Preparing,
        TaskState::Ready,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Complete,
        TaskState::Shutdown,
        TaskState::Failed,
        TaskState::Rejected,
    ];

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            ..TaskStatus::default()
        }
    }

    proptest! {
        #[test]
        fn states_never_go_back_and_the_first_end_is_the_last(
            reports in prop::collection::vec(0..STATES.len(), 1..20),
        ) {
            let mut task = Task::default();
            for (second, index) in reports.into_iter().enumerate() {
                let now = Timestamp::from_unix_nanos(second as i128 + 1);
                let before = task.status.clone();
                if let Some(next) = report(&task, status(STATES[index]), now) {
                    prop_assert!(!before.state.is_terminal());
                    prop_assert!(next.status.state > before.state);
                    prop_assert_eq!(next.status.applied_at, now);
                    let ran = before.state < TaskState::Running
                        && next.status.state == TaskState::Running;
                    let since = if ran { now } else { before.running_since };
                    prop_assert_eq!(next.status.running_since, since);
                    task = next;
                }
            }
        }
    }

    #[test]
    fn a_task_to_be_removed_goes_with_its_end() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.node("b", |_| {});
        fixture.task("t", |task| {
            task.node_id = "a".into();
            task.status.state = TaskState::Running;
            task.desired_state = TaskState::Remove;
        });
        let mut take = |node: &str, state| {
            let mut draft = fixture.draft();
            take_report(&mut draft, node, "t", status(state));
            fixture.commit(draft);
            fixture.state.task("t").map(|task| task.status.state)
        };
        assert_eq!(take("b", TaskState::Shutdown), Some(TaskState::Running));
        assert_eq!(take("a", TaskState::Running), Some(TaskState::Running));
        assert_eq!(take("a", TaskState::Shutdown), None);
        assert_eq!(take("a", TaskState::Failed), None);
    }

    #[test]
    fn the_same_again_is_no_news_but_new_ports_are() {
        let task = Task {
            status: status(TaskState::Running),
            ..Task::default()
        };
        let now = Timestamp::from_unix_nanos(9);
        let again = TaskStatus {
            timestamp: now,
            ..status(TaskState::Running)
        };
        assert_eq!(report(&task, again.clone(), now), None);
        let ports = TaskStatus {
            port_status: skein_model::PortStatus {
                ports: vec![Default::default()],
            },
            ..again
        };
        let changed = report(&task, ports, now).unwrap();
        assert!(changed.status.applied_at.is_zero(), "it ran before");
    }

    #[test]
    fn what_was_given_up_stays_so() {
        use skein_model::GivenUp::{Misplaced, Unhealthy};
        let now = Timestamp::from_unix_nanos(9);
        let given_up = |by| TaskStatus {
            given_up: by,
            ..status(TaskState::Running)
        };
        for (before, told, expected) in [
            (None, Some(Unhealthy), Some(Unhealthy)),
            (Some(Unhealthy), None, Some(Unhealthy)),
            (Some(Misplaced), Some(Unhealthy), Some(Misplaced)),
        ] {
            let task = Task {
                status: given_up(before),
                ..Task::default()
            };
            let ended = TaskStatus {
                state: TaskState::Failed,
                ..given_up(told)
            };
            let next = report(&task, ended, now).unwrap();
            assert_eq!(next.status.given_up, expected);
        }
    }
}
