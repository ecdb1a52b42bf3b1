//! Who asks: dnsperf, and what it says.

use super::{records::Mix, servers};
use anyhow::{Context as _, ensure};
use std::time::Duration;
use xtask::cluster::Host;

/// Questions that wait for their answers at a time: enough that no server waits for the next.
const OUTSTANDING: u32 = 100;
/// Sockets that they are sent by: as many tasks.
const CLIENTS: u32 = 10;
/// Of the questions that may be lost. A server that drops what it has no time for looks quick.
const LOST_MAX: f64 = 0.001;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Answers a second.
    pub rate: f64,
    /// Mean, in seconds.
    pub latency: f64,
    lost: f64,
}

/// Asks a server for `time`, as quickly as it answers or at a `rate`.
///
/// # Errors
/// It does not answer, or not all of it.
pub fn ask(
    host: &Host,
    port: u16,
    mix: Mix,
    rate: Option<u32>,
    time: Duration,
) -> anyhow::Result<Asked> {
    let (seconds, file) = (time.as_secs(), servers::file(mix.file()));
    let pinned = servers::pinned(servers::Side::Client);
    let rate = rate.map(|rate| format!(" -Q {rate}")).unwrap_or_default();
    let said = host.run(&format!(
        "{pinned} dnsperf -s 127.0.0.1 -p {port} -d {file} -l {seconds} -q {OUTSTANDING} -c {CLIENTS}{rate}"
    ))?;
    let asked = parse(&said).with_context(|| format!("dnsperf says {said}"))?;
    ensure!(
        asked.lost <= LOST_MAX,
        "{:.2}% of the questions were lost",
        asked.lost * 100.0
    );
    Ok(asked)
}

fn parse(said: &str) -> Option<Asked> {
    let value = |name: &str| -> Option<f64> {
        let mut lines = said.lines().filter_map(|line| line.trim().split_once(':'));
        let (_, value) = lines.find(|(of, _)| *of == name)?;
        value.split_whitespace().next()?.parse().ok()
    };
    Some(Asked {
        rate: value("Queries per second")?,
        latency: value("Average Latency (s)")?,
        lost: value("Queries lost")? / value("Queries sent")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_says_is_read() {
        let said = "Statistics:\n\n  Queries sent:         40000\n  Queries completed:    39990 (99.97%)\n  \
                    Queries lost:         10 (0.03%)\n\n  Response codes:       NOERROR 39990 (100.00%)\n  \
                    Average packet size:  request 30, response 46\n  Run time (s):         0.5\n  \
                    Queries per second:   80000.5\n\n  Average Latency (s):  0.000421 (min 0.1, max 0.2)\n";
        let asked = parse(said).unwrap();
        assert_eq!(
            (asked.rate, asked.latency, asked.lost),
            (80_000.5, 0.000_421, 0.000_25)
        );
        assert_eq!(parse(""), None);
    }
}
