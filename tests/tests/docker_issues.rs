//! What users of Docker's routing mesh ran into, each by the number of its issue: a test of its name.

use anyhow::{Context as _, ensure};
use skein_tests::{load::unnoticed, sockets, swarm};
use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};
use xtask::{
    check::{requests::await_published, services},
    wait_until,
};

/// For an update of one task, on a loaded machine.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(60);
/// From the end of an update to the first answer of the new task: a datagram that came in between may be lost.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Of a container whose health check begins to fail, until its task is replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

/// moby#36878: datagrams of one client go on to the container that is no more, for as long as the client sends.
#[test]
fn udp_stream_follows_update_36878() -> anyhow::Result<()> {
    let cluster = swarm("udp-stream", 2, 1)?;
    let first = cluster.host("n1")?;
    services::create(
        first,
        "echo",
        1,
        &["-p", "30100:8080/udp", "-p", "30101:8080"],
    )?;
    await_published(&cluster, cluster.nodes(), 30_101)?;
    let entries: Vec<_> = cluster.nodes().map(|node| node.address()).collect();
    sockets::within(cluster.client()?, || {
        let mut streams = Vec::new();
        for entry in &entries {
            let socket = sockets::connect_udp(SocketAddrV4::new(*entry, 30_100))?;
            streams.push((entry, sockets::ask_by(&socket, b"hello")?.hostname, socket));
        }
        for order in ["stop-first", "start-first"] {
            let again = ["--force", "--update-order", order];
            services::update(first, "echo", &again, UPDATE_TIMEOUT)?;
            for (entry, task, socket) in &mut streams {
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                let what = format!("the new task answers the old stream through {entry}, {order}");
                let now = wait_until(&what, ANSWERED_WITHIN, || {
                    let answer = sockets::ask_by(socket, b"hello")?;
                    ensure!(answer.hostname != *task, "{task} answers");
                    Ok(answer.hostname)
                })?;
                *task = now;
            }
        }
        Ok(())
    })?;
    cluster.down()
}

/// moby#53466: each published port costs Docker seconds. All of them answer here at once.
#[test]
fn five_hundred_ports_of_one_service_53466() -> anyhow::Result<()> {
    const PORTS: std::ops::Range<u16> = 31_000..31_500;
    /// With a task that is replaced, in a few seconds of which the ports are a small part. Of Swarm users tell that
    /// it takes minutes.
    const TOOK_MAX: Duration = Duration::from_secs(15);
    let cluster = swarm("many-ports", 2, 1)?;
    let first = cluster.host("n1")?;
    services::create(first, "web", 1, &["-p", "30100:8080"])?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let published: Vec<String> = PORTS
        .map(|port| format!("published={port},target=8080"))
        .collect();
    let mut update = vec!["service", "update", "-d"];
    for port in &published {
        update.extend(["--publish-add", port]);
    }
    update.push("web");
    let begun = Instant::now();
    first.docker(&update)?;
    // The new task takes the old one's place first.
    services::settled(first, "web", 1)?;
    let last = PORTS.end - 1;
    await_published(&cluster, cluster.nodes(), last)?;
    let took = begun.elapsed();
    println!("{} ports took {took:?}", PORTS.len());
    ensure!(took < TOOK_MAX, "{} ports took {took:?}", PORTS.len());
    let entries: Vec<_> = cluster.nodes().map(|node| node.address()).collect();
    sockets::within(cluster.client()?, || {
        for (port, entry) in PORTS.zip(entries.iter().cycle()) {
            let to = SocketAddrV4::new(*entry, port);
            let mut stream = sockets::connect(to, sockets::TIMEOUT)?;
            sockets::ask_on(&mut stream).with_context(|| format!("through {to}"))?;
        }
        Ok(())
    })?;
    cluster.down()
}

/// moby#28741: a container that is not healthy is called until it has ended.
#[test]
fn unhealthy_is_pulled_28741() -> anyhow::Result<()> {
    let cluster = swarm("unhealthy", 2, 1)?;
    let first = cluster.host("n1")?;
    let check = [
        "-p",
        "30100:8080",
        "--health-cmd",
        "test ! -e /sick",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
        "--restart-delay",
        "1s",
    ];
    services::create(first, "web", 2, &check)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let sick = services::container_of(first, "web")?;
    let falls_ill = || {
        first.engine(&["exec", &sick, "sh", "-c", ": > /sick"])?;
        wait_until("the sick task is replaced", REPLACED_WITHIN, || {
            let running = first.engine(&["ps", "-q", "--no-trunc"])?;
            ensure!(!running.contains(&sick), "it runs still");
            services::settled(first, "web", 2)
        })
    };
    unnoticed(&cluster, 30_100, "a task falls ill", falls_ill)?;
    cluster.down()
}

/// moby#24377: a task cannot reach itself by the address of its own service.
#[test]
fn self_vip_24377() -> anyhow::Result<()> {
    let cluster = swarm("self-vip", 2, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let here = [
        "--network",
        "back",
        "-p",
        "30100:8080",
        "--constraint",
        "node.hostname==n1",
    ];
    services::create(first, "web", 1, &here)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let others: Vec<_> = cluster.nodes().map(|node| node.address()).collect();
    for _ in 0..5 {
        let by_name = services::exec(first, "web", "wget -q -O - http://web:8080/")?;
        ensure!(by_name.contains("\"task\":\"web.1."), "it got {by_name:?}");
        for node in &others {
            let by_port = format!("wget -q -O - http://{node}:30100/");
            let said = services::exec(first, "web", &by_port)?;
            ensure!(
                said.contains("\"task\":\"web.1."),
                "through {node} it got {said:?}"
            );
        }
    }
    cluster.down()
}
