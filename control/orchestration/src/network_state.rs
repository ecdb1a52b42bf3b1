//! The network state of a node: what its dataplane must know, of the store as it is.

mod states;

pub use states::{NetworkStates, Told};

use crate::occupancy::is_placed;
use skein_model::{
    Network, Node, NodeState, PortConfig, PortProtocol, PublishMode, ResolutionMode, Service,
    State, Task, TaskState, short_id,
};
use skein_proto::network::{self as proto, object::Object as Kind};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// The option of an overlay that sets the size of its packets.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// Everything that a node's dataplane must have, in an order of its own.
///
/// Networks are those on which the node has tasks, and the ingress network; of these, all endpoints.
/// Published ports are those of all services: every node answers on them. Those in host mode are their
/// endpoints', and their nodes answer on them.
///
/// Costs a look at everything: for many nodes there is [`NetworkStates`].
pub fn network_state(state: &State, node_id: &str) -> Vec<proto::Object> {
    let ingress = state.ingress_network().map(|network| network.id.as_str());
    let networks: BTreeMap<&str, proto::Network> = networks_of(state, node_id)
        .into_iter()
        .filter_map(|id| Some((id, network(state.network(id)?)?)))
        .collect();
    let has = |id: &str| networks.contains_key(id);

    let mut objects = vec![Kind::Settings(settings(state, node_id))];
    objects.extend(state.nodes().filter_map(|of| node(of)).map(Kind::Node));
    let services = state.services().map(|of| service(of, ingress));
    let services = services.chain(removed_services(state));
    let services = services.filter_map(|of| on_networks(&of, has));
    objects.extend(services.map(Kind::Service));
    let ids: BTreeSet<&str> = state.tasks().map(|task| task.node_id.as_str()).collect();
    let on_nodes = ids.into_iter().flat_map(|id| host_ports(state, id));
    let mut host_ports: BTreeMap<&str, Vec<_>> = on_nodes.collect();
    for task in state.tasks() {
        let mut on_node = host_ports.remove(task.id.as_str()).unwrap_or_default();
        let places = places(task).filter(|(id, _)| has(id));
        objects.extend(places.map(|(id, address)| {
            let host_ports = match Some(id) == ingress {
                true => std::mem::take(&mut on_node),
                false => Vec::new(),
            };
            Kind::Endpoint(endpoint(task, id, address, host_ports))
        }));
    }
    objects.extend(networks.into_values().map(Kind::Network));
    let object = |object| proto::Object {
        object: Some(object),
    };
    objects.into_iter().map(object).collect()
}

fn settings(state: &State, node_id: &str) -> proto::Settings {
    let ingress = state.ingress_network().map(|network| network.id.clone());
    let cluster = state.cluster();
    proto::Settings {
        node_id: node_id.to_owned(),
        vxlan_port: cluster.map_or(0, |cluster| cluster.data_path_port.into()),
        ingress_network_id: ingress.unwrap_or_default(),
    }
}

/// `None` until its address is known.
fn node(node: &Node) -> Option<proto::Node> {
    (!node.data_path_addr.is_empty()).then(|| proto::Node {
        id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        address: node.data_path_addr.clone(),
        up: node.status.state != NodeState::Down,
    })
}

/// The networks of which a node has the endpoints: those of its own tasks, and the ingress network.
pub(crate) fn networks_of<'a>(state: &'a State, node_id: &str) -> BTreeSet<&'a str> {
    let ingress = state.ingress_network().map(|network| network.id.as_str());
    let tasks = state
        .tasks_of_node(node_id)
        .filter(|task| is_placed(task));
    tasks
        .flat_map(|task| &task.networks_attachments)
        .map(|attachment| attachment.network_id.as_str())
        .chain(ingress)
        .collect()
}

/// A network as nodes are told of it; `None` until it is allocated, and for networks of the nodes
/// themselves.
pub fn network(network: &Network) -> Option<proto::Network> {
    let allocation = network.allocation?;
    let spec = &network.spec;
    let mtu = spec.options.get(MTU_OPTION);
    Some(proto::Network {
        id: network.id.clone(),
        name: spec.name.clone(),
        vni: allocation.vni,
        subnet: allocation.subnet.to_string(),
        gateway: allocation.gateway.to_string(),
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        mtu: mtu.and_then(|mtu| mtu.parse().ok()).unwrap_or(0),
    })
}

/// A service with all of its networks on which it is to be found.
fn service(service: &Service, ingress: Option<&str>) -> proto::Service {
    let endpoint = &service.endpoint;
    let ports: Vec<_> = published_ports(&endpoint.ports).collect();
    let vip_on = |network: &str| {
        let mut vips = endpoint.virtual_ips.iter();
        let vip = vips.find(|vip| vip.network_id == network)?;
        Some(vip.addr?.addr().to_string())
    };
    let attachments = &service.spec.task_template.networks;
    let on_ingress = ingress.filter(|_| !ports.is_empty());
    let joined = on_ingress.into_iter().map(|id| (id, &[][..])).chain(
        attachments
            .iter()
            .map(|a| (a.target.as_str(), &a.aliases[..])),
    );
    let networks = joined.filter_map(|(id, aliases)| {
        let vip = match endpoint.spec.mode {
            ResolutionMode::Dnsrr => String::new(),
            // Until the allocator has given it, the service is not there.
            ResolutionMode::Vip => vip_on(id)?,
        };
        Some(proto::ServiceNetwork {
            network_id: id.to_owned(),
            vip,
            aliases: aliases.to_vec(),
        })
    });
    proto::Service {
        id: service.id.clone(),
        name: service.spec.name.clone(),
        networks: networks.collect(),
        ports,
        in_host_mode: endpoint.ports.iter().any(PortConfig::is_of_node),
        removed: false,
    }
}

/// A service as a node with these networks is told of it; `None` where it concerns none of them and
/// publishes nothing.
fn on_networks(service: &proto::Service, has: impl Fn(&str) -> bool) -> Option<proto::Service> {
    let networks = service.networks.iter().filter(|of| has(&of.network_id));
    let networks: Vec<_> = networks.cloned().collect();
    let publishes = !service.ports.is_empty() || service.in_host_mode;
    (publishes || !networks.is_empty()).then(|| proto::Service {
        id: service.id.clone(),
        name: service.name.clone(),
        networks,
        ports: service.ports.clone(),
        in_host_mode: service.in_host_mode,
        removed: service.removed,
    })
}

fn published_ports(ports: &[PortConfig]) -> impl Iterator<Item = proto::PublishedPort> {
    ports
        .iter()
        .filter(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0)
        .map(published_port)
}

fn published_port(port: &PortConfig) -> proto::PublishedPort {
    proto::PublishedPort {
        transport: match port.protocol {
            PortProtocol::Tcp => proto::Transport::Tcp,
            PortProtocol::Udp => proto::Transport::Udp,
            PortProtocol::Sctp => proto::Transport::Sctp,
        }
        .into(),
        published: port.published_port.into(),
        target: port.target_port.into(),
    }
}

/// A published port of a node, whoever's it is: transport and number.
type PortKey = (i32, u32);

fn key(port: &proto::PublishedPort) -> PortKey {
    (port.transport, port.published)
}

/// Whether ports of the task's node may lead to it.
fn is_in_host_mode(task: &Task) -> bool {
    is_placed(task) && task.ports.iter().any(PortConfig::is_of_node)
}

/// The ports in host mode of a node's tasks, by task ID.
///
/// Tasks of one service share a port while one takes the other's place. If they listen on different ports,
/// it leads to the newest that takes connections: the others keep those that they have.
fn host_ports<'a>(state: &'a State, node_id: &str) -> BTreeMap<&'a str, Vec<proto::PublishedPort>> {
    let on_node = state.tasks_of_node(node_id);
    let mut tasks: Vec<&Arc<Task>> = on_node.filter(|task| is_in_host_mode(task)).collect();
    let is_ready = |task: &Task| endpoint_state(task) == proto::EndpointState::Ready;
    tasks.sort_by_key(|task| (!is_ready(task), Reverse(task.spec_version)));
    let mut leads: BTreeMap<PortKey, (&str, u32)> = BTreeMap::new();
    let mut ports: BTreeMap<&str, Vec<proto::PublishedPort>> = BTreeMap::new();
    for task in tasks {
        let known = task.host_ports().into_iter();
        for port in known.filter(|port| port.published_port != 0) {
            let port = published_port(&port);
            let owner = (task.service_id.as_str(), port.target);
            if *leads.entry(key(&port)).or_insert(owner) == owner {
                ports.entry(&task.id).or_default().push(port);
            }
        }
    }
    ports
}

/// Services that are no more, but whose tasks have not all ended: their connections live on until
/// then. They have the ports that any of these tasks was made with, which an update may have changed; of
/// one port with several targets, the newest. A port that another service has by now is that one's.
fn removed_services(state: &State) -> impl Iterator<Item = proto::Service> {
    let ids = state.services_of_tasks();
    let ids = ids.filter(|id| state.service(id).is_none());
    let publishes = |task: &&Arc<Task>| is_placed(task) && !task.ports.is_empty();
    let tasks = ids.flat_map(|id| state.tasks_of_service(id));
    let mut tasks: Vec<&Arc<Task>> = tasks.filter(publishes).collect();
    tasks.sort_by_key(|task| Reverse(task.spec_version));
    let mut removed: BTreeMap<&str, proto::Service> = BTreeMap::new();
    for task in tasks {
        let id = task.service_id.as_str();
        let service = removed.entry(id).or_insert_with(|| proto::Service {
            id: id.to_owned(),
            name: task.service_name.clone(),
            removed: true,
            ..proto::Service::default()
        });
        service.ports.extend(published_ports(&task.ports));
    }
    let mut taken = BTreeSet::new();
    if !removed.is_empty() {
        let present = state.services();
        taken.extend(
            present.flat_map(|s| published_ports(&s.endpoint.ports).map(|port| key(&port))),
        );
    }
    removed.into_values().filter_map(move |mut service| {
        service.ports.retain(|port| taken.insert(key(port)));
        (!service.ports.is_empty()).then_some(service)
    })
}

/// The networks on which a task has an address that may be in use, by ID, and the addresses.
fn places(task: &Task) -> impl Iterator<Item = (&str, Ipv4Addr)> {
    let attachments = task.networks_attachments.iter();
    let attachments = attachments.filter(move |_| is_placed(task));
    attachments.filter_map(|attachment| {
        let address = attachment.address?.addr();
        Some((attachment.network_id.as_str(), address))
    })
}

fn endpoint_id(task: &Task, network_id: &str) -> String {
    format!("{}.{network_id}", task.id)
}

fn endpoint(
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

fn endpoint_state(task: &Task) -> proto::EndpointState {
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
    use crate::testing::Fixture;
    use skein_model::{EndpointSpec, NetworkAttachmentConfig};

    /// A published service `web` on overlay `front`, one of its tasks on node `a`; and a service
    /// `back` on overlay `rear` alone, its task on node `b`.
    fn cluster() -> Fixture {
        let mut fixture = Fixture::default();
        for node in ["a", "b", "c"] {
            fixture.node(node, |_| {});
        }
        fixture.network("front", |_| {});
        fixture.network("rear", |_| {});
        for (service, network, node, published) in
            [("web", "front", "a", true), ("back", "rear", "b", false)]
        {
            fixture.service(service, |s| {
                s.spec.task_template.networks = vec![NetworkAttachmentConfig {
                    target: network.into(),
                    aliases: vec![format!("{service}-alias")],
                    ..NetworkAttachmentConfig::default()
                }];
                s.spec.endpoint_spec = published.then(|| EndpointSpec {
                    ports: vec![PortConfig {
                        target_port: 80,
                        ..PortConfig::default()
                    }],
                    ..EndpointSpec::default()
                });
            });
            let service = fixture.state.service(service).unwrap().clone();
            fixture.task(&format!("{}1", service.id), |task| {
                task.service_id = service.id.clone();
                task.service_name = service.id.clone();
                task.slot = 1;
                task.spec = service.spec.task_template.clone();
                task.endpoint_spec = service.spec.endpoint_spec.clone();
            });
            let mut draft = fixture.draft();
            crate::allocator::Allocator::default().run(&mut draft);
            fixture.commit(draft);
            fixture.task(&format!("{}1", service.id), |task| {
                task.node_id = node.into();
                task.status.state = TaskState::Running;
            });
        }
        fixture
    }

    fn refs(fixture: &Fixture, node: &str, kind: proto::Kind) -> Vec<String> {
        let objects = network_state(&fixture.state, node);
        let refs = objects.iter().filter_map(skein_proto::view::reference);
        let mut ids: Vec<_> = refs
            .filter(|object| object.kind() == kind)
            .map(|object| object.id)
            .collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_node_has_its_networks_and_all_that_is_published() {
        let fixture = cluster();
        for (node, networks, services, endpoints) in [
            (
                "a",
                vec!["front", "ingress"],
                vec!["web"],
                vec!["web1.front", "web1.ingress"],
            ),
            (
                "b",
                vec!["ingress", "rear"],
                vec!["back", "web"],
                vec!["back1.rear", "web1.ingress"],
            ),
            ("c", vec!["ingress"], vec!["web"], vec!["web1.ingress"]),
        ] {
            assert_eq!(refs(&fixture, node, proto::Kind::Node), ["a", "b", "c"]);
            assert_eq!(refs(&fixture, node, proto::Kind::Network), networks);
            assert_eq!(refs(&fixture, node, proto::Kind::Service), services);
            assert_eq!(refs(&fixture, node, proto::Kind::Endpoint), endpoints);
            assert_eq!(refs(&fixture, node, proto::Kind::Settings), ["settings"]);
        }
    }

    #[test]
    fn a_service_shows_vips_names_and_ports() {
        let fixture = cluster();
        let objects = network_state(&fixture.state, "a");
        let web = objects.iter().find_map(|object| match &object.object {
            Some(Kind::Service(service)) => Some(service),
            _ => None,
        });
        let web = web.unwrap();
        assert_eq!((web.ports[0].published, web.ports[0].target), (30_000, 80));
        let networks: Vec<_> = web
            .networks
            .iter()
            .map(|n| (n.network_id.as_str(), n.vip.as_str(), n.aliases.len()))
            .collect();
        assert_eq!(
            networks,
            [("ingress", "10.0.0.2", 0), ("front", "10.0.1.2", 1)]
        );
    }

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
    fn a_removed_service_keeps_its_ports_until_its_tasks_have_ended() {
        let mut fixture = cluster();
        let published = |fixture: &Fixture| -> Vec<(String, u32)> {
            let objects = network_state(&fixture.state, "c");
            let services = objects.iter().filter_map(|object| match &object.object {
                Some(Kind::Service(service)) => Some(service),
                _ => None,
            });
            let ports = services.flat_map(|service| {
                let ports = service.ports.iter();
                ports.map(|port| (service.id.clone(), port.published))
            });
            ports.collect()
        };
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "web");
        fixture.commit(draft);
        assert_eq!(published(&fixture), [("web".into(), 30_000)]);
        fixture.service("next", |service| {
            let ports = publishing(30_000);
            service.spec.endpoint_spec = Some(ports.clone());
            service.endpoint.spec = ports.clone();
            service.endpoint.ports = ports.ports;
        });
        assert_eq!(published(&fixture), [("next".into(), 30_000)]);
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "next");
        fixture.commit(draft);
        fixture.task("web1", |task| task.status.state = TaskState::Shutdown);
        assert_eq!(published(&fixture), []);
    }

    #[test]
    fn a_removed_service_has_the_ports_of_all_its_tasks() {
        let mut fixture = cluster();
        let port = |target_port, published_port| PortConfig {
            target_port,
            published_port,
            ..PortConfig::default()
        };
        // Updates took port 81 to another target, and then away.
        let tasks = [
            ("web1", 1, vec![port(80, 80), port(80, 81)]),
            ("web2", 2, vec![port(80, 80), port(90, 81)]),
            ("web3", 3, vec![port(80, 80), port(80, 82)]),
        ];
        let first = fixture.state.task("web1").unwrap().clone();
        for (id, index, ports) in tasks {
            fixture.task(id, |task| {
                *task = Task::clone(&first);
                task.id = id.into();
                task.spec_version = Some(skein_model::Version { index });
                task.ports = ports;
            });
        }
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "web");
        fixture.commit(draft);
        let services: Vec<_> = removed_services(&fixture.state).collect();
        let [web] = &services[..] else {
            panic!("{services:?}")
        };
        let ports = web.ports.iter().map(|port| (port.published, port.target));
        let ports: BTreeMap<u32, u32> = ports.collect();
        assert_eq!(ports, [(80, 80), (81, 90), (82, 80)].into());
        assert_eq!(web.ports.len(), 3);
    }

    fn publishing(published: u16) -> EndpointSpec {
        EndpointSpec {
            ports: vec![PortConfig {
                target_port: 80,
                published_port: published,
                ..PortConfig::default()
            }],
            ..EndpointSpec::default()
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

    #[test]
    fn dead_nodes_are_marked_and_named_tasks_keep_their_names() {
        let mut fixture = cluster();
        fixture.node("b", |node| node.status.state = NodeState::Down);
        fixture.task("web1", |task| {
            task.spec.container_spec.hostname = "host".into();
            let container = task.status.container_status.get_or_insert_default();
            container.container_id = "0123456789abcdef".into();
        });
        let mut up = BTreeMap::new();
        let mut names = Vec::new();
        for object in network_state(&fixture.state, "a") {
            match object.object {
                Some(Kind::Node(node)) => drop(up.insert(node.id, node.up)),
                Some(Kind::Endpoint(endpoint)) => names = endpoint.names,
                _ => {}
            }
        }
        let expected = [("a", true), ("b", false), ("c", true)];
        assert_eq!(up, expected.map(|(id, up)| (id.to_owned(), up)).into());
        assert_eq!(names, ["web.1.web1", "0123456789ab", "host"]);
    }

    fn on_host(published_port: u16, target_port: u16) -> PortConfig {
        PortConfig {
            target_port,
            published_port,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        }
    }

    /// `back`, on its overlay, with two ports in host mode; its tasks `back1` on `b`, `back2` on `c`.
    fn with_host_ports() -> Fixture {
        let mut fixture = cluster();
        let ports = vec![on_host(8080, 80), on_host(0, 81)];
        fixture.service("back", |service| {
            service.spec.endpoint_spec.get_or_insert_default().ports = ports.clone();
        });
        for (id, node) in [("back1", "b"), ("back2", "c")] {
            let service = fixture.state.service("back").unwrap().clone();
            fixture.task(id, |task| {
                task.service_id = service.id.clone();
                task.spec = service.spec.task_template.clone();
                task.spec_version = Some(service.spec_version);
                task.endpoint_spec = service.spec.endpoint_spec.clone();
                task.status = skein_model::TaskStatus::default();
                task.node_id.clear();
            });
            let mut draft = fixture.draft();
            crate::allocator::Allocator::default().run(&mut draft);
            fixture.commit(draft);
            fixture.task(id, |task| {
                task.node_id = node.into();
                task.status.state = TaskState::Running;
            });
        }
        fixture
    }

    /// Which tasks a node is to send what comes to its own ports: (published, target, task).
    fn host_ports_on(fixture: &Fixture, node: &str) -> Vec<(u32, u32, String)> {
        let mut ports = Vec::new();
        for object in network_state(&fixture.state, node) {
            if let Some(Kind::Endpoint(endpoint)) = object.object {
                assert!(endpoint.network_id == "ingress" || endpoint.host_ports.is_empty());
                // Every node hears of the ports of the others, and leaves them to them.
                if endpoint.node_id != node {
                    continue;
                }
                let of_task =
                    |p: &proto::PublishedPort| (p.published, p.target, endpoint.task_id.clone());
                ports.extend(endpoint.host_ports.iter().map(of_task));
            }
        }
        ports.sort();
        ports
    }

    #[test]
    fn ports_in_host_mode_are_of_the_task_s_node_alone() {
        let mut fixture = with_host_ports();
        assert_eq!(host_ports_on(&fixture, "a"), []);
        assert_eq!(host_ports_on(&fixture, "b"), [(8080, 80, "back1".into())]);
        assert_eq!(host_ports_on(&fixture, "c"), [(8080, 80, "back2".into())]);
        // The node has chosen a number for the other.
        fixture.task("back1", |task| {
            task.status.port_status.ports = vec![on_host(8080, 80), on_host(40_000, 81)];
        });
        let both = [(8080, 80, "back1".into()), (40_000, 81, "back1".into())];
        assert_eq!(host_ports_on(&fixture, "b"), both);
        // Removed, but not ended.
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "back");
        fixture.commit(draft);
        assert_eq!(host_ports_on(&fixture, "b"), both);
        fixture.task("back1", |task| task.status.state = TaskState::Shutdown);
        assert_eq!(host_ports_on(&fixture, "b"), []);
    }

    #[test]
    fn tasks_share_a_port_unless_they_listen_on_different_ones() {
        let mut fixture = with_host_ports();
        let (old, new) = ("back1".to_owned(), "back2".to_owned());
        let update = |fixture: &mut Fixture, target, state| {
            fixture.task("back2", |task| {
                task.node_id = "b".into();
                task.spec_version = Some(skein_model::Version { index: 99 });
                task.ports = vec![on_host(8080, target)];
                task.status.state = state;
            });
            host_ports_on(fixture, "b")
        };
        let both = [(8080, 80, old.clone()), (8080, 80, new.clone())];
        assert_eq!(update(&mut fixture, 80, TaskState::Starting), both);
        assert_eq!(update(&mut fixture, 80, TaskState::Running), both);
        let of_old = [(8080, 80, old)];
        assert_eq!(update(&mut fixture, 90, TaskState::Starting), of_old);
        let of_new = [(8080, 90, new)];
        assert_eq!(update(&mut fixture, 90, TaskState::Running), of_new);
    }
}
