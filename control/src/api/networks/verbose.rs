//! Who is on a network of the swarm: services, their tasks, and the nodes that run them.

use crate::api::tasks::is_hidden_on;
use serde_json::{Map, Value, json};
use skein_model::{Network, PublishMode, Service, State, Task, TaskState};
use std::collections::BTreeMap;

/// The running tasks on a network, each with its address there.
fn tasks<'a>(
    state: &'a State,
    network: &'a Network,
) -> impl Iterator<Item = (&'a Task, String)> + use<'a> {
    let runs = |task: &Task| {
        let container = task.status.container_status.as_ref();
        // An attachment outlasts the stop of its container.
        let is_stopped =
            || task.is_attachment() && container.is_none_or(|container| container.names.is_empty());
        task.status.state == TaskState::Running
            && task.desired_state <= TaskState::Running
            && !is_stopped()
            && !is_hidden_on(task, network)
    };
    state
        .tasks()
        .filter(move |task| runs(task))
        .filter_map(|task| {
            let mut attachments = task.networks_attachments.iter();
            let attachment = attachments.find(|a| a.network_id == network.id)?;
            Some((&**task, attachment.address?.addr().to_string()))
        })
}

/// `Services` of a network that is inspected with `verbose`, by name.
pub fn services(state: &State, network: &Network) -> Map<String, Value> {
    let mut by_service = BTreeMap::<&str, Vec<Value>>::new();
    for (task, address) in tasks(state, network) {
        let node = state.node(&task.node_id);
        let host = node.map_or("", |node| &node.status.addr);
        // A container that is no task's goes by its own name.
        let container = task.status.container_status.as_ref();
        let own = container.and_then(|container| container.names.first());
        by_service.entry(&task.service_id).or_default().push(json!({
            "Name": own.cloned().unwrap_or_else(|| task.name()),
            "EndpointID": "",
            "EndpointIP": address,
            "Info": {"Host IP": host},
        }));
    }
    let shown = by_service.into_iter().filter_map(|(id, tasks)| {
        // As Docker has containers of no service.
        if id.is_empty() {
            let shown = json!({"VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": tasks});
            return Some((String::new(), shown));
        }
        let service = state.service(id)?;
        let mut vips = service.endpoint.virtual_ips.iter();
        let vip = vips.find(|vip| vip.network_id == network.id);
        // As Go prints an address that there is not.
        let vip = vip.and_then(|vip| vip.addr).map_or("<nil>".to_owned(), |vip| vip.addr().to_string());
        Some((
            service.spec.name.clone(),
            json!({"VIP": vip, "Ports": ports(service, network), "LocalLBIndex": 0, "Tasks": tasks}),
        ))
    });
    shown.collect()
}

/// Published ports are those of the ingress network.
fn ports(service: &Service, network: &Network) -> Vec<String> {
    let ports = service.endpoint.ports.iter();
    ports
        .filter(|port| network.spec.ingress && port.publish_mode == PublishMode::Ingress)
        .map(|port| {
            format!(
                "Target: {}, Publish: {}",
                port.target_port, port.published_port
            )
        })
        .collect()
}

/// Characters of a peer's name: as short as Docker shows it.
const PEER_NAME: usize = 12;

/// `Peers`: the nodes that have a part in a network.
pub fn peers(state: &State, network: &Network) -> Vec<Value> {
    let nodes: BTreeMap<&str, &str> = tasks(state, network)
        .filter_map(|(task, _)| state.node(&task.node_id))
        .map(|node| (&*node.id, &*node.status.addr))
        .collect();
    nodes
        .into_iter()
        .map(|(id, address)| {
            let name = id.get(..PEER_NAME).unwrap_or(id);
            json!({"Name": name, "IP": address})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{
        Action, EndpointSpec, Node, NodeStatus, PortConfig, Proposal, ServiceEndpoint, TaskNetwork,
        TaskStatus, Timestamp, VirtualIp,
    };

    #[test]
    fn services_and_their_tasks_are_told_by_network() {
        let mut state = State::default();
        let network = |id: &str, ingress| {
            let mut network = Network {
                id: id.into(),
                ..Network::default()
            };
            network.spec.name = id.into();
            network.spec.ingress = ingress;
            network
        };
        let (front, ingress) = (network("front", false), network("ingress", true));
        let node = Node {
            id: "n1".into(),
            status: NodeStatus {
                addr: "192.0.2.1".into(),
                ..NodeStatus::default()
            },
            ..Node::default()
        };
        let vip = |id: &str, addr: &str| VirtualIp {
            network_id: id.into(),
            addr: Some(addr.parse().unwrap()),
        };
        let mut service = Service {
            id: "s1".into(),
            endpoint: ServiceEndpoint {
                ports: vec![PortConfig {
                    target_port: 80,
                    published_port: 8080,
                    ..PortConfig::default()
                }],
                virtual_ips: vec![vip("ingress", "10.0.0.2/24")],
                ..ServiceEndpoint::default()
            },
            ..Service::default()
        };
        service.spec.name = "web".into();
        let task = |id: &str, state| Task {
            id: id.into(),
            service_id: "s1".into(),
            service_name: "web".into(),
            node_id: "n1".into(),
            slot: 1,
            status: TaskStatus {
                state,
                ..TaskStatus::default()
            },
            desired_state: TaskState::Running,
            networks_attachments: ["front", "ingress"]
                .map(|id| TaskNetwork {
                    network_id: id.into(),
                    address: Some("10.0.1.5/24".parse().unwrap()),
                    ..TaskNetwork::default()
                })
                .into(),
            ..Task::default()
        };
        // On the ingress network for its port in host mode.
        let mut other = Service {
            id: "s2".into(),
            ..Service::default()
        };
        other.spec.name = "other".into();
        let on_host = PortConfig {
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        };
        let endpoint_spec = Some(EndpointSpec {
            ports: vec![on_host],
            ..EndpointSpec::default()
        });
        let hidden = Task {
            service_id: other.id.clone(),
            endpoint_spec,
            networks_attachments: task("t1", TaskState::Running).networks_attachments[1..].into(),
            ..task("t3", TaskState::Running)
        };
        let actions = vec![
            Action::Create(front.clone().into()),
            Action::Create(ingress.clone().into()),
            Action::Create(other.into()),
            Action::Create(hidden.into()),
            Action::Create(node.into()),
            Action::Create(service.into()),
            Action::Create(task("t1", TaskState::Running).into()),
            Action::Create(task("t2", TaskState::Failed).into()),
        ];
        let at = Timestamp::default();
        state.apply(1, &Proposal { at, actions }).unwrap();
        let tasks = json!([{
            "Name": "web.1.t1", "EndpointID": "", "EndpointIP": "10.0.1.5",
            "Info": {"Host IP": "192.0.2.1"},
        }]);
        assert_eq!(
            Value::from(services(&state, &front)),
            json!({"web": {"VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": tasks}})
        );
        let ports = ["Target: 80, Publish: 8080"];
        assert_eq!(
            Value::from(services(&state, &ingress)),
            json!({"web": {"VIP": "10.0.0.2", "Ports": ports, "LocalLBIndex": 0, "Tasks": tasks}})
        );
        assert_eq!(
            peers(&state, &front),
            [json!({"Name": "n1", "IP": "192.0.2.1"})]
        );
    }
}
