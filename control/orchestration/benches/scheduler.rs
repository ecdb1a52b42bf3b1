//! How much processor time the scheduler takes to place many tasks on many nodes at once. Prints one line a case,
//! and fails where a case takes longer than it may.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use skein_model::{
    Cluster, Draft, Node, NodeState, Object, Placement, PlacementPreference, Proposal,
    Reservations, ResourceRequirements, Service, SpreadOver, State, Task, TaskState, Timestamp,
    Version, new_id,
};
use skein_orchestration::scheduler::Scheduler;
use std::time::Duration;

const NODES: usize = 1000;
/// Of so many services are the tasks.
const SERVICES: usize = 100;
/// Every node is in one of so many racks.
const RACKS: usize = 20;
/// Runs of each case; the median counts.
const RUNS: usize = 5;
/// Changes in one proposal, as the store takes them.
const ACTIONS: usize = skein_model::PROPOSAL_ACTIONS_MAX;

fn main() {
    let mut late = false;
    for (tasks, limit) in [
        (10_000, Duration::from_millis(250)),
        (100_000, Duration::from_secs(3)),
    ] {
        let state = cluster(tasks);
        let mut times: Vec<Duration> = (0..RUNS).map(|_| schedule(&state, tasks)).collect();
        times.sort();
        let median = times[RUNS / 2];
        println!("{tasks} tasks on {NODES} nodes: {median:?} (at most {limit:?})");
        late |= median > limit;
    }
    assert!(!late, "the scheduler is slower than it may be");
}

/// The time that this thread has been on a processor: what others do on a busy machine is not the
/// scheduler's.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat");
    let text = text.expect("a kernel with schedstat");
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds on the processor"))
}

/// The time for placing all tasks of a state.
fn schedule(state: &State, tasks: usize) -> Duration {
    let mut draft = Draft::new(state.clone(), Timestamp::from_unix_nanos(1));
    let start = cpu_time();
    Scheduler::default().run(&mut draft);
    let took = cpu_time() - start;
    let placed = draft.tasks().filter(|task| !task.node_id.is_empty());
    assert_eq!(placed.count(), tasks);
    took
}

fn cluster(tasks: usize) -> State {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut objects: Vec<Object> = vec![
        Cluster {
            id: "cluster".into(),
            ..Cluster::default()
        }
        .into(),
    ];
    for n in 0..NODES {
        let mut node = Node {
            id: new_id(&mut rng),
            ..Node::default()
        };
        node.status.state = NodeState::Ready;
        node.description.hostname = format!("host{n}");
        node.description.resources.nano_cpus = 64_000_000_000;
        node.description.resources.memory_bytes = 256 << 30;
        let labels = &mut node.spec.labels;
        labels.insert("rack".into(), (n % RACKS).to_string());
        labels.insert("disk".into(), "ssd".into());
        objects.push(node.into());
    }
    let services: Vec<String> = (0..SERVICES).map(|_| new_id(&mut rng)).collect();
    for (n, id) in services.iter().enumerate() {
        let mut service = Service {
            id: id.clone(),
            ..Service::default()
        };
        service.spec.name = format!("web{n}");
        objects.push(service.into());
    }
    objects.extend((0..tasks).map(|n| {
        let service = &services[n % SERVICES];
        Object::from(task(n, new_id(&mut rng), service.clone()))
    }));
    let mut state = State::default();
    for (index, actions) in objects.chunks(ACTIONS).enumerate() {
        let proposal = Proposal {
            at: Timestamp::from_unix_nanos(1),
            actions: actions
                .iter()
                .cloned()
                .map(skein_model::Action::Create)
                .collect(),
        };
        let applied = state.apply(index as u64 + 1, &proposal);
        applied.expect("a fresh store takes fresh objects");
    }
    state
}

/// A task as services have them: with reservations, a constraint and, every other service, a
/// preference.
fn task(n: usize, id: String, service_id: String) -> Task {
    let service = n % SERVICES;
    let mut task = Task {
        id,
        service_id,
        service_name: format!("web{service}"),
        slot: (n / SERVICES) as u64 + 1,
        desired_state: TaskState::Running,
        spec_version: Some(Version { index: 7 }),
        ..Task::default()
    };
    task.status.state = TaskState::Pending;
    let container = &mut task.spec.container_spec;
    container.image = format!("registry.example.com/team/app:{service}");
    container.env = vec!["MODE=production".into(), "LEVEL=info".into()];
    task.spec.resources = Some(ResourceRequirements {
        reservations: Some(Reservations {
            nano_cpus: 100_000_000,
            memory_bytes: 64 << 20,
            ..Reservations::default()
        }),
        ..ResourceRequirements::default()
    });
    let rack = PlacementPreference {
        spread: Some(SpreadOver {
            spread_descriptor: "node.labels.rack".into(),
        }),
    };
    task.spec.placement = Some(Placement {
        constraints: vec!["node.labels.disk==ssd".into()],
        preferences: [rack].into_iter().take(service % 2).collect(),
        ..Placement::default()
    });
    task
}
