//! As many requests on kept connections, and as many new connections, as go through.

use super::{
    CONNECTIONS, Options, at_least,
    peers::NFTABLES,
    topology::{DEFAULT, ROUTING, Topology, VXLAN},
    wrk::{self, Connections},
};
use crate::{
    report::{Comparison, Section, Unit},
    rounds::{Contender, told_in_turns},
};
use rand::RngCore;
use std::time::Duration;

/// Of one turn.
const TIME: Duration = Duration::from_secs(4);
const TIME_QUICK: Duration = Duration::from_secs(1);
/// Between two turns: what the last one left to do is done by then.
const PAUSE: Duration = Duration::from_millis(300);

/// Bars, each of a ratio and of the lower end of its interval: contender, to whom, both limits.
const BARS: [(&str, &str, &str, f64, f64); 3] = [
    ("the default mode", DEFAULT, ROUTING, 1.05, 1.00),
    ("vxlan forwarding", VXLAN, ROUTING, 0.90, 0.85),
    ("the default mode", DEFAULT, NFTABLES, 1.15, 1.05),
];

/// Measures all contenders in turns.
///
/// # Errors
/// There is no client.
pub fn measure<'a>(
    topology: &'a Topology,
    options: &Options,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let (rounds, time) = (
        options.rounds(),
        if options.quick { TIME_QUICK } else { TIME },
    );
    let client = topology.cluster.client()?;
    let mut section = Section {
        title: "As many as go through".into(),
        about: format!(
            "wrk with one thread and {CONNECTIONS} connections for {} s a turn: on connections that stay open, \
             and with a new one for each request, which the server closes. {rounds} rounds after one that \
             does not count.",
            time.as_secs()
        ),
        ..Section::default()
    };
    for (what, connections) in [
        ("requests on kept connections", Connections::Kept),
        ("new connections with a request each", Connections::New),
    ] {
        let contender = |entry: &'a super::topology::Entry| {
            let address = entry.address;
            Contender::new(entry.name, move || {
                topology.prepare(entry)?;
                std::thread::sleep(PAUSE);
                wrk::rate(client, address, connections, time)
            })
        };
        let mut contenders: Vec<_> = topology.entries.iter().map(contender).collect();
        let show = |rate: &f64| Unit::PerSecond.show(*rate);
        let turns = told_in_turns(what, rounds, &mut contenders, rng, show);
        let of = Comparison::new(what, Unit::PerSecond, ROUTING, &turns, rng);
        let bars = BARS.iter().filter(|(_, _, to, ..)| of.of(to).is_some());
        for &(who, name, to, value, low) in bars {
            let found = of.ratio_between(name, to, rng);
            let bar = format!("{what}: {who} ({name}) to {to}");
            section.bars.extend(at_least(&bar, found, value, low));
        }
        section.comparisons.push(of);
    }
    Ok(section)
}
