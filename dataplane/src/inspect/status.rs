//! From what the kernel's side has to the words of the contract. Pure.

use crate::{
    desired::Desired,
    kernel::{By, Fill, Look, PublishedService, service_of},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use skein_abi::{
    Addr, from_addr,
    ingress::{PUBLISHED_AFFINE, PUBLISHED_BOUND, PUBLISHED_TAKEN, PublishedKey, return_mode_name},
    names::LAYOUT,
    protocol_name,
    verdict::Counter,
};
use skein_proto::{
    inspect::{
        Backend, Drops, MapFill, Member, NodeStatus, Port, Problem, Program, Repairs, Service,
        Share, Tunnel, Vip,
    },
    network::{self, EndpointState, Kind},
};
use std::collections::BTreeMap;

/// The whole.
pub fn node(look: &Look, fills: &[Fill], dropped: &[(Counter, u64)]) -> NodeStatus {
    let desired = &look.desired;
    let own = desired.settings.as_ref();
    let node_id = own.map_or_else(String::new, |settings| settings.node_id.clone());
    let own = desired.nodes.get(&node_id).cloned().unwrap_or_default();
    NodeStatus {
        dataplane: env!("CARGO_PKG_VERSION").to_owned(),
        layout: LAYOUT,
        hostname: own.hostname,
        address: own.address,
        wanted_version: desired.version,
        kernel_version: look.made.version,
        members: members(look, &node_id),
        programs: look.programs.iter().map(program).collect(),
        maps: fills.iter().map(map).collect(),
        services: services(look),
        problems: look.made.problems.iter().map(problem).collect(),
        repairs: Some(Repairs {
            failed: look.repairs.failed,
            repaired: look.repairs.repaired,
            differing: look.repairs.differing,
        }),
        tunnel: look.tunnel.as_ref().map(tunnel),
        drops: dropped.iter().copied().filter_map(drops).collect(),
        node_id,
    }
}

fn tunnel(of: &crate::kernel::TunnelLook) -> Tunnel {
    Tunnel {
        mode: of.mode.name().to_owned(),
        reason: of.reason.clone(),
        address: of.end.address.clone(),
        port: of.end.port,
        public_key: STANDARD.encode(&of.end.public_key),
        peers: u32::try_from(of.peers).unwrap_or(u32::MAX),
    }
}

fn drops((counter, packets): (Counter, u64)) -> Option<Drops> {
    Some(Drops {
        reason: counter.drop_reason()?.to_owned(),
        packets,
        explanation: counter.explanation().to_owned(),
        advice: counter.advice().to_owned(),
    })
}

fn members(look: &Look, own: &str) -> Vec<Member> {
    let way = |node: &network::Node| look.ways.get(&node.address.parse().ok()?);
    let name = |by: Option<By>| by.unwrap_or(By::Vxlan).name().to_owned();
    let members = look.desired.nodes.values().map(|node| Member {
        node_id: node.id.clone(),
        hostname: node.hostname.clone(),
        address: node.address.clone(),
        own: node.id == own,
        up: node.up,
        suspected: look.suspects.contains(&node.id),
        forwarding: name(way(node).map(|way| way.requests)),
        replies: name(way(node).map(|way| way.replies)),
        forwarding_reason: way(node).map_or_else(String::new, |way| way.reason.clone()),
    });
    let mut members: Vec<Member> = members.collect();
    for member in members.iter_mut().filter(|member| member.own) {
        member.forwarding.clear();
        member.replies.clear();
    }
    members.sort_by(|a, b| (&a.hostname, &a.node_id).cmp(&(&b.hostname, &b.node_id)));
    members
}

fn program(program: &crate::kernel::Program) -> Program {
    Program {
        device: program.device.clone(),
        hook: program.hook.to_owned(),
        program: program.name.clone(),
        reason: program.reason.clone(),
    }
}

fn map(fill: &Fill) -> MapFill {
    MapFill {
        name: fill.name.to_owned(),
        entries: fill.entries,
        limit: fill.limit,
        forgets: fill.forgets,
    }
}

fn problem(problem: &network::Problem) -> Problem {
    let (kind, id) = match problem.kind() {
        Kind::Settings | Kind::Unspecified => ("node", ""),
        Kind::Node => ("node", problem.id.as_str()),
        Kind::Network => ("network", problem.id.as_str()),
        Kind::Service => ("service", problem.id.as_str()),
        Kind::Endpoint => ("endpoint", problem.id.as_str()),
    };
    Problem {
        kind: kind.to_owned(),
        id: id.to_owned(),
        message: problem.message.clone(),
    }
}

/// Where the managers say that each task is: by network ID and address.
struct Tasks<'a>(BTreeMap<(&'a str, &'a str), &'a network::Endpoint>);

impl<'a> Tasks<'a> {
    fn of(desired: &'a Desired) -> Self {
        let endpoints = desired.endpoints.values();
        let by_place = endpoints.map(|endpoint| {
            let place = (endpoint.network_id.as_str(), endpoint.address.as_str());
            (place, endpoint)
        });
        Self(by_place.collect())
    }

    /// Whoever has an address of a network, as a backend.
    fn backend(&self, network: &str, address: Addr) -> Backend {
        let address = from_addr(address).to_string();
        let endpoint = self.0.get(&(network, address.as_str()));
        Backend {
            task_id: endpoint.map_or_else(String::new, |found| found.task_id.clone()),
            draining: endpoint.is_some_and(|found| found.state() == EndpointState::Draining),
            address,
        }
    }
}

/// By name. Those that are gone from what the managers want, and from the kernel not yet, have their ID
/// alone.
fn services(look: &Look) -> Vec<Service> {
    let desired = &look.desired;
    let tasks = Tasks::of(desired);
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    let names = desired.services.values();
    let empty = |service: &network::Service| Service {
        id: service.id.clone(),
        name: service.name.clone(),
        ..Service::default()
    };
    services.extend(names.map(|service| (service.id.as_str(), empty(service))));
    let hostnames = desired.nodes.values();
    let hostnames = hostnames.map(|node| (node.address.as_str(), node.hostname.as_str()));
    let hostnames: BTreeMap<&str, &str> = hostnames.collect();
    for (group, published) in &look.services.published {
        let id = service_of(group);
        let name = desired.services.get(id).map(|service| &service.name);
        let service = services.entry(group).or_insert_with(|| Service {
            id: id.to_owned(),
            name: name.cloned().unwrap_or_default(),
            host_mode: id != group,
            ..Service::default()
        });
        service.return_mode = return_mode(published, service.host_mode);
        service.sources = published.sources.iter().map(ToString::to_string).collect();
        let mut entries = published.ports.values();
        service.client_affinity = entries.any(|port| port.flags & PUBLISHED_AFFINE != 0);
        service.ports = ports(published);
        service.nodes = shares(published, &hostnames);
        service.local = local(look, &tasks, published);
    }
    for service in desired.services.values() {
        let vips = vips(look, &tasks, service);
        if let Some(shown) = services.get_mut(service.id.as_str()) {
            shown.vips = vips;
        }
    }
    let services = services.into_values();
    let has_something = |service: &Service| !service.ports.is_empty() || !service.vips.is_empty();
    let mut services: Vec<Service> = services.filter(has_something).collect();
    services.sort_by(|a, b| (&a.name, &a.id, a.host_mode).cmp(&(&b.name, &b.id, b.host_mode)));
    services
}

/// Of the ports that all nodes publish: these have the same one.
fn return_mode(published: &PublishedService, host_mode: bool) -> String {
    let any = published.ports.values().next().filter(|_| !host_mode);
    any.map_or_else(String::new, |port| return_mode_name(port.flags).to_owned())
}

fn ports(published: &PublishedService) -> Vec<Port> {
    let ports = published.ports.iter().map(|(key, entry)| Port {
        protocol: protocol_name(key.proto).to_owned(),
        published: u16::from_be(key.port).into(),
        target: u16::from_be(entry.target).into(),
        taken: entry.flags & PUBLISHED_TAKEN != 0,
        bound: entry.flags & PUBLISHED_BOUND != 0,
        addresses: bound_to(published, key),
    });
    let mut ports: Vec<Port> = ports.collect();
    ports.sort_by(|a, b| (a.published, &a.protocol).cmp(&(b.published, &b.protocol)));
    ports
}

fn bound_to(published: &PublishedService, port: &PublishedKey) -> Vec<String> {
    let bound = published.bound.iter().filter(|key| key.port == *port);
    bound.map(|key| from_addr(key.addr).to_string()).collect()
}

fn shares(published: &PublishedService, hostnames: &BTreeMap<&str, &str>) -> Vec<Share> {
    let shares = published.nodes.iter().map(|(node, tasks)| {
        let address = from_addr(*node).to_string();
        let hostname = hostnames.get(address.as_str()).copied();
        Share {
            hostname: hostname.unwrap_or_default().to_owned(),
            address,
            tasks: *tasks,
        }
    });
    let mut shares: Vec<Share> = shares.collect();
    shares.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    shares
}

/// Whether they drain is as the kernel has it.
fn local(look: &Look, tasks: &Tasks<'_>, published: &PublishedService) -> Vec<Backend> {
    let local = &published.local;
    let ready = local.ready.iter().take(local.ready_len as usize);
    let draining = local.draining.iter().take(local.draining_len as usize);
    let ready = ready.map(|index| (index, false));
    let all = ready.chain(draining.map(|index| (index, true)));
    let backends = all.filter_map(|(index, draining)| {
        let (network, address) = look.endpoints.get(index)?;
        let backend = tasks.backend(network, skein_abi::addr(*address));
        Some(Backend {
            draining,
            ..backend
        })
    });
    backends.collect()
}

fn vips(look: &Look, tasks: &Tasks<'_>, service: &network::Service) -> Vec<Vip> {
    let vips = service.networks.iter().filter_map(|on| {
        let network = look.desired.networks.get(&on.network_id)?;
        let key = skein_abi::overlay::OverlayKey {
            vni: network.vni,
            addr: skein_abi::addr(on.vip.parse().ok()?),
        };
        let backends = look.services.vips.get(&key)?.iter();
        let backends = backends.map(|address| tasks.backend(&on.network_id, *address));
        Some(Vip {
            network: network.name.clone(),
            address: on.vip.clone(),
            backends: backends.collect(),
        })
    });
    vips.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernel::{Made, Services, Way};
    use skein_abi::{
        TCP, addr,
        ingress::{BoundKey, LocalBackends, PUBLISHED_DSR, Published},
        overlay::OverlayKey,
    };
    use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

    pub const BACKEND: [u8; 4] = [10, 0, 1, 5];

    fn desired() -> Desired {
        let node = |id: &str, last: u8| network::Node {
            id: id.to_owned(),
            hostname: format!("host-{id}"),
            address: format!("198.18.0.{last}"),
            up: true,
            tunnel: None,
        };
        let endpoint = network::Endpoint {
            id: "t.back".to_owned(),
            task_id: "t".to_owned(),
            network_id: "back".to_owned(),
            address: Ipv4Addr::from(BACKEND).to_string(),
            state: EndpointState::Ready.into(),
            ..network::Endpoint::default()
        };
        let back = network::Network {
            id: "back".to_owned(),
            name: "backend".to_owned(),
            vni: 4_096,
            ..network::Network::default()
        };
        let web = network::Service {
            id: "web-id".to_owned(),
            name: "web".to_owned(),
            networks: vec![network::ServiceNetwork {
                network_id: "back".to_owned(),
                vip: "10.0.1.2".to_owned(),
                ..network::ServiceNetwork::default()
            }],
            ..network::Service::default()
        };
        Desired {
            version: 9,
            settings: Some(network::Settings {
                node_id: "b".to_owned(),
                ..network::Settings::default()
            }),
            nodes: [node("b", 2), node("a", 1)]
                .map(|node| (node.id.clone(), node))
                .into(),
            networks: [(back.id.clone(), back)].into(),
            services: [(web.id.clone(), web)].into(),
            endpoints: [(endpoint.id.clone(), endpoint)].into(),
        }
    }

    /// Of a node with the service `web`, whose ports and VIP lead to one task.
    pub fn look() -> Look {
        let key = PublishedKey {
            port: skein_abi::port(8080),
            proto: TCP,
            pad: 0,
        };
        let entry = Published {
            target: skein_abi::port(80),
            flags: PUBLISHED_TAKEN | PUBLISHED_DSR | PUBLISHED_BOUND,
            ..Published::default()
        };
        let mut local = LocalBackends {
            draining_len: 1,
            ..LocalBackends::default()
        };
        local.draining[0] = 7;
        let published = PublishedService {
            ports: [(key, entry)].into(),
            nodes: vec![(addr([198, 18, 0, 1].into()), 2)],
            local,
            bound: BTreeSet::from([BoundKey {
                addr: addr([127, 0, 0, 1].into()),
                port: key,
            }]),
            sources: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let vip = OverlayKey {
            vni: 4_096,
            addr: addr([10, 0, 1, 2].into()),
        };
        let way = Way {
            requests: By::L2,
            replies: By::Vxlan,
            reason: "it answers probes".to_owned(),
        };
        Look {
            desired: Arc::new(desired()),
            made: Made {
                version: 8,
                problems: Vec::new(),
            },
            suspects: ["a".to_owned()].into(),
            ways: [(Ipv4Addr::new(198, 18, 0, 1), way)].into(),
            services: Services {
                published: [("web-id".to_owned(), published)].into(),
                vips: [(vip, vec![addr(BACKEND.into())])].into(),
            },
            endpoints: [(7, ("back".to_owned(), BACKEND.into()))].into(),
            ..Look::default()
        }
    }

    #[test]
    fn a_node_shows_what_its_kernel_has_and_what_it_should_have() {
        let dropped = [(Counter::DropNoTask, 3), (Counter::Egress, 5)];
        let status = node(&look(), &[], &dropped);
        let [drops] = &status.drops[..] else {
            panic!("what left a container was not dropped: {:?}", status.drops);
        };
        assert_eq!((drops.reason.as_str(), drops.packets), ("no_task", 3));
        assert_eq!((status.wanted_version, status.kernel_version), (9, 8));
        assert_eq!(status.address, "198.18.0.2");
        let members: Vec<_> = status
            .members
            .iter()
            .map(|member| (member.hostname.as_str(), member.own, member.suspected))
            .collect();
        assert_eq!(members, [("host-a", false, true), ("host-b", true, false)]);
        let ways: Vec<_> = status
            .members
            .iter()
            .map(|member| (member.forwarding.as_str(), member.replies.as_str()))
            .collect();
        assert_eq!(ways, [("l2", "vxlan"), ("", "")]);
        assert_eq!(status.members[0].forwarding_reason, "it answers probes");
    }

    #[test]
    fn a_service_is_shown_as_it_is_programmed() {
        let [service] = &node(&look(), &[], &[]).services[..] else {
            panic!("one service");
        };
        assert_eq!(service.name, "web");
        let port = &service.ports[0];
        assert_eq!((port.published, port.target, port.taken), (8080, 80, true));
        assert_eq!(
            (port.bound, &port.addresses[..]),
            (true, &["127.0.0.1".to_owned()][..])
        );
        assert_eq!(
            (service.sources.concat(), service.client_affinity),
            ("10.0.0.0/8".into(), false)
        );
        assert_eq!(service.return_mode, "dsr");
        let share = &service.nodes[0];
        assert_eq!((share.hostname.as_str(), share.tasks), ("host-a", 2));
        let local = &service.local[0];
        assert!(local.draining, "as the kernel has it");
        assert_eq!(local.task_id, "t");
        let vip = &service.vips[0];
        assert_eq!((vip.network.as_str(), vip.backends.len()), ("backend", 1));
        assert!(!vip.backends[0].draining);
    }

    #[test]
    fn ports_in_host_mode_are_shown_apart() {
        let mut look = look();
        let web = look.services.published["web-id"].clone();
        let of_node = "web-id/TRANSPORT_TCP 8080 to 80".to_owned();
        look.services.published.insert(of_node, web);
        let services = node(&look, &[], &[]).services;
        let shown: Vec<_> = services.iter().map(|s| (&*s.name, s.host_mode)).collect();
        assert_eq!(shown, [("web", false), ("web", true)]);
        assert_eq!(services[1].id, "web-id");
        assert_eq!(services[1].return_mode, "", "there is one way back");
        assert_eq!((services[0].vips.len(), services[1].vips.len()), (1, 0));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_not_shown() {
        let mut look = look();
        look.services = Services::default();
        assert!(node(&look, &[], &[]).services.is_empty());
    }
}
