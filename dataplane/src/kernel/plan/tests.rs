use super::*;
use skein_proto::network::{
    Network as WantedNetwork, NetworkUpdate, Node as WantedNode, Object, PublishedPort, Service,
    ServiceNetwork, Settings, Subnet as WantedSubnet, object::Object as Kinds,
};

const READY: EndpointState = EndpointState::Ready;
const DRAINING: EndpointState = EndpointState::Draining;

fn ip(text: &str) -> Addr {
    addr(text.parse().unwrap())
}

/// This node is "a"; service "web" publishes 30000 -> 80 on the ingress network "in" (VNI 4096) and
/// has the VIP 10.0.1.2 on "net" (VNI 4097).
fn desired(endpoints: &[(&str, &str, &str, EndpointState)]) -> Desired {
    let node = |id: &str, address: &str| WantedNode {
        id: id.into(),
        hostname: id.into(),
        address: address.into(),
        up: true,
        tunnel: None,
    };
    let network = |id: &str, vni, subnet: &str, gateway: &str| WantedNetwork {
        id: id.into(),
        vni,
        subnets: vec![WantedSubnet {
            subnet: subnet.into(),
            gateway: gateway.into(),
        }],
        ..WantedNetwork::default()
    };
    let service = Service {
        id: "web".into(),
        name: "web".into(),
        networks: vec![ServiceNetwork {
            network_id: "net".into(),
            vip: "10.0.1.2".into(),
            aliases: vec![],
        }],
        ports: vec![PublishedPort {
            transport: Transport::Tcp.into(),
            published: 30_000,
            target: 80,
        }],
        ..Service::default()
    };
    let mut objects = vec![
        Kinds::Settings(Settings {
            node_id: "a".into(),
            vxlan_port: 4789,
            ingress_network_id: "in".into(),
            ..Settings::default()
        }),
        Kinds::Node(node("a", "198.18.0.1")),
        Kinds::Node(node("b", "198.18.0.2")),
        Kinds::Network(network("in", 4096, "10.0.0.0/24", "10.0.0.1")),
        Kinds::Network(network("net", 4097, "10.0.1.0/24", "10.0.1.1")),
        Kinds::Service(service),
    ];
    for (network, node, address, state) in endpoints {
        objects.push(Kinds::Endpoint(Endpoint {
            id: format!("{address}.{network}"),
            task_id: (*address).into(),
            service_id: "web".into(),
            network_id: (*network).into(),
            node_id: (*node).into(),
            address: (*address).into(),
            state: (*state).into(),
            names: vec![],
            host_ports: vec![],
        }));
    }
    let upsert = objects.into_iter().map(|object| Object {
        object: Some(object),
    });
    let update = NetworkUpdate {
        version: 1,
        complete: true,
        upsert: upsert.collect(),
        remove: vec![],
    };
    Desired::default().after(&update).unwrap()
}

fn attached(endpoints: &[(&str, &str, u32)]) -> Local {
    let endpoints = endpoints
        .iter()
        .map(|(network, address, index)| (((*network).into(), address.parse().unwrap()), *index));
    Local {
        secured: false,
        endpoints: endpoints.collect(),
        ..Local::default()
    }
}

#[test]
fn a_node_outside_a_cluster_has_nothing() {
    assert_eq!(
        plan(&Desired::default(), &Local::default()),
        Plan::default()
    );
}

#[test]
fn ready_tasks_count_for_their_node_and_take_flows_here() {
    let desired = desired(&[
        ("in", "a", "10.0.0.5", READY),
        ("in", "a", "10.0.0.6", DRAINING),
        ("in", "b", "10.0.0.7", READY),
        ("in", "b", "10.0.0.8", READY),
        ("in", "b", "10.0.0.9", EndpointState::Starting),
    ]);
    let local = attached(&[("in", "10.0.0.5", 3), ("in", "10.0.0.6", 4)]);
    let plan = plan(&desired, &local);
    assert_eq!(plan.problems, []);
    let (a, b) = (ip("198.18.0.1"), ip("198.18.0.2"));
    assert_eq!(plan.node_addr, a);
    let mut nodes = plan.nodes["web"].clone();
    nodes.sort_by_key(|(_, weight)| *weight);
    assert_eq!(nodes, [(a, 1), (b, 2)]);
    let backends = &plan.local["web"];
    assert_eq!((backends.ready_len, backends.ready[0]), (1, 3));
    assert_eq!((backends.draining_len, backends.draining[0]), (1, 4));
    let key = PublishedKey {
        port: 30_000_u16.to_be(),
        proto: TCP,
        pad: 0,
    };
    let expected = Leads {
        group: "web".to_owned(),
        target: 80,
        flags: 0,
    };
    assert_eq!(plan.published[&key], expected);
    let at = |address| {
        plan.overlay[&OverlayKey {
            vni: 4096,
            addr: ip(address),
        }]
    };
    assert_eq!(
        at("10.0.0.5"),
        Location {
            node: 0,
            endpoint: 3
        }
    );
    assert_eq!(
        at("10.0.0.7"),
        Location {
            node: b,
            endpoint: 0
        }
    );
}

#[test]
fn a_local_task_without_its_interface_takes_nothing_yet() {
    let desired = desired(&[("in", "a", "10.0.0.5", READY)]);
    let plan = plan(&desired, &Local::default());
    assert_eq!(plan.local["web"].ready_len, 0);
    assert!(plan.overlay.is_empty());
}

#[test]
fn an_interface_is_reachable_before_the_managers_know_of_its_task() {
    let plan = plan(&desired(&[]), &attached(&[("net", "10.0.1.9", 7)]));
    let key = OverlayKey {
        vni: 4097,
        addr: ip("10.0.1.9"),
    };
    assert_eq!(plan.overlay[&key].endpoint, 7);
}

#[test]
fn vips_have_the_ready_tasks_of_their_network_in_order() {
    let desired = desired(&[
        ("net", "b", "10.0.1.20", READY),
        ("net", "a", "10.0.1.3", READY),
        ("net", "a", "10.0.1.4", DRAINING),
        ("in", "a", "10.0.0.5", READY),
    ]);
    let plan = plan(&desired, &Local::default());
    let key = OverlayKey {
        vni: 4097,
        addr: ip("10.0.1.2"),
    };
    assert_eq!(plan.vips[&key], [ip("10.0.1.3"), ip("10.0.1.20")]);
}

#[test]
fn a_silent_or_lost_node_takes_no_new_flows_but_stays_a_member() {
    let mut wanted = desired(&[
        ("in", "b", "10.0.0.7", READY),
        ("net", "b", "10.0.1.7", READY),
    ]);
    let silent = Local {
        suspects: BTreeSet::from(["b".to_owned(), "a".to_owned()]),
        ..Local::default()
    };
    let by_probe = plan(&wanted, &silent);
    wanted.nodes.get_mut("b").unwrap().up = false;
    let by_managers = plan(&wanted, &Local::default());
    for plan in [by_probe, by_managers] {
        assert_eq!(plan.members[&ip("198.18.0.2")], 0);
        assert_eq!(plan.members[&ip("198.18.0.1")], MEMBER_UP, "never itself");
        assert!(plan.nodes["web"].is_empty());
        assert!(plan.vips.values().all(Vec::is_empty));
    }
}

#[test]
fn what_cannot_be_planned_is_said_and_the_rest_is_done() {
    let mut wanted = desired(&[("in", "b", "10.0.0.7", READY)]);
    wanted.nodes.get_mut("a").unwrap().address = "fe80::1".into();
    let service = wanted.services.get_mut("web").unwrap();
    service.ports.push(PublishedPort {
        transport: Transport::Unspecified.into(),
        published: 30_001,
        target: 80,
    });
    let plan = plan(&wanted, &Local::default());
    let said: Vec<_> = plan
        .problems
        .iter()
        .map(|problem| problem.id.as_str())
        .collect();
    assert_eq!(said, ["a", "web"]);
    assert_eq!(plan.published.len(), 1);
    assert_eq!(plan.nodes["web"].len(), 1);
}

#[test]
fn tasks_above_what_the_map_holds_are_said() {
    let addresses: Vec<String> = (0..=LOCAL_BACKENDS_MAX)
        .map(|n| format!("10.0.0.{}", n + 2))
        .collect();
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| ("in", "a", a.as_str(), READY))
        .collect();
    let local: Vec<_> = addresses
        .iter()
        .zip(0..)
        .map(|(a, n)| ("in", a.as_str(), n))
        .collect();
    let plan = plan(&desired(&endpoints), &attached(&local));
    assert_eq!(plan.local["web"].ready_len as usize, LOCAL_BACKENDS_MAX);
    assert_eq!(plan.problems.len(), 1);
}

#[test]
fn a_port_in_host_mode_leads_to_the_tasks_of_this_node_that_have_it() {
    let mut wanted = desired(&[
        ("in", "a", "10.0.0.5", READY),
        ("in", "a", "10.0.0.6", DRAINING),
        ("in", "a", "10.0.0.7", READY),
        ("in", "b", "10.0.0.8", READY),
    ]);
    let web = wanted.services.get_mut("web").unwrap();
    web.set_return_mode(ReturnMode::Dsr);
    let port = |published, target| PublishedPort {
        transport: Transport::Udp.into(),
        published,
        target,
    };
    let mut gives = |address: &str, ports: &[PublishedPort]| {
        let endpoint = wanted.endpoints.get_mut(&format!("{address}.in"));
        endpoint.unwrap().host_ports = ports.to_vec();
    };
    gives("10.0.0.5", &[port(8080, 80), port(40_000, 80)]);
    gives("10.0.0.6", &[port(8080, 80)]);
    gives("10.0.0.8", &[port(8080, 80), port(40_001, 80)]);
    let local = attached(&[
        ("in", "10.0.0.5", 3),
        ("in", "10.0.0.6", 4),
        ("in", "10.0.0.7", 5),
    ]);
    let plan = plan(&wanted, &local);
    assert_eq!(plan.problems, []);
    let leads_to = |published: u16| {
        let key = PublishedKey {
            port: published.to_be(),
            proto: UDP,
            pad: 0,
        };
        let Leads {
            group,
            target,
            flags,
        } = &plan.published[&key];
        assert_eq!((service_of(group), *target), ("web", 80));
        assert_eq!(*flags, 0, "there is one way back");
        assert_eq!(plan.nodes[group], [(ip("198.18.0.1"), 1)], "no other node");
        let local = &plan.local[group];
        let ready = &local.ready[..local.ready_len as usize];
        let draining = &local.draining[..local.draining_len as usize];
        (ready.to_vec(), draining.to_vec())
    };
    assert_eq!(leads_to(8080), (vec![3], vec![4]));
    assert_eq!(leads_to(40_000), (vec![3], vec![]));
    assert_eq!(plan.local["web"].ready_len, 2, "in ingress mode, all do");
    assert_eq!(plan.published.len(), 3);
}

#[test]
fn a_service_has_a_return_mode_of_its_own_or_that_of_all() {
    use ReturnMode::{Dsr, Snat, Symmetric, Unspecified};
    for (of_all, of_service, expected) in [
        (Unspecified, Unspecified, 0),
        (Unspecified, Dsr, PUBLISHED_DSR),
        (Snat, Unspecified, PUBLISHED_SNAT),
        (Dsr, Snat, PUBLISHED_SNAT),
        (Dsr, Symmetric, 0),
    ] {
        let mut wanted = desired(&[]);
        let settings = wanted.settings.as_mut().unwrap();
        settings.set_return_mode(of_all);
        let web = wanted.services.get_mut("web").unwrap();
        web.set_return_mode(of_service);
        let plan = plan(&wanted, &Local::default());
        let modes = plan.published.values().map(|leads| leads.flags);
        assert_eq!(
            modes.collect::<Vec<_>>(),
            [expected],
            "{of_all:?}, {of_service:?}"
        );
    }
}

#[test]
fn a_port_is_of_all_nodes_before_it_is_of_one_and_last_of_what_is_no_more() {
    const PORT: u16 = 8080;
    let port = |target| PublishedPort {
        transport: Transport::Tcp.into(),
        published: PORT.into(),
        target,
    };
    let mut wanted = desired(&[("in", "a", "10.0.0.5", READY)]);
    let owner = |wanted: &Desired| {
        let key = PublishedKey {
            port: PORT.to_be(),
            proto: TCP,
            pad: 0,
        };
        let plan = plan(wanted, &attached(&[("in", "10.0.0.5", 3)]));
        assert_eq!(plan.problems, []);
        plan.published.get(&key).map(|leads| {
            assert!(plan.local.contains_key(&leads.group));
            (service_of(&leads.group).to_owned(), leads.target)
        })
    };
    assert_eq!(owner(&wanted), None);
    // Before and after the others, by name.
    for id in ["gone", "zombie"] {
        let gone = Service {
            id: id.into(),
            ports: vec![port(1)],
            removed: true,
            ..Service::default()
        };
        wanted.services.insert(id.into(), gone);
    }
    assert_eq!(owner(&wanted), Some(("gone".into(), 1)));
    let endpoint = wanted.endpoints.get_mut("10.0.0.5.in").unwrap();
    endpoint.host_ports = vec![port(2)];
    assert_eq!(owner(&wanted), Some(("web".into(), 2)));
    let everywhere = Service {
        id: "zz".into(),
        ports: vec![port(3)],
        ..Service::default()
    };
    wanted.services.insert("zz".into(), everywhere);
    assert_eq!(owner(&wanted), Some(("zz".into(), 3)));
}

#[test]
fn what_narrows_a_service_narrows_all_of_its_ports() {
    use skein_proto::network::Bind;
    let endpoints = [("in", "a", "10.0.0.5", READY)];
    let mut wanted = desired(&endpoints);
    let web = wanted.services.get_mut("web").unwrap();
    web.in_host_mode = true;
    web.offer = Some(Offer {
        sources: vec!["10.0.0.0/8".into(), "what a newer manager says".into()],
        client_affinity: true,
        binds: vec![Bind {
            port: 30_000,
            to: vec!["eth0".into()],
        }],
    });
    let on_host = PublishedPort {
        transport: Transport::Udp.into(),
        published: 8080,
        target: 80,
    };
    for endpoint in wanted.endpoints.values_mut() {
        endpoint.host_ports.push(on_host);
    }
    let mut local = attached(&[("in", "10.0.0.5", 3)]);
    local.addresses.insert(HostAddress {
        device: "eth0".into(),
        address: "198.18.0.1".parse().unwrap(),
    });
    let narrowed = plan(&wanted, &local);
    let key = |port, proto| PublishedKey {
        port: skein_abi::port(port),
        proto,
        pad: 0,
    };
    let flags = |port, proto| narrowed.published[&key(port, proto)].flags;
    let both = PUBLISHED_LIMITED | PUBLISHED_AFFINE;
    assert_eq!(flags(30_000, TCP), both | PUBLISHED_BOUND);
    assert_eq!(flags(8080, UDP), both, "another port is not bound");
    let bound = BoundKey {
        addr: ip("198.18.0.1"),
        port: key(30_000, TCP),
    };
    assert_eq!(narrowed.bound, [bound].into());
    assert_eq!(
        narrowed.sources.len(),
        2,
        "of the service, and of its port in host mode"
    );
    for ranges in narrowed.sources.values() {
        assert_eq!(*ranges, ["10.0.0.0/8".parse().unwrap()].into());
    }
    // Gone, but for the connections of its last tasks: nobody else is let in.
    let web = wanted.services.get_mut("web").unwrap();
    web.removed = true;
    let draining = plan(&wanted, &local);
    assert_eq!(
        draining.published[&key(30_000, TCP)].flags,
        both | PUBLISHED_BOUND
    );
    assert_eq!(draining.published[&key(8080, UDP)].flags, both);
}

#[test]
fn what_is_encrypted_goes_to_secure_addresses_or_nowhere() {
    use skein_abi::{
        ingress::MEMBER_SECURE,
        overlay::{NETWORK_ENCRYPTED, NO_KEY},
    };
    use skein_proto::network::TunnelEnd;
    let remote = [("net", "b", "10.0.1.6", EndpointState::Ready)];
    let mut wanted = desired(&remote);
    wanted.networks.get_mut("net").unwrap().encrypted = true;
    let there = |plan: &Plan| {
        let key = OverlayKey {
            vni: 4_097,
            addr: addr([10, 0, 1, 6].into()),
        };
        plan.overlay[&key]
    };
    let secured = Local {
        secured: true,
        ..Local::default()
    };
    let (clear, secure) = (addr([198, 18, 0, 2].into()), addr([100, 66, 0, 2].into()));
    // It has not said its key.
    let made = plan(&wanted, &secured);
    assert_eq!(made.networks[&4_097].flags, NETWORK_ENCRYPTED);
    assert_eq!(made.networks[&4_096].flags, 0);
    let location = there(&made);
    assert_eq!((location.node, location.endpoint), (clear, NO_KEY));
    assert_eq!(made.members.len(), 2);

    wanted.nodes.get_mut("b").unwrap().tunnel = Some(TunnelEnd {
        public_key: vec![2; 32],
        port: 4_793,
        address: "100.66.0.2".into(),
    });
    let location = there(&plan(&wanted, &secured));
    assert_eq!((location.node, location.endpoint), (secure, 0));
    assert_eq!(
        plan(&wanted, &secured).members.get(&secure),
        Some(&MEMBER_SECURE)
    );
    // The tunnels are not there: where would it go?
    let location = there(&plan(&wanted, &Local::default()));
    assert_eq!((location.node, location.endpoint), (clear, NO_KEY));
    assert_eq!(plan(&wanted, &Local::default()).members.get(&secure), None);
    // What is not encrypted goes as ever.
    wanted.networks.get_mut("net").unwrap().encrypted = false;
    for local in [&secured, &Local::default()] {
        let location = there(&plan(&wanted, local));
        assert_eq!((location.node, location.endpoint), (clear, 0));
    }
}
