//! Networks: what is refused.

use super::{SpecError, SpecErrorKind, check_name};
use crate::allocator;
use skein_model::{Network, NetworkSpec, PREDEFINED_LABEL, State, Task, TaskState};

/// Checks all that can be said of a network that is to be created. Whether its name is free is the
/// store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_network(state: &State, spec: &NetworkSpec) -> Result<(), SpecError> {
    check_name(&spec.name)?;
    if spec.labels.contains_key(PREDEFINED_LABEL) {
        return Err(SpecError::with(
            SpecErrorKind::Forbidden,
            format!(
                "label {PREDEFINED_LABEL} is for internally created predefined networks and cannot \
                 be applied by users"
            ),
        ));
    }
    if spec.ingress {
        if spec.attachable {
            return Err(SpecError::invalid("ingress network cannot be attachable"));
        }
        if spec.driver != "overlay" {
            return Err(SpecError::with(
                SpecErrorKind::Unimplemented,
                "only overlay driver is currently supported for ingress network",
            ));
        }
        if let Some(present) = state.ingress_network() {
            return Err(SpecError::with(
                SpecErrorKind::Conflict,
                format!("ingress network ({}) is already present", present.id),
            ));
        }
    }
    if spec.driver != "overlay" {
        return Err(SpecError::invalid(format!(
            "error during lookup of plugin {}: only the overlay driver makes networks of swarm scope",
            spec.driver
        )));
    }
    if spec.enable_ipv6 {
        return Err(SpecError::with(
            SpecErrorKind::Unimplemented,
            "IPv6 is not supported on overlay networks: create the network without it",
        ));
    }
    allocator::check_network(state, spec).map_err(|error| SpecError::invalid(error.to_string()))
}

/// Checks whether a network may be removed.
///
/// # Errors
/// It is predefined, or somebody needs it.
pub fn check_network_removal(state: &State, network: &Network) -> Result<(), SpecError> {
    let (id, name) = (&network.id, &network.spec.name);
    if network.spec.predefined {
        return Err(in_use(format!(
            "network {id} ({name}) is a swarm predefined network and cannot be removed"
        )));
    }
    for service in state.services() {
        if network.spec.ingress && allocator::publishes_ingress(service.spec.endpoint_spec.as_ref())
        {
            return Err(in_use(format!(
                "ingress network cannot be removed because service {} depends on it",
                service.id
            )));
        }
        let mut networks = service.spec.task_template.networks.iter();
        if networks.any(|attachment| attachment.target == *id) {
            return Err(in_use(format!(
                "network {id} is in use by service {}",
                service.id
            )));
        }
    }
    let mut tasks = state.tasks().filter(|task| {
        let mut networks = task.networks_attachments.iter();
        is_wanted(state, task) && networks.any(|a| a.network_id == *id)
    });
    match tasks.next() {
        Some(task) => Err(in_use(format!(
            "network {id} is in use by task {}",
            task.id
        ))),
        None => Ok(()),
    }
}

/// Whether a task runs or will, and is to. One whose service is gone is as good as stopped: a stack's
/// networks are removed right after its services, while their containers still end.
fn is_wanted(state: &State, task: &Task) -> bool {
    let live = task.status.state <= TaskState::Running && task.desired_state <= TaskState::Running;
    live && (task.service_id.is_empty() || state.service(&task.service_id).is_some())
}

fn in_use(message: String) -> SpecError {
    SpecError::with(SpecErrorKind::Precondition, message)
}
