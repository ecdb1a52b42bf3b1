//! `packet`: what one packet costs in each of Skein's programs, beside a program that does nothing.
//!
//! - [`paths`]: whom is asked for what: a line there is a contender. [`empty`]: the program that does nothing.

mod empty;
mod paths;

use crate::{
    machine::Machine,
    pair::Ways,
    programs::NodePrograms,
    report::{Bar, Comparison, Limit, Report, Section, Unit},
    rounds::{Contender, told_in_turns},
};
use empty::Empty;
use paths::{EMPTY_TC, EMPTY_XDP, Path};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use xtask::{
    Step,
    check::{requests::await_published, services},
    cluster::{Attach, Cluster, Forwarding},
};

/// Rounds, and runs of a program in each: together 200,000 runs, whose medians agree to about 1%.
const ROUNDS: usize = 20;
const RUNS: usize = 10_000;
const ROUNDS_QUICK: usize = 3;
const RUNS_QUICK: usize = 1_000;
/// What the clusters publish.
const PORT: u16 = 30_080;
/// Pairs of nodes: how they are set up.
const PAIRS: [Ways; 4] = [
    ways(Attach::Xdp, Forwarding::L2),
    ways(Attach::Xdp, Forwarding::Vxlan),
    ways(Attach::Tc, Forwarding::L2),
    ways(Attach::Tc, Forwarding::Vxlan),
];

const fn ways(attach: Attach, forwarding: Forwarding) -> Ways {
    Ways { attach, forwarding }
}

/// Multiples of the empty program's time: path, to what, limit.
const BARS: [(&str, &str, f64); 3] = [
    (paths::XDP_L2_HIT, EMPTY_XDP, 2.6),
    (paths::XDP_VXLAN_HIT, EMPTY_XDP, 2.9),
    (paths::TC_L2_DELIVER, EMPTY_TC, 3.2),
];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer rounds and runs: shows that it works.
    pub quick: bool,
    /// Of orders and resampling.
    pub seed: u64,
}

/// Measures.
///
/// # Errors
/// The nodes do not come up, or a program does not do what its path is named for.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let machine = Machine::here();
    let hosts: Vec<String> = (1..=2 * PAIRS.len()).map(host).collect();
    let cluster = Cluster::of_hosts("bench-packet", &hosts)?;
    let section = measure(&cluster, options)?;
    cluster.down()?;
    Ok(Report {
        bench: "packet".into(),
        machine,
        seed: options.seed,
        quick: options.quick,
        sections: vec![section],
    })
}

fn host(n: usize) -> String {
    format!("n{n}")
}

fn measure(cluster: &Cluster, options: &Options) -> anyhow::Result<Section> {
    let (rounds, runs) = match options.quick {
        true => (ROUNDS_QUICK, RUNS_QUICK),
        false => (ROUNDS, RUNS),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut nodes = Vec::new();
    for (ways, n) in PAIRS.into_iter().zip((1..).step_by(2)) {
        let pair = [cluster.node(&host(n))?, cluster.node(&host(n + 1))?];
        ways.boot(cluster, pair)?;
        let step = Step::begin("publish a service with its task on the other node");
        let (port, place) = (format!("{PORT}:8080"), "node.hostname==");
        let place = format!("{place}{}", pair[1].name());
        services::create(pair[0], "web", 1, &["-p", &port, "--constraint", &place])?;
        await_published(cluster, pair, PORT)?;
        ways.settle(pair)?;
        step.end("it answers");
        nodes.push([
            RefCell::new(NodePrograms::of(pair[0])?),
            RefCell::new(NodePrograms::of(pair[1])?),
        ]);
    }
    let client = cluster.client()?.address();
    let empty = Empty::load()?;
    let step = Step::begin("see that each program does what it is to be measured at");
    let paths = paths::all(&nodes, &empty, client, PORT)?;
    step.end(&format!("all {} do", paths.len()));
    let comparisons = [EMPTY_XDP, EMPTY_TC].map(|base| {
        let of_layer = paths.iter().filter(|path| path.base == base);
        let mut contenders: Vec<_> = of_layer
            .map(|path: &Path<'_, '_>| Contender::new(path.name, || path.median(runs)))
            .collect();
        let what = format!("a packet, beside {base}");
        let unit = Unit::Nanoseconds;
        let show = |value: &f64| unit.show(*value);
        let turns = told_in_turns(&what, rounds, &mut contenders, &mut rng, show);
        Comparison::new(&what, unit, base, &turns, &mut rng)
    });
    let bars = BARS.iter().map(|&(path, base, limit)| {
        let of = comparisons.iter().find(|of| of.base == base);
        Bar {
            what: format!("{path}, to {base}"),
            limit: Limit::AtMost(limit),
            found: of.and_then(|of| of.ratio_of(path)),
            unit: Unit::Ratio,
        }
    });
    Ok(Section {
        title: "What a packet costs".into(),
        about: format!(
            "Programs run by BPF_PROG_TEST_RUN, one packet a run, with the time that the kernel says it took; the \
             median of {runs} runs a turn, {rounds} rounds after one that does not count. Four clusters of two nodes \
             each, with a published service whose task is on the second: the programs are run over the maps that \
             the nodes' own dataplanes have filled. A hit is a packet of a connection that is known, 54 bytes long.",
        ),
        bars: bars.collect(),
        comparisons: comparisons.into(),
        notes: vec![
            "New flows are measured at half the rate above which floods are not remembered. In each turn they are \
             other ones; the maps of flows fill up meanwhile, as they do under load."
                .into(),
            "What comes in VXLAN is unpacked by the kernel's device, and cannot be made up for the program behind it: \
             so that path is not among them. XDP cannot give a packet to a task, which has a veth pair: it looks at \
             it, and leaves it to tc."
                .into(),
        ],
        ..Section::default()
    })
}
