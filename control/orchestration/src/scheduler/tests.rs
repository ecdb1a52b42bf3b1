//! The scheduler: filters, spread, preferences, and its explanations.

use super::*;
use crate::testing::Fixture;
use proptest::prelude::*;
use skein_model::{
    Availability, DiscreteResource, EndpointSpec, GenericResource, NamedResource, NodeState,
    Placement, PlacementPreference, Platform, PortConfig, PublishMode, Reservations,
    ResourceRequirements, SpreadOver,
};

impl Fixture {
    fn pending(&mut self, id: &str, service: &str, change: impl FnOnce(&mut Task)) {
        self.task(id, |task| {
            task.service_id = service.into();
            task.status.state = TaskState::Pending;
            change(task);
        });
    }

    fn schedule(&mut self) {
        let mut draft = self.draft();
        Scheduler::default().run(&mut draft);
        self.commit(draft);
    }

    fn node_of(&self, task: &str) -> String {
        self.state.task(task).unwrap().node_id.clone()
    }

    fn why_not(&mut self, change: impl FnOnce(&mut Task)) -> String {
        self.pending("t", "web", change);
        self.schedule();
        let task = self.state.task("t").unwrap();
        assert_eq!(task.status.state, TaskState::Pending);
        task.status.err.clone()
    }
}

fn reserve(memory_bytes: i64) -> Option<ResourceRequirements> {
    Some(ResourceRequirements {
        reservations: Some(Reservations {
            memory_bytes,
            ..Reservations::default()
        }),
        ..ResourceRequirements::default()
    })
}

fn host_port(published_port: u16) -> Option<EndpointSpec> {
    Some(EndpointSpec {
        ports: vec![PortConfig {
            published_port,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        }],
        ..EndpointSpec::default()
    })
}

#[test]
fn tasks_go_where_their_service_has_the_fewest_then_where_all_have() {
    let mut fixture = Fixture::default();
    fixture.node("a", |_| {});
    fixture.node("b", |_| {});
    for n in 0..3 {
        fixture.pending(&format!("other{n}"), "other", |task| {
            task.node_id = "a".into();
            task.status.state = TaskState::Running;
        });
    }
    fixture.pending("web0", "web", |_| {});
    fixture.schedule();
    assert_eq!(fixture.node_of("web0"), "b");
    fixture.pending("web1", "web", |_| {});
    fixture.schedule();
    assert_eq!(fixture.node_of("web1"), "a");
    let task = fixture.state.task("web1").unwrap();
    assert_eq!(task.status.state, TaskState::Assigned);
    assert_eq!(task.status.message, "scheduler assigned task to node");
}

#[test]
fn a_task_waits_for_a_port_while_no_node_can_take_it_and_one_could_otherwise() {
    let mut fixture = Fixture::default();
    fixture.node("a", |_| {});
    fixture.node("b", |node| node.status.state = NodeState::Down);
    fixture.pending("holder", "web", |task| {
        task.node_id = "a".into();
        task.status.state = TaskState::Running;
        task.endpoint_spec = host_port(80);
    });
    let waits = |fixture: &mut Fixture, change: &dyn Fn(&mut Task)| {
        fixture.pending("t", "web", |task| {
            task.endpoint_spec = host_port(80);
            // What users are told decides nothing.
            task.status.err = "anything".into();
            change(task);
        });
        waits_for_host_port(&fixture.state, fixture.state.task("t").unwrap())
    };
    let bound_to = |node: &'static str| move |task: &mut Task| task.node_id = node.into();
    assert!(waits(&mut fixture, &|_| {}));
    assert!(waits(&mut fixture, &bound_to("a")));
    assert!(!waits(&mut fixture, &bound_to("b")), "its node is down");
    assert!(!waits(&mut fixture, &|task| {
        task.node_id.clear();
        task.spec.resources = reserve(1 << 40);
    }));
    assert!(waits(&mut fixture, &|task| task.spec.resources = None));
    fixture.node("b", |node| node.status.state = NodeState::Ready);
    assert!(!waits(&mut fixture, &|_| {}), "the other node has it free");
}

#[test]
fn explanations_are_swarms() {
    let mut fixture = Fixture::default();
    assert_eq!(fixture.why_not(|_| {}), "no suitable node");
    fixture.node("a", |node| node.status.state = NodeState::Down);
    assert_eq!(
        fixture.why_not(|_| {}),
        "no suitable node (1 node not available for new tasks)"
    );
    fixture.node("b", |node| node.spec.availability = Availability::Pause);
    fixture.node("c", |_| {});
    assert_eq!(
        fixture.why_not(|task| task.spec.resources = reserve(1 << 40)),
        "no suitable node (2 nodes not available for new tasks; insufficient resources on 1 node)"
    );
    let placement = |change: fn(&mut Placement)| {
        let mut placement = Placement::default();
        change(&mut placement);
        Some(placement)
    };
    fixture.node("a", |node| node.status.state = NodeState::Ready);
    fixture.node("b", |node| node.spec.availability = Availability::Active);
    assert_eq!(
        fixture.why_not(|task| {
            task.spec.resources = None;
            task.spec.placement = placement(|p| p.constraints = vec!["node.id==z".into()]);
        }),
        "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    );
    assert_eq!(
        fixture.why_not(|task| {
            task.spec.placement = placement(|p| {
                p.platforms = vec![Platform {
                    os: "windows".into(),
                    ..Platform::default()
                }];
            });
        }),
        "no suitable node (unsupported platform on 3 nodes)"
    );
    for node in ["a", "b", "c"] {
        fixture.pending(&format!("on-{node}"), "web", |task| {
            task.node_id = node.into();
            task.status.state = TaskState::Running;
            task.endpoint_spec = host_port(80);
        });
    }
    assert_eq!(
        fixture.why_not(|task| {
            task.spec.placement = None;
            task.endpoint_spec = host_port(80);
        }),
        "no suitable node (host-mode port already in use on 3 nodes)"
    );
    assert_eq!(
        fixture.why_not(|task| {
            task.endpoint_spec = None;
            task.spec.placement = placement(|p| p.max_replicas = 1);
        }),
        "no suitable node (max replicas per node limit exceed)"
    );
}

#[test]
fn a_waiting_task_is_placed_once_there_is_room() {
    let mut fixture = Fixture::default();
    fixture.node("a", |node| node.spec.availability = Availability::Drain);
    fixture.pending("t", "web", |_| {});
    fixture.schedule();
    assert_eq!(fixture.node_of("t"), "");
    fixture.node("a", |node| node.spec.availability = Availability::Active);
    fixture.schedule();
    assert_eq!(fixture.node_of("t"), "a");
    assert_eq!(fixture.state.task("t").unwrap().status.err, "");
}

#[test]
fn amd64_is_x86_64() {
    let mut fixture = Fixture::default();
    fixture.node("a", |node| {
        node.description.platform = Platform {
            architecture: "x86_64".into(),
            os: "linux".into(),
        };
    });
    fixture.pending("t", "web", |task| {
        task.spec.placement = Some(Placement {
            platforms: vec![Platform {
                architecture: "amd64".into(),
                os: "linux".into(),
            }],
            ..Placement::default()
        });
    });
    fixture.schedule();
    assert_eq!(fixture.node_of("t"), "a");
}

#[test]
fn a_node_on_which_a_service_keeps_failing_is_the_last_choice() {
    let mut fixture = Fixture::default();
    fixture.node("bad", |_| {});
    fixture.node("good", |_| {});
    for n in 0..2 {
        fixture.pending(&format!("good{n}"), "web", |task| {
            task.node_id = "good".into();
            task.status.state = TaskState::Running;
        });
    }
    let mut scheduler = Scheduler::default();
    for n in 0..BLAME_MIN {
        // The reaper keeps fewer than are counted.
        fixture.pending("failed", "web", |task| {
            task.id = format!("failed{n}");
            task.node_id = "bad".into();
            task.status.state = TaskState::Failed;
        });
        let mut draft = fixture.draft();
        scheduler.run(&mut draft);
        draft.remove(skein_model::Kind::Task, &format!("failed{n}"));
        fixture.commit(draft);
    }
    let place = |fixture: &mut Fixture, scheduler: &mut Scheduler, id: &str| {
        fixture.pending(id, "web", |_| {});
        let mut draft = fixture.draft();
        scheduler.run(&mut draft);
        fixture.commit(draft);
        fixture.node_of(id)
    };
    assert_eq!(place(&mut fixture, &mut scheduler, "now"), "good");
    fixture.pass(BLAME_TIME.as_secs_f64());
    assert_eq!(place(&mut fixture, &mut scheduler, "later"), "bad");
}

proptest! {
    /// Whatever is there already, new tasks level it: no node gets one while another that could take
    /// it has two fewer; and reservations are never exceeded.
    #[test]
    fn tasks_are_spread(
        present in prop::collection::vec(0u64..6, 1..6),
        new in 1usize..24,
        memory in 1i64..4,
    ) {
        let mut fixture = Fixture::default();
        for (index, count) in present.iter().enumerate() {
            let node = format!("n{index}");
            fixture.node(&node, |_| {});
            for n in 0..*count {
                fixture.pending(&format!("{node}-{n}"), "web", |task| {
                    task.node_id = node.clone();
                    task.status.state = TaskState::Running;
                });
            }
        }
        for n in 0..new {
            fixture.pending(&format!("new{n:02}"), "web", |task| {
                task.spec.resources = reserve(memory << 30);
            });
        }
        fixture.schedule();
        let capacity = 8 / memory;
        let mut counts = Vec::new();
        let mut got = Vec::new();
        for index in 0..present.len() {
            let tasks: Vec<_> = fixture.state.tasks_of_node(&format!("n{index}")).collect();
            got.push(tasks.iter().filter(|task| task.id.starts_with("new")).count() as i64);
            counts.push(tasks.len() as i64);
        }
        prop_assert!(got.iter().all(|got| *got <= capacity));
        let placed: i64 = got.iter().sum();
        prop_assert_eq!(placed, (new as i64).min(capacity * present.len() as i64));
        for (i, got_here) in got.iter().enumerate().filter(|(_, got)| **got > 0) {
            for (j, got_there) in got.iter().enumerate() {
                prop_assert!(
                    *got_there == capacity || counts[i] <= counts[j] + 1,
                    "{i} got {got_here}: {counts:?}"
                );
            }
        }
    }
}

fn label(node: &mut skein_model::Node, key: &str, value: &str) {
    node.spec.labels.insert(key.into(), value.into());
}

fn spread(descriptors: &[&str]) -> Option<Placement> {
    let preference = |text: &&str| PlacementPreference {
        spread: Some(SpreadOver {
            spread_descriptor: (*text).into(),
        }),
    };
    Some(Placement {
        preferences: descriptors.iter().map(preference).collect(),
        ..Placement::default()
    })
}

#[test]
fn preferences_level_the_branches_before_the_nodes() {
    let mut fixture = Fixture::default();
    // Three nodes in one zone, one in another, one in none.
    for (node, zone) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "")] {
        fixture.node(node, |node| {
            if !zone.is_empty() {
                label(node, "zone", zone);
            }
        });
    }
    for n in 0..9 {
        fixture.pending(&format!("t{n}"), "web", |task| {
            task.spec_version = Some(Version { index: 7 });
            task.slot = n;
            task.spec.placement = spread(&["node.hostname", "Node.Labels.zone"]);
        });
    }
    fixture.schedule();
    let count = |node: &str| fixture.state.tasks_of_node(node).count();
    let counts: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(count).collect();
    assert_eq!(counts, [1, 1, 1, 3, 3]);
}

#[test]
fn a_full_branch_leaves_its_share_to_the_others() {
    let mut fixture = Fixture::default();
    for (node, zone, rack) in [("a", "x", "1"), ("b", "x", "2"), ("c", "y", "1")] {
        fixture.node(node, |node| {
            label(node, "zone", zone);
            label(node, "rack", rack);
        });
    }
    for n in 0..7 {
        fixture.pending(&format!("t{n}"), "web", |task| {
            task.spec_version = Some(Version { index: 7 });
            task.spec.placement = spread(&["node.labels.zone", "node.labels.rack"]);
            task.spec.placement.as_mut().unwrap().max_replicas = 2;
        });
    }
    fixture.schedule();
    let count = |node: &str| fixture.state.tasks_of_node(node).count();
    assert_eq!([count("a"), count("b"), count("c")], [2, 2, 2]);
    let waits = fixture.state.tasks_of_node("").next().unwrap();
    assert_eq!(
        waits.status.err,
        "no suitable node (max replicas per node limit exceed)"
    );
}

fn generic(kind: &str, value: i64) -> GenericResource {
    GenericResource {
        discrete_resource_spec: Some(DiscreteResource {
            kind: kind.into(),
            value,
        }),
        ..GenericResource::default()
    }
}

fn named(kind: &str, value: &str) -> GenericResource {
    GenericResource {
        named_resource_spec: Some(NamedResource {
            kind: kind.into(),
            value: value.into(),
        }),
        ..GenericResource::default()
    }
}

#[test]
fn generic_resources_are_given_once() {
    let mut fixture = Fixture::default();
    fixture.node("a", |node| {
        node.description.resources.generic_resources = vec![
            named("gpu", "u1"),
            named("gpu", "u2"),
            named("gpu", "u3"),
            generic("slots", 3),
        ];
    });
    let wanting = |resources: Vec<GenericResource>| {
        Some(ResourceRequirements {
            reservations: Some(Reservations {
                generic_resources: resources,
                ..Reservations::default()
            }),
            ..ResourceRequirements::default()
        })
    };
    fixture.pending("first", "web", |task| {
        task.spec.resources = wanting(vec![generic("gpu", 2), generic("slots", 1)]);
    });
    fixture.schedule();
    let given =
        |fixture: &Fixture, id: &str| fixture.state.task(id).unwrap().generic_resources.clone();
    assert_eq!(
        given(&fixture, "first"),
        [named("gpu", "u1"), named("gpu", "u2"), generic("slots", 1)]
    );
    let refusal = "no suitable node (insufficient resources on 1 node)";
    for wanted in [
        generic("gpu", 2),
        generic("slots", 3),
        generic("fpga", 1),
        named("gpu", "u3"),
    ] {
        let why = fixture.why_not(|task| task.spec.resources = wanting(vec![wanted]));
        assert_eq!(why, refusal);
    }
    fixture.pending("t", "web", |task| {
        task.spec.resources = wanting(vec![generic("gpu", 1)])
    });
    fixture.schedule();
    assert_eq!(given(&fixture, "t"), [named("gpu", "u3")]);
}

#[test]
fn bound_tasks_say_why_without_the_prefix_and_cluster_volumes_have_no_node() {
    let mut fixture = Fixture::default();
    fixture.node("a", |node| node.spec.availability = Availability::Pause);
    let why = fixture.why_not(|task| task.node_id = "a".into());
    assert_eq!(why, "1 node not available for new tasks");
    fixture.node("a", |node| node.spec.availability = Availability::Active);
    let why = fixture.why_not(|task| {
        task.node_id = String::new();
        task.spec.container_spec.mounts = vec![skein_model::Mount {
            kind: skein_model::MountKind::Cluster,
            ..Default::default()
        }];
    });
    assert_eq!(
        why,
        "no suitable node (cannot fulfill requested CSI volume mounts on 1 node)"
    );
}

#[test]
fn a_task_on_an_encrypted_network_goes_to_a_node_with_a_key() {
    let mut fixture = Fixture::default();
    fixture.node("a", |_| {});
    for (network, encrypted) in [("open", false), ("sealed", true)] {
        fixture.network(network, |network| {
            network.spec.driver = skein_model::OVERLAY.into();
            if encrypted {
                let option = skein_model::ENCRYPTED_OPTION.to_owned();
                network.spec.options.insert(option, String::new());
            }
        });
    }
    let on = |network: &str| {
        vec![skein_model::TaskNetwork {
            network_id: network.into(),
            ..Default::default()
        }]
    };
    let why = fixture.why_not(|task| task.networks_attachments = on("sealed"));
    assert_eq!(
        why,
        "no suitable node (no key for encrypted networks on 1 node)"
    );
    fixture.pending("o", "web", |task| task.networks_attachments = on("open"));
    fixture.schedule();
    assert_eq!(fixture.node_of("o"), "a");
    fixture.node("a", |node| {
        node.tunnel = Some(skein_model::TunnelEnd {
            public_key: [1; 32],
            port: 4793,
            address: None,
        });
    });
    fixture.schedule();
    assert_eq!(fixture.node_of("t"), "a");
}

#[test]
fn plugins_must_be_there() {
    let mut fixture = Fixture::default();
    fixture.node("a", |node| {
        node.description.engine.plugins = vec![
            skein_model::EnginePlugin {
                kind: "Volume".into(),
                name: "store:latest".into(),
            },
            skein_model::EnginePlugin {
                kind: "Log".into(),
                name: "json-file".into(),
            },
        ];
    });
    let driver = |name: &str| skein_model::Driver {
        name: name.into(),
        ..Default::default()
    };
    let refusal = "no suitable node (missing plugin on 1 node)";
    let why = fixture.why_not(|task| task.spec.log_driver = Some(driver("fluentd")));
    assert_eq!(why, refusal);
    let volume = |name: &str| skein_model::Mount {
        kind: skein_model::MountKind::Volume,
        volume_options: Some(skein_model::VolumeOptions {
            driver_config: Some(driver(name)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let why = fixture.why_not(|task| {
        task.spec.log_driver = Some(driver("none"));
        task.spec.container_spec.mounts = vec![volume("local"), volume("other")];
    });
    assert_eq!(why, refusal);
    fixture.pending("t", "web", |task| {
        task.spec.container_spec.mounts = vec![volume("store")]
    });
    fixture.schedule();
    assert_eq!(fixture.node_of("t"), "a");
}

proptest! {
    /// No task is ever where a filter forbids it: several services at once, each with wishes of its
    /// own.
    #[test]
    fn no_filter_is_violated(
        nodes in prop::collection::vec((0u8..3, 0u8..4, any::<bool>()), 1..6),
        wishes in prop::collection::vec((0u8..3, 1i64..4, 0u64..3, any::<bool>(), 1usize..9), 1..5),
    ) {
        let mut fixture = Fixture::default();
        for (index, (zone, availability, up)) in nodes.iter().enumerate() {
            fixture.node(&format!("n{index}"), |node| {
                label(node, "zone", &zone.to_string());
                node.spec.availability = match availability {
                    0 => Availability::Drain,
                    1 => Availability::Pause,
                    _ => Availability::Active,
                };
                if !up {
                    node.status.state = NodeState::Down;
                }
            });
        }
        for (index, (zone, memory, max_replicas, port, count)) in wishes.iter().enumerate() {
            for n in 0..*count {
                fixture.pending(&format!("s{index}-{n}"), &format!("s{index}"), |task| {
                    task.spec_version = Some(Version { index: 7 });
                    task.spec.resources = reserve(memory << 30);
                    task.endpoint_spec = host_port(8080).filter(|_| *port);
                    task.spec.placement = Some(Placement {
                        constraints: vec![format!("node.labels.zone!={zone}")],
                        max_replicas: *max_replicas,
                        ..spread(&["node.labels.zone"]).unwrap()
                    });
                });
            }
        }
        fixture.schedule();
        for node in fixture.state.nodes() {
            let tasks: Vec<_> = fixture.state.tasks_of_node(&node.id).collect();
            let usable = node.status.state == NodeState::Ready
                && node.spec.availability == Availability::Active;
            prop_assert!(usable || tasks.is_empty());
            let mut memory = 0;
            let mut ports = 0;
            let mut by_service: BTreeMap<&str, u64> = BTreeMap::new();
            for task in &tasks {
                memory += reserved(task).unwrap().memory_bytes;
                ports += usize::from(task.endpoint_spec.is_some());
                *by_service.entry(&task.service_id).or_default() += 1;
                let constraints = constraints_of(&task.spec).unwrap();
                prop_assert!(Constraint::all_match(&constraints, node));
                let max = task.spec.placement.as_ref().unwrap().max_replicas;
                prop_assert!(max == 0 || by_service[task.service_id.as_str()] <= max);
            }
            prop_assert!(memory <= node.description.resources.memory_bytes);
            prop_assert!(ports <= 1);
        }
        for task in fixture.state.tasks_of_node("") {
            prop_assert!(task.status.err.starts_with("no suitable node"), "{}", task.status.err);
        }
    }
}
