//! Whether a task is what its service asks for now, or dirty: Swarm's word for one that must be replaced.

use crate::scheduler::{self, Constraint};
use skein_model::{Service, State, Task, TaskState};

/// Whether the task is what its service asks for now.
pub fn is_up_to_date(state: &State, service: &Service, task: &Task) -> bool {
    !is_dirty(state, service, task)
}

/// Whether the task differs from what the service is now, so that it must be replaced. A changed
/// placement that the task's node fulfils changes nothing.
pub(crate) fn is_dirty(state: &State, service: &Service, task: &Task) -> bool {
    if task.spec_version == Some(service.spec_version) {
        return false;
    }
    let wanted = &service.spec.task_template;
    // Credentials matter only until the image is there.
    if task.registry_auth != service.registry_auth && task.status.state < TaskState::Ready {
        return true;
    }
    if task.endpoint_spec != service.spec.endpoint_spec {
        return true;
    }
    if task.spec == *wanted {
        return false;
    }
    let mut moved = task.spec.clone();
    moved.placement.clone_from(&wanted.placement);
    let fits = || {
        let node = state.node(&task.node_id)?;
        let constraints = scheduler::constraints_of(wanted).ok()?;
        Some(Constraint::all_match(&constraints, node))
    };
    moved != *wanted || fits() != Some(true)
}
