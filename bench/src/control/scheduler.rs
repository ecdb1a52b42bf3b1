//! How much processor time the scheduler takes to place many tasks on many nodes at once.

use crate::{
    report::{Bar, Figure, Limit, Section, Unit},
    stats,
};
use anyhow::{Context as _, ensure};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use skein_model::{
    Cluster, Draft, Node, NodeState, Object, Placement, PlacementPreference, Proposal,
    Reservations, ResourceRequirements, Service, SpreadOver, State, Task, TaskState, Timestamp,
    Version, new_id,
};
use skein_orchestration::scheduler::Scheduler;
use std::time::Duration;
use xtask::Step;

const NODES: usize = 1000;
/// Of so many services are the tasks.
const SERVICES: usize = 100;
/// Every node is in one of so many racks.
const RACKS: usize = 20;
/// Runs of each case; the median counts.
const RUNS: usize = 5;
/// Changes in one proposal, as the store takes them.
const ACTIONS: usize = skein_model::PROPOSAL_ACTIONS_MAX;
/// Tasks to place, and the seconds that it may take. SwarmKit's own benchmark took 22.6 s for the latter.
const CASES: [(usize, f64); 2] = [(10_000, 0.25), (100_000, 3.0)];

/// Measures all cases.
///
/// # Errors
/// A task finds no node, or the kernel does not count processor time.
pub fn measure(rng: &mut dyn RngCore) -> anyhow::Result<Section> {
    let mut section = Section {
        title: "Scheduler alone".into(),
        about: format!(
            "Places all tasks of {SERVICES} services, with reservations, a constraint and partly a \
             spread preference, on {NODES} nodes in one pass: processor time of its one thread, \
             {RUNS} runs."
        ),
        ..Section::default()
    };
    for (tasks, limit) in CASES {
        let step = Step::begin(&format!(
            "place {tasks} tasks on {NODES} nodes, {RUNS} times"
        ));
        let state = cluster(tasks)?;
        let times = (0..RUNS).map(|_| Ok(schedule(&state, tasks)?.as_secs_f64()));
        let times = times.collect::<anyhow::Result<Vec<f64>>>()?;
        let summary = stats::summary(&times, rng).context("no runs")?;
        let median = summary.median;
        step.end(&Unit::Seconds.show(median));
        let what = format!("{tasks} tasks on {NODES} nodes");
        let (shortest, longest) = summary.range;
        for (of, value) in [
            ("median", median),
            ("shortest run", shortest),
            ("longest run", longest),
        ] {
            let figure = Figure::new(format!("{what}, {of}"), value, Unit::Seconds);
            section.figures.push(figure);
        }
        section.bars.push(Bar {
            what,
            limit: Limit::AtMost(limit),
            found: Some(median),
            unit: Unit::Seconds,
        });
    }
    Ok(section)
}

/// The time that this thread has been on a processor: what others do on a busy machine is not the
/// scheduler's.
fn cpu_time() -> anyhow::Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    let nanos = nanos.with_context(|| format!("no nanoseconds in {path}: {text}"))?;
    Ok(Duration::from_nanos(nanos))
}

/// The time for placing all tasks of a state.
fn schedule(state: &State, tasks: usize) -> anyhow::Result<Duration> {
    let mut draft = Draft::new(state.clone(), Timestamp::from_unix_nanos(1));
    let start = cpu_time()?;
    Scheduler::default().run(&mut draft);
    let took = cpu_time()? - start;
    let placed = draft.tasks().filter(|task| !task.node_id.is_empty());
    let placed = placed.count();
    ensure!(placed == tasks, "of {tasks} tasks {placed} found a node");
    Ok(took)
}

fn cluster(tasks: usize) -> anyhow::Result<State> {
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
        applied.context("a fresh store takes no fresh objects")?;
    }
    Ok(state)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_of_a_case_finds_a_node() {
        let state = cluster(2 * NODES).unwrap();
        assert_eq!(state.nodes().count(), NODES);
        assert_eq!(state.tasks().count(), 2 * NODES);
        assert!(schedule(&state, 2 * NODES).unwrap() > Duration::ZERO);
        assert!(schedule(&state, 2 * NODES + 1).is_err());
    }
}
