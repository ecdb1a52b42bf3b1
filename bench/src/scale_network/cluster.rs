//! Three nodes, and simulated agents that have the tasks: how long all of it takes to be in the kernels of the
//! three, and what their daemons need then.

use super::{Options, state::TASKS};
use crate::{
    agents::Agents,
    api::{Api, Running, is_ready, wait},
    process::usage,
    report::{Figure, Section, Unit},
};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use skein_abi::names::MAP_OVERLAY;
use skein_dataplane::kernel::fills;
use std::time::{Duration, Instant};
use xtask::{
    IMAGE, Step,
    cluster::{Attach, Cluster, Daemon, Host, Shape},
};

/// Nodes beside the three, which have all tasks.
const AGENTS: u32 = 50;
/// The network of what is published must have room for all of it.
const INGRESS_SUBNET: &str = "10.128.0.0/10";
/// Between two looks at the managers, or at a node.
const POLL: Duration = Duration::from_millis(250);
/// For one phase. A machine that needs longer is too small for this.
const LIMIT: Duration = Duration::from_secs(600);
/// The first published port.
const FIRST_PORT: u32 = 20_000;
/// Where nodes have their pinned maps.
const BPFFS: &str = "/sys/fs/bpf";
/// Services that are made one by one when all is there.
const PROBES: u32 = 10;
const PROBES_QUICK: u32 = 3;

/// Measures.
///
/// # Errors
/// The cluster does not come up, or a phase does not end.
pub fn measure(options: &Options) -> anyhow::Result<Section> {
    let size = options.many();
    let shape = Shape {
        nodes: 3,
        managers: 3,
        init: true,
        attach: Attach::Auto,
    };
    let cluster = Cluster::up("bench-scale", &shape)?;
    let nodes: Vec<&Host> = cluster.nodes().collect();
    let first = cluster.node("n1")?;
    let socket = Daemon::Control.socket();
    first.shell(&format!(
        "echo y | docker --host unix://{socket} network rm ingress"
    ))?;
    let ingress = [
        "--driver",
        "overlay",
        "--ingress",
        "--subnet",
        INGRESS_SUBNET,
    ];
    first.docker(&[&["network", "create"], &ingress[..], &["wide"]].concat())?;
    let api = Api::at(&first.socket())?;
    let mut agents = Agents::start(&cluster, &api, AGENTS, options.seed)?;
    agents.await_joined(AGENTS)?;
    let all = AGENTS as usize + nodes.len();
    let ready = || Ok(api.nodes()?.iter().filter(|node| is_ready(node)).count());
    wait("all agents are ready", POLL, LIMIT, ready, |n| *n == all)?;

    let mut figures = Vec::new();
    let before = used(&nodes)?;
    let step = Step::begin(&format!("create {} networks", size.networks));
    let begun = Instant::now();
    for nth in 0..size.networks {
        api.create_network(&format!("net-{nth}"))?;
    }
    let took = begun.elapsed().as_secs_f64();
    let what = format!("{} networks, created one by one", size.networks);
    figures.push(Figure::new(what, took, Unit::Seconds));
    step.end("done");

    let tasks = size.services * TASKS;
    let step = Step::begin(&format!("create {} services", size.services));
    let begun = Instant::now();
    for nth in 0..size.services {
        api.create_service(&service(nth, nth % size.networks, TASKS))?;
    }
    let created = begun.elapsed().as_secs_f64();
    let run = |of: &Running| of.now == u64::from(tasks) && of.wanted == u64::from(tasks);
    wait("all tasks run", POLL, LIMIT, || api.running(), run)?;
    let running = begun.elapsed().as_secs_f64();
    // An address of each service, and of each task.
    let addresses = u64::from(tasks);
    for node in &nodes {
        wait(
            "the kernel has all",
            POLL,
            LIMIT,
            || has(node),
            |n| *n >= addresses,
        )?;
    }
    let converged = begun.elapsed().as_secs_f64();
    step.end("all three kernels have them");
    for (what, took) in [
        (
            format!("{} services, created one by one", size.services),
            created,
        ),
        (
            format!("{tasks} tasks, from the first create to all running"),
            running,
        ),
        (
            "from the first create to all in the three kernels".to_owned(),
            converged,
        ),
    ] {
        figures.push(Figure::new(what, took, Unit::Seconds));
    }
    let after = used(&nodes)?;
    for (node, (before, after)) in nodes.iter().zip(before.iter().zip(&after)) {
        for (daemon, before, after) in [
            (Daemon::Control, before[0], after[0]),
            (Daemon::Dataplane, before[1], after[1]),
        ] {
            let of = format!("{} on {}", daemon.name(), node.name());
            let memory = usage(node, daemon)?.resident_mb;
            figures.push(Figure::new(
                format!("{of}: resident"),
                memory,
                Unit::Megabytes,
            ));
            let what = format!("{of}: processor time for all that");
            figures.push(Figure::new(what, after - before, Unit::CpuSeconds));
        }
    }

    let step = Step::begin("make more services, one by one");
    let probes = if options.quick { PROBES_QUICK } else { PROBES };
    let mut took = Vec::new();
    for nth in 0..probes {
        let begun = Instant::now();
        api.create_service(&service(size.services + nth, nth, 1))?;
        let addresses = addresses + u64::from(nth) + 1;
        for node in &nodes {
            let poll = Duration::from_millis(20);
            wait(
                "the kernel has it",
                poll,
                LIMIT,
                || has(node),
                |n| *n >= addresses,
            )?;
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let took = crate::stats::sorted(&took);
    let median = crate::stats::quantile(&took, 0.5).context("no probe")?;
    let what = "one more service of one task, from its create to all in the three kernels, median";
    figures.push(Figure::new(what, median, Unit::Milliseconds));
    step.end("done");

    let ended = agents.end()?;
    ensure!(ended.is_empty(), "sessions broke: {ended:?}");
    cluster.down()?;
    Ok(Section {
        title: format!(
            "Three nodes, {} services, {tasks} tasks, {} networks",
            size.services, size.networks
        ),
        about: format!(
            "Three managers with engines and dataplanes, and {AGENTS} simulated agents, which have the tasks; \
             containers start by themselves. Each service publishes a port, so that the three dataplanes have all \
             tasks, and is on one of the networks. Agents and nodes share this machine's processors."
        ),
        figures,
        ..Section::default()
    })
}

fn service(nth: u32, network: u32, replicas: u32) -> Value {
    json!({
        "Name": format!("service-{nth}"),
        "TaskTemplate": {
            "ContainerSpec": {"Image": format!("{IMAGE}:latest")},
            "Placement": {"Constraints": ["node.role==worker"]},
            "Networks": [{"Target": format!("net-{network}")}],
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "EndpointSpec": {"Ports": [{"TargetPort": 8080, "PublishedPort": FIRST_PORT + nth}]},
    })
}

/// How many addresses of overlays are in a node's kernel. Read from there: to ask the dataplane, many times a second,
/// would keep it from what is measured.
fn has(node: &Host) -> anyhow::Result<u64> {
    let fills = fills(&node.outside(BPFFS))?;
    let addresses = fills.iter().find(|fill| fill.name == MAP_OVERLAY);
    Ok(addresses.context("no map of addresses")?.entries.into())
}

/// Processor time of both daemons on each node.
fn used(nodes: &[&Host]) -> anyhow::Result<Vec<[f64; 2]>> {
    let of = |node: &Host, daemon| anyhow::Ok(usage(node, daemon)?.cpu_seconds);
    let both = |node: &&Host| Ok([of(node, Daemon::Control)?, of(node, Daemon::Dataplane)?]);
    nodes.iter().map(both).collect()
}
