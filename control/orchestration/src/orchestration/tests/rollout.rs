//! Updates with nodes that take their time: never is more of a service touched than may be.

use super::*;
use crate::{drain, revision};
use proptest::prelude::*;
use skein_model::{EndpointSpec, PortConfig, PortProtocol, PublishMode};
use std::collections::BTreeMap;

impl World {
    /// Some of the tasks, by their position, get one step further to what is wanted of them.
    fn some_nodes_act(&mut self, chosen: u32) {
        let tasks: Vec<_> = self.fixture.state.tasks().cloned().collect();
        for (n, task) in tasks.into_iter().enumerate() {
            let placed = task.status.state >= TaskState::Assigned;
            if !placed || chosen & (1 << (n % 32)) == 0 {
                continue;
            }
            let next = match task.desired_state {
                _ if !drain::may_stop(&task) => continue,
                wanted if wanted > TaskState::Complete => TaskState::Shutdown,
                _ if task.status.state < TaskState::Ready => TaskState::Ready,
                TaskState::Ready => continue,
                _ => TaskState::Running,
            };
            self.fixture.report(&task.id, next);
        }
    }

    fn host_port(
        &mut self,
        service: &str,
        order: UpdateOrder,
        protocol: PortProtocol,
        image: &str,
    ) {
        self.fixture.service(service, |service| {
            set_image(service, image);
            service.spec.update_config = Some(UpdateConfig { order, ..config(1) });
            service.spec.endpoint_spec = Some(EndpointSpec {
                ports: vec![PortConfig {
                    published_port: 80,
                    target_port: 80,
                    publish_mode: PublishMode::Host,
                    protocol,
                    ..PortConfig::default()
                }],
                ..EndpointSpec::default()
            });
        });
    }
}

/// Ingress ports of a service.
fn published() -> Option<EndpointSpec> {
    Some(EndpointSpec {
        ports: vec![PortConfig {
            target_port: 80,
            ..PortConfig::default()
        }],
        ..EndpointSpec::default()
    })
}

#[test]
fn start_first_keeps_the_old_task_while_none_of_the_new_ones_has_run() {
    for attempts in [0, 1] {
        let mut world = World::new(&["a", "b"]);
        world.fixture.service("web", |service| {
            service.spec.task_template.restart_policy =
                restart(|policy| policy.max_attempts = attempts);
        });
        world.run_for(1.0);
        let old = world.live("web").remove(0).id;
        let start_first = UpdateConfig {
            order: UpdateOrder::StartFirst,
            failure_action: FailureAction::Continue,
            ..config(1)
        };
        world.update("missing", start_first);
        let mut rejected = 0;
        for _ in 0..60 {
            world.decide();
            for task in world.live("web") {
                let image = &task.spec.container_spec.image;
                if image == "missing" && task.status.state == TaskState::Assigned {
                    world.fixture.report(&task.id, TaskState::Rejected);
                    rejected += 1;
                }
            }
            world.fixture.pass(0.5);
        }
        assert!(rejected > 1, "{:#?}", world.summary());
        let old = world.fixture.state.task(&old).unwrap();
        assert_eq!(old.desired_state, TaskState::Running, "{attempts}");
    }
}

#[test]
fn start_first_keeps_the_old_task_until_every_node_sends_to_the_new_one() {
    let mut world = World::new(&["a", "b"]);
    world.fixture.service("web", |service| {
        service.spec.endpoint_spec = published();
    });
    world.run_for(1.0);
    let old = world.live("web").remove(0);
    world.programmed = Some(Programmed::default());
    world.update(
        "demo:2",
        UpdateConfig {
            order: UpdateOrder::StartFirst,
            ..config(1)
        },
    );
    world.run_for(2.0);
    let running = |world: &World| {
        let live = world.live("web").into_iter();
        let states = live.map(|task| (task.status.state, task.id == old.id));
        states.collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from([(TaskState::Running, true), (TaskState::Running, false)]);
    assert_eq!(running(&world), both, "no node has the new one");
    world.programmed = None;
    world.settle();
    assert_eq!(running(&world), [(TaskState::Running, false)].into());
    let state = |world: &World| world.fixture.state.task(&old.id).unwrap().status.state;
    assert_eq!(state(&world), TaskState::Running, "it drains");
    world.run_for(1.0);
    assert_eq!(state(&world), TaskState::Shutdown);
}

#[test]
fn tasks_drain_whatever_ends_them() {
    let ends: [fn(&mut World); 6] = [
        |world| world.fixture.replicas("web", 0),
        |world| {
            world.fixture.node("a", |node| {
                node.spec.availability = Availability::Drain;
            });
        },
        |world| {
            let mut draft = world.fixture.draft();
            draft.remove(Kind::Service, "web");
            world.fixture.commit(draft);
        },
        |world| world.update("demo:2", config(1)),
        |world| {
            world.fixture.node("a", |node| node.spec.labels.clear());
        },
        |world| {
            let id = world.live("web").remove(0).id;
            let unhealthy = |task: &mut Task| {
                task.status.given_up = Some(skein_model::GivenUp::Unhealthy);
            };
            world.fixture.task(&id, unhealthy);
        },
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let mut world = World::new(&["a"]);
        world.fixture.node("a", |node| {
            node.spec.labels.insert("zone".into(), "1".into());
        });
        world.fixture.service("web", |service| {
            service.spec.endpoint_spec = published();
            service.spec.task_template.placement = Some(skein_model::Placement {
                constraints: vec!["node.labels.zone==1".into()],
                ..skein_model::Placement::default()
            });
        });
        world.run_for(1.0);
        let task = world.live("web").remove(0);
        assert_eq!(task.status.state, TaskState::Running);
        world.programmed = Some(Programmed::default());
        end(&mut world);
        world.run_for(4.0);
        let now = world.fixture.state.task(&task.id).unwrap().clone();
        let (state, desired) = (now.status.state, now.desired_state);
        assert!(desired > TaskState::Complete, "{n}: {desired}");
        assert_eq!(state, TaskState::Running, "{n}: it drains");
        world.run_for(2.0);
        let now = world.fixture.state.task(&task.id);
        let ended = now.is_none_or(|task| task.status.state.is_terminal());
        assert!(ended, "{n}: {now:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However slow nodes are, and even if one update overtakes the other: stop-first has no more
    /// slots down than it may, start-first none, and no more than it may with two tasks.
    #[test]
    fn an_update_touches_no_more_than_it_may(
        parallelism in 1u64..4,
        start_first: bool,
        acts in prop::collection::vec((any::<u32>(), 0u8..16), 10..80),
    ) {
        const REPLICAS: u64 = 6;
        let mut world = World::new(&["a", "b", "c"]);
        world.fixture.replicas("web", REPLICAS);
        world.settle();
        let order = if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
        let mut image = 2;
        for (chosen, kind) in acts {
            if image == 2 || kind == 0 {
                world.update(&format!("demo:{image}"), UpdateConfig { order, ..config(parallelism) });
                image += 1;
            }
            world.fixture.pass(f64::from(kind) / 4.0);
            world.pass();
            let mut slots: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for task in world.live("web") {
                let (live, running) = slots.entry(task.slot).or_default();
                *live += 1;
                *running += u64::from(task.status.state == TaskState::Running);
            }
            let up = slots.values().filter(|(_, running)| *running > 0).count() as u64;
            let double = slots.values().filter(|(live, _)| *live > 1).count() as u64;
            let may_be_down = if start_first { 0 } else { parallelism };
            prop_assert!(REPLICAS - up <= may_be_down, "{:#?}", world.summary());
            prop_assert!(double <= parallelism, "{:#?}", world.summary());
            world.some_nodes_act(chosen);
        }
        world.run_for(300.0);
        prop_assert_eq!(world.images("web"), vec![format!("demo:{}", image - 1); 6]);
        prop_assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
    }

    /// The same seed leads to the same store.
    #[test]
    fn decisions_depend_on_nothing_but_their_arguments(acts in prop::collection::vec(any::<u32>(), 1..30)) {
        let run = || {
            let mut world = World::new(&["a", "b", "c"]);
            world.fixture.replicas("web", 4);
            world.fixture.service("all", |service| service.spec.mode = ServiceMode::Global {});
            for (n, chosen) in acts.iter().enumerate() {
                if n % 7 == 3 {
                    world.update(&format!("demo:{n}"), config(2));
                }
                world.pass();
                world.some_nodes_act(*chosen);
                world.fixture.pass(1.0);
            }
            world.fixture.state
        };
        prop_assert_eq!(run(), run());
    }

    /// A global service is on each node that is to have it exactly once, whatever happened before.
    #[test]
    fn global_services_converge(steps in prop::collection::vec((0usize..3, 0u8..7), 1..25)) {
        const NODES: [&str; 3] = ["a", "b", "c"];
        let mut world = World::new(&NODES);
        world.fixture.service("web", |service| service.spec.mode = ServiceMode::Global {});
        for (n, kind) in steps {
            let node = NODES[n];
            match kind {
                0 => world.fixture.down(node),
                1 => world.fixture.up(node),
                2 => world.fixture.drain(node),
                6 => world.fixture.node(node, |n| n.spec.availability = Availability::Pause),
                3 => {
                    let tasks = world.fixture.state.tasks_of_node(node);
                    let ids: Vec<_> = tasks.map(|task| task.id.clone()).collect();
                    for id in ids {
                        world.fixture.report(&id, TaskState::Failed);
                    }
                }
                4 => world.update(&format!("demo:{n}"), config(1)),
                _ => world.some_nodes_act(u32::MAX),
            }
            world.pass();
            world.fixture.pass(1.0);
        }
        world.run_for(200.0);
        for node in NODES {
            let object = world.fixture.state.node(node).unwrap();
            let wanted = object.status.state == NodeState::Ready
                && object.spec.availability == Availability::Active;
            let here: Vec<_> = world.live("web").into_iter().filter(|t| t.node_id == node).collect();
            if object.spec.availability == Availability::Pause {
                // It keeps what it had when it was paused, if anything.
                prop_assert!(here.len() <= 1, "{:#?}", world.summary());
                continue;
            }
            prop_assert_eq!(here.len(), usize::from(wanted), "{:#?}", world.summary());
            prop_assert!(here.iter().all(|task| task.status.state == TaskState::Running));
        }
        prop_assert_ne!(world.update_state("web"), Some(UpdateState::Updating));
        prop_assert_eq!(world.pass().0, 0);
    }
}

#[test]
fn an_update_leaves_the_tasks_of_paused_nodes_and_ends_without_them() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut world = World::new(&["a", "b"]);
        let global = |service: &mut Service| service.spec.mode = ServiceMode::Global {};
        world.fixture.service("web", global);
        world.settle();
        let availability = |world: &mut World, availability| {
            let set = |node: &mut skein_model::Node| node.spec.availability = availability;
            world.fixture.node("b", set);
        };
        availability(&mut world, Availability::Pause);
        world.update("demo:2", UpdateConfig { order, ..config(1) });
        world.run_for(60.0);
        assert_eq!(world.images("web"), ["demo:2", "demo:1"]);
        let running = |task: &Task| task.status.state == TaskState::Running;
        assert!(
            world.live("web").iter().all(running),
            "{:#?}",
            world.summary()
        );
        assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
        // What it does when it is back is no update, and none that fails.
        let status = |world: &World| {
            let service = world.fixture.state.service("web").unwrap();
            service.update_status.clone()
        };
        let before = status(&world);
        availability(&mut world, Availability::Active);
        world.decide();
        assert_eq!(status(&world), before);
        let live = world.live("web").into_iter();
        let news = live.filter(|task| task.node_id == "b" && image_of(task) == "demo:2");
        let news: Vec<_> = news.map(|task| task.id).collect();
        assert_eq!(news.len(), 1, "{:#?}", world.summary());
        world.fixture.report(&news[0], TaskState::Failed);
        world.run_for(60.0);
        assert_eq!(world.images("web"), ["demo:2", "demo:2"]);
        assert_eq!(status(&world), before);
    }
}

/// A slot that has failed as often as it may stays as it is, whatever its service is called or scaled to; an
/// update that changes its task replaces it when it is its turn, and a rollback does not.
#[test]
fn slots_that_have_failed_for_good_are_the_updaters_alone() {
    let mut world = World::new(&["a"]);
    world.fixture.service("web", |service| {
        service.spec.mode = ServiceMode::Replicated { replicas: 3 };
        service.spec.task_template.restart_policy = restart(|policy| {
            policy.max_attempts = 1;
            policy.delay = Some(0);
        });
    });
    let fail_all = |world: &mut World| {
        for _ in 0..3 {
            world.settle();
            for task in world.live("web") {
                world.fixture.report(&task.id, TaskState::Failed);
            }
        }
        world.run_for(10.0);
        assert!(world.live("web").is_empty(), "{:#?}", world.summary());
    };
    fail_all(&mut world);

    world.fixture.service("web", |service| {
        service.spec.labels.insert("a".into(), "b".into());
    });
    world.run_for(10.0);
    assert!(world.live("web").is_empty(), "{:#?}", world.summary());
    world.fixture.replicas("web", 4);
    world.run_for(10.0);
    assert_eq!(world.slots("web"), [4]);
    world.update("demo:2", config(1));
    world.decide();
    let images = world.images("web");
    let new = images.iter().filter(|image| *image == "demo:2").count();
    assert_eq!(new, 1, "one at a time: {:#?}", world.summary());
    world.run_for(60.0);
    assert_eq!(world.images("web"), ["demo:2"; 4]);

    fail_all(&mut world);
    let state = &world.fixture.state;
    let before = (**state.service("web").unwrap()).clone();
    let back = revision::rolled_back(state, &before, world.fixture.now).unwrap();
    world.fixture.put(back);
    world.run_for(60.0);
    assert!(world.live("web").is_empty(), "{:#?}", world.summary());
}

fn image_of(task: &Task) -> &str {
    &task.spec.container_spec.image
}

#[test]
fn an_update_that_finds_its_tasks_waiting_for_a_node_is_under_way() {
    let mut world = World::new(&["a"]);
    let one_a_node = |service: &mut Service| {
        let placement = service.spec.task_template.placement.get_or_insert_default();
        placement.max_replicas = 1;
    };
    world.fixture.service("web", one_a_node);
    world.settle();
    let order = UpdateOrder::StartFirst;
    world.update("demo:2", UpdateConfig { order, ..config(1) });
    world.settle();
    assert_eq!(world.images("web").len(), 2, "the new one has no node");
    // A change that has nothing to do with it, with which the API begins a new update.
    world.fixture.service("web", |service| {
        service.update_status = None;
        service.spec.labels.insert("a".into(), "b".into());
    });
    world.settle();
    assert_eq!(world.update_state("web"), Some(UpdateState::Updating));
    world.fixture.node("b", |_| {});
    world.run_for(60.0);
    assert_eq!(world.images("web"), ["demo:2"]);
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
}

#[test]
fn an_update_ends_though_a_node_is_paused_under_it() {
    let mut world = World::new(&["a", "b"]);
    let global = |service: &mut Service| service.spec.mode = ServiceMode::Global {};
    world.fixture.service("web", global);
    world.settle();
    world.update("demo:2", config(0));
    // The tasks of both nodes are being replaced.
    world.pass();
    let pause = |node: &mut skein_model::Node| node.spec.availability = Availability::Pause;
    world.fixture.node("b", pause);
    world.run_for(60.0);
    assert_eq!(world.update_state("web"), Some(UpdateState::Completed));
    assert_eq!(world.images("web")[0], "demo:2");
}

#[test]
fn tasks_share_a_host_port_while_one_takes_the_others_place() {
    for (order, mode) in [
        (UpdateOrder::StopFirst, ServiceMode::default()),
        (UpdateOrder::StopFirst, ServiceMode::Global {}),
        (UpdateOrder::StartFirst, ServiceMode::default()),
        (UpdateOrder::StartFirst, ServiceMode::Global {}),
    ] {
        let mut world = World::new(&["a", "b"]);
        world
            .fixture
            .service("web", |service| service.spec.mode = mode);
        world.host_port("web", order, PortProtocol::Tcp, "demo:1");
        world.settle();
        let old = world.live("web").remove(0);
        world.host_port("web", order, PortProtocol::Tcp, "demo:2");
        world.decide();
        let wanted = world.fixture.state.task(&old.id).unwrap().desired_state;
        let stays = order == UpdateOrder::StartFirst;
        assert_eq!(
            wanted <= TaskState::Complete,
            stays,
            "until the new one runs"
        );
        let live = world.live("web").into_iter();
        let mut new = live.filter(|task| task.spec_version != old.spec_version);
        let new = new.next().unwrap();
        assert_eq!(new.node_id, old.node_id, "who calls that node is served on");
        assert_eq!(new.status.state, TaskState::Assigned);
        world.run_for(30.0);
        assert_eq!(world.images("web")[0], "demo:2");
        let mut live = world.live("web").into_iter();
        assert!(live.all(|task| task.status.state == TaskState::Running));
    }
}

#[test]
fn a_port_that_the_engine_publishes_passes_from_the_old_task_to_the_new_one() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut world = World::new(&["a"]);
        world.host_port("web", order, PortProtocol::Sctp, "demo:1");
        world.settle();
        let old = world.live("web").remove(0);
        world.host_port("web", order, PortProtocol::Sctp, "demo:2");
        world.decide();
        let old = world.fixture.state.task(&old.id).unwrap().clone();
        assert_eq!(
            old.desired_state,
            TaskState::Shutdown,
            "no other place for it"
        );
        let new = world.live("web").remove(0);
        if order == UpdateOrder::StopFirst {
            assert_eq!(new.node_id, "a", "made ready while the old one stops");
            // However long that takes.
            world.fixture.pass(100.0);
            world.decide();
            assert_eq!(world.live("web")[0].desired_state, TaskState::Ready);
        } else {
            assert!(new.status.state < TaskState::Assigned);
        }
        world.run_for(30.0);
        assert_eq!(world.images("web"), ["demo:2"]);
        assert_eq!(world.live("web")[0].status.state, TaskState::Running);
    }
}

#[test]
fn nodes_keep_their_tasks_of_a_host_port_over_an_update() {
    let mut world = World::new(&["a", "b", "c"]);
    world.fixture.service("web", |service| {
        service.spec.mode = ServiceMode::Replicated { replicas: 2 };
    });
    world.host_port("web", UpdateOrder::StartFirst, PortProtocol::Tcp, "demo:1");
    world.settle();
    let nodes = |world: &World| {
        let live = world.live("web").into_iter();
        let mut nodes: Vec<String> = live.map(|task| task.node_id.clone()).collect();
        nodes.sort();
        nodes
    };
    let before = nodes(&world);
    world.host_port("web", UpdateOrder::StartFirst, PortProtocol::Tcp, "demo:2");
    world.run_for(60.0);
    assert_eq!(world.images("web"), ["demo:2", "demo:2"]);
    assert_eq!(nodes(&world), before);
    // Where a node takes none any more, its task goes beside one that is yet to be replaced.
    let pause = |node: &mut skein_model::Node| node.spec.availability = Availability::Pause;
    world.fixture.node(&before[0], pause);
    let free = ["a", "b", "c"]
        .into_iter()
        .find(|node| !before.iter().any(|b| b == node));
    world.fixture.node(free.unwrap(), pause);
    world.host_port("web", UpdateOrder::StartFirst, PortProtocol::Tcp, "demo:3");
    world.run_for(60.0);
    let live = world.live("web").into_iter();
    let updated = live.filter(|task| task.status.state == TaskState::Running);
    let on: Vec<_> = updated.filter(|t| t.node_id == before[1]).collect();
    let newest = |task: &&Task| task.spec.container_spec.image == "demo:3";
    assert_eq!(on.iter().filter(|task| newest(task)).count(), 1);
}

#[test]
fn a_node_whose_label_goes_hands_its_tasks_on() {
    let mut world = World::new(&["a", "b"]);
    let label = |node: &mut skein_model::Node| {
        drop(node.spec.labels.insert("disk".into(), "ssd".into()));
    };
    world.fixture.node("a", label);
    world.fixture.node("b", label);
    world.fixture.service("web", |service| {
        service.spec.mode = ServiceMode::Replicated { replicas: 2 };
        let placement = service.spec.task_template.placement.get_or_insert_default();
        placement.constraints = vec!["node.labels.disk==ssd".into()];
    });
    world.settle();
    world.fixture.node("a", |node| node.spec.labels.clear());
    world.run_for(10.0);
    let live = world.live("web");
    assert_eq!(live.len(), 2);
    assert!(live.iter().all(|task| task.node_id == "b"));
}

/// A node that is drained and comes back, however often, has restarted nothing: it has its task again.
#[test]
fn nodes_that_come_back_have_their_task_of_a_global_service_whatever_its_attempts() {
    let mut world = World::new(&["a"]);
    world.fixture.service("web", |service| {
        service.spec.mode = ServiceMode::Global {};
        service.spec.task_template.restart_policy = restart(|policy| policy.max_attempts = 2);
    });
    for _ in 0..5 {
        world.run_for(20.0);
        let live = world.live("web");
        assert_eq!(live.len(), 1, "{:#?}", world.summary());
        assert_eq!(live[0].status.state, TaskState::Running);
        world.fixture.drain("a");
        world.run_for(20.0);
        assert!(world.live("web").is_empty());
        world.fixture.up("a");
    }
    // What fails by itself has as many attempts as it has.
    for attempt in 0..4 {
        world.run_for(20.0);
        let live = world.live("web");
        assert_eq!(
            live.len(),
            usize::from(attempt < 3),
            "{:#?}",
            world.summary()
        );
        if let Some(task) = live.first() {
            world.fixture.report(&task.id, TaskState::Failed);
        }
    }
}
