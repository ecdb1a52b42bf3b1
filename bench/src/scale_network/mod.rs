//! `scale-network`: what very many services, tasks and overlays cost whoever carries packets.
//!
//! - [`cluster`]: three nodes and simulated agents: how long all of it takes, and what the daemons need.
//! - [`kernel`]: a node's dataplane alone, which is told of [`state`]; [`packets`]: what its programs take.

mod cluster;
mod kernel;
mod packets;
mod state;

use crate::{machine::Machine, report::Report};
use clap::ValueEnum;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use state::Size;

/// What everything is compared with.
const FEW: Size = Size {
    name: "10 services",
    services: 10,
    networks: 10,
};
const MANY: Size = Size {
    name: "2,000 services",
    services: 2_000,
    networks: 500,
};
const MANY_QUICK: Size = Size {
    name: "200 services",
    services: 200,
    networks: 50,
};
/// Turns of what takes milliseconds, and of real requests.
const ROUNDS: usize = 31;
const ROUNDS_QUICK: usize = 3;
const REQUEST_ROUNDS: usize = 9;

/// Its parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Three nodes and simulated agents.
    Cluster,
    /// A node's kernel.
    Kernel,
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

impl Options {
    fn many(&self) -> Size {
        if self.quick { MANY_QUICK } else { MANY }
    }

    fn rounds(&self) -> usize {
        if self.quick { ROUNDS_QUICK } else { ROUNDS }
    }

    fn request_rounds(&self) -> usize {
        if self.quick {
            ROUNDS_QUICK
        } else {
            REQUEST_ROUNDS
        }
    }
}

/// Measures.
///
/// # Errors
/// A cluster does not come up, or does not come to what it is to be.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let machine = Machine::here();
    let mut sections = Vec::new();
    if wants(Part::Cluster) {
        sections.push(cluster::measure(options)?);
    }
    if wants(Part::Kernel) {
        sections.extend(kernel::measure(options, &mut rng)?);
    }
    Ok(Report {
        bench: "scale-network".into(),
        machine,
        seed: options.seed,
        quick: options.quick,
        sections,
    })
}
