//! Random histories, after which a cluster must be what its specs say.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Scale(u64),
    Image(u8, bool),
    Down(usize),
    Up(usize),
    Drain(usize),
    Fail(usize),
    Pass(u8),
    SetBack(u64),
    NewLeader,
    Stop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..6).prop_map(Step::Scale),
        (0u8..3, any::<bool>()).prop_map(|(image, first)| Step::Image(image, first)),
        (0usize..3).prop_map(Step::Down),
        (0usize..3).prop_map(Step::Up),
        (0usize..3).prop_map(Step::Drain),
        (0usize..8).prop_map(Step::Fail),
        (0usize..8).prop_map(Step::Stop),
        (0u8..8).prop_map(Step::Pass),
        (1u64..7200).prop_map(Step::SetBack),
        Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..25)
}

const NODES: [&str; 3] = ["a", "b", "c"];

impl World {
    fn take(&mut self, step: &Step) {
        let fixture = &mut self.fixture;
        let nth = |fixture: &Fixture, n: usize| {
            let mut tasks = fixture.state.tasks().filter(|t| !t.node_id.is_empty());
            tasks.nth(n).map(|task| task.id.clone())
        };
        match step {
            Step::Scale(replicas) => fixture.replicas("web", *replicas),
            Step::Image(image, start_first) => fixture.service("web", |service| {
                set_image(service, &format!("demo:{image}"));
                service.spec.update_config = Some(UpdateConfig {
                    failure_action: FailureAction::Continue,
                    order: if *start_first {
                        UpdateOrder::StartFirst
                    } else {
                        UpdateOrder::StopFirst
                    },
                    ..config(2)
                });
            }),
            Step::Down(node) => fixture.down(NODES[*node]),
            Step::Up(node) => fixture.up(NODES[*node]),
            Step::Drain(node) => fixture.drain(NODES[*node]),
            Step::Fail(n) => {
                if let Some(id) = nth(fixture, *n) {
                    fixture.report(&id, TaskState::Failed);
                }
            }
            Step::Stop(n) => {
                let id = nth(fixture, *n);
                let id = id.filter(|id| {
                    fixture.state.task(id).unwrap().desired_state > TaskState::Running
                });
                if let Some(id) = id {
                    fixture.report(&id, TaskState::Shutdown);
                }
            }
            Step::Pass(seconds) => fixture.pass((*seconds).into()),
            Step::SetBack(seconds) => fixture.set_back(*seconds),
            Step::NewLeader => self.leader = Orchestration::default(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever happens, and at whatever moment: once it stops happening, the service is what its
    /// spec says, on nodes that take tasks; history is bounded; and the leader comes to rest. On the
    /// way no slot has more than two wanted tasks.
    #[test]
    fn clusters_converge(steps in steps()) {
        let mut world = World::new(&NODES);
        world.fixture.replicas("web", 3);
        for step in &steps {
            world.take(step);
            world.pass();
            let mut wanted: BTreeMap<u64, usize> = BTreeMap::new();
            for task in world.live("web") {
                *wanted.entry(task.slot).or_default() += 1;
            }
            prop_assert!(wanted.values().all(|count| *count <= 2), "{:#?}", world.summary());
        }
        world.take(&Step::Up(0));
        world.run_for(200.0);
        let service = world.fixture.state.service("web").unwrap().clone();
        let ServiceMode::Replicated { replicas } = service.spec.mode else {
            unreachable!()
        };
        let live = world.live("web");
        prop_assert_eq!(live.len() as u64, replicas, "{:#?}", world.summary());
        let slots: BTreeSet<_> = live.iter().map(|task| task.slot).collect();
        prop_assert_eq!(slots.len() as u64, replicas);
        for task in &live {
            prop_assert_eq!(task.status.state, TaskState::Running);
            let image = &task.spec.container_spec.image;
            let wanted = &service.spec.task_template.container_spec.image;
            prop_assert_eq!(image, wanted, "{:#?}", world.summary());
            let node = world.fixture.state.node(&task.node_id).unwrap();
            prop_assert_eq!(node.status.state, NodeState::Ready);
            prop_assert_eq!(node.spec.availability, Availability::Active);
        }
        let mut history: BTreeMap<u64, usize> = BTreeMap::new();
        // What a node has that stays down is no history yet: it may run.
        for task in world.fixture.state.tasks() {
            let node = world.fixture.state.node(&task.node_id);
            if node.is_none_or(|node| node.status.state != NodeState::Down) {
                *history.entry(task.slot).or_default() += 1;
            }
        }
        prop_assert!(history.values().all(|count| *count <= 5), "{:#?}", world.summary());
        prop_assert_eq!(world.pass().0, 0);
    }
}
