use super::*;
use crate::testing::Fixture;
use proptest::prelude::*;
use skein_model::{Availability, TaskNetwork, TaskState};

const NODES: [&str; 3] = ["a", "b", "c"];

struct World {
    fixture: Fixture,
    drain: Drain,
    /// Of each node, the state that its kernel has.
    kernels: BTreeMap<String, u64>,
}

impl World {
    /// Nodes that have all there is.
    fn new() -> Self {
        let mut fixture = Fixture::default();
        for node in NODES {
            fixture.node(node, |_| {});
        }
        let kernels = NODES.map(|node| (node.to_owned(), fixture.state.index()));
        Self {
            kernels: kernels.into(),
            drain: Drain::default(),
            fixture,
        }
    }

    /// A task that runs on node a, on a network.
    fn running(&mut self, id: &str, network: &str) {
        let now = self.fixture.now;
        self.fixture.task(id, |task| {
            task.node_id = "a".into();
            task.status.state = TaskState::Running;
            task.status.running_since = now;
            task.networks_attachments = vec![TaskNetwork {
                network_id: network.into(),
                address: Some("10.0.0.5/24".parse().unwrap()),
                ..TaskNetwork::default()
            }];
        });
    }

    fn end(&mut self, id: &str) {
        self.fixture
            .task(id, |task| task.desired_state = TaskState::Shutdown);
    }

    fn program(&mut self, node: &str) {
        let index = self.fixture.state.index();
        self.kernels.insert(node.to_owned(), index);
    }

    fn programmed(&self) -> Programmed {
        self.kernels.clone().into_iter().collect()
    }

    fn pass(&mut self) -> Wake {
        let mut wake = Wake::default();
        let mut draft = self.fixture.draft();
        let programmed = self.programmed();
        let scope = Scope::all(&draft);
        self.drain.run(&mut draft, &scope, &programmed, &mut wake);
        self.fixture.commit(draft);
        wake
    }

    fn takes_over(&mut self, id: &str) -> bool {
        self.asks_whether_it_takes_over(id).0
    }

    fn asks_whether_it_takes_over(&mut self, id: &str) -> (bool, Wake) {
        let mut wake = Wake::default();
        let draft = self.fixture.draft();
        let task = draft.task(id).unwrap().clone();
        let programmed = self.programmed();
        let known = BarrierView::of(&draft, &programmed);
        let over = self.drain.takes_over(&draft, &known, &task, &mut wake);
        (over, wake)
    }

    fn drained(&self, id: &str) -> bool {
        self.fixture.state.task(id).unwrap().drained
    }

    fn desired_as_told(&self, id: &str) -> TaskState {
        as_told(self.fixture.state.task(id).unwrap()).desired_state
    }
}

#[test]
fn a_task_drains_until_every_node_has_it_and_what_was_sent_has_arrived() {
    let mut world = World::new();
    world.running("t", "ingress");
    world.pass();
    assert!(!world.drained("t"), "wanted");
    world.end("t");
    let begun = world.fixture.now;
    let wake = world.pass();
    assert!(wake.awaits_nodes());
    assert_eq!(wake.earliest(), Some(begun + NODES_PATIENCE));
    for node in ["a", "b"] {
        world.program(node);
    }
    assert!(world.pass().awaits_nodes(), "node c is not so far");
    world.fixture.pass(1.0);
    world.program("c");
    let wake = world.pass();
    assert!(!wake.awaits_nodes());
    assert_eq!(wake.earliest(), Some(world.fixture.now + SETTLE));
    assert!(!world.drained("t"));
    assert_eq!(world.desired_as_told("t"), TaskState::Running);
    // Its node's reports change the task, not what the nodes know.
    world
        .fixture
        .task("t", |task| task.status.message = "news".into());
    world.fixture.now = wake.earliest().unwrap();
    assert_eq!(world.pass(), Wake::default());
    assert!(world.drained("t"));
    assert_eq!(world.desired_as_told("t"), TaskState::Shutdown);
    assert_eq!(world.drain.take_late(), []);
}

#[test]
fn a_late_node_is_told_of_and_passed_over() {
    let mut world = World::new();
    world.running("t", "ingress");
    world.end("t");
    world.pass();
    world.program("a");
    world.program("c");
    world.fixture.now = world.fixture.now + NODES_PATIENCE;
    world.pass();
    assert!(world.drained("t"));
    let late = Late {
        node_id: "b".into(),
        task_id: "t".into(),
    };
    assert_eq!(world.drain.take_late(), [late]);
    assert_eq!(world.drain.take_late(), []);
}

#[test]
fn what_takes_no_flows_is_not_waited_for() {
    let mut world = World::new();
    for id in ["starting", "on-no-network", "of-the-node", "on-lost-node"] {
        world.running(id, "ingress");
        world.end(id);
    }
    world.fixture.task("starting", |task| {
        task.status.state = TaskState::Starting;
    });
    world.fixture.task("on-no-network", |task| {
        task.networks_attachments.clear();
    });
    world.fixture.task("of-the-node", |task| {
        task.networks_attachments[0].address = None;
    });
    world
        .fixture
        .task("on-lost-node", |task| task.node_id = "removed".into());
    assert_eq!(world.pass(), Wake::default());
    for id in ["starting", "on-no-network", "of-the-node", "on-lost-node"] {
        assert!(world.drained(id), "{id}");
    }
}

#[test]
fn only_nodes_that_may_be_up_and_balance_to_the_task_are_waited_for() {
    let mut world = World::new();
    world.fixture.network("front", |_| {});
    world.running("t", "front");
    world.running("peer", "front");
    world.fixture.task("peer", |task| task.node_id = "b".into());
    world.fixture.node("b", |node| {
        node.spec.availability = Availability::Drain;
    });
    world.end("t");
    world.program("a");
    assert!(world.pass().awaits_nodes(), "b has a task on the network");
    let mut awaited = |state| {
        world.fixture.node("b", |node| node.status.state = state);
        world.pass().awaits_nodes()
    };
    assert!(awaited(NodeState::Unknown), "a new leader waits again");
    assert!(!awaited(NodeState::Down));
    assert!(awaited(NodeState::Ready), "it came back without the mark");
}

#[test]
fn a_mark_that_is_not_agreed_on_is_known_to_nobody() {
    let mut world = World::new();
    world.running("t", "ingress");
    for node in NODES {
        world.program(node);
    }
    let mut draft = world.fixture.draft();
    let mut task = (**draft.task("t").unwrap()).clone();
    task.desired_state = TaskState::Remove;
    draft.put(task);
    let mut wake = Wake::default();
    let programmed = world.programmed();
    let scope = Scope::all(&draft);
    world.drain.run(&mut draft, &scope, &programmed, &mut wake);
    assert!(wake.awaits_nodes());
    // Managers that are slow to agree take nothing of the nodes' time.
    world.fixture.now = world.fixture.now + NODES_PATIENCE;
    world.fixture.commit(draft);
    let wake = world.pass();
    assert!(!world.drained("t"));
    assert_eq!(wake.earliest(), Some(world.fixture.now + NODES_PATIENCE));
}

#[test]
fn a_successor_has_taken_over_once_every_node_sends_to_it() {
    let mut world = World::new();
    world.running("t", "ingress");
    assert!(!world.takes_over("t"));
    for node in NODES {
        let (over, wake) = world.asks_whether_it_takes_over("t");
        assert!(!over && wake.awaits_nodes());
        world.program(node);
    }
    assert!(world.takes_over("t"));
    world.kernels.clear();
    let (over, wake) = world.asks_whether_it_takes_over("t");
    assert!(!over);
    world.fixture.now = world.fixture.now + NODES_PATIENCE;
    assert_eq!(wake.earliest(), Some(world.fixture.now));
    assert!(world.takes_over("t"), "late nodes are not waited for");
}

#[test]
fn a_successor_without_a_process_has_no_traffic_however_far_the_nodes_are() {
    let mut world = World::new();
    world.running("t", "ingress");
    let process = |world: &mut World, pid| {
        world.fixture.task("t", |task| {
            task.status.container_status.get_or_insert_default().pid = pid;
        });
        for node in NODES {
            world.program(node);
        }
    };
    process(&mut world, 0);
    assert!(!world.takes_over("t"));
    world.fixture.now = world.fixture.now + NODES_PATIENCE;
    assert!(!world.takes_over("t"), "nobody sends it anything");
    process(&mut world, 7);
    assert!(world.takes_over("t"));
    process(&mut world, 0);
    world
        .fixture
        .task("t", |task| task.status.state = TaskState::Failed);
    assert!(world.takes_over("t"), "there is nothing to wait for");
    // Nor does anybody send new flows to one that is to end.
    world.running("u", "ingress");
    world.fixture.task("u", |task| {
        task.status.container_status.get_or_insert_default().pid = 0;
    });
    world.end("u");
    world.pass();
    assert!(world.drained("u"));
}

#[test]
fn a_clock_that_is_set_back_does_not_hold_a_successor_for_longer_than_nodes_have() {
    let mut world = World::new();
    world.running("t", "ingress");
    let set_back = |world: &mut World, seconds: i128| {
        let now = world.fixture.now.unix_nanos();
        world.fixture.now = Timestamp::from_unix_nanos(now - seconds * 1_000_000_000);
    };
    set_back(&mut world, 3_600);
    for seconds in [0, 60] {
        set_back(&mut world, seconds);
        let (over, wake) = world.asks_whether_it_takes_over("t");
        assert!(!over);
        assert_eq!(wake.earliest(), Some(world.fixture.now + NODES_PATIENCE));
    }
    world.fixture.now = world.fixture.now + NODES_PATIENCE;
    assert!(world.takes_over("t"));
}

#[derive(Clone, Debug)]
enum Step {
    Program(usize),
    End(usize),
    Report(usize),
    Node(usize, NodeState),
    Pass(u16),
    SetBack(u16),
    NewLeader,
}

const TASKS: [&str; 3] = ["t0", "t1", "t2"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let states = [NodeState::Unknown, NodeState::Down, NodeState::Ready];
    let step = prop_oneof![
        4 => (0..NODES.len()).prop_map(Step::Program),
        2 => (0..TASKS.len()).prop_map(Step::End),
        1 => (0..TASKS.len()).prop_map(Step::Report),
        1 => (0..NODES.len(), prop::sample::select(states.to_vec()))
            .prop_map(|(node, state)| Step::Node(node, state)),
        6 => (0..3_000_u16).prop_map(Step::Pass),
        1 => (0..3_000_u16).prop_map(Step::SetBack),
        1 => Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Whatever happens: a task is let go only if its node is down, or all the others have had the mark, or they have had their time; it is let go once for ever; and in the end, every task
    /// is.
    #[test]
    fn no_task_is_stopped_too_early_and_each_is_in_the_end(steps in steps()) {
        let mut world = World::new();
        for id in TASKS {
            world.running(id, "ingress");
        }
        // By task, the state that first had the mark, and a steady time that never goes back.
        let mut marked: BTreeMap<&str, (u64, Duration)> = BTreeMap::new();
        let mut steady = Duration::ZERO;
        for step in steps {
            match step {
                Step::Program(node) => world.program(NODES[node]),
                Step::End(task) => {
                    let id = TASKS[task];
                    world.end(id);
                    marked.entry(id).or_insert((world.fixture.state.index(), steady));
                }
                Step::Report(task) => world.fixture.task(TASKS[task], |task| {
                    task.status.message.push('.');
                }),
                Step::Node(node, state) => {
                    world.fixture.node(NODES[node], |node| node.status.state = state);
                }
                Step::Pass(millis) => {
                    let time = Duration::from_millis(millis.into());
                    world.fixture.now = world.fixture.now + time;
                    steady += time;
                }
                Step::SetBack(millis) => {
                    let now = world.fixture.now.unix_nanos();
                    let back = i128::from(millis) * 1_000_000;
                    world.fixture.now = skein_model::Timestamp::from_unix_nanos(now - back);
                }
                Step::NewLeader => world.drain = Drain::default(),
            }
            let before: Vec<bool> = TASKS.iter().map(|id| world.drained(id)).collect();
            let is = |node: &str, state: NodeState| {
                world.fixture.state.node(node).unwrap().status.state == state
            };
            let of_task_down = is("a", NodeState::Down);
            let up: Vec<&str> = NODES.into_iter().filter(|node| !is(node, NodeState::Down)).collect();
            world.pass();
            for (id, before) in TASKS.into_iter().zip(before) {
                let now = world.drained(id);
                prop_assert!(now || !before, "let go for ever");
                prop_assert!(!now || marked.contains_key(id), "wanted still");
                if now && !before && !of_task_down {
                    let (index, since) = marked[id];
                    let all = up.iter().all(|node| world.kernels[*node] >= index);
                    let waited = steady - since;
                    prop_assert!(waited >= if all { SETTLE } else { NODES_PATIENCE }, "{waited:?}");
                }
            }
        }
        for id in TASKS {
            world.end(id);
        }
        for _ in 0..10 {
            if let Some(due) = world.pass().earliest() {
                world.fixture.now = due.max(world.fixture.now);
            }
        }
        prop_assert!(TASKS.iter().all(|id| world.drained(id)));
    }
}
