//! As much as one connection carries, and as many small datagrams as arrive, by iperf3.

use super::{
    Options,
    server::BULK,
    topology::{DEFAULT, Entry, ROUTING, Topology},
};
use crate::{
    report::{Bar, Comparison, Limit, Section, Unit},
    rounds::{Contender, told_in_turns},
};
use anyhow::{Context as _, bail};
use rand::RngCore;
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use xtask::{cluster::Host, output};

/// Of one turn.
const TIME: Duration = Duration::from_secs(4);
const TIME_QUICK: Duration = Duration::from_secs(1);
/// Between two turns: an iperf3 server has one client at a time.
const PAUSE: Duration = Duration::from_millis(300);
/// Of a datagram's payload, in bytes: what it costs is its headers.
const DATAGRAM: u32 = 64;
/// Of plain routing's throughput.
const BULK_MIN: f64 = 0.95;

/// What goes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ToServer,
    ToClient,
    Datagrams,
}

impl Kind {
    const ALL: [Self; 3] = [Self::ToServer, Self::ToClient, Self::Datagrams];

    fn what(self) -> &'static str {
        match self {
            Self::ToServer => "bulk to the server",
            Self::ToClient => "bulk to the client",
            Self::Datagrams => "datagrams to the server",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::ToServer | Self::ToClient => Unit::Gigabits,
            Self::Datagrams => Unit::PerSecond,
        }
    }

    fn options(self) -> Vec<String> {
        match self {
            Self::ToServer => Vec::new(),
            Self::ToClient => vec!["--reverse".into()],
            Self::Datagrams => ["--udp", "--bandwidth", "0", "--length"]
                .map(str::to_owned)
                .into_iter()
                .chain([DATAGRAM.to_string()])
                .collect(),
        }
    }

    /// Of what iperf3 says: what has arrived.
    fn parse(self, said: &str) -> anyhow::Result<f64> {
        let said: Value = serde_json::from_str(said).context("iperf3 says no JSON")?;
        if let Some(error) = said.get("error") {
            bail!("iperf3: {error}");
        }
        let number = |path: &str| {
            let found = said.pointer(path).and_then(Value::as_f64);
            found.with_context(|| format!("iperf3 does not say {path}: {said}"))
        };
        match self {
            Self::ToServer | Self::ToClient => {
                Ok(number("/end/sum_received/bits_per_second")? / 1e9)
            }
            Self::Datagrams => {
                let arrived = number("/end/sum/packets")? - number("/end/sum/lost_packets")?;
                Ok(arrived / number("/end/sum/seconds")?)
            }
        }
    }
}

/// Measures all contenders in turns.
///
/// # Errors
/// There is no client.
pub fn measure<'a>(
    topology: &'a Topology,
    options: &Options,
    rng: &mut dyn RngCore,
) -> anyhow::Result<Section> {
    let rounds = options.rounds();
    let time = if options.quick { TIME_QUICK } else { TIME };
    let client = topology.cluster.client()?;
    let mut section = Section {
        title: "Bulk".into(),
        about: format!(
            "iperf3 for {} s a turn: one TCP connection, each way, and as many datagrams of {DATAGRAM} bytes as \
             one sender has, of which those count that arrive. {rounds} rounds after one that does not count.",
            time.as_secs()
        ),
        ..Section::default()
    };
    for kind in Kind::ALL {
        let entries = topology.entries.iter();
        let takes_part = |entry: &&Entry| kind != Kind::Datagrams || entry.datagrams;
        let contender = |entry: &'a Entry| {
            let address = entry.address;
            Contender::new(entry.name, move || {
                topology.prepare(entry)?;
                std::thread::sleep(PAUSE);
                run(client, address, kind, time)
            })
        };
        let mut contenders: Vec<_> = entries.filter(takes_part).map(contender).collect();
        let show = |value: &f64| kind.unit().show(*value);
        let turns = told_in_turns(kind.what(), rounds, &mut contenders, rng, show);
        let of = Comparison::new(kind.what(), kind.unit(), ROUTING, &turns, rng);
        if kind != Kind::Datagrams {
            section.bars.push(Bar {
                what: format!("{}: the default mode ({DEFAULT}) to {ROUTING}", kind.what()),
                limit: Limit::AtLeast(BULK_MIN),
                found: of.ratio_of(DEFAULT),
                unit: Unit::Ratio,
            });
        }
        section.comparisons.push(of);
    }
    Ok(section)
}

fn run(client: &Host, server: Ipv4Addr, kind: Kind, time: Duration) -> anyhow::Result<f64> {
    let mut iperf = client.command("iperf3");
    iperf.args(["--json", "--client", &server.to_string()]);
    iperf.args(["--port", &BULK.to_string()]);
    iperf.args(["--time", &time.as_secs().to_string()]);
    kind.parse(&output(iperf.args(kind.options()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_counts() {
        let bulk = r#"{"end":{"sum_sent":{"bits_per_second":5e9},"sum_received":{"bits_per_second":4e9}}}"#;
        assert_eq!(Kind::ToServer.parse(bulk).unwrap(), 4.0);
        assert_eq!(Kind::ToClient.parse(bulk).unwrap(), 4.0);
        let datagrams = r#"{"end":{"sum":{"seconds":2.0,"packets":1000,"lost_packets":400}}}"#;
        assert_eq!(Kind::Datagrams.parse(datagrams).unwrap(), 300.0);
        for bad in ["{}", "no JSON"] {
            assert!(Kind::ToServer.parse(bad).is_err());
            assert!(Kind::Datagrams.parse(bad).is_err());
        }
        let busy = Kind::ToServer.parse(r#"{"error":"the server is busy"}"#);
        assert_eq!(
            busy.unwrap_err().to_string(),
            r#"iperf3: "the server is busy""#
        );
    }
}
