//! The network state of a node: what its dataplane must know, of the store as it is.

mod endpoint;
mod ports;
mod states;

pub(crate) use endpoint::is_ready;
pub use states::{NetworkStates, Told};

use crate::{occupancy::is_placed, offer::offer, return_mode::return_mode, validate::MTU_OPTION};
use endpoint::{endpoint, places};
use ports::{host_ports, published_ports, removed_services};
use skein_model::{
    Network, Node, NodeState, PortConfig, ResolutionMode, Service, State, SubnetAllocation,
    TunnelEnd,
};
use skein_proto::network::{self as proto, object::Object as Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Everything that a node's dataplane must have, in an order of its own.
///
/// Networks are those on which the node has tasks, and the ingress network; of these, all endpoints.
/// Published ports are those of all services: every node answers on them. Those in host mode are their
/// endpoints', and their nodes answer on them.
///
/// Costs a look at everything: for many nodes there is [`NetworkStates`].
pub fn network_state(state: &State, node_id: &str) -> Vec<proto::Object> {
    let ingress = ingress(state).map(|network| network.id.as_str());
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

/// The network by which published ports lead to tasks. One that its user has removed keeps the connections
/// that it has until there is another.
fn ingress(state: &State) -> Option<&Arc<Network>> {
    let removed = || state.networks().find(|network| network.spec.ingress);
    state.ingress_network().or_else(removed)
}

fn settings(state: &State, node_id: &str) -> proto::Settings {
    let ingress = ingress(state).map(|network| network.id.clone());
    let cluster = state.cluster();
    proto::Settings {
        node_id: node_id.to_owned(),
        vxlan_port: cluster.map_or(0, |cluster| cluster.data_path_port.into()),
        ingress_network_id: ingress.unwrap_or_default(),
        return_mode: cluster.map_or(0, |cluster| asked_mode(&cluster.spec.labels)),
    }
}

/// What a spec's labels ask for. (One that is not valid has never come by the API: it asks for nothing.)
fn asked_mode(labels: &BTreeMap<String, String>) -> i32 {
    return_mode(labels).unwrap_or_default().into()
}

/// The same of what narrows ports; `None`: nothing does.
pub(super) fn asked_offer(labels: &BTreeMap<String, String>) -> Option<proto::Offer> {
    let offer = offer(labels).unwrap_or_default();
    (offer != proto::Offer::default()).then_some(offer)
}

/// `None` until its address is known.
fn node(node: &Node) -> Option<proto::Node> {
    (!node.data_path_addr.is_empty()).then(|| proto::Node {
        id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        address: node.data_path_addr.clone(),
        up: node.status.state != NodeState::Down,
        tunnel: node.tunnel.as_ref().and_then(tunnel_end),
    })
}

/// `None` until it has an address.
fn tunnel_end(end: &TunnelEnd) -> Option<proto::TunnelEnd> {
    Some(proto::TunnelEnd {
        public_key: end.public_key.to_vec(),
        port: end.port.into(),
        address: end.address?.to_string(),
    })
}

/// The networks of which a node has the endpoints: those of its own tasks, and the ingress network.
pub(crate) fn networks_of<'a>(state: &'a State, node_id: &str) -> BTreeSet<&'a str> {
    let ingress = ingress(state).map(|network| network.id.as_str());
    let tasks = state.tasks_of_node(node_id).filter(|task| is_placed(task));
    tasks
        .flat_map(|task| &task.networks_attachments)
        .map(|attachment| attachment.network_id.as_str())
        .chain(ingress)
        .collect()
}

/// A network as nodes are told of it; `None` until it is allocated, and for networks of the nodes
/// themselves.
pub fn network(network: &Network) -> Option<proto::Network> {
    let allocation = network.allocation.as_ref()?;
    let spec = &network.spec;
    let mtu = spec.options.get(MTU_OPTION);
    Some(proto::Network {
        id: network.id.clone(),
        name: spec.name.clone(),
        vni: allocation.vni(),
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        mtu: mtu.and_then(|mtu| mtu.parse().ok()).unwrap_or(0),
        subnets: allocation.subnets.iter().map(subnet).collect(),
        encrypted: spec.is_encrypted(),
        labels: spec.labels.clone(),
    })
}

fn subnet(allocation: &SubnetAllocation) -> proto::Subnet {
    proto::Subnet {
        subnet: allocation.subnet.to_string(),
        gateway: allocation.gateway.to_string(),
    }
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
        return_mode: asked_mode(&service.spec.labels),
        offer: asked_offer(&service.spec.labels),
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
        return_mode: service.return_mode,
        offer: service.offer.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{return_mode::RETURN_MODE_LABEL, testing::Fixture};
    use skein_model::{Cluster, EndpointSpec, NetworkAttachmentConfig, TaskState};

    /// A published service `web` on overlay `front`, one of its tasks on node `a`; and a service
    /// `back` on overlay `rear` alone, its task on node `b`.
    pub(super) fn cluster() -> Fixture {
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

    pub(super) fn refs(fixture: &Fixture, node: &str, kind: proto::Kind) -> Vec<String> {
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
    fn nodes_are_told_the_return_modes_that_labels_ask_for() {
        let mut fixture = cluster();
        let told = |fixture: &Fixture| {
            let (mut of_all, mut of_web) = (None, None);
            for object in network_state(&fixture.state, "c") {
                match object.object {
                    Some(Kind::Settings(settings)) => of_all = Some(settings.return_mode()),
                    Some(Kind::Service(web)) => of_web = Some(web.return_mode()),
                    _ => {}
                }
            }
            (of_all.unwrap(), of_web.unwrap())
        };
        use proto::ReturnMode::{Dsr, Snat, Unspecified};
        assert_eq!(told(&fixture), (Unspecified, Unspecified));
        let label = |mode: &str| (RETURN_MODE_LABEL.to_owned(), mode.to_owned());
        fixture.service("web", |web| web.spec.labels = [label("dsr")].into());
        let mut of_all = Cluster::clone(fixture.state.cluster().unwrap());
        of_all.spec.labels = [label("snat")].into();
        fixture.put(of_all);
        assert_eq!(told(&fixture), (Snat, Dsr));
    }

    #[test]
    fn a_network_that_was_removed_is_its_last_tasks_still() {
        let mut fixture = cluster();
        for (kind, id) in [
            (skein_model::Kind::Service, "web"),
            (skein_model::Kind::Network, "front"),
            (skein_model::Kind::Network, "ingress"),
        ] {
            let mut draft = fixture.draft();
            draft.remove(kind, id);
            fixture.commit(draft);
        }
        let known = |fixture: &Fixture| {
            let networks = refs(fixture, "a", proto::Kind::Network);
            (networks, refs(fixture, "a", proto::Kind::Endpoint))
        };
        let (networks, endpoints) = known(&fixture);
        assert_eq!(networks, ["front", "ingress"]);
        assert_eq!(endpoints, ["web1.front", "web1.ingress"]);
        let ingress = |fixture: &Fixture| settings(&fixture.state, "a").ingress_network_id;
        assert_eq!(ingress(&fixture), "ingress");

        // New connections come in by the new one.
        fixture.network("second", |network| network.spec.ingress = true);
        assert_eq!(ingress(&fixture), "second");
        assert!(known(&fixture).0.contains(&"ingress".to_owned()));
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
}
