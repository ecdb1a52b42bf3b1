//! What must be unique has one owner: subnets and identifiers of networks, addresses on them, ports
//! that are published on every node, and ports of one node. Those are a service's, and of its tasks one's,
//! apart from those that another is taking the place of.

use super::{InEveryState, convergence::is_of_now, has_ended};
use skein_model::{PublishMode, Service, State, TaskState};
use std::collections::{BTreeMap, btree_map::Entry};

pub(super) const INVARIANT: InEveryState = InEveryState {
    name: "no address or port is owned twice",
    check,
};

/// Who owns what.
#[derive(Default)]
struct Owners(BTreeMap<String, String>);

impl Owners {
    fn add(&mut self, what: String, owner: String) -> Result<(), String> {
        match self.0.entry(what) {
            Entry::Vacant(entry) => drop(entry.insert(owner)),
            Entry::Occupied(entry) if *entry.get() == owner => {}
            Entry::Occupied(entry) => {
                let (what, first) = (entry.key(), entry.get());
                return Err(format!("{what} is of {first} and of {owner}"));
            }
        }
        Ok(())
    }
}

fn check(state: &State) -> Result<(), String> {
    let mut owners = Owners::default();
    let mut subnets = Vec::new();
    for network in state.networks() {
        let given = network.allocation.iter().flat_map(|a| &a.subnets);
        for (nth, given) in given.enumerate() {
            let (owner, subnet) = (format!("network {}", network.id), given.subnet);
            owners.add(
                format!("VNI {}", given.vni),
                format!("{owner}, subnet {nth}"),
            )?;
            owners.add(format!("{} on {}", given.gateway, network.id), owner)?;
            let overlaps =
                |other: &&ipnet::Ipv4Net| other.contains(&subnet) || subnet.contains(*other);
            if let Some(other) = subnets.iter().find(overlaps) {
                return Err(format!("subnets {subnet} and {other} overlap"));
            }
            subnets.push(subnet);
        }
    }
    for node in state.nodes() {
        if let Some(address) = node.tunnel.and_then(|end| end.address) {
            owners.add(
                format!("{address} in the tunnels"),
                format!("node {}", node.id),
            )?;
        }
    }
    for service in state.services() {
        let owner = format!("service {}", service.id);
        for vip in &service.endpoint.virtual_ips {
            if let Some(address) = vip.addr {
                let what = format!("{} on {}", address.addr(), vip.network_id);
                owners.add(what, owner.clone())?;
            }
        }
        for port in &service.endpoint.ports {
            if port.publish_mode == PublishMode::Ingress && port.published_port != 0 {
                let what = format!("port {}/{:?}", port.published_port, port.protocol);
                owners.add(what, owner.clone())?;
            }
        }
    }
    for task in state.tasks().filter(|t| !has_ended(t.status.state)) {
        let owner = format!("task {}", task.id);
        for attachment in &task.networks_attachments {
            if let Some(address) = attachment.address {
                let what = format!("{} on {}", address.addr(), attachment.network_id);
                owners.add(what, owner.clone())?;
            }
        }
        // One that is held back has its port only once the one before it has gone.
        let has_ports = (TaskState::Starting..=TaskState::Running).contains(&task.status.state);
        for port in task.ports.iter().filter(|_| has_ports) {
            if port.publish_mode == PublishMode::Host && port.published_port != 0 {
                let (number, protocol) = (port.published_port, port.protocol);
                let what = format!("port {number}/{protocol:?} of node {}", task.node_id);
                owners.add(what.clone(), format!("service {}", task.service_id))?;
                let service = state.service(&task.service_id);
                // One that is not what its service asks for now is to be replaced by one that is.
                let is_to_stay = |service: &std::sync::Arc<Service>| {
                    let is_as_asked = task.endpoint_spec == service.spec.endpoint_spec;
                    is_as_asked && is_of_now(state, service, task)
                };
                let stays =
                    task.desired_state <= TaskState::Complete && service.is_some_and(is_to_stay);
                if stays {
                    owners.add(format!("{what} for good"), owner.clone())?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{next, service, task};
    use skein_model::{
        Network, Node, Object, PortConfig, SubnetAllocation, Task, TaskNetwork, VirtualIp,
    };

    fn network(id: &str, vni: u32, subnet: &str) -> Object {
        let mut network = Network {
            id: id.into(),
            allocation: Some(SubnetAllocation::whole(vni, subnet.parse().unwrap()).into()),
            ..Network::default()
        };
        network.spec.name = id.into();
        network.into()
    }

    fn with_vip(id: &str, address: &str) -> Service {
        let mut service = service(id);
        service.endpoint.virtual_ips.push(VirtualIp {
            network_id: "n".into(),
            addr: Some(address.parse().unwrap()),
        });
        service
    }

    fn with_address(id: &str, address: &str) -> Task {
        let mut task = task(id, &service("web"), 1);
        task.networks_attachments.push(TaskNetwork {
            network_id: "n".into(),
            address: Some(address.parse().unwrap()),
            ..TaskNetwork::default()
        });
        task
    }

    fn seen(objects: Vec<Object>) -> Result<(), String> {
        check(&next(&State::default(), objects))
    }

    #[test]
    fn networks_share_nothing() {
        let one = || network("n", 4096, "10.0.0.0/24");
        seen(vec![one(), network("m", 4097, "10.0.1.0/24")]).unwrap();
        seen(vec![one(), network("m", 4096, "10.0.1.0/24")]).unwrap_err();
        seen(vec![one(), network("m", 4097, "10.0.0.0/16")]).unwrap_err();
    }

    #[test]
    fn an_address_is_one_services_or_one_tasks() {
        let on_network = |objects: Vec<Object>| {
            let network = network("n", 4096, "10.0.0.0/24");
            seen([vec![network], objects].concat())
        };
        let vip = || Object::from(with_vip("a", "10.0.0.2/24"));
        let other = |address| Object::from(with_vip("b", address));
        on_network(vec![vip(), other("10.0.0.3/24")]).unwrap();
        on_network(vec![vip(), other("10.0.0.2/24")]).unwrap_err();
        let task = |id: &str| Object::from(with_address(id, "10.0.0.2/24"));
        on_network(vec![vip(), task("t")]).unwrap_err();
        on_network(vec![task("t"), task("u")]).unwrap_err();
        let mut ended = with_address("u", "10.0.0.2/24");
        ended.status.state = TaskState::Failed;
        on_network(vec![task("t"), ended.into()]).unwrap();
    }

    #[test]
    fn a_port_is_one_services_or_one_tasks_of_a_node() {
        let port = |mode| PortConfig {
            published_port: 80,
            publish_mode: mode,
            ..PortConfig::default()
        };
        let publishing = |id: &str| {
            let mut service = service(id);
            service.endpoint.ports.push(port(PublishMode::Ingress));
            Object::from(service)
        };
        seen(vec![publishing("a")]).unwrap();
        seen(vec![publishing("a"), publishing("b")]).unwrap_err();
        let of = |id: &str, of: &str, node: &str| {
            let mut task = task(id, &service(of), 1);
            task.node_id = node.into();
            task.ports.push(port(PublishMode::Host));
            task
        };
        let both = |first: Task, second: Task| {
            let services = ["web", "other"].map(|id| Object::from(service(id)));
            let nodes = ["n1", "n2"].map(|id| {
                let id = id.to_owned();
                Object::from(Node {
                    id,
                    ..Node::default()
                })
            });
            let tasks = vec![first.into(), second.into()];
            seen([services.to_vec(), nodes.to_vec(), tasks].concat())
        };
        both(of("t", "web", "n1"), of("u", "web", "n2")).unwrap();
        both(of("t", "web", "n1"), of("u", "web", "n1")).unwrap_err();
        let mut outdated = of("t", "web", "n1");
        outdated.spec.force_update = 1;
        outdated.spec_version = None;
        both(outdated.clone(), of("u", "web", "n1")).unwrap();
        both(outdated, of("u", "other", "n1")).unwrap_err();
        let mut stops = of("t", "web", "n1");
        stops.desired_state = TaskState::Shutdown;
        both(stops.clone(), of("u", "web", "n1")).unwrap();
        both(stops, of("u", "other", "n1")).unwrap_err();
    }
}
