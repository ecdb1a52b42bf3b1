//! `ingress`: a published port of a node that does not have the task, against other ways to the same
//! server.
//!
//! - [`topology`]: the hosts, and who is an entry. [`server`]: whom all ask. [`peers`]: the others.
//! - [`rates`]: as many requests, and as many connections, as go through, by [`wrk`].
//! - [`steady`]: latency and processor time at a fixed rate, by [`load`].
//! - [`bulk`]: throughput, and datagrams.

mod bulk;
pub mod load;
mod peers;
mod rates;
pub mod server;
mod steady;
mod topology;
pub mod wrk;

pub use peers::Peer;

use crate::{
    machine::{self, Machine},
    report::{Bar, Limit, Report, Unit},
    stats::Ratio,
};
use clap::ValueEnum;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use topology::Topology;
use xtask::setup;

/// What other ways need, and their measuring: (the file that shows that it is there, Debian's package).
const PACKAGES: [(&str, &str); 4] = [
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/nginx", "nginx"),
    (
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
    ),
    ("/usr/bin/iperf3", "iperf3"),
];
/// Clients at the same time.
const CONNECTIONS: usize = 32;
/// Rounds of the full run: as many as the bars' intervals are over.
const ROUNDS: usize = 15;
const ROUNDS_QUICK: usize = 2;

/// Its parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Requests a second on kept connections, and new connections a second.
    Rates,
    /// Latency, and processor time for each request, at a fixed rate.
    Steady,
    /// Throughput of one connection, and small datagrams a second.
    Bulk,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter rounds: shows that it works.
    pub quick: bool,
    /// Of orders and resampling.
    pub seed: u64,
    /// Which parts; all where none is named.
    pub parts: Vec<Part>,
    /// Whom to compare with, beside plain routing; all where none is named.
    pub peers: Vec<Peer>,
    /// Skein's return modes at each hook, and not only at the one that it takes by itself here.
    pub every_mode: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { ROUNDS_QUICK } else { ROUNDS }
    }
}

/// Measures.
///
/// # Errors
/// The hosts do not come up, or a contender does not answer.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    setup::install(&PACKAGES)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let machine = Machine::here();
    let mut peers = options.peers.clone();
    if peers.is_empty() {
        peers = Peer::all().to_vec();
    }
    let has_ipvs = machine::has_ipvs();
    let wanted = peers.len();
    peers.retain(|peer| *peer != Peer::Docker || has_ipvs);
    let lacks_docker = peers.len() < wanted;

    let topology = Topology::make(&peers, options.every_mode)?;
    let mut sections = Vec::new();
    if wants(Part::Rates) {
        sections.push(rates::measure(&topology, options, &mut rng)?);
    }
    if wants(Part::Steady) {
        sections.extend(steady::measure(&topology, options, &mut rng)?);
    }
    if wants(Part::Bulk) {
        sections.push(bulk::measure(&topology, options, &mut rng)?);
    }
    if let Some(first) = sections.first_mut() {
        first.notes.extend(notes(&topology, lacks_docker));
    }
    topology.cluster.down()?;
    Ok(Report {
        bench: "ingress".into(),
        machine,
        seed: options.seed,
        quick: options.quick,
        sections,
    })
}

/// What to know of the contenders.
fn notes(topology: &Topology, lacks_docker: bool) -> Vec<String> {
    let mut notes = vec![
        "All hosts are network namespaces of this machine on one switch. The client calls an entry, which \
         has no task; the server is behind another host, in a namespace of its own. Every packet passes the \
         entry both ways, which is made sure of before; but answers by dsr, which go from the server's host to the \
         client. Skein's contenders with one hook and forwarding are the same hosts, whose services change their \
         return mode before each turn."
            .into(),
        "The server is nginx with one worker that answers from its configuration; for Skein it is the task of \
         a service, for all others the same program with the same configuration. Hosts that are not Skein's \
         have no engine, and no netfilter rule but the contender's. All wires are veth pairs without \
         checksum offload at the hosts' ends; those to nodes with XDP have GRO at the switch's end, without \
         which veth takes no frames from XDP."
            .into(),
        "nftables and iptables have the chains that kube-proxy writes for three NodePort services with one \
         endpoint each; with one endpoint no mode of it has one to draw. HAProxy and nginx have a thread, or \
         a worker, for each processor."
            .into(),
    ];
    let names = |keeps| topology.who(keeps).join("; ");
    notes.push(format!(
        "The server sees the client's own address by: {}. It sees another by: {}.",
        names(true),
        names(false)
    ));
    if lacks_docker {
        notes.push(format!(
            "Docker's own mesh is not among them: {}.",
            machine::NO_IPVS
        ));
    }
    notes
}

/// Bars of a ratio and of the lower end of its interval.
fn at_least(what: &str, found: Option<Ratio>, value: f64, low: f64) -> [Bar; 2] {
    let bar = |what, limit, found| Bar {
        what,
        limit: Limit::AtLeast(limit),
        found,
        unit: Unit::Ratio,
    };
    [
        bar(what.to_owned(), value, found.map(|of| of.value)),
        bar(
            format!("{what}, lower end of 95%"),
            low,
            found.map(|of| of.interval.0),
        ),
    ]
}
