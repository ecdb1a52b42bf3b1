//! `dns`: the names of a cluster, as fast as they are answered, beside dnsmasq and unbound with the same records.
//!
//! - [`records`]: what they all serve, and what is asked. [`servers`]: who serves it. [`own`]: Skein's server, in a
//!   process of its own. [`dnsperf`]: who asks.

mod dnsperf;
pub mod own;
mod records;
mod servers;

use crate::{
    machine::Machine,
    report::{Bar, Comparison, Limit, Report, Section, Unit},
    rounds::{Contender, told_in_turns},
};
use dnsperf::Asked;
use rand::{RngCore, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use records::Mix;
use servers::{SKEIN, Server, UNBOUND};
use std::time::Duration;
use xtask::{cluster::Cluster, setup};

/// What is measured with, and beside: (the file that shows that it is there, Debian's package).
const PACKAGES: [(&str, &str); 3] = [
    ("/usr/bin/dnsperf", "dnsperf"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
    ("/usr/sbin/unbound", "unbound"),
];
/// The host on which all of it is.
const HOST: &str = "server";
/// Rounds of the full run, and how long a turn is.
const ROUNDS: usize = 9;
const ROUNDS_QUICK: usize = 2;
const TIME: Duration = Duration::from_secs(4);
const TIME_QUICK: Duration = Duration::from_secs(1);
/// Questions a second at which latencies are compared: a small part of what each can.
const STEADY: u32 = 5_000;
/// Of the rate of unbound, the quickest of those that people have.
const TO_UNBOUND: f64 = 1.5;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter rounds: shows that it works.
    pub quick: bool,
    /// Of orders and resampling.
    pub seed: u64,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { ROUNDS_QUICK } else { ROUNDS }
    }

    fn time(&self) -> Duration {
        if self.quick { TIME_QUICK } else { TIME }
    }
}

/// Measures.
///
/// # Errors
/// A server does not start, or does not say what the others do.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    setup::install(&PACKAGES)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let machine = Machine::here();
    let cluster = Cluster::of_hosts("bench-dns", &[HOST.to_owned()])?;
    let host = cluster.host(HOST)?;
    let servers = servers::start(host, &mut rng)?;
    let mut comparisons = Vec::new();
    let mut bars = Vec::new();
    for mix in Mix::ALL {
        let what = format!("answers a second: {}", mix.what());
        let comparison = compare(&servers, options, &mut rng, &what, Unit::PerSecond, |of| {
            let asked = dnsperf::ask(host, of.port, mix, None, options.time())?;
            Ok(asked.rate)
        });
        bars.push(Bar {
            what: format!("{what}: {SKEIN} to {UNBOUND}"),
            limit: Limit::AtLeast(TO_UNBOUND),
            found: comparison.ratio_of(SKEIN),
            unit: Unit::Ratio,
        });
        comparisons.push(comparison);
    }
    let what = format!(
        "mean latency at {STEADY} questions a second: {}",
        Mix::All.what()
    );
    let latency = |of: &Server| {
        let asked: Asked = dnsperf::ask(host, of.port, Mix::All, Some(STEADY), options.time())?;
        Ok(asked.latency * 1e3)
    };
    let unit = Unit::Milliseconds;
    comparisons.push(compare(&servers, options, &mut rng, &what, unit, latency));
    cluster.down()?;
    let section = Section {
        title: "Names of a cluster".into(),
        about: format!(
            "{} services with an address each, and {} tasks of each, {} records in all, on one network. Each \
             server has one of the machine's processors for itself while it is asked, and dnsperf, over loopback, \
             another; dnsmasq has one thread, unbound is given one, and Skein's server has those that the \
             dataplane has. All are seen to answer a sample of the questions in the same way, before. {} s a turn, \
             {} rounds after one that does not count.",
            records::SERVICES,
            records::TASKS,
            records::count(),
            options.time().as_secs(),
            options.rounds()
        ),
        comparisons,
        bars,
        notes: vec![
            "Skein's server is the dataplane's own code, with an asker on one network: as of tasks, an answer \
             depends on who asks, and answers of several addresses are in a new order each time."
                .into(),
            "Not in it is what is between a task and the server: the engine's resolver in the task's namespace, \
             and the packet path of its veth pair."
                .into(),
        ],
        ..Section::default()
    };
    Ok(Report {
        bench: "dns".into(),
        machine,
        seed: options.seed,
        quick: options.quick,
        sections: vec![section],
    })
}

fn compare(
    servers: &[Server],
    options: &Options,
    rng: &mut dyn RngCore,
    what: &str,
    unit: Unit,
    measure: impl Fn(&Server) -> anyhow::Result<f64> + Copy,
) -> Comparison {
    let contender = |server: &'_ Server| (server.name, server.port);
    let named: Vec<_> = servers.iter().map(contender).collect();
    let mut contenders: Vec<_> = named
        .iter()
        .map(|&(name, port)| Contender::new(name, move || measure(&Server { name, port })))
        .collect();
    let show = |value: &f64| unit.show(*value);
    let turns = told_in_turns(what, options.rounds(), &mut contenders, rng, show);
    Comparison::new(what, unit, UNBOUND, &turns, rng)
}
