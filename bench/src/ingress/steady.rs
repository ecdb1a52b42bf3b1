//! The same number of requests a second through every entry: how long answers take, and what the whole
//! machine spends on them.

use super::{
    CONNECTIONS, Options,
    load::{LAST_ANSWERS, Load, load},
    peers::HAPROXY,
    topology::{DEFAULT, Entry, ROUTING, Topology, WIRED},
    wrk::{self, Connections},
};
use crate::{
    report::{Bar, Comparison, Figure, Limit, Section, Unit},
    rounds::{Contender, Turns, told_in_turns},
};
use anyhow::Context as _;
use rand::RngCore;
use std::time::Duration;
use xtask::Step;

/// Of one turn.
const TIME: Duration = Duration::from_secs(5);
const TIME_QUICK: Duration = Duration::from_secs(2);
/// Between two turns: what the last one left to do is done by then.
const PAUSE: Duration = Duration::from_millis(300);
/// For the peak that rates are parts of.
const PEAK_TIME: Duration = Duration::from_secs(3);
/// Of plain routing's peak: at which latencies are compared, and processor time, so that the machine can
/// do it by every way.
const LATENCY_SHARE: f64 = 0.5;
const BUSY_SHARE: f64 = 0.2;
/// Rates are whole multiples of this.
const RATE_STEP: f64 = 500.0;
/// Of the 99th percentile, to plain routing, and of the upper end of its interval.
const P99_MAX: (f64, f64) = (1.10, 1.15);
/// Of processor time, to HAProxy.
const BUSY_MAX: f64 = 0.35;

/// Measures both.
///
/// # Errors
/// Plain routing does not answer.
pub fn measure(
    topology: &Topology,
    options: &Options,
    rng: &mut dyn RngCore,
) -> anyhow::Result<[Section; 2]> {
    let client = topology.cluster.client()?;
    let step = Step::begin("find plain routing's peak");
    let routing = topology.entries.first().context("no contender")?;
    let peak = wrk::rate(client, routing.address, Connections::Kept, PEAK_TIME)?;
    step.end(&Unit::PerSecond.show(peak));
    let rate = |share: f64| ((peak * share / RATE_STEP).floor().max(1.0) * RATE_STEP) as u32;
    Ok([
        latency(topology, options, rate(LATENCY_SHARE), rng)?,
        busy(topology, options, rate(BUSY_SHARE), rng)?,
    ])
}

/// Turns of the client at a fixed rate.
fn turns<'a>(
    topology: &'a Topology,
    entries: impl Iterator<Item = &'a Entry>,
    (what, rate): (&str, u32),
    options: &Options,
    rng: &mut dyn RngCore,
    show: impl Fn(&Load) -> String,
) -> anyhow::Result<Vec<Turns<Load>>> {
    let client = topology.cluster.client()?;
    let time = time(options);
    let contender = |entry: &'a Entry| {
        let address = entry.address;
        Contender::new(entry.name, move || {
            topology.prepare(entry)?;
            std::thread::sleep(PAUSE);
            load(client, address, rate, time)
        })
    };
    let mut contenders: Vec<_> = entries.map(contender).collect();
    let what = format!("{what} at {rate} requests a second");
    Ok(told_in_turns(
        &what,
        options.rounds(),
        &mut contenders,
        rng,
        show,
    ))
}

fn time(options: &Options) -> Duration {
    if options.quick { TIME_QUICK } else { TIME }
}

fn about(options: &Options, rate: u32) -> String {
    format!(
        "{rate} requests a second on {CONNECTIONS} connections for {} s a turn, {} rounds after one that does \
         not count. Requests are due at fixed times, whatever becomes of the answers, and latency counts from \
         then.",
        time(options).as_secs(),
        options.rounds()
    )
}

fn latency(
    topology: &Topology,
    options: &Options,
    rate: u32,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let show = |load: &Load| format!("{:.3} ms, 99%: {:.3} ms", load.p50, load.p99);
    let entries = topology.entries.iter();
    let turns = turns(topology, entries, ("latency", rate), options, rng, show)?;
    let mut compare = |what: &str, value: fn(&Load) -> f64| {
        let turns: Vec<_> = turns.iter().map(|of| of.map(value)).collect();
        Comparison::new(what, Unit::Milliseconds, ROUTING, &turns, rng)
    };
    let comparisons = vec![
        compare("latency, median", |load| load.p50),
        compare("latency, 99th percentile", |load| load.p99),
        compare("latency, 99.9th percentile", |load| load.p999),
    ];
    let found = comparisons[1].of(DEFAULT).and_then(|of| of.ratio);
    let bar = |what: &str, limit, found| Bar {
        what: format!("99th percentile{what}: the default mode ({DEFAULT}) to {ROUTING}"),
        limit: Limit::AtMost(limit),
        found,
        unit: Unit::Ratio,
    };
    let bars = vec![
        bar("", P99_MAX.0, found.map(|of| of.value)),
        bar(
            ", upper end of 95%",
            P99_MAX.1,
            found.map(|of| of.interval.1),
        ),
    ];
    let unanswered = turns.iter().filter_map(|of| {
        let all: u64 = of.values.iter().map(|load| load.due).sum();
        let unanswered: u64 = of.values.iter().map(|load| load.unanswered).sum();
        let share = unanswered as f64 / all as f64;
        (unanswered > 0).then(|| {
            format!(
                "{}: {:.2}% of the requests were not answered {} ms after the last was due.",
                of.name,
                share * 100.0,
                LAST_ANSWERS.as_millis()
            )
        })
    });
    Ok(Section {
        title: "Latency at half of plain routing's peak".into(),
        about: about(options, rate),
        notes: unanswered.collect(),
        comparisons,
        bars,
        ..Section::default()
    })
}

fn busy(
    topology: &Topology,
    options: &Options,
    rate: u32,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let show = |load: &Load| Unit::CpuMicroseconds.show(load.busy_each());
    let entries = topology.entries.iter().chain([&topology.wired]);
    let turns = turns(
        topology,
        entries,
        ("processor time", rate),
        options,
        rng,
        show,
    )?;
    let what = "processor time for each request beyond client and server";
    let (wired, ways): (Vec<_>, Vec<_>) = turns.iter().partition(|of| of.name == WIRED);
    let wired = wired.first().context("nobody is wired straight")?;
    let ways: Vec<_> = ways.into_iter().map(|of| beyond(of, wired)).collect();
    let is_there = |name| ways.iter().any(|of| of.name == name);
    let base = if is_there(HAPROXY) { HAPROXY } else { ROUTING };
    let comparison = Comparison::new(what, Unit::CpuMicroseconds, base, &ways, rng);
    let bar = (base == HAPROXY).then(|| Bar {
        what: format!("processor time: the default mode ({DEFAULT}) to {HAPROXY}"),
        limit: Limit::AtMost(BUSY_MAX),
        found: comparison.ratio_of(DEFAULT),
        unit: Unit::Ratio,
    });
    let wired = Comparison::new(
        "client and server alone",
        Unit::CpuMicroseconds,
        WIRED,
        &[wired.map(Load::busy_each)],
        rng,
    );
    let wired = wired.of(WIRED).and_then(|of| of.summary);
    let alone = |of: crate::stats::Summary| {
        let what = "client and server wired straight: processor time for each request, median";
        Figure::new(what, of.median, Unit::CpuMicroseconds)
    };
    Ok(Section {
        title: "Processor time for each request".into(),
        about: format!(
            "{} What all processors of the machine spend while it lasts, for each answer, minus the same \
             in that round with a wire between client and server and no entry.",
            about(options, rate)
        ),
        bars: bar.into_iter().collect(),
        figures: wired.map(alone).into_iter().collect(),
        comparisons: vec![comparison],
        ..Section::default()
    })
}

/// Processor time of a way, without that of client and server in the same round.
fn beyond(way: &Turns<Load>, wired: &Turns<Load>) -> Turns {
    let mut alone = wired.values.iter().map(Load::busy_each);
    let mut turns = way.map(|load| load.busy_each() - alone.next().unwrap_or(f64::NAN));
    if turns.error.is_none() {
        turns.error = wired
            .error
            .as_ref()
            .map(|error| format!("{WIRED}: {error}"));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(name: &'static str, busy: &[f64], error: Option<&str>) -> Turns<Load> {
        let load = |busy: &f64| Load {
            due: 1_000_000,
            unanswered: 0,
            p50: 1.0,
            p99: 2.0,
            p999: 3.0,
            busy: *busy,
        };
        Turns {
            name,
            values: busy.iter().map(load).collect(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn client_and_server_are_taken_away_round_by_round() {
        let wired = turns(WIRED, &[10.0, 20.0], None);
        let way = beyond(&turns("a way", &[15.0, 26.0], None), &wired);
        assert_eq!((way.values, way.error), (vec![5.0, 6.0], None));
        let broken = turns(WIRED, &[10.0], Some("it broke"));
        let way = beyond(&turns("a way", &[15.0, 26.0], None), &broken);
        assert!(way.error.unwrap().contains("it broke"));
    }
}
