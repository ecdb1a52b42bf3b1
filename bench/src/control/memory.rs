//! What the daemons of an idle one-node swarm hold in memory.

use super::Nodes;
use crate::{
    process::usage,
    report::{Bar, Comparison, Figure, Limit, Section, Unit},
    rounds::{Contender, in_turns},
};
use rand::RngCore;
use std::time::Duration;
use xtask::{
    Step,
    cluster::{Daemon, Host},
};

/// From the swarm's init to the first look: what the start needed has gone by then.
const SETTLE: Duration = Duration::from_secs(20);
const SETTLE_QUICK: Duration = Duration::from_secs(3);
/// Looks, and the time between them.
const ROUNDS: usize = 10;
const INTERVAL: Duration = Duration::from_millis(500);
/// Of `skein-control`, in millions of bytes.
const RESIDENT_MAX: f64 = 40.0;

const SKEIN: &str = "skein-control";
const SWARM: &str = "dockerd as a Swarm node";

/// Measures resident memory.
pub fn measure(nodes: &Nodes<'_>, quick: bool, rng: &mut dyn RngCore) -> anyhow::Result<Section> {
    let step = Step::begin("let the idle nodes settle, and look at their memory");
    std::thread::sleep(if quick { SETTLE_QUICK } else { SETTLE });
    let resident = |name, host: &'_ Host, daemon| {
        let host = host.clone();
        Contender::new(name, move || {
            std::thread::sleep(INTERVAL / 4);
            Ok(usage(&host, daemon)?.resident_mb)
        })
    };
    let mut contenders = [
        resident(SKEIN, nodes.skein, Daemon::Control),
        resident("skein-dataplane", nodes.skein, Daemon::Dataplane),
        resident("dockerd beside Skein", nodes.skein, Daemon::Engine),
        resident(SWARM, nodes.swarm, Daemon::Engine),
        resident("dockerd in no swarm", nodes.bare, Daemon::Engine),
    ];
    let turns = in_turns(ROUNDS, &mut contenders, rng, |_, _, _| {});
    let comparison = Comparison::new("resident memory", Unit::Megabytes, SWARM, &turns, rng);
    let control = usage(nodes.skein, Daemon::Control)?;
    let swarm = usage(nodes.swarm, Daemon::Engine)?;
    let found = comparison.of(SKEIN).and_then(|of| Some(of.summary?.median));
    step.end(&found.map_or_else(|| "failed".to_owned(), |found| Unit::Megabytes.show(found)));
    let figure = |what: &str, value| Figure::new(what, value, Unit::Megabytes);
    Ok(Section {
        title: "Memory of an idle one-node swarm".into(),
        about: "The daemons of fresh swarms of one node without services, at rest.".into(),
        figures: vec![
            figure("skein-control: proportional set", control.proportional_mb),
            figure("skein-control: most since its start", control.peak_mb),
            figure(
                "dockerd as a Swarm node: proportional set",
                swarm.proportional_mb,
            ),
            figure(
                "dockerd as a Swarm node: most since its start",
                swarm.peak_mb,
            ),
        ],
        bars: vec![Bar {
            what: "skein-control, resident".into(),
            limit: Limit::AtMost(RESIDENT_MAX),
            found,
            unit: Unit::Megabytes,
        }],
        comparisons: vec![comparison],
        ..Section::default()
    })
}
