//! How tasks come to be, and what managers themselves want and say of them.

use crate::slot::SlotKey;
use rand::Rng;
use skein_model::{Draft, Service, Task, TaskState, TaskStatus, Timestamp, new_id};

/// A new task of the service as it is now.
pub(crate) fn new(
    service: &Service,
    place: &SlotKey,
    desired_state: TaskState,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Task {
    let (slot, node_id) = match place {
        SlotKey::Slot(slot) => (*slot, String::new()),
        SlotKey::Node(node) => (0, node.clone()),
    };
    Task {
        id: new_id(rng),
        spec: service.spec.task_template.clone(),
        service_id: service.id.clone(),
        slot,
        node_id,
        status: created(now),
        desired_state,
        spec_version: Some(service.spec_version),
        service_name: service.spec.name.clone(),
        service_labels: service.spec.labels.clone(),
        endpoint_spec: service.spec.endpoint_spec.clone(),
        mode: service.spec.mode,
        job_iteration: service.job_iteration(),
        registry_auth: service.registry_auth.clone(),
        ..Task::default()
    }
}

/// What is known of a task that has just come to be.
pub(crate) fn created(now: Timestamp) -> TaskStatus {
    let mut status = TaskStatus::default();
    say(&mut status, TaskState::New, "created", now);
    status
}

/// Something else is wanted of a task.
pub(crate) fn want(draft: &mut Draft, task: &Task, desired: TaskState) {
    let mut task = task.clone();
    task.desired_state = desired;
    draft.put(task);
}

/// The managers say themselves where a task is. What is wrong with it, if anything is, stays said.
pub(crate) fn say(status: &mut TaskStatus, state: TaskState, message: &str, now: Timestamp) {
    status.state = state;
    status.message = message.into();
    status.timestamp = now;
    status.applied_at = now;
}
