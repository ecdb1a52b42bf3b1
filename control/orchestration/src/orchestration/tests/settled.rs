//! Several services that compete for nodes: what is left out because it is at rest is what nothing
//! would have come of. [`World::pass`] compares.

use super::*;
use proptest::prelude::*;
use skein_model::{Reservations, ResourceRequirements};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    Scale(usize, u64),
    Image(usize, u8),
    Mode(usize, bool),
    Remove(usize),
    Down(usize),
    Up(usize),
    Drain(usize),
    Shrink(usize, bool),
    Fail(usize),
    Obey,
    Pass(u8),
    NewLeader,
}

const SERVICES: [&str; 3] = ["one", "two", "web"];
const NODES: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0usize..3, 0u64..4).prop_map(|(service, n)| Step::Scale(service, n)),
        2 => (0usize..3, 0u8..3).prop_map(|(service, image)| Step::Image(service, image)),
        1 => (0usize..3, any::<bool>()).prop_map(|(service, global)| Step::Mode(service, global)),
        1 => (0usize..3).prop_map(Step::Remove),
        1 => (0usize..3).prop_map(Step::Down),
        2 => (0usize..3).prop_map(Step::Up),
        1 => (0usize..3).prop_map(Step::Drain),
        1 => (0usize..3, any::<bool>()).prop_map(|(node, small)| Step::Shrink(node, small)),
        2 => (0usize..12).prop_map(Step::Fail),
        6 => Just(Step::Obey),
        3 => (0u8..40).prop_map(Step::Pass),
        1 => Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..60)
}

impl World {
    fn take_one(&mut self, step: &Step) {
        let fixture = &mut self.fixture;
        match step {
            Step::Scale(service, replicas) => fixture.replicas(SERVICES[*service], *replicas),
            Step::Image(service, image) => fixture.service(SERVICES[*service], |service| {
                set_image(service, &format!("demo:{image}"));
                // A third of a node: of six tasks of all services, one waits.
                service.spec.task_template.resources = Some(ResourceRequirements {
                    reservations: Some(Reservations {
                        memory_bytes: 3 << 30,
                        ..Reservations::default()
                    }),
                    ..ResourceRequirements::default()
                });
            }),
            Step::Mode(service, global) => {
                let id = SERVICES[*service];
                // A service's mode does not change: it is another one by the name.
                if fixture.state.service(id).is_none() && *global {
                    fixture.service(id, |s| s.spec.mode = ServiceMode::Global {});
                }
            }
            Step::Remove(service) => {
                let mut draft = fixture.draft();
                draft.remove(Kind::Service, SERVICES[*service]);
                fixture.commit(draft);
            }
            Step::Down(node) => fixture.down(NODES[*node]),
            Step::Up(node) => fixture.up(NODES[*node]),
            Step::Drain(node) => fixture.drain(NODES[*node]),
            Step::Shrink(node, small) => fixture.node(NODES[*node], |n| {
                n.description.resources.memory_bytes = if *small { 4 << 30 } else { 8 << 30 };
            }),
            Step::Fail(n) => {
                let placed = |task: &&Arc<Task>| !task.node_id.is_empty();
                let nth = fixture.state.tasks().filter(placed).nth(*n).cloned();
                if let Some(task) = nth {
                    fixture.report(&task.id, TaskState::Failed);
                }
            }
            Step::Obey => fixture.agents_obey(),
            Step::Pass(seconds) => fixture.pass((*seconds).into()),
            Step::NewLeader => self.leader = Orchestration::default(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_would_have_come_of_what_is_left_out(steps in steps()) {
        let mut world = World::new(&NODES);
        for (n, service) in SERVICES.iter().enumerate() {
            world.fixture.replicas(service, n as u64 + 1);
        }
        for step in &steps {
            world.take_one(step);
            world.pass();
        }
    }
}

#[test]
fn a_change_of_one_service_leaves_the_others_at_rest() {
    let mut world = World::new(&NODES);
    for service in SERVICES {
        world.fixture.replicas(service, 2);
    }
    world.run_for(60.0);
    let scope = |world: &World| {
        let draft = world.fixture.draft();
        let scope = world.leader.settled.scope(&draft);
        scope
            .services(&draft)
            .map(|s| s.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(scope(&world), [""; 0]);
    world.fixture.replicas("two", 3);
    assert_eq!(scope(&world), ["two"]);
    world.pass();
    assert_eq!(scope(&world), ["two"]);
    world.run_for(60.0);
    assert_eq!(world.live("two").len(), 3);
    assert_eq!(scope(&world), [""; 0]);
}
