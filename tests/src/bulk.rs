//! Bulk that is sent back: for what only long segments, and many of them, show.

use anyhow::ensure;
use std::net::SocketAddrV4;
use xtask::{
    check::services::{self, SETTLE_TIMEOUT},
    cluster::Host,
    wait_until,
};

/// Starts a service that sends back what comes to a TCP port, with its one task on a node; with further options of
/// `docker service create`.
///
/// # Errors
/// It does not start in time.
pub fn serve(
    manager: &Host,
    name: &str,
    port: u16,
    on: &Host,
    options: &[&str],
) -> anyhow::Result<()> {
    let port = format!("{port}:9000");
    let constraint = format!("node.hostname=={}", on.name());
    let echo = "nc -ll -p 9000 -e /bin/cat";
    let mut all = vec![
        "-p",
        &port,
        "--constraint",
        &constraint,
        "--entrypoint",
        echo,
    ];
    all.extend(options);
    services::create(manager, name, 1, &all)
}

/// Sends so many bytes from a host, and waits until they are back. The program that sends begins with `within`,
/// which is a command that runs others, or empty.
///
/// # Errors
/// Nothing comes back in time, or not all.
pub fn comes_back(from: &Host, within: &str, to: SocketAddrV4, bytes: u64) -> anyhow::Result<()> {
    let back = wait_until("bulk comes back", SETTLE_TIMEOUT, || {
        let back = from.shell(&format!(
            "head -c {bytes} /dev/zero | {within} timeout 30 socat -t 10 - TCP4:{to} | wc -c"
        ))?;
        let back: u64 = back.trim().parse()?;
        ensure!(back > 0, "nothing came back");
        Ok(back)
    })?;
    ensure!(back == bytes, "{back} of {bytes} bytes came back from {to}");
    Ok(())
}
