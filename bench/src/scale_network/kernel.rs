//! Two nodes side by side, on which nothing of Skein runs but the dataplane: one is told of few services, the other
//! of very many. Everything is in the kernel then, and a container of each node is on their networks.

use super::{
    FEW, Options,
    packets::{Case, Node},
    state::{self, INGRESS, INGRESS_SUBNET, OWN_CALLER, OWN_TASK, Own, Size},
};
use crate::{
    ingress::{
        server::HTTP,
        wrk::{self, Connections},
    },
    process::usage,
    report::{Bar, Comparison, Figure, Limit, Section, Unit},
    rounds::{Contender, told_in_turns},
    stats::{quantile, sorted},
};
use anyhow::{Context as _, ensure};
use rand::RngCore;
use serde_json::Value;
use skein_abi::names::{PINNED_MAPS, PINS};
use skein_proto::{
    network::{NetworkUpdate, Programmed, dataplane_client::DataplaneClient},
    plugin::NETWORK_OPTION,
    socket::connect,
};
use std::{
    cell::RefCell,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use xtask::{
    IMAGE, Step,
    cluster::{Attach, Cluster, Daemon, Host},
    wait_until,
};

/// Of what a packet costs, to the same with few services.
const COST_MAX: f64 = 1.05;
/// Changes whose way into the kernel is timed.
const CHANGES: u64 = 40;
const CHANGES_QUICK: u64 = 6;
/// Of real requests, a turn.
const TIME: Duration = Duration::from_secs(3);
const TIME_QUICK: Duration = Duration::from_secs(1);
/// For the largest state.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// From a container's start to its server's first answer.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// Measures.
///
/// # Errors
/// A dataplane does not come to what it is told.
pub fn measure(options: &Options, rng: &mut dyn RngCore) -> anyhow::Result<Vec<Section>> {
    let many = options.many();
    let hosts = ["n1".to_owned(), "n2".to_owned()];
    let cluster = Cluster::of_hosts("bench-scale-kernel", &hosts)?;
    let nodes = [cluster.node("n1")?, cluster.node("n2")?];
    for node in nodes {
        cluster.attach(node, Attach::Tc)?;
    }
    cluster.boot(&nodes, &[Daemon::Dataplane, Daemon::Engine])?;
    let mut figures = Vec::new();
    for (node, size) in nodes.into_iter().zip([FEW, many]) {
        figures.extend(program(node, size, options)?);
    }
    let sections = vec![
        Section {
            title: "A node's kernel with many services".into(),
            about: format!(
                "Two nodes with a dataplane each, told by this benchmark of {} services, and of {} services with {} \
                 tasks on {} overlays, all on two other nodes; each publishes a port and has an address of its own. \
                 Each node has a task and another container of its own. A change: a task begins to drain, or is ready \
                 again, until the dataplane says that the kernel has it.",
                FEW.services,
                many.services,
                many.services * state::TASKS,
                many.networks
            ),
            figures,
            ..Section::default()
        },
        packets(nodes, many, options, rng)?,
        requests(&cluster, nodes, many, options, rng)?,
    ];
    cluster.down()?;
    Ok(sections)
}

fn own(node: &Host) -> Own {
    Own {
        node: node.address(),
        port: HTTP,
    }
}

/// Makes a node what it is to be, and times what that takes.
fn program(node: &Host, size: Size, options: &Options) -> anyhow::Result<Vec<Figure>> {
    let name = size.name;
    let mut figures = Vec::new();
    let mut add = |what: &str, value: f64, unit| {
        figures.push(Figure::new(format!("{name}: {what}"), value, unit));
    };
    let step = Step::begin(&format!("tell {} of {name}", node.name()));
    let mut session = Session::open(node)?;
    let all = state::complete(size, own(node), 1);
    add(
        "from all at once to all in the kernel",
        session.send(all)?.as_secs_f64(),
        Unit::Seconds,
    );
    attach(node)?;
    let before = usage(node, Daemon::Dataplane)?.cpu_seconds;
    let changes = if options.quick {
        CHANGES_QUICK
    } else {
        CHANGES
    };
    let mut took = Vec::new();
    for nth in 0..changes {
        let change = state::scaled(7, size, nth % 2 == 0, nth + 2);
        took.push(session.send(change)?.as_secs_f64() * 1e3);
    }
    let used = usage(node, Daemon::Dataplane)?.cpu_seconds - before;
    let took = sorted(&took);
    let at = |q| quantile(&took, q).context("no change");
    add("a change, median", at(0.5)?, Unit::Milliseconds);
    add("a change, longest", at(1.0)?, Unit::Milliseconds);
    let each = used * 1e6 / changes as f64;
    add("a change, processor time", each, Unit::CpuMicroseconds);
    drop(session);
    node.kill(&[Daemon::Dataplane])?;
    let killed = Instant::now();
    node.start(&[Daemon::Dataplane])?;
    let back = killed.elapsed().as_secs_f64();
    add("from a restart to its being ready", back, Unit::Seconds);
    let memory = usage(node, Daemon::Dataplane)?;
    let resident = "skein-dataplane after it, resident";
    add(resident, memory.resident_mb, Unit::Megabytes);
    add(
        "the kernel's maps that are pinned",
        pinned_megabytes(node)?,
        Unit::Megabytes,
    );
    step.end("it has all");
    Ok(figures)
}

/// A task on the ingress network, which serves the demo, and a container on the first overlay.
fn attach(node: &Host) -> anyhow::Result<()> {
    let (net, length) = INGRESS_SUBNET;
    let gateway = std::net::Ipv4Addr::from_bits(net.to_bits() + 1).to_string();
    let overlay = state::overlay(0);
    let (subnet, overlay_gateway) = state::overlay_subnet(0);
    for (id, subnet, gateway, address) in [
        (INGRESS, format!("{net}/{length}"), gateway, OWN_TASK),
        (&overlay, subnet, overlay_gateway, OWN_CALLER),
    ] {
        let (option, address) = (format!("{NETWORK_OPTION}={id}"), address.to_string());
        let twin = format!("twin-{id}");
        node.engine(&[
            "network",
            "create",
            "-d",
            "skein",
            "--ipam-driver",
            "skein",
            "--ipam-opt",
            &option,
            "--opt",
            &option,
            "--subnet",
            &subnet,
            "--gateway",
            &gateway,
            &twin,
        ])?;
        node.engine(&[
            "run",
            "-d",
            "--name",
            id,
            "--network",
            &twin,
            "--ip",
            &address,
            "--env",
            "NODE=own",
            IMAGE,
        ])?;
    }
    Ok(())
}

/// The memory of a node's maps, but for the tables of nodes that are in arrays of maps, in millions of bytes.
fn pinned_megabytes(node: &Host) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for map in PINNED_MAPS {
        let pin = format!("/sys/fs/bpf/{PINS}/maps/{map}");
        let shown = node.run(&format!("bpftool -j map show pinned {pin}"))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let of_map = shown["bytes_memlock"].as_u64();
        bytes += of_map.with_context(|| format!("bpftool says {shown}"))?;
    }
    Ok(bytes as f64 / 1e6)
}

fn packets(
    [few, many]: [&Host; 2],
    size: Size,
    options: &Options,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let few = RefCell::new(Node::open(few, FEW, own(few))?);
    let many = RefCell::new(Node::open(many, size, own(many))?);
    let mut comparisons = Vec::new();
    let mut bars = Vec::new();
    for case in Case::all() {
        let mut contenders = [
            Contender::new(FEW.name, || few.borrow_mut().measure(case)),
            Contender::new(size.name, || many.borrow_mut().measure(case)),
        ];
        let (what, unit) = (case.what(), Unit::Nanoseconds);
        let rounds = options.rounds();
        let turns = told_in_turns(&what, rounds, &mut contenders, rng, |value| {
            unit.show(*value)
        });
        let comparison = Comparison::new(&what, unit, FEW.name, &turns, rng);
        // To all services in turns there are more of them to look up, in less of the processor's cache.
        if !case.spread {
            bars.push(Bar {
                what: format!("{what}: {} to {}", size.name, FEW.name),
                limit: Limit::AtMost(COST_MAX),
                found: comparison.ratio_of(size.name),
                unit: Unit::Ratio,
            });
        }
        comparisons.push(comparison);
    }
    Ok(Section {
        title: "What a packet costs with many services".into(),
        about: format!(
            "The programs of both nodes, as they are attached, run on frames by BPF_PROG_TEST_RUN: in each of {} \
             turns 4000 times, one frame each, of which the median counts. What the kernel takes to start and stop \
             its clock is in it.",
            options.rounds()
        ),
        comparisons,
        bars,
        ..Section::default()
    })
}

fn requests(
    cluster: &Cluster,
    nodes: [&Host; 2],
    size: Size,
    options: &Options,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let client = cluster.client()?;
    for node in nodes {
        let url = format!("http://{}:{HTTP}/", node.address());
        let ask = || client.run(&format!("curl -sSf -m 2 -o /dev/null {url}"));
        wait_until(&format!("{url} answers"), SERVES_WITHIN, ask)?;
    }
    let time = if options.quick { TIME_QUICK } else { TIME };
    let mut comparisons = Vec::new();
    for (what, connections) in [
        ("requests a second on kept connections", Connections::Kept),
        ("new connections a second", Connections::New),
    ] {
        let contender = |name, node: &'_ Host| {
            let address = node.address();
            Contender::new(name, move || wrk::rate(client, address, connections, time))
        };
        let mut contenders = [
            contender(FEW.name, nodes[0]),
            contender(size.name, nodes[1]),
        ];
        let unit = Unit::PerSecond;
        let show = |value: &f64| unit.show(*value);
        let turns = told_in_turns(what, options.request_rounds(), &mut contenders, rng, show);
        comparisons.push(Comparison::new(what, unit, FEW.name, &turns, rng));
    }
    Ok(Section {
        title: "Real requests with many services".into(),
        about: format!(
            "From the client to the published port of each node's own task, by wrk with 32 connections, {} s a turn.",
            time.as_secs()
        ),
        comparisons,
        ..Section::default()
    })
}

/// A control plane of a dataplane's.
struct Session {
    runtime: Runtime,
    updates: mpsc::Sender<NetworkUpdate>,
    answers: Streaming<Programmed>,
}

impl Session {
    fn open(node: &Host) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build()?;
        let socket = node.socket_of(Daemon::Dataplane);
        let (updates, queue) = mpsc::channel(1);
        let open = async {
            let mut client = DataplaneClient::new(connect(&socket).await?);
            client.sync(ReceiverStream::new(queue)).await
        };
        let answers = runtime.block_on(open).context("cannot open a session")?;
        Ok(Self {
            runtime,
            updates,
            answers: answers.into_inner(),
        })
    }

    /// How long it takes until the kernel has it.
    fn send(&mut self, update: NetworkUpdate) -> anyhow::Result<Duration> {
        let (begun, version) = (Instant::now(), update.version);
        let answers = &mut self.answers;
        let updates = &self.updates;
        let send = async {
            updates.send(update).await.context("it ended the session")?;
            loop {
                let answer = answers.message().await?;
                let answer = answer.context("it ended the session")?;
                ensure!(answer.problems.is_empty(), "{:?}", answer.problems);
                if answer.version == version {
                    return Ok(begun.elapsed());
                }
            }
        };
        self.runtime.block_on(async {
            let within = tokio::time::timeout(ANSWER_TIMEOUT, send).await;
            within.context("the dataplane did not answer in time")?
        })
    }
}
