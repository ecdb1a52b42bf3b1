//! What must hold in every world, one file each. A new one is a file here and a line in [`all`].

mod acknowledged_writes;
mod completed_tasks;
mod convergence;
mod draining_barrier;
mod one_leader;
mod one_task_per_slot;
mod places;
mod quorum;
mod raft_ids;
mod unique_addresses;
mod versions;

pub use convergence::shortfall;

use crate::history::Seen;
use skein_model::{State, Task, TaskState};

/// Something that must hold, whatever happens.
pub trait Invariant: Send {
    /// What must hold, as one says it.
    fn name(&self) -> &'static str;

    /// Looks at what was seen.
    ///
    /// # Errors
    /// It does not hold; why.
    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String>;
}

/// Something that must hold of every state of the store by itself.
struct InEveryState {
    name: &'static str,
    check: fn(&State) -> Result<(), String>,
}

impl Invariant for InEveryState {
    fn name(&self) -> &'static str {
        self.name
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Changed { after, .. } => (self.check)(after),
            _ => Ok(()),
        }
    }
}

/// Whether a task is to run, or to become complete.
fn is_wanted(task: &Task) -> bool {
    let done = task.mode.is_job() && task.status.state == TaskState::Complete;
    task.desired_state <= TaskState::Complete && !done
}

/// Whether a task will never run again. Said here once more, and not asked of the store: what is wrong there is to be
/// noticed here.
fn has_ended(state: TaskState) -> bool {
    match state {
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running => false,
        TaskState::Complete
        | TaskState::Shutdown
        | TaskState::Failed
        | TaskState::Rejected
        | TaskState::Remove
        | TaskState::Orphaned => true,
    }
}

/// All of them, before anything has happened.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(acknowledged_writes::AcknowledgedWrites::default()),
        Box::new(one_leader::OneLeader::default()),
        Box::new(one_task_per_slot::INVARIANT),
        Box::new(unique_addresses::INVARIANT),
        Box::new(places::INVARIANT),
        Box::new(completed_tasks::CompletedTasks::default()),
        Box::new(versions::Versions::default()),
        Box::new(draining_barrier::DrainingBarrier::default()),
        Box::new(raft_ids::RaftIds::default()),
        Box::new(quorum::Quorum::default()),
        Box::new(convergence::Convergence),
    ]
}

#[cfg(test)]
mod testing {
    //! States to show to invariants.

    use crate::history::Seen;
    use skein_model::{
        Action, Network, Object, Proposal, Service, ServiceMode, State, Task, TaskState,
    };
    use skein_model::{Timestamp, Version};
    use std::time::Duration;

    /// The store has moved on from one state to the next.
    pub fn changed<'a>(at: Duration, before: &'a State, after: &'a State) -> Seen<'a> {
        Seen::Changed { at, before, after }
    }

    /// The next state of a store in which `objects` are created or updated.
    pub fn next(state: &State, objects: Vec<Object>) -> State {
        let mut next = state.clone();
        let actions = objects.into_iter().map(|object| {
            let version = match &object {
                Object::Task(task) => state.task(&task.id).map(|task| task.meta.version),
                Object::Service(s) => state.service(&s.id).map(|s| s.meta.version),
                Object::Network(n) => state.network(&n.id).map(|n| n.meta.version),
                Object::Node(n) => state.node(&n.id).map(|n| n.meta.version),
                Object::Cluster(_) => state.cluster().map(|c| c.meta.version),
                _ => None,
            };
            match version {
                None => Action::Create(object),
                Some(version) => Action::Update(with_version(object, version)),
            }
        });
        let actions = actions.collect();
        let at = Timestamp::from_unix_nanos(1);
        next.apply(state.index() + 1, &Proposal { at, actions })
            .unwrap();
        next
    }

    fn with_version(object: Object, version: Version) -> Object {
        match object {
            Object::Task(task) => {
                let mut task = Task::clone(&task);
                task.meta.version = version;
                task.into()
            }
            Object::Service(service) => {
                let mut service = Service::clone(&service);
                service.meta.version = version;
                service.into()
            }
            Object::Network(network) => {
                let mut network = Network::clone(&network);
                network.meta.version = version;
                network.into()
            }
            other => other,
        }
    }

    /// A service of one replica.
    pub fn service(id: &str) -> Service {
        let mut service = Service {
            id: id.into(),
            spec_version: Version { index: 1 },
            ..Service::default()
        };
        service.spec.name = id.into();
        service.spec.mode = ServiceMode::Replicated { replicas: 1 };
        service
    }

    /// A task of it that runs in a slot.
    pub fn task(id: &str, service: &Service, slot: u64) -> Task {
        let mut task = Task {
            id: id.into(),
            service_id: service.id.clone(),
            slot,
            node_id: "n1".into(),
            desired_state: TaskState::Running,
            spec: service.spec.task_template.clone(),
            spec_version: Some(service.spec_version),
            mode: service.spec.mode,
            job_iteration: service.job_iteration(),
            ..Task::default()
        };
        task.status.state = TaskState::Running;
        task
    }
}
