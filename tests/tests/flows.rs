//! Single flows: what happens to the packets of one client.

use anyhow::ensure;
use skein_abi::verdict::Counter;
use skein_tests::{kernel, sockets, swarm};
use std::net::SocketAddrV4;
use xtask::check::{
    requests::{ask, await_published},
    services,
};

#[test]
fn one_client_port_reaches_every_node_and_port_at_once() -> anyhow::Result<()> {
    const FROM: u16 = 40_000;
    const ROUNDS: usize = 20;
    let cluster = swarm("one-client-port", 3, 1)?;
    let first = cluster.host("n1")?;
    // One task, so that all six connections meet in one container.
    let ports = ["-p", "30100:8080", "-p", "30101:8080"];
    services::create(first, "web", 1, &ports)?;
    await_published(&cluster, cluster.nodes(), 30_101)?;
    let client = cluster.client()?;
    let own = client.address().to_string();
    let addresses: Vec<_> = cluster.nodes().map(|node| node.address()).collect();
    sockets::within(client, || {
        let mut streams = Vec::new();
        for address in addresses {
            for port in [30_100, 30_101] {
                let to = SocketAddrV4::new(address, port);
                streams.push((to, sockets::connect_from(FROM, to)?));
            }
        }
        ensure!(streams.len() == 6);
        for _ in 0..ROUNDS {
            for (to, stream) in &mut streams {
                let answer = sockets::ask_on(stream)?;
                ensure!(answer.client == own, "through {to} the task saw {answer:?}");
            }
        }
        Ok(())
    })?;
    cluster.down()
}

#[test]
fn nodes_that_disagree_take_two_hops_at_most() -> anyhow::Result<()> {
    let cluster = swarm("two-hops", 3, 1)?;
    let first = cluster.host("n1")?;
    let (second, third) = (cluster.host("n2")?, cluster.host("n3")?);
    let on_third = ["-p", "30100:8080", "--constraint", "node.hostname==n3"];
    services::create(first, "web", 1, &on_third)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let client = cluster.client()?;
    let through_first = first.address().to_string();

    // The first node's table is late: the second sends on to the third.
    let before = kernel::count(second, Counter::SecondHop)?;
    kernel::send_all_to(first, 30_100, second.address())?;
    for answer in ask(client, &through_first, 30_100, 10)? {
        ensure!(answer.node == "n3" && answer.client == client.address().to_string());
    }
    let after = kernel::count(second, Counter::SecondHop)?;
    ensure!(after > before, "nothing took a second hop");

    // Each believes that the other has the task: reset, after two hops.
    kernel::send_all_to(second, 30_100, first.address())?;
    let hops = || -> anyhow::Result<u64> {
        let mut hops = 0;
        for node in [first, second, third] {
            hops += kernel::count(node, Counter::EntryForwarded)?;
            hops += kernel::count(node, Counter::SecondHop)?;
        }
        Ok(hops)
    };
    let dropped = || -> anyhow::Result<u64> {
        let mut dropped = 0;
        for node in [first, second, third] {
            let line = "skein_dataplane_dropped_packets_total{reason=\"no_task\"}";
            let metric = kernel::metric(node, line)?;
            ensure!(metric == kernel::count(node, Counter::DropNoTask)?);
            dropped += metric;
        }
        Ok(dropped)
    };
    let (before, dropped_before) = (hops()?, dropped()?);
    let refused = client.shell(&format!(
        "curl -sS -m 5 http://{through_first}:30100/ 2>&1; echo $?"
    ))?;
    let after = hops()?;
    ensure!(
        refused.contains("after 0 ms") && refused.trim().ends_with('7'),
        "curl said {refused}"
    );
    ensure!(
        (1..=2).contains(&(after - before)),
        "one SYN made {} hops",
        after - before
    );
    let dropped = dropped()? - dropped_before;
    ensure!(
        dropped == 1,
        "the metrics tell of {dropped} dropped packets"
    );
    cluster.down()
}

#[test]
fn datagrams_reach_a_task_through_every_node() -> anyhow::Result<()> {
    let cluster = swarm("datagrams", 3, 1)?;
    let first = cluster.host("n1")?;
    let ports = ["-p", "30100:8080/udp", "-p", "30100:8080"];
    services::create(first, "web", 1, &ports)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let client = cluster.client()?;
    let own = format!("\"client\":\"{}\"", client.address());
    for node in cluster.nodes() {
        for _ in 0..10 {
            let to = format!("UDP4:{}:30100", node.address());
            let said = client.shell(&format!("echo hello | socat -t 2 - {to}"))?;
            ensure!(
                said.contains(&own),
                "through {} it got {said:?}",
                node.name()
            );
        }
    }
    cluster.down()
}
