//! `/tasks`

use super::{
    Leader, error::ApiError, filters::Filters, json, networks, node_handle::Store, query::Params,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use serde_json::{Value, json};
use skein_model::{EndpointSpec, Network, Runtime, State as Model, Task, TaskState};
use std::collections::BTreeSet;

const FILTERS: [&str; 8] = [
    "id",
    "name",
    "label",
    "service",
    "node",
    "desired-state",
    "runtime",
    "_up-to-date",
];

/// All names that a task's state may be asked for by; `allocated` is a name only.
const STATES: [&str; 15] = [
    "new",
    "pending",
    "assigned",
    "allocated",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
    "remove",
    "orphaned",
];

pub async fn list(State(leader): State<Leader>, params: Params) -> Result<Response, ApiError> {
    let filters = Filters::parse(params.text("filters"), &FILTERS)?;
    for name in filters.values("desired-state") {
        if !STATES.contains(&name.as_str()) {
            // The reference's error has no type here.
            return Err(ApiError::internal(format!(
                "Invalid desired-state filter: '{name}'"
            )));
        }
    }
    let state = leader.read().await?;
    let tasks = matching(&state, &filters)?
        .map(|task| shown(&*leader.store, &state, task))
        .collect::<Result<_, _>>()?;
    Ok(json::ok(&Value::Array(tasks)))
}

fn matching<'a>(
    state: &'a Model,
    filters: &'a Filters,
) -> Result<impl Iterator<Item = &'a Task>, ApiError> {
    let mut services = BTreeSet::new();
    for reference in filters.values("service") {
        services.insert(state.find_service(reference)?.id.as_str());
    }
    let mut nodes = BTreeSet::new();
    for reference in filters.values("node") {
        nodes.insert(state.find_node(reference)?.id.as_str());
    }
    Ok(state.tasks().map(|task| &**task).filter(move |task| {
        (services.is_empty() || services.contains(task.service_id.as_str()))
            && (nodes.is_empty() || nodes.contains(task.node_id.as_str()))
            && passes(state, filters, task)
    }))
}

fn passes(state: &Model, filters: &Filters, task: &Task) -> bool {
    filters.any("id", |id| task.id.starts_with(id))
        && filters.any("name", |name| task.name().starts_with(name))
        && filters.any("desired-state", |name| {
            name == task.desired_state.to_string()
        })
        && runs_as(filters.values("runtime"), task)
        && filters.any("_up-to-date", |on| {
            matches!(on, "true" | "1") == up_to_date(state, task)
        })
        && filters.labels("label", &task.service_labels)
}

/// Attachments are for those who ask for them.
fn runs_as(runtimes: &[String], task: &Task) -> bool {
    let own = match task.spec.runtime {
        Runtime::Container => "container",
        Runtime::Attachment => "attachment",
    };
    match runtimes {
        [] => !task.is_attachment(),
        asked => asked.iter().any(|runtime| runtime == own),
    }
}

/// Whether the task is what its service asks for now.
fn up_to_date(state: &Model, task: &Task) -> bool {
    let Some(service) = state.service(&task.service_id) else {
        return false;
    };
    skein_orchestration::is_up_to_date(state, service, task)
}

pub async fn inspect(
    State(leader): State<Leader>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let task = state.find_task(&id)?;
    Ok(json::ok(&shown(&*leader.store, &state, task)?))
}

/// Whether users do not see the task's place on a network: on the ingress network, of one that has only
/// ports in host mode. With Docker, those need no network.
pub fn is_hidden_on(task: &Task, network: &Network) -> bool {
    let hides = |endpoint: &EndpointSpec| endpoint.needs_ingress() && !endpoint.publishes_ingress();
    network.spec.ingress && task.endpoint_spec.as_ref().is_some_and(hides)
}

/// A task with the whole of its networks.
fn shown(store: &dyn Store, state: &Model, task: &Task) -> Result<Value, ApiError> {
    let mut value = json::shown(task)?;
    // Of services only.
    if let Some(spec) = value["Spec"].as_object_mut() {
        if task.is_attachment() {
            let container = task.status.container_status.as_ref();
            let id = container.map_or("", |container| &container.container_id);
            spec.remove("ContainerSpec");
            spec.insert("NetworkAttachmentSpec".into(), json!({ "ContainerID": id }));
        } else {
            spec.remove("Runtime");
        }
    }
    let attachments: Vec<_> = (task.networks_attachments.iter())
        .map(|attachment| (attachment, state.network(&attachment.network_id)))
        .filter(|(_, network)| !network.is_some_and(|network| is_hidden_on(task, network)))
        .collect();
    if attachments.is_empty() {
        if let Some(value) = value.as_object_mut() {
            value.remove("NetworksAttachments");
        }
    } else {
        let attachments = attachments.into_iter().map(|(attachment, network)| {
            let addresses: Vec<_> = attachment.address.iter().map(ToString::to_string).collect();
            json!({
                "Network": network.map(|network| networks::in_task(network)),
                "Addresses": addresses,
            })
        });
        value["NetworksAttachments"] = attachments.collect();
    }
    // The task runs, but a node does not publish its ports.
    let runs = task.status.state == TaskState::Running && task.desired_state == TaskState::Running;
    if runs && task.status.err.is_empty() {
        let problems = store.problems_of_service(&task.service_id);
        if !problems.is_empty() {
            value["Status"]["Err"] = problems.into();
        }
    }
    // A wait that the allocator cannot end is explained where users look for the reason.
    if task.status.state == TaskState::New && task.status.err.is_empty() {
        let service = state.service(&task.service_id);
        if let Some(error) = service
            .map(|service| &service.allocation_error)
            .filter(|error| !error.is_empty())
        {
            value["Status"]["Err"] = error.as_str().into();
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_shown_to_those_who_ask_for_them() {
        let mut attachment = Task::default();
        attachment.spec.runtime = Runtime::Attachment;
        for (runtimes, of_service, of_user) in [
            (&[][..], true, false),
            (&["container"], true, false),
            (&["attachment"], false, true),
            (&["container", "attachment"], true, true),
            (&["plugin"], false, false),
        ] {
            let runtimes: Vec<String> = runtimes.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(runs_as(&runtimes, &Task::default()), of_service);
            assert_eq!(runs_as(&runtimes, &attachment), of_user);
        }
    }

    #[test]
    fn every_state_can_be_asked_for() {
        for state in TaskState::ALL {
            assert!(STATES.contains(&state.to_string().as_str()), "{state}");
        }
    }
}
