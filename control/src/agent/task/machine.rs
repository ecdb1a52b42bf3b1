//! What to do next for a task: a pure function of what is wanted and what is.
//!
//! It is asked again after every action and every change, so each answer is one small step, and an
//! agent that died between two of them goes on where it was.

use crate::agent::{
    container::{Container, Health},
    store::Record,
};
use skein_model::{ContainerStatus, PortStatus, TaskState};

/// All that the next step depends on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What the managers want of the task.
    pub desired: TaskState,
    /// The managers no longer know the task: nothing of it is to stay.
    pub removed: bool,
    /// The state that was last reported.
    pub state: TaskState,
    /// The message that was last reported; an error keeps it.
    pub message: &'a str,
    /// The container as just seen.
    pub container: &'a Container,
    /// What was last reported of the container.
    pub reported: Option<&'a ContainerStatus>,
    /// The ports in host mode that were last reported.
    pub reported_ports: &'a PortStatus,
    /// The container's process has ended, whatever the engine says.
    pub process_ended: bool,
    /// The container is stopped because its health check failed, or the managers were told so.
    pub unhealthy: bool,
    /// The managers can see to it that the task is sent no connections before it is stopped, and have
    /// not been waited for too long.
    pub patient: bool,
    /// The task takes connections, or has had the time to: see
    /// [`listening`](crate::agent::task::listening). Asked only of containers without health check.
    pub listening: bool,
}

impl<'a> Situation<'a> {
    /// That of a task as it is remembered, whose container was just seen. Of the rest: its process has not
    /// ended, it takes connections, and the managers are not waited for.
    pub fn of(record: &'a Record, container: &'a Container) -> Self {
        let Record {
            task,
            removed,
            unhealthy,
        } = record;
        Self {
            desired: task.desired_state,
            removed: *removed,
            state: task.status.state,
            message: &task.status.message,
            container,
            reported: task.status.container_status.as_ref(),
            reported_ports: &task.status.port_status,
            process_ended: false,
            unhealthy: *unhealthy,
            patient: false,
            listening: true,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing until something changes.
    Wait,
    /// Record and report a new status.
    Report(Change),
    /// Make image, networks and container.
    Prepare,
    /// Start the container.
    Start,
    /// Tell the managers that the health check failed: they end the task once it has drained.
    GiveUp,
    /// End the container: its stop signal, the grace period, then SIGKILL.
    Stop {
        /// Because its health check failed.
        unhealthy: bool,
    },
    /// Remove the container, which does not run.
    Remove,
    /// The task has left no trace: forget it.
    Forget,
}

/// A new status of a task; the time of it is the reporter's to add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The new state.
    pub state: TaskState,
    /// What was done, or was being done when it failed.
    pub message: String,
    /// Why it failed; "" if it did not.
    pub err: String,
    /// The container, once there is one.
    pub container: Option<ContainerStatus>,
    /// Its ports on this node.
    pub ports: PortStatus,
}

/// The error of a task whose health check failed, in Docker's words.
pub(super) const UNHEALTHY: &str = "dockerexec: unhealthy container";

/// What is told of a running task whose process has ended, until the engine says how.
const ENDED: &str = "the task's process has ended; the container engine has not told how yet";
/// Why a container that no longer exists is a failure.
const DESTROYED: &str = "dockerexec: container destroyed";

/// The next step.
pub fn next(now: &Situation<'_>) -> Action {
    if let Some(change) = now.change_of_process().or_else(|| now.change_of_ports()) {
        return Action::Report(change);
    }
    if matches!(now.container, Container::Unknown) {
        // An engine that is away says nothing about what runs.
        return Action::Wait;
    }
    if now.removed {
        return match now.container {
            Container::Running { .. } => Action::Stop { unhealthy: false },
            Container::Missing => Action::Forget,
            _ => Action::Remove,
        };
    }
    if now.state.is_terminal() {
        return match now.container {
            // An end was reported before the container had one.
            Container::Running { .. } => Action::Stop { unhealthy: false },
            _ => Action::Wait,
        };
    }
    if now.desired >= TaskState::Shutdown {
        return match now.container {
            Container::Running { .. } => Action::Stop { unhealthy: false },
            _ if now.unhealthy => now.ended(),
            _ => now.report(TaskState::Shutdown, "shutdown"),
        };
    }
    match now.state {
        TaskState::New | TaskState::Pending | TaskState::Assigned => {
            now.report(TaskState::Accepted, "accepted")
        }
        TaskState::Accepted => now.report(TaskState::Preparing, "preparing"),
        TaskState::Preparing => Action::Prepare,
        TaskState::Ready if now.desired < TaskState::Running => Action::Wait,
        TaskState::Ready => now.report(TaskState::Starting, "starting"),
        TaskState::Starting => now.starting(),
        _ => now.running(),
    }
}

/// The status of a task of which a step failed for good.
pub fn failed(state: TaskState, message: &str, err: String, container: &Container) -> Change {
    Change {
        state: if state < TaskState::Starting {
            TaskState::Rejected
        } else {
            TaskState::Failed
        },
        message: message.to_owned(),
        err,
        container: container.status().cloned(),
        ports: PortStatus::default(),
    }
}

impl Situation<'_> {
    /// A running task that has no process, or has one again: without one it takes no connections, and
    /// that is told at once. How it ended is the engine's to say.
    fn change_of_process(&self) -> Option<Change> {
        let pid = match self.container {
            Container::Running { .. } | Container::Unknown if self.process_ended => 0,
            Container::Running { status, .. } => status.pid,
            _ => return None,
        };
        let reported = self.reported?;
        let runs = self.state == TaskState::Running && self.desired < TaskState::Shutdown;
        if self.removed || !runs || (pid == 0) == (reported.pid == 0) {
            return None;
        }
        let err = if pid == 0 { ENDED } else { "" };
        Some(Change {
            container: Some(ContainerStatus {
                pid,
                ..reported.clone()
            }),
            err: err.to_owned(),
            ..self.change(self.state, self.message)
        })
    }

    /// A running task whose ports in host mode are others by now: the managers tell the dataplane of those
    /// that they know.
    fn change_of_ports(&self) -> Option<Change> {
        let Container::Running { ports, .. } = self.container else {
            return None;
        };
        let runs = self.state == TaskState::Running && self.desired < TaskState::Shutdown;
        let ends = self.removed || self.unhealthy || self.process_ended;
        (runs && !ends && ports != self.reported_ports)
            .then(|| self.change(self.state, self.message))
    }

    fn starting(&self) -> Action {
        match self.container {
            Container::Created { .. } => Action::Start,
            Container::Running { health, .. } => match health {
                Health::Healthy => self.report(TaskState::Running, "started"),
                Health::None if self.listening => self.report(TaskState::Running, "started"),
                Health::None | Health::Starting => Action::Wait,
                Health::Unhealthy => Action::Stop { unhealthy: true },
            },
            _ => self.ended(),
        }
    }

    fn running(&self) -> Action {
        match self.container {
            Container::Running { health, .. } => match health {
                Health::Unhealthy if !self.patient => Action::Stop { unhealthy: true },
                Health::Unhealthy if !self.unhealthy => Action::GiveUp,
                _ => Action::Wait,
            },
            _ => self.ended(),
        }
    }

    /// The task was started, and its container does not run.
    fn ended(&self) -> Action {
        let Container::Exited { status, error } = self.container else {
            return self.fail(DESTROYED.to_owned());
        };
        let cause = match (self.unhealthy, error.as_str()) {
            (true, _) => Some(UNHEALTHY),
            (false, "") => None,
            (false, error) => Some(error),
        };
        match (status.exit_code, cause) {
            (0, None) => self.report(TaskState::Complete, "finished"),
            (code, None) => self.fail(format!("task: non-zero exit ({code})")),
            (0, Some(cause)) => self.fail(cause.to_owned()),
            (code, Some(cause)) => self.fail(format!("task: non-zero exit ({code}): {cause}")),
        }
    }

    fn fail(&self, err: String) -> Action {
        Action::Report(failed(self.state, self.message, err, self.container))
    }

    fn report(&self, state: TaskState, message: &str) -> Action {
        Action::Report(self.change(state, message))
    }

    fn change(&self, state: TaskState, message: &str) -> Change {
        Change {
            state,
            message: message.to_owned(),
            err: String::new(),
            container: self.container.status().cloned(),
            ports: match self.container {
                Container::Running { ports, .. } => ports.clone(),
                _ => PortStatus::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(exit_code: i64) -> ContainerStatus {
        ContainerStatus {
            container_id: "c1".into(),
            pid: 0,
            exit_code,
            ..ContainerStatus::default()
        }
    }

    fn created() -> Container {
        Container::Created { status: status(0) }
    }

    fn running(health: Health) -> Container {
        Container::Running {
            status: status(0),
            health,
            ports: PortStatus::default(),
        }
    }

    fn exited(code: i64, error: &str) -> Container {
        Container::Exited {
            status: status(code),
            error: error.into(),
        }
    }

    const NO_PORTS: &PortStatus = &PortStatus { ports: Vec::new() };

    fn at(state: TaskState, container: &Container) -> Situation<'_> {
        Situation {
            desired: TaskState::Running,
            removed: false,
            state,
            message: "before",
            container,
            reported: None,
            reported_ports: NO_PORTS,
            process_ended: false,
            unhealthy: false,
            patient: false,
            listening: true,
        }
    }

    /// State, message and error of the report that the next step is.
    fn reported(now: &Situation<'_>) -> (TaskState, String, String) {
        match next(now) {
            Action::Report(change) => (change.state, change.message, change.err),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_way_up() {
        use TaskState::*;
        let missing = Container::Missing;
        for (state, container, expected, message) in [
            (Assigned, &missing, Accepted, "accepted"),
            (Accepted, &missing, Preparing, "preparing"),
            (Ready, &created(), Starting, "starting"),
            (Starting, &running(Health::None), Running, "started"),
            (Starting, &running(Health::Healthy), Running, "started"),
        ] {
            let (state, said, err) = reported(&at(state, container));
            assert_eq!(
                (state, said.as_str(), err.as_str()),
                (expected, message, "")
            );
        }
        assert_eq!(next(&at(Preparing, &missing)), Action::Prepare);
        assert_eq!(next(&at(Starting, &created())), Action::Start);
        assert_eq!(next(&at(Running, &running(Health::None))), Action::Wait);
    }

    #[test]
    fn a_task_whose_process_has_ended_has_none_until_the_engine_tells_how() {
        let with = |pid| ContainerStatus { pid, ..status(0) };
        let runs = Container::Running {
            status: with(7),
            health: Health::None,
            ports: PortStatus::default(),
        };
        let (seven, none) = (with(7), with(0));
        for container in [&runs, &Container::Unknown] {
            let mut now = at(TaskState::Running, container);
            (now.process_ended, now.reported) = (true, Some(&seven));
            let Action::Report(change) = next(&now) else {
                panic!("nothing is told");
            };
            assert_eq!(
                (change.state, &*change.message),
                (TaskState::Running, "before")
            );
            assert_eq!((change.container.unwrap(), &*change.err), (with(0), ENDED));
            now.reported = Some(&none);
            assert_eq!(next(&now), Action::Wait, "it is told once");
            now.reported = Some(&seven);
            now.state = TaskState::Starting;
            assert!(!matches!(next(&now), Action::Report(Change { err, .. }) if err == ENDED));
        }
        // A user has started the container anew.
        let mut now = at(TaskState::Running, &runs);
        now.reported = Some(&none);
        let Action::Report(change) = next(&now) else {
            panic!("nothing is told");
        };
        assert_eq!((change.container.unwrap(), &*change.err), (with(7), ""));
        // The engine's word.
        let ended = exited(3, "");
        let mut now = at(TaskState::Running, &ended);
        (now.process_ended, now.reported) = (true, Some(&none));
        assert_eq!(reported(&now).0, TaskState::Failed);
    }

    #[test]
    fn ports_that_a_running_task_has_instead_of_others_are_told() {
        let ports = PortStatus {
            ports: vec![skein_model::PortConfig::default()],
        };
        let container = Container::Running {
            status: status(0),
            health: Health::None,
            ports: ports.clone(),
        };
        let mut now = at(TaskState::Running, &container);
        let Action::Report(change) = next(&now) else {
            panic!("nothing is told");
        };
        assert_eq!((change.state, &change.ports), (now.state, &ports));
        now.desired = TaskState::Shutdown;
        assert_eq!(next(&now), Action::Stop { unhealthy: false });
        now.desired = TaskState::Running;
        now.reported_ports = &ports;
        assert_eq!(next(&now), Action::Wait, "it is told once");
    }

    #[test]
    fn ready_waits_until_the_task_is_wanted_running() {
        let container = created();
        let mut now = at(TaskState::Ready, &container);
        now.desired = TaskState::Ready;
        assert_eq!(next(&now), Action::Wait);
        now.desired = TaskState::Complete;
        assert_eq!(reported(&now).0, TaskState::Starting);
    }

    #[test]
    fn running_waits_for_health_or_for_the_port() {
        let container = running(Health::Starting);
        assert_eq!(next(&at(TaskState::Starting, &container)), Action::Wait);
        let container = running(Health::None);
        let mut now = at(TaskState::Starting, &container);
        now.listening = false;
        assert_eq!(next(&now), Action::Wait);
    }

    #[test]
    fn endings() {
        use TaskState::*;
        for (container, unhealthy, expected, message, err) in [
            (exited(0, ""), false, Complete, "finished", ""),
            (
                exited(3, ""),
                false,
                Failed,
                "before",
                "task: non-zero exit (3)",
            ),
            (
                exited(127, "no such file"),
                false,
                Failed,
                "before",
                "task: non-zero exit (127): no such file",
            ),
            (
                exited(137, ""),
                true,
                Failed,
                "before",
                "task: non-zero exit (137): dockerexec: unhealthy container",
            ),
            (
                exited(0, ""),
                true,
                Failed,
                "before",
                "dockerexec: unhealthy container",
            ),
            (
                Container::Missing,
                false,
                Failed,
                "before",
                "dockerexec: container destroyed",
            ),
        ] {
            for state in [Starting, Running] {
                let mut now = at(state, &container);
                now.unhealthy = unhealthy;
                let (state, said, error) = reported(&now);
                assert_eq!(
                    (state, said.as_str(), error.as_str()),
                    (expected, message, err)
                );
            }
        }
    }

    #[test]
    fn unhealthy_containers_are_stopped() {
        let container = running(Health::Unhealthy);
        for state in [TaskState::Starting, TaskState::Running] {
            assert_eq!(
                next(&at(state, &container)),
                Action::Stop { unhealthy: true }
            );
        }
    }

    #[test]
    fn unhealthy_containers_drain_if_the_managers_see_to_it() {
        let container = running(Health::Unhealthy);
        let mut now = at(TaskState::Running, &container);
        now.patient = true;
        assert_eq!(next(&now), Action::GiveUp);
        now.unhealthy = true;
        assert_eq!(next(&now), Action::Wait);
        now.desired = TaskState::Shutdown;
        assert_eq!(next(&now), Action::Stop { unhealthy: false });
        let container = exited(0, "");
        now.container = &container;
        let (state, _, err) = reported(&now);
        assert_eq!((state, err.as_str()), (TaskState::Failed, UNHEALTHY));
    }

    #[test]
    fn shutdown_from_every_state() {
        use TaskState::*;
        for state in [Assigned, Accepted, Preparing, Ready, Starting, Running] {
            for desired in [Shutdown, Remove] {
                let container = running(Health::None);
                let mut now = at(state, &container);
                now.desired = desired;
                assert_eq!(next(&now), Action::Stop { unhealthy: false });
                for container in [Container::Missing, created(), exited(143, "")] {
                    let mut now = at(state, &container);
                    now.desired = desired;
                    let (state, said, err) = reported(&now);
                    assert_eq!(
                        (state, said.as_str(), err.as_str()),
                        (Shutdown, "shutdown", "")
                    );
                }
            }
        }
    }

    #[test]
    fn what_ended_stays_until_it_is_removed() {
        let container = exited(1, "");
        let mut now = at(TaskState::Failed, &container);
        now.desired = TaskState::Shutdown;
        assert_eq!(next(&now), Action::Wait);
        now.removed = true;
        assert_eq!(next(&now), Action::Remove);
        now.container = &Container::Missing;
        assert_eq!(next(&now), Action::Forget);
    }

    #[test]
    fn errors_before_starting_reject_and_later_ones_fail() {
        for (state, expected) in [
            (TaskState::Preparing, TaskState::Rejected),
            (TaskState::Starting, TaskState::Failed),
        ] {
            let change = failed(state, "m", "e".into(), &Container::Missing);
            assert_eq!(change.state, expected);
            assert_eq!((change.message.as_str(), change.err.as_str()), ("m", "e"));
        }
    }

    fn containers() -> impl Strategy<Value = Container> {
        prop_oneof![
            Just(Container::Unknown),
            Just(Container::Missing),
            Just(created()),
            Just(running(Health::None)),
            Just(running(Health::Starting)),
            Just(running(Health::Healthy)),
            Just(running(Health::Unhealthy)),
            (0..3_i64).prop_map(|code| exited(code, "")),
        ]
    }

    fn states() -> impl Strategy<Value = TaskState> {
        use TaskState::*;
        prop::sample::select(vec![
            Assigned, Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown, Failed,
            Rejected,
        ])
    }

    proptest! {
        /// Whatever is seen: a report goes forward, an engine that is away changes nothing, a
        /// container is started only from `created`, and removed only when it does not run.
        #[test]
        fn invariants(
            state in states(),
            desired in states(),
            container in containers(),
            removed: bool,
            unhealthy: bool,
            patient: bool,
            listening: bool,
            pid in prop::option::of(0..2_i64),
            process_ended: bool,
        ) {
            let reported = pid.map(|pid| ContainerStatus { pid, ..status(0) });
            let now = Situation {
                desired, removed, state, message: "", container: &container, unhealthy, patient,
                listening, reported: reported.as_ref(), reported_ports: NO_PORTS, process_ended,
            };
            let action = next(&now);
            if container == Container::Unknown && !(process_ended && pid == Some(1)) {
                prop_assert_eq!(&action, &Action::Wait);
            }
            match action {
                Action::Report(change) if change.state == state => {
                    let told = change.container.map(|container| container.pid);
                    prop_assert!(state == TaskState::Running && told != pid && !removed);
                }
                Action::Report(change) => prop_assert!(change.state > state && !removed),
                Action::Start => {
                    prop_assert!(container == created() && desired < TaskState::Shutdown);
                    prop_assert!(state == TaskState::Starting);
                }
                Action::Stop { .. } => {
                    let runs = matches!(container, Container::Running { .. });
                    prop_assert!(runs);
                }
                Action::Remove => {
                    let runs = matches!(container, Container::Running { .. });
                    prop_assert!(removed && !runs);
                }
                Action::Forget => prop_assert!(removed && container == Container::Missing),
                Action::Prepare => prop_assert_eq!(state, TaskState::Preparing),
                Action::GiveUp => prop_assert!(patient && !unhealthy),
                Action::Wait => {}
            }
        }
    }
}
