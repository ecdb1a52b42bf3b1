//! The tasks of a simulated node, and when they come to what is wanted of them. Pure.

use skein_model::{ContainerStatus, Task, TaskState, TaskStatus};
use std::{collections::BTreeMap, time::Duration};

/// What a container takes to start or to stop, at least and at most: an engine on an idle node.
pub const DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(120));

/// The tasks that the leader has told of, and what is due of them. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct Engine {
    tasks: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// As the leader knows it, or is about to.
    state: TaskState,
    wanted: TaskState,
    /// When it comes to `wanted`.
    due: Duration,
}

impl Engine {
    /// A task as the leader wants it now; it comes to that after `delay`.
    pub fn assign(&mut self, task: &Task, now: Duration, delay: Duration) {
        let wanted = match task.desired_state {
            TaskState::Ready => TaskState::Ready,
            wanted if wanted > TaskState::Running => TaskState::Shutdown,
            _ => TaskState::Running,
        };
        let known = self.tasks.entry(task.id.clone()).or_insert(Known {
            state: task.status.state,
            wanted,
            due: now,
        });
        known.state = known.state.max(task.status.state);
        known.wanted = wanted;
        known.due = now + delay;
    }

    /// The leader has forgotten a task.
    pub fn remove(&mut self, id: &str) {
        self.tasks.remove(id);
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Duration> {
        let open = self.tasks.values().filter(|task| task.is_open());
        open.map(|task| task.due).min()
    }

    /// What has come to be by now, to be reported.
    pub fn take_due(&mut self, now: Duration) -> Vec<(String, TaskStatus)> {
        let due = self
            .tasks
            .iter_mut()
            .filter(|(_, task)| task.is_open() && task.due <= now);
        let reports = due.map(|(id, task)| {
            task.state = task.wanted;
            (id.clone(), status(id, task.state))
        });
        reports.collect()
    }
}

impl Known {
    fn is_open(&self) -> bool {
        !self.state.is_terminal() && self.state < self.wanted
    }
}

fn status(task_id: &str, state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        message: state.to_string(),
        container_status: Some(ContainerStatus {
            // As long as an engine's.
            container_id: format!("{task_id:0>64}"),
            ..ContainerStatus::default()
        }),
        ..TaskStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, desired: TaskState, state: TaskState) -> Task {
        let mut task = Task {
            id: id.into(),
            desired_state: desired,
            ..Task::default()
        };
        task.status.state = state;
        task
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn due(engine: &mut Engine, now: u64) -> Vec<(String, TaskState)> {
        let due = engine.take_due(seconds(now)).into_iter();
        due.map(|(id, status)| (id, status.state)).collect()
    }

    #[test]
    fn tasks_come_to_what_is_wanted_when_it_is_due() {
        let mut engine = Engine::default();
        let assigned = TaskState::Assigned;
        engine.assign(
            &task("a", TaskState::Running, assigned),
            seconds(0),
            seconds(2),
        );
        engine.assign(
            &task("b", TaskState::Ready, assigned),
            seconds(0),
            seconds(1),
        );
        assert_eq!(engine.next_due(), Some(seconds(1)));
        assert_eq!(due(&mut engine, 1), [("b".into(), TaskState::Ready)]);
        assert_eq!(due(&mut engine, 2), [("a".into(), TaskState::Running)]);
        assert_eq!(engine.next_due(), None);

        engine.assign(
            &task("b", TaskState::Running, TaskState::Ready),
            seconds(3),
            seconds(1),
        );
        engine.assign(
            &task("a", TaskState::Remove, assigned),
            seconds(3),
            seconds(1),
        );
        let expected = [
            ("a".into(), TaskState::Shutdown),
            ("b".into(), TaskState::Running),
        ];
        assert_eq!(due(&mut engine, 4), expected);
        engine.remove("a");
        assert!(due(&mut engine, 9).is_empty());
    }

    #[test]
    fn what_the_leader_knows_already_is_not_reported_again() {
        let mut engine = Engine::default();
        engine.assign(
            &task("a", TaskState::Running, TaskState::Running),
            seconds(0),
            seconds(0),
        );
        engine.assign(
            &task("b", TaskState::Shutdown, TaskState::Failed),
            seconds(0),
            seconds(0),
        );
        assert!(due(&mut engine, 1).is_empty());
        // A new session, in which a report of the one before is missing.
        let mut engine = Engine::default();
        engine.assign(
            &task("a", TaskState::Running, TaskState::Assigned),
            seconds(2),
            seconds(0),
        );
        assert_eq!(due(&mut engine, 2), [("a".into(), TaskState::Running)]);
    }
}
