//! A task's place on a network: its address there, its names, and whether it takes flows.

use crate::occupancy::is_placed;
use skein_model::{Task, TaskState, short_id};
use skein_proto::network as proto;
use std::net::Ipv4Addr;

/// The networks on which a task has an address that may be in use, by ID, and the addresses.
pub(super) fn places(task: &Task) -> impl Iterator<Item = (&str, Ipv4Addr)> {
    let attachments = task.networks_attachments.iter();
    let attachments = attachments.filter(move |_| is_placed(task));
    attachments.filter_map(|attachment| {
        let address = attachment.address?.addr();
        Some((attachment.network_id.as_str(), address))
    })
}

/// The ID of a task's endpoint on a network.
pub(super) fn endpoint_id(task: &Task, network_id: &str) -> String {
    format!("{}.{network_id}", task.id)
}

/// What nodes are told of a task on a network.
pub(super) fn endpoint(
    task: &Task,
    network_id: &str,
    address: Ipv4Addr,
    host_ports: Vec<proto::PublishedPort>,
) -> proto::Endpoint {
    proto::Endpoint {
        id: endpoint_id(task, network_id),
        task_id: task.id.clone(),
        service_id: task.service_id.clone(),
        network_id: network_id.to_owned(),
        node_id: task.node_id.clone(),
        address: address.to_string(),
        state: endpoint_state(task).into(),
        names: names(task),
        host_ports,
    }
}

/// Whether nodes send it flows: new ones, those that it has, or none yet.
pub(super) fn endpoint_state(task: &Task) -> proto::EndpointState {
    if task.is_attachment() {
        // It keeps its address while its container is stopped.
        return match names(task).is_empty() {
            true => proto::EndpointState::Starting,
            false => proto::EndpointState::Ready,
        };
    }
    if !task.is_wanted() {
        proto::EndpointState::Draining
    } else if is_ready(task) {
        proto::EndpointState::Ready
    } else {
        proto::EndpointState::Starting
    }
}

/// Whether the task can be sent new flows, as far as its node has said: it runs, and has a process. That
/// there is none the node says before it can say how the process ended, where its engine is away.
pub(crate) fn is_ready(task: &Task) -> bool {
    let container = task.status.container_status.as_ref();
    let has_process = container.is_none_or(|container| container.pid != 0);
    task.status.state == TaskState::Running && has_process
}

fn names(task: &Task) -> Vec<String> {
    let container = task.status.container_status.as_ref();
    if task.is_attachment() {
        return container.map_or_else(Vec::new, |container| container.names.clone());
    }
    let mut names = vec![task.name()];
    let short = container.and_then(|container| short_id(&container.container_id));
    names.extend(short.map(str::to_owned));
    let hostname = &task.spec.container_spec.hostname;
    // Only the agent knows what a template becomes.
    if !hostname.is_empty() && !hostname.contains("{{") {
        names.push(hostname.clone());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network_state::{
        network_state,
        tests::{cluster, refs},
    };
    use skein_proto::network::object::Object as Kind;

    #[test]
    fn the_state_of_an_endpoint_follows_its_task() {
        use proto::EndpointState::{Draining, Ready, Starting};
        let mut fixture = cluster();
        for (status, desired, expected) in [
            (TaskState::Assigned, TaskState::Running, Some(Starting)),
            (TaskState::Ready, TaskState::Ready, Some(Starting)),
            (TaskState::Starting, TaskState::Running, Some(Starting)),
            (TaskState::Running, TaskState::Running, Some(Ready)),
            (TaskState::Running, TaskState::Shutdown, Some(Draining)),
            (TaskState::Running, TaskState::Remove, Some(Draining)),
            (TaskState::Failed, TaskState::Running, None),
            (TaskState::Pending, TaskState::Running, None),
        ] {
            fixture.task("web1", |task| {
                task.status.state = status;
                task.desired_state = desired;
            });
            let objects = network_state(&fixture.state, "c");
            let found = objects.iter().find_map(|object| match &object.object {
                Some(Kind::Endpoint(endpoint)) => Some(endpoint.state()),
                _ => None,
            });
            assert_eq!(found, expected, "{status} {desired}");
        }
    }

    #[test]
    fn a_task_without_a_process_is_not_ready() {
        let mut fixture = cluster();
        for (pid, ready) in [(7, true), (0, false)] {
            fixture.task("web1", |task| {
                task.status.container_status.get_or_insert_default().pid = pid;
            });
            let objects = network_state(&fixture.state, "c");
            let mut endpoints = objects.iter().filter_map(|object| match &object.object {
                Some(Kind::Endpoint(endpoint)) => Some(endpoint.state()),
                _ => None,
            });
            let is_ready = endpoints.next() == Some(proto::EndpointState::Ready);
            assert_eq!(is_ready, ready, "process {pid}");
        }
    }

    #[test]
    fn an_attachment_is_named_while_its_container_runs() {
        use proto::EndpointState::{Ready, Starting};
        let mut fixture = cluster();
        fixture.task("own", |task| {
            task.node_id = "c".into();
            task.spec.runtime = skein_model::Runtime::Attachment;
            task.networks_attachments = vec![skein_model::TaskNetwork {
                network_id: "front".into(),
                address: Some("10.0.1.9/24".parse().unwrap()),
                ..skein_model::TaskNetwork::default()
            }];
        });
        for (state, names, expected) in [
            (TaskState::Assigned, &[][..], Starting),
            (TaskState::Running, &["box", "0123456789ab"], Ready),
            (TaskState::Running, &[], Starting),
        ] {
            fixture.task("own", |task| {
                task.status.state = state;
                let container = task.status.container_status.get_or_insert_default();
                container.names = names.iter().map(|name| (*name).into()).collect();
            });
            for node in ["a", "c"] {
                let objects = network_state(&fixture.state, node);
                let found = objects.iter().find_map(|object| match &object.object {
                    Some(Kind::Endpoint(endpoint)) => {
                        (endpoint.id == "own.front").then_some(endpoint)
                    }
                    _ => None,
                });
                let found = found.unwrap();
                assert_eq!(found.state(), expected);
                assert_eq!(found.names, names);
            }
        }
        // Its node has the network, and all that is on it.
        assert_eq!(
            refs(&fixture, "c", proto::Kind::Network),
            ["front", "ingress"]
        );
    }
}
