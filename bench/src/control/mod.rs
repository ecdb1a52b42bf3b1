//! `control`: how fast the control plane is, and what it needs.
//!
//! - [`replicas`]: a service's tasks on one node, against Docker Swarm and the bare engine.
//! - [`memory`]: what an idle node's daemons hold.
//! - [`scheduler`]: the scheduler alone.
//! - [`scale`]: three managers and very many simulated agents.

mod memory;
mod replicas;
mod scale;
mod scheduler;

use crate::{
    machine::Machine,
    report::{Report, Section},
};
use anyhow::Context as _;
use clap::ValueEnum;
use rand::{RngCore, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use xtask::{
    Step,
    cluster::{Attach, Cluster, Host, Shape},
};

/// Its parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The scheduler alone.
    Scheduler,
    /// Memory of an idle node.
    Memory,
    /// 30 replicas from create to all running.
    Replicas,
    /// Simulated agents on one group of managers.
    Agents,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Smaller and shorter: shows that it works.
    pub quick: bool,
    /// Of orders and resampling.
    pub seed: u64,
    /// Which parts; all where none is named.
    pub parts: Vec<Part>,
}

/// Measures.
///
/// # Errors
/// A cluster does not come up, or a part cannot be measured at all.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let machine = Machine::here();
    let mut sections = Vec::new();
    if wants(Part::Scheduler) {
        sections.push(scheduler::measure(&mut rng)?);
    }
    if wants(Part::Memory) || wants(Part::Replicas) {
        sections.extend(one_node(options, &wants, &mut rng)?);
    }
    if wants(Part::Agents) {
        sections.push(scale::measure(options)?);
    }
    Ok(Report {
        bench: "control".into(),
        machine,
        seed: options.seed,
        quick: options.quick,
        sections,
    })
}

/// Swarms of one node side by side, for what is measured against Docker.
fn one_node(
    options: &Options,
    wants: &dyn Fn(Part) -> bool,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Vec<Section>> {
    let shape = Shape {
        nodes: 1,
        managers: 1,
        init: true,
        attach: Attach::Auto,
    };
    let skein = Cluster::up("bench-skein", &shape)?;
    let docker = Cluster::of_engines("bench-docker", 2)?;
    let nodes = Nodes {
        skein: skein.node("n1")?,
        swarm: docker.node("n1")?,
        bare: docker.node("n2")?,
    };
    let step = Step::begin("make Docker's node a swarm");
    let address = nodes.swarm.address().to_string();
    let init = ["swarm", "init", "--advertise-addr", &address];
    nodes.swarm.engine(&init).context("docker swarm init")?;
    step.end("done");
    let mut sections = Vec::new();
    if wants(Part::Memory) {
        sections.push(memory::measure(&nodes, options.quick, rng)?);
    }
    if wants(Part::Replicas) {
        sections.push(replicas::measure(&nodes, options.quick, rng)?);
    }
    skein.down()?;
    docker.down()?;
    Ok(sections)
}

/// Who is compared on one node.
struct Nodes<'a> {
    /// Skein, a swarm of one node.
    skein: &'a Host,
    /// Docker, a swarm of one node.
    swarm: &'a Host,
    /// An engine that is no swarm's.
    bare: &'a Host,
}
