//! Three managers and very many simulated agents: how long changes take, what the managers need for
//! them, and how soon an agent hears of one.

use super::Options;
use crate::{
    agents::{Agents, told::PROBE},
    api::{Api, Running, is_ready, wait},
    process::{Usage, usage},
    report::{Bar, Figure, Limit, Section, Unit},
    stats::{quantile, sorted},
};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use xtask::{
    IMAGE, Step,
    cluster::{Attach, Cluster, Daemon, Host, Shape},
};

/// How much is simulated.
struct Size {
    agents: u32,
    services: u32,
    /// Of each service.
    replicas: u32,
    /// Nodes that are drained.
    drained: usize,
    /// Changes whose way to an agent is timed.
    probes: u32,
}

const FULL: Size = Size {
    agents: 1_000,
    services: 100,
    replicas: 500,
    drained: 100,
    probes: 200,
};
const QUICK: Size = Size {
    agents: 100,
    services: 20,
    replicas: 100,
    drained: 10,
    probes: 50,
};

/// Tasks of a service that an update replaces at once: a tenth.
const PARALLELISM: u32 = 10;
/// Between two looks at all services: each makes the manager count all tasks.
const POLL: Duration = Duration::from_millis(250);
/// For one phase. A machine that needs longer is too small for this.
const LIMIT: Duration = Duration::from_secs(900);
/// Between two probes: each finds the managers at rest.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Milliseconds, of 99 in 100 changes.
const LATENCY_MAX: f64 = 200.0;

/// Measures.
///
/// # Errors
/// The cluster does not come up, agents are refused, or a phase does not end.
pub fn measure(options: &Options) -> anyhow::Result<Section> {
    let size = if options.quick { QUICK } else { FULL };
    let shape = Shape {
        nodes: 3,
        managers: 3,
        init: true,
        attach: Attach::Auto,
    };
    let cluster = Cluster::up("bench-agents", &shape)?;
    let managers: Vec<&Host> = cluster.nodes().collect();
    let api = Api::at(&cluster.node("n1")?.socket())?;
    let tasks = size.services * size.replicas;
    let mut phases = Phases::begin(&managers)?;

    let step = Step::begin(&format!("let {} agents join", size.agents));
    let mut agents = Agents::start(&cluster, &api, size.agents, options.seed)?;
    agents.await_joined(size.agents)?;
    let nodes = usize::try_from(size.agents)? + managers.len();
    let ready = || Ok(api.nodes()?.iter().filter(|node| is_ready(node)).count());
    wait("all agents are ready", POLL, LIMIT, ready, |n| *n == nodes)?;
    step.end(&phases.end("join", format!("{} agents join", size.agents))?);

    let step = Step::begin(&format!(
        "create {} services of {} replicas",
        size.services, size.replicas
    ));
    let mut services = Vec::new();
    for n in 0..size.services {
        services.push(api.create_service(&service(&format!("load-{n}"), size.replicas))?);
    }
    let all = u64::from(tasks);
    let run = |of: &Running| of.now == all && of.wanted == all;
    wait("all tasks run", POLL, LIMIT, || api.running(), run)?;
    step.end(&phases.end(
        "create",
        format!("{tasks} tasks, from the first create to all running"),
    )?);

    let step = Step::begin(&format!(
        "time the way of {} changes to an agent",
        size.probes
    ));
    let latencies = sorted(&probe(&api, &mut agents, size.probes)?);
    let at = |q| quantile(&latencies, q).context("no probes");
    let (p50, p99, longest) = (at(0.5)?, at(0.99)?, at(1.0)?);
    step.end(&format!("median {p50:.0} ms, 99th percentile {p99:.0} ms"));
    phases.end("probe", "changes one by one".to_owned())?;

    let step = Step::begin("update all services to another image");
    for id in &services {
        api.update_service(id, |spec| {
            let container = spec
                .task_template
                .as_mut()
                .and_then(|t| t.container_spec.as_mut());
            if let Some(container) = container {
                container.image = Some(format!("{IMAGE}:next"));
            }
        })?;
    }
    let count = services.len();
    let updated = |of: &Running| of.updated == count && of.now == all && of.wanted == all;
    wait(
        "all services are updated",
        POLL,
        LIMIT,
        || api.running(),
        updated,
    )?;
    step.end(&phases.end(
        "update",
        format!("{tasks} tasks, to another image, a tenth of a service at a time"),
    )?);

    let step = Step::begin(&format!("drain {} nodes", size.drained));
    let nodes = api.nodes()?;
    let is_agent = |name: Option<&str>| name.is_some_and(|name| name.starts_with("sim"));
    let agents_first = nodes.iter().filter(|node| {
        let description = node.description.as_ref();
        is_agent(description.and_then(|of| of.hostname.as_deref()))
    });
    let drained: Vec<_> = agents_first.take(size.drained).collect();
    let ids: Vec<String> = drained.iter().filter_map(|node| node.id.clone()).collect();
    for node in drained {
        api.drain(node)?;
    }
    wait(
        "drained nodes have no tasks",
        POLL,
        LIMIT,
        || api.wanted_on(&ids),
        |n| *n == 0,
    )?;
    wait(
        "all tasks run elsewhere",
        POLL,
        LIMIT,
        || api.running(),
        run,
    )?;
    step.end(&phases.end(
        "drain",
        format!("{} nodes drained, to all running elsewhere", size.drained),
    )?);

    let ended = agents.end()?;
    let figures = phases.figures;
    cluster.down()?;
    Ok(section(&size, figures, (p50, p99, longest), &ended))
}

fn section(
    size: &Size,
    mut figures: Vec<Figure>,
    (p50, p99, longest): (f64, f64, f64),
    ended: &[String],
) -> Section {
    figures.push(Figure::new(
        "a change's way to its agent, median",
        p50,
        Unit::Milliseconds,
    ));
    figures.push(Figure::new(
        "a change's way to its agent, 99th percentile",
        p99,
        Unit::Milliseconds,
    ));
    figures.push(Figure::new(
        "a change's way to its agent, longest",
        longest,
        Unit::Milliseconds,
    ));
    figures.push(Figure::new(
        "sessions that broke",
        ended.len() as f64,
        Unit::Count,
    ));
    let mut notes = Vec::new();
    if let Some(reason) = ended.first() {
        notes.push(format!(
            "The first session that broke: {}",
            reason.replace('\n', " ")
        ));
    }
    Section {
        title: format!(
            "{} agents, {} tasks, three managers",
            size.agents,
            size.services * size.replicas
        ),
        about: format!(
            "Real managers with engines and dataplanes; agents that join with a token, each with a key, a \
             certificate and a connection of its own, whose containers start and stop by themselves. {} \
             services without networks. A change's way: with all tasks running, services of one replica \
             are created and removed one by one; from the call until the agent's stream has the task, then \
             its end; {} of each. Agents and managers share this machine's processors.",
            size.services, size.probes
        ),
        figures,
        bars: vec![Bar {
            what: "a change's way to its agent, 99th percentile".into(),
            limit: Limit::AtMost(LATENCY_MAX),
            found: Some(p99),
            unit: Unit::Milliseconds,
        }],
        notes,
        ..Section::default()
    }
}

/// A service for the agents alone.
fn service(name: &str, replicas: u32) -> Value {
    json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": format!("{IMAGE}:latest"),
                "Env": ["MODE=production", "LEVEL=info"],
            },
            "Placement": {"Constraints": ["node.role==worker"]},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        // The monitor would only lengthen each update by as much.
        "UpdateConfig": {"Parallelism": (replicas / PARALLELISM).max(1), "Monitor": 1_000_000},
    })
}

/// Milliseconds from the calls that make changes until their agents have them.
fn probe(api: &Api, agents: &mut Agents, count: u32) -> anyhow::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for n in 0..count {
        let name = format!("{PROBE}{n}");
        let called = Instant::now();
        let id = api.create_service(&service(&name, 1))?;
        latencies.push(agents.await_arrival(&name, true, called)?);
        std::thread::sleep(PROBE_PAUSE);
        let called = Instant::now();
        api.remove_service(&id)?;
        latencies.push(agents.await_arrival(&name, false, called)?);
        std::thread::sleep(PROBE_PAUSE);
    }
    Ok(latencies)
}

/// What the managers needed for each phase.
struct Phases<'a> {
    managers: &'a [&'a Host],
    begun: Instant,
    before: Vec<Usage>,
    figures: Vec<Figure>,
}

impl<'a> Phases<'a> {
    fn begin(managers: &'a [&'a Host]) -> anyhow::Result<Self> {
        Ok(Self {
            managers,
            begun: Instant::now(),
            before: Self::usages(managers)?,
            figures: Vec::new(),
        })
    }

    fn usages(managers: &[&Host]) -> anyhow::Result<Vec<Usage>> {
        let usages = managers.iter().map(|host| usage(host, Daemon::Control));
        usages.collect()
    }

    /// Ends one phase, and begins the next. Returns what to show of it.
    fn end(&mut self, short: &str, what: String) -> anyhow::Result<String> {
        let took = self.begun.elapsed().as_secs_f64();
        let after = Self::usages(self.managers)?;
        let used = after.iter().zip(&self.before);
        let used: Vec<f64> = used
            .map(|(after, before)| after.cpu_seconds - before.cpu_seconds)
            .collect();
        let busiest = used.iter().copied().fold(0.0, f64::max);
        let cpu: f64 = used.iter().sum();
        let memory = after.iter().map(|of| of.resident_mb).fold(0.0, f64::max);
        let mut add = |what: String, value, unit| self.figures.push(Figure::new(what, value, unit));
        add(what, took, Unit::Seconds);
        add(
            format!("{short}: processor time of the managers"),
            cpu,
            Unit::CpuSeconds,
        );
        add(
            format!("{short}: of these, the busiest manager"),
            busiest,
            Unit::CpuSeconds,
        );
        add(
            format!("{short}: resident memory of the largest manager after it"),
            memory,
            Unit::Megabytes,
        );
        let shown = format!(
            "{}, {} of managers, {}",
            Unit::Seconds.show(took),
            Unit::CpuSeconds.show(cpu),
            Unit::Megabytes.show(memory)
        );
        self.begun = Instant::now();
        self.before = after;
        Ok(shown)
    }
}
