//! wrk: as many requests as are answered, one after the other on each of some connections.

use super::{CONNECTIONS, server::url};
use anyhow::{Context as _, ensure};
use std::{net::Ipv4Addr, time::Duration};
use xtask::{cluster::Host, output};

/// After which a request counts as an error, in seconds: a lost SYN is sent again after one.
const TIMEOUT_SECONDS: u32 = 5;

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// The next request follows on it.
    Kept,
    /// The server closes it, and the next request has a new one.
    New,
}

/// Requests answered a second.
///
/// # Errors
/// One was not answered, or not well; or wrk cannot be run.
pub fn rate(
    client: &Host,
    server: Ipv4Addr,
    connections: Connections,
    time: Duration,
) -> anyhow::Result<f64> {
    let mut wrk = client.command("wrk");
    wrk.args(["--threads", "1", "--connections", &CONNECTIONS.to_string()]);
    wrk.args(["--duration", &format!("{}s", time.as_secs())]);
    wrk.args(["--timeout", &format!("{TIMEOUT_SECONDS}s")]);
    if connections == Connections::New {
        wrk.args(["--header", "Connection: close"]);
    }
    let said = output(wrk.arg(url(server, "/")))?;
    parse(&said)
}

fn parse(said: &str) -> anyhow::Result<f64> {
    let after = |name| said.lines().find_map(|line| line.trim().strip_prefix(name));
    for bad in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        let bad = after(bad).map(|counts| format!("{bad}{counts}"));
        ensure!(bad.is_none(), "{}", bad.unwrap_or_default());
    }
    let rate = after("Requests/sec:").and_then(|rate| rate.trim().parse().ok());
    let rate: f64 = rate.with_context(|| format!("wrk says {said}"))?;
    ensure!(rate > 0.0, "no request was answered");
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_and_errors_are_none() {
        let well = "  1 threads and 32 connections\n  200 requests in 1.00s, 3KB read\n\
                    Requests/sec:  51234.50\nTransfer/sec:      1.00MB\n";
        assert_eq!(parse(well).unwrap(), 51_234.5);
        for bad in [
            "  Socket errors: connect 0, read 0, write 0, timeout 3\n",
            "  Non-2xx or 3xx responses: 7\n",
        ] {
            let error = parse(&format!("{bad}{well}")).unwrap_err().to_string();
            assert_eq!(error, bad.trim());
        }
        assert!(parse("Requests/sec:      0.00\n").is_err());
        assert!(parse("unable to connect").is_err());
    }
}
