use super::*;
use crate::testing::Fixture;
use proptest::prelude::*;
use skein_model::{
    Availability, EndpointSpec, NodeState, Placement, Platform, PortConfig, PublishMode,
    Reservations, ResourceRequirements,
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
