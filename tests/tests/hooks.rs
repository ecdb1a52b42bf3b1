//! The mesh by native XDP: the same as by tc.

use anyhow::ensure;
use skein_abi::verdict::Counter;
use skein_tests::kernel;
use xtask::{
    check::{
        load::Load,
        requests::{ask_each, await_published},
        services,
    },
    cluster::{Attach, Cluster, Daemon, Shape},
};

/// Enough for many segments of the largest size in flight.
const BULK_BYTES: u64 = 32 << 20;

#[test]
fn xdp_carries_what_tc_does() -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 3,
        managers: 1,
        init: true,
        attach: Attach::Xdp,
    };
    let cluster = Cluster::up("xdp", &shape)?;
    let first = cluster.host("n1")?;
    let on_third = ["-p", "30100:8080", "--constraint", "node.hostname==n3"];
    services::create(first, "web", 1, &on_third)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let before = kernel::count(first, Counter::XdpSent)?;
    ask_each(&cluster, cluster.nodes(), 30_100, 100)?;
    let sent = kernel::count(first, Counter::XdpSent)? - before;
    // Of each request at least SYN, request and FIN go there, and as much comes back.
    ensure!(sent >= 600, "XDP sent on {sent} packets of 100 requests");

    // A restart keeps the hook, and breaks nothing.
    let load = Load::begin(&cluster, first, 30_100, 4)?;
    first.kill(&[Daemon::Dataplane])?;
    first.start(&[Daemon::Dataplane])?;
    load.end()?;
    let before = kernel::count(first, Counter::XdpSent)?;
    ask_each(&cluster, [first], 30_100, 10)?;
    ensure!(
        kernel::count(first, Counter::XdpSent)? > before,
        "XDP went with the daemon"
    );

    // Bulk, both ways: segments as large as there are.
    services::create(
        first,
        "bulk",
        1,
        &[
            "-p",
            "30101:9000",
            "--constraint",
            "node.hostname==n3",
            "--entrypoint",
            "nc -ll -p 9000 -e /bin/cat",
        ],
    )?;
    let client = cluster.client()?;
    let bytes = || {
        client.shell(&format!(
            "head -c {BULK_BYTES} /dev/zero | timeout 30 socat -t 10 - TCP4:{}:30101 | wc -c",
            first.address()
        ))
    };
    let echoed = xtask::wait_until("bulk comes back whole", services::SETTLE_TIMEOUT, || {
        let echoed = bytes()?.trim().parse::<u64>()?;
        ensure!(echoed > 0, "nothing came back");
        Ok(echoed)
    })?;
    ensure!(
        echoed == BULK_BYTES,
        "{echoed} of {BULK_BYTES} bytes came back"
    );
    cluster.down()
}
