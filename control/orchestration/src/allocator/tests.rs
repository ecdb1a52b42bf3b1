//! The allocator: no address, port or network identifier twice; what does not fit is told.

use super::*;
use crate::testing::Fixture;
use proptest::prelude::*;
use skein_model::{
    EndpointSpec, IpamConfig, NetworkAttachmentConfig, PortConfig, PublishMode, ResolutionMode,
    Version,
};
use std::net::Ipv4Addr;

fn on(networks: &[&str]) -> Vec<NetworkAttachmentConfig> {
    let attach = |network: &&str| NetworkAttachmentConfig {
        target: (*network).into(),
        ..NetworkAttachmentConfig::default()
    };
    networks.iter().map(attach).collect()
}

fn publish(target_port: u16, published_port: u16) -> Option<EndpointSpec> {
    Some(EndpointSpec {
        mode: ResolutionMode::Vip,
        ports: vec![PortConfig {
            target_port,
            published_port,
            ..PortConfig::default()
        }],
    })
}

impl Fixture {
    fn allocate(&mut self, allocator: &mut Allocator) {
        let mut draft = self.draft();
        allocator.run(&mut draft);
        self.commit(draft);
    }

    fn task_of(&mut self, service: &str, id: &str) {
        let service = self.state.service(service).unwrap().clone();
        self.task(id, |task| {
            task.service_id = service.id.clone();
            task.spec = service.spec.task_template.clone();
            task.endpoint_spec = service.spec.endpoint_spec.clone();
        });
    }

    fn addresses(&self, task: &str) -> Vec<String> {
        let task = self.state.task(task).unwrap();
        let attachments = task.networks_attachments.iter();
        attachments
            .map(|a| a.address.unwrap().to_string())
            .collect()
    }
}

#[test]
fn a_published_service_gets_port_vips_and_addresses_on_ingress_and_its_networks() {
    let mut fixture = Fixture::default();
    fixture.network("front", |_| {});
    fixture.service("web", |s| {
        s.spec.task_template.networks = on(&["front"]);
        s.spec.endpoint_spec = publish(8080, 0);
    });
    fixture.task_of("web", "t1");
    fixture.allocate(&mut Allocator::default());

    let ingress = fixture
        .state
        .ingress_network()
        .unwrap()
        .allocation
        .as_ref()
        .unwrap()
        .subnets[0];
    assert_eq!(
        (ingress.vni, ingress.subnet.to_string().as_str()),
        (4096, "10.0.0.0/24")
    );
    let front = fixture
        .state
        .network("front")
        .unwrap()
        .allocation
        .as_ref()
        .unwrap()
        .subnets[0];
    assert_eq!(
        (front.vni, front.gateway.to_string().as_str()),
        (4097, "10.0.1.1")
    );
    let web = fixture.state.service("web").unwrap();
    assert_eq!(web.endpoint.ports[0].published_port, 30_000);
    let vips = web.endpoint.virtual_ips.iter();
    let vips: Vec<_> = vips
        .map(|v| (v.network_id.as_str(), v.addr.unwrap().to_string()))
        .collect();
    assert_eq!(
        vips,
        [
            ("ingress", "10.0.0.2/24".into()),
            ("front", "10.0.1.2/24".into())
        ]
    );
    assert_eq!(fixture.addresses("t1"), ["10.0.0.3/24", "10.0.1.3/24"]);
    let task = fixture.state.task("t1").unwrap();
    assert_eq!(task.status.state, TaskState::Pending);
    assert_eq!(task.status.message, "pending task scheduling");
    assert_eq!(task.ports[0].published_port, 30_000);
}

#[test]
fn tasks_with_ports_in_host_mode_are_on_the_ingress_network_without_a_vip() {
    let mut fixture = Fixture::default();
    fixture.network("front", |_| {});
    fixture.service("web", |s| {
        s.spec.task_template.networks = on(&["front"]);
        let mut endpoint = publish(80, 8080).unwrap();
        endpoint.ports[0].publish_mode = PublishMode::Host;
        s.spec.endpoint_spec = Some(endpoint);
    });
    fixture.task_of("web", "t1");
    fixture.allocate(&mut Allocator::default());
    let web = fixture.state.service("web").unwrap();
    let vips = web.endpoint.virtual_ips.iter();
    let vips: Vec<_> = vips.map(|vip| vip.network_id.as_str()).collect();
    assert_eq!(vips, ["front"]);
    let task = fixture.state.task("t1").unwrap();
    let places = task.networks_attachments.iter();
    let places: Vec<_> = places.map(|place| place.network_id.as_str()).collect();
    assert_eq!(places, ["ingress", "front"]);
}

#[test]
fn what_cannot_be_given_is_said_on_the_task_and_given_once_it_can() {
    let mut fixture = Fixture::default();
    fixture.service("first", |s| s.spec.endpoint_spec = publish(80, 8080));
    fixture.service("second", |s| s.spec.endpoint_spec = publish(80, 8080));
    fixture.task_of("second", "t");
    let mut allocator = Allocator::default();
    // The API refuses this; it happens when two requests race.
    fixture.allocate(&mut allocator);
    let first = fixture.state.service("first").unwrap();
    assert_eq!(first.endpoint.ports[0].published_port, 8080);
    assert_eq!(first.allocation_error, "");
    let task = fixture.state.task("t").unwrap();
    assert_eq!(task.status.state, TaskState::New);
    assert_eq!(
        task.status.err,
        "port '8080' is already in use by service 'first' (first) as an ingress port"
    );
    let mut draft = fixture.draft();
    draft.remove(skein_model::Kind::Service, "first");
    fixture.commit(draft);
    fixture.allocate(&mut allocator);
    let task = fixture.state.task("t").unwrap();
    assert_eq!(
        (task.status.state, task.status.err.as_str()),
        (TaskState::Pending, "")
    );
}

#[test]
fn vips_and_ports_stay_over_updates() {
    let mut fixture = Fixture::default();
    fixture.network("a", |_| {});
    fixture.network("b", |_| {});
    fixture.service("web", |s| {
        s.spec.task_template.networks = on(&["a"]);
        s.spec.endpoint_spec = publish(80, 0);
    });
    let mut allocator = Allocator::default();
    fixture.allocate(&mut allocator);
    let before = fixture.state.service("web").unwrap().endpoint.clone();
    fixture.service("web", |s| s.spec.task_template.networks = on(&["a", "b"]));
    fixture.allocate(&mut Allocator::default());
    let after = &fixture.state.service("web").unwrap().endpoint;
    assert_eq!(after.ports, before.ports);
    assert_eq!(after.virtual_ips[..2], before.virtual_ips[..]);
    assert_eq!(after.virtual_ips[2].network_id, "b");
    fixture.service("web", |s| {
        s.spec.endpoint_spec = Some(EndpointSpec {
            mode: ResolutionMode::Dnsrr,
            ports: Vec::new(),
        });
    });
    fixture.allocate(&mut allocator);
    assert!(
        fixture
            .state
            .service("web")
            .unwrap()
            .endpoint
            .virtual_ips
            .is_empty()
    );
}

#[test]
fn subnets_may_overlap_but_not_those_of_one_service() {
    let mut fixture = Fixture::default();
    for name in ["a", "b"] {
        fixture.network(name, |network| {
            network.spec.ipam.config.push(IpamConfig {
                subnet: Some("192.168.7.0/24".parse().unwrap()),
                ..IpamConfig::default()
            });
        });
        fixture.service(name, |s| s.spec.task_template.networks = on(&[name]));
    }
    fixture.service("both", |s| s.spec.task_template.networks = on(&["a", "b"]));
    fixture.allocate(&mut Allocator::default());
    for name in ["a", "b"] {
        assert!(fixture.state.network(name).unwrap().allocation.is_some());
        assert!(
            !fixture
                .state
                .service(name)
                .unwrap()
                .endpoint
                .virtual_ips
                .is_empty()
        );
    }
    let both = fixture.state.service("both").unwrap();
    assert!(
        both.allocation_error.contains("overlap"),
        "{}",
        both.allocation_error
    );
}

proptest! {
    /// Tasks come and go and leaders change: no two live tasks (or VIPs) share an address.
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec((0u8..4, 0usize..12), 1..60)) {
        let mut fixture = Fixture::default();
        fixture.network("small", |network| network.spec.ipam.config.push(IpamConfig {
            subnet: Some("10.9.0.0/28".parse().unwrap()),
            ..IpamConfig::default()
        }));
        fixture.service("web", |s| s.spec.task_template.networks = on(&["small"]));
        let mut allocator = Allocator::default();
        for (serial, (step, victim)) in steps.into_iter().enumerate() {
            match step {
                0 | 1 => fixture.task_of("web", &format!("t{serial:03}")),
                2 => {
                    let id = fixture.state.tasks().nth(victim).map(|task| task.id.clone());
                    if let Some(id) = id {
                        fixture.task(&id, |task| {
                            task.status.state = TaskState::Failed;
                            task.desired_state = TaskState::Shutdown;
                        });
                    }
                }
                _ => allocator = Allocator::default(),
            }
            fixture.allocate(&mut allocator);
            let mut seen = BTreeSet::new();
            let vip = fixture.state.service("web").unwrap().endpoint.virtual_ips[0].addr;
            seen.extend(vip);
            for task in fixture.state.tasks().filter(|task| task.holds_addresses()) {
                for attachment in &task.networks_attachments {
                    prop_assert!(seen.insert(attachment.address.unwrap()));
                }
            }
        }
    }
}

#[test]
fn what_a_removed_network_has_is_no_others_before_its_last_task_has_ended() {
    let mut fixture = Fixture::default();
    fixture.network("old", |_| {});
    fixture.service("web", |s| s.spec.task_template.networks = on(&["old"]));
    fixture.task_of("web", "t");
    let mut allocator = Allocator::default();
    fixture.allocate(&mut allocator);
    let old = fixture
        .state
        .network("old")
        .unwrap()
        .allocation
        .as_ref()
        .unwrap()
        .subnets[0];
    let remove = |fixture: &mut Fixture, kind, id: &str| {
        let mut draft = fixture.draft();
        draft.remove(kind, id);
        fixture.commit(draft);
    };
    remove(&mut fixture, skein_model::Kind::Service, "web");
    remove(&mut fixture, skein_model::Kind::Network, "old");

    fixture.network("new", |_| {});
    // A new leader's: what the last one gave last it does not know.
    fixture.allocate(&mut Allocator::default());
    let new = fixture
        .state
        .network("new")
        .unwrap()
        .allocation
        .as_ref()
        .unwrap()
        .subnets[0];
    assert!(new.subnet != old.subnet && new.vni != old.vni, "{new:?}");
    let mut pinned = skein_model::NetworkSpec::default();
    let vni = old.vni.to_string();
    pinned.options.insert(VNI_OPTION.into(), vni.clone());
    let refusal = check_network(&fixture.state, &pinned).unwrap_err();
    assert!(refusal.to_string().contains("was removed"), "{refusal}");

    fixture.task("t", |task| task.status.state = TaskState::Shutdown);
    remove(&mut fixture, skein_model::Kind::Network, "old");
    check_network(&fixture.state, &pinned).unwrap();
    fixture.network("next", |_| {});
    fixture.allocate(&mut allocator);
    let next = fixture
        .state
        .network("next")
        .unwrap()
        .allocation
        .as_ref()
        .unwrap()
        .subnets[0];
    assert_eq!(next.subnet, old.subnet);
}

/// Swarm leaves its tasks in NEW, and says nothing.
#[test]
fn who_waits_for_a_subnet_that_there_is_not_is_told_of_which_network() {
    let mut fixture = Fixture::default();
    let mut cluster = skein_model::Cluster::clone(fixture.state.cluster().unwrap());
    // Room for the ingress network, and for one more.
    cluster.default_addr_pool = vec!["10.0.0.0/23".parse().unwrap()];
    fixture.put(cluster);
    let names = ["front", "back"];
    for name in names {
        fixture.network(name, |_| {});
        fixture.service(name, |s| s.spec.task_template.networks = on(&[name]));
        fixture.task_of(name, &format!("task-of-{name}"));
    }
    let mut allocator = Allocator::default();
    fixture.allocate(&mut allocator);
    let has_none = |name: &&str| fixture.state.network(name).unwrap().allocation.is_none();
    let without: Vec<_> = names.into_iter().filter(has_none).collect();
    let [name] = without[..] else {
        panic!("{without:?} have no subnet");
    };
    let reason = format!("no free subnet of /24 for network {name} in the default address pools");
    let network = fixture.state.network(name).unwrap();
    assert!(
        network.allocation_error.starts_with(&reason),
        "{}",
        network.allocation_error
    );
    let expected = format!("network {name} has no subnet: {reason}");
    let service = fixture.state.service(name).unwrap();
    assert!(
        service.allocation_error.starts_with(&expected),
        "{}",
        service.allocation_error
    );
    let task = fixture.state.task(&format!("task-of-{name}")).unwrap();
    assert_eq!(task.status.state, TaskState::New);
    assert!(
        task.status.err.starts_with(&expected),
        "{}",
        task.status.err
    );

    // It is not said any more once there is room.
    let other = names.into_iter().find(|other| *other != name).unwrap();
    for (kind, id) in [
        (skein_model::Kind::Task, format!("task-of-{other}")),
        (skein_model::Kind::Service, other.to_owned()),
        (skein_model::Kind::Network, other.to_owned()),
    ] {
        let mut draft = fixture.draft();
        draft.remove(kind, &id);
        fixture.commit(draft);
    }
    fixture.allocate(&mut allocator);
    let task = fixture.state.task(&format!("task-of-{name}")).unwrap();
    assert_eq!(
        (task.status.state, &*task.status.err),
        (TaskState::Pending, "")
    );
    assert_eq!(fixture.state.network(name).unwrap().allocation_error, "");
    assert_eq!(fixture.state.service(name).unwrap().allocation_error, "");
}

#[test]
fn networks_of_the_nodes_get_nothing_and_go_to_the_nodes_with_their_tasks() {
    let mut fixture = Fixture::default();
    fixture.network("lan", |network| network.spec.driver = "macvlan".into());
    fixture.service("web", |s| {
        s.spec.task_template.networks = on(&["lan"]);
        let asked = &mut s.spec.task_template.networks[0];
        asked.driver_opts.insert("mode".into(), "l2".into());
        s.spec.endpoint_spec = publish(80, 8080);
    });
    fixture.task_of("web", "t");
    fixture.allocate(&mut Allocator::default());
    let lan = fixture.state.network("lan").unwrap();
    assert_eq!(
        (&lan.allocation, lan.allocation_error.as_str()),
        (&None, "")
    );
    let web = fixture.state.service("web").unwrap();
    let vips = web.endpoint.virtual_ips.iter();
    let vips: Vec<_> = vips
        .map(|vip| (vip.network_id.as_str(), vip.addr.is_some()))
        .collect();
    assert_eq!(vips, [("ingress", true), ("lan", false)]);
    let task = fixture.state.task("t").unwrap();
    assert_eq!(task.status.state, TaskState::Pending);
    let [ingress, place] = &task.networks_attachments[..] else {
        panic!("{:?}", task.networks_attachments)
    };
    assert!(ingress.address.is_some() && ingress.local_network.is_none());
    assert_eq!(place.address, None);
    assert_eq!(place.local_network.as_deref(), Some(&lan.spec));
    assert_eq!(place.driver_opts["mode"], "l2");
    assert!(ingress.driver_opts.is_empty());
}

#[test]
fn a_service_is_left_alone_once_it_has_everything() {
    let mut fixture = Fixture::default();
    fixture.service("web", |s| s.spec_version = Version { index: 7 });
    let mut allocator = Allocator::default();
    fixture.allocate(&mut allocator);
    let mut draft = fixture.draft();
    allocator.run(&mut draft);
    assert_eq!(fixture.commit(draft), 0);
}

/// Docker takes an address of each network for every node (moby#43052): with 20 nodes, fewer fit.
#[test]
fn of_three_hundred_services_on_a_24_as_many_are_served_as_it_has_addresses() {
    const SERVICES: usize = 300;
    /// But for its own, the broadcast's and the gateway's.
    const ADDRESSES: usize = 253;
    let mut fixture = Fixture::default();
    for n in 0..20 {
        fixture.node(&format!("n{n}"), |_| {});
    }
    fixture.network("front", |_| {});
    let mut allocator = Allocator::default();
    let name = |n: usize| format!("s{n:03}");
    for n in 0..SERVICES {
        fixture.service(&name(n), |s| {
            s.spec.task_template.networks = on(&["front"]);
        });
    }
    fixture.allocate(&mut allocator);
    let addresses = |fixture: &Fixture| -> BTreeSet<Ipv4Addr> {
        let in_use = addresses_in_use(&fixture.state);
        in_use.get("front").cloned().unwrap_or_default()
    };
    assert_eq!(addresses(&fixture).len(), ADDRESSES);
    let served = fixture.state.services();
    let (served, others): (Vec<_>, Vec<_>) =
        served.partition(|service| service.allocation_error.is_empty());
    assert_eq!(
        (served.len(), others.len()),
        (ADDRESSES, SERVICES - ADDRESSES)
    );
    let error = &others[0].allocation_error;
    assert!(error.contains("front"), "{error}");

    // Each with a task: half as many.
    for n in ADDRESSES / 2..SERVICES {
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, &name(n));
        fixture.commit(draft);
    }
    for n in 0..ADDRESSES / 2 {
        fixture.task_of(&name(n), &format!("t{n}"));
    }
    fixture.allocate(&mut allocator);
    assert_eq!(addresses(&fixture).len(), ADDRESSES / 2 * 2);
    let mut tasks = fixture.state.tasks();
    assert!(tasks.all(|task| task.status.state == TaskState::Pending));
}

/// A service that is on a full network, too, takes nothing of the others from whoever has enough of them.
#[test]
fn what_cannot_be_had_whole_takes_nothing_from_others() {
    let mut fixture = Fixture::default();
    for (network, subnet) in [("full", "10.5.0.0/29"), ("scarce", "10.6.0.0/29")] {
        fixture.network(network, |network| {
            network.spec.ipam.config = vec![IpamConfig {
                subnet: Some(subnet.parse().unwrap()),
                ..IpamConfig::default()
            }];
        });
    }
    let joins = |fixture: &mut Fixture, service: &str, networks: &[&str]| {
        fixture.service(service, |s| {
            s.spec.task_template.networks = on(networks);
            s.spec.endpoint_spec = Some(EndpointSpec {
                mode: ResolutionMode::Dnsrr,
                ports: Vec::new(),
            });
        });
    };
    // All five addresses of the one, and then whoever wants both, before whoever wants the other alone.
    joins(&mut fixture, "first", &["full"]);
    joins(&mut fixture, "greedy", &["scarce", "full"]);
    joins(&mut fixture, "modest", &["scarce"]);
    let mut allocator = Allocator::default();
    for n in 0..5 {
        fixture.task_of("first", &format!("a{n}"));
    }
    fixture.allocate(&mut allocator);
    for n in 0..5 {
        fixture.task_of("greedy", &format!("b{n}"));
        fixture.task_of("modest", &format!("c{n}"));
    }
    fixture.allocate(&mut allocator);
    for n in 0..5 {
        let waits = fixture.state.task(&format!("b{n}")).unwrap();
        assert_eq!(waits.status.state, TaskState::New);
        assert!(
            waits.status.err.contains("of network full"),
            "{}",
            waits.status.err
        );
        let served = fixture.state.task(&format!("c{n}")).unwrap();
        assert_eq!(
            served.status.state,
            TaskState::Pending,
            "{}",
            served.status.err
        );
    }
    // Now both are full, and nothing happens as long as nothing changes.
    fixture.allocate(&mut allocator);
    let mut draft = fixture.draft();
    allocator.run(&mut draft);
    assert_eq!(fixture.commit(draft), 0);
}
