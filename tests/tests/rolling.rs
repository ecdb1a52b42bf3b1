//! What clients notice of changes to a service that they are using: nothing.

use anyhow::{Context as _, ensure};
use skein_tests::{
    load::{self, is_last},
    sockets, swarm,
};
use std::{
    net::{SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};
use xtask::{
    check::{requests::await_published, services},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

const PORT: u16 = 30_100;
/// Of twenty tasks. Each check is a process that the engine starts in a container: one a second for each
/// task leaves two cores with half of the requests.
const HEALTH_INTERVAL: &str = "4s";
/// How often each way to update is tried.
const ROUNDS: usize = 3;
/// For an update of all replicas on a loaded machine.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(180);
/// Published on every node.
const ON_ALL: &str = "30100:8080";
/// Published on the node of each task.
const IN_HOST_MODE: &str = "mode=host,published=30100,target=8080";
/// Of every service here: its updates are over soon after their last task runs.
const OPTIONS: [&str; 2] = ["--update-monitor", "500ms"];

fn begin(cluster: &Cluster, replicas: usize, options: &[&str]) -> anyhow::Result<()> {
    begin_published(cluster, replicas, ON_ALL, options)
}

fn begin_published(
    cluster: &Cluster,
    replicas: usize,
    published: &str,
    options: &[&str],
) -> anyhow::Result<()> {
    let first = cluster.host("n1")?;
    let options = [&["-p", published], &OPTIONS[..], options].concat();
    services::create_unwatched(first, "web", replicas, &options)?;
    settle(first, replicas)?;
    await_published(cluster, cluster.nodes(), PORT)
}

/// [`services::settled`], with the time that many replicas take.
fn settle(host: &Host, replicas: usize) -> anyhow::Result<()> {
    let settled = || services::settled(host, "web", replicas);
    wait_until("all replicas run", UPDATE_TIMEOUT, settled)
}

/// A change that no request may suffer from.
fn unnoticed(
    cluster: &Cluster,
    what: &str,
    change: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    load::unnoticed(cluster, PORT, what, change)
}

#[test]
fn twenty_replicas_are_updated_unnoticed() -> anyhow::Result<()> {
    const REPLICAS: usize = 20;
    let cluster = swarm("rolling-twenty", 3, 1)?;
    let first = cluster.host("n1")?;
    begin(&cluster, REPLICAS, &["--update-parallelism", "5"])?;
    let check: &[&str] = &[
        "--health-cmd",
        "skein-demo check",
        "--health-interval",
        HEALTH_INTERVAL,
    ];
    for health in [&[], check] {
        if !health.is_empty() {
            services::update(first, "web", health, UPDATE_TIMEOUT)?;
        }
        for order in ["stop-first", "start-first"] {
            for round in 1..=ROUNDS {
                let checked = if health.is_empty() { "no" } else { "a" };
                let what = format!("{order} with {checked} health check, round {round}");
                unnoticed(&cluster, &what, || {
                    let force = ["--force", "--update-order", order];
                    services::update(first, "web", &force, UPDATE_TIMEOUT)?;
                    settle(first, REPLICAS)
                })?;
            }
        }
    }
    cluster.down()
}

#[test]
fn services_change_unnoticed() -> anyhow::Result<()> {
    let cluster = swarm("rolling-changes", 3, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    first.shell("echo hush > /run/hush")?;
    for kind in ["secret", "config"] {
        first.docker(&[kind, "create", "hush", "/run/hush"])?;
    }
    begin(&cluster, 6, &["--update-parallelism", "3"])?;
    for change in [
        &["--network-add", "back"][..],
        &["--network-rm", "back"],
        &["--mount-add", "type=volume,source=kept,target=/data"],
        &["--mount-rm", "/data"],
        &["--secret-add", "hush", "--config-add", "hush"],
        &["--secret-rm", "hush", "--config-rm", "hush"],
    ] {
        unnoticed(&cluster, &change.join(" "), || {
            services::update(first, "web", change, UPDATE_TIMEOUT)?;
            settle(first, 6)
        })?;
    }
    cluster.down()
}

#[test]
fn tasks_leave_unnoticed() -> anyhow::Result<()> {
    let cluster = swarm("rolling-leave", 3, 1)?;
    let first = cluster.host("n1")?;
    begin(&cluster, 6, &[])?;
    unnoticed(&cluster, "drain of a node", || {
        first.docker(&["node", "update", "--availability", "drain", "n3"])?;
        let left = || {
            let tasks = services::tasks(first, "web")?;
            ensure!(tasks.iter().all(|task| task.node != "n3"), "{tasks:?}");
            settle(first, 6)
        };
        wait_until("the node is drained", UPDATE_TIMEOUT, left)?;
        stopped(cluster.host("n3")?, 0)
    })?;
    unnoticed(&cluster, "6 replicas to 2", || {
        first.docker(&["service", "scale", "-d", "web=2"])?;
        settle(first, 2)?;
        cluster.nodes().try_for_each(|node| stopped(node, 1))
    })?;
    cluster.down()
}

#[test]
fn every_control_daemon_dies_unnoticed() -> anyhow::Result<()> {
    /// Longer than managers take to give a silent node up.
    const AWAY: Duration = Duration::from_secs(20);
    let cluster = swarm("rolling-headless", 3, 1)?;
    begin(&cluster, 6, &[])?;
    unnoticed(&cluster, "no control daemon", || {
        let control = &[Daemon::Control];
        cluster.nodes().try_for_each(|node| node.kill(control))?;
        std::thread::sleep(AWAY);
        cluster.nodes().try_for_each(|node| node.start(control))?;
        settle(cluster.host("n1")?, 6)
    })?;
    cluster.down()
}

/// Waits until no more than `left` containers run on a node.
fn stopped(node: &Host, left: usize) -> anyhow::Result<()> {
    wait_until("tasks have stopped", UPDATE_TIMEOUT, || {
        let running = node.engine(&["ps", "-q"])?;
        ensure!(running.lines().count() <= left, "there run {running}");
        Ok(())
    })
}

#[test]
fn connections_outlive_their_service() -> anyhow::Result<()> {
    connections_outlive("rolling-rm", ON_ALL)
}

#[test]
fn connections_in_host_mode_outlive_their_service() -> anyhow::Result<()> {
    connections_outlive("rolling-rm-host", IN_HOST_MODE)
}

/// Connections to a service on all nodes of a cluster, over its removal.
fn connections_outlive(cluster: &str, published: &str) -> anyhow::Result<()> {
    /// Between two requests on a connection.
    const PAUSE: Duration = Duration::from_millis(20);
    let cluster = swarm(cluster, 3, 1)?;
    let first = cluster.host("n1")?;
    begin_published(&cluster, 3, published, &[])?;
    let to: Vec<_> = cluster
        .nodes()
        .map(|node| SocketAddrV4::new(node.address(), PORT))
        .collect();
    sockets::within(cluster.client()?, || {
        let mut kept = Vec::new();
        for to in to.iter().cycle().take(30) {
            kept.push((*to, sockets::connect(*to, UPDATE_TIMEOUT)?));
        }
        let ask_all = |kept: &mut Vec<(SocketAddrV4, TcpStream)>| -> anyhow::Result<()> {
            let mut after = Vec::new();
            for (to, mut stream) in kept.drain(..) {
                let head =
                    sockets::ask_head(&mut stream).with_context(|| format!("through {to}"))?;
                if !is_last(&head) {
                    after.push((to, stream));
                }
            }
            *kept = after;
            Ok(())
        };
        ask_all(&mut kept)?;
        ensure!(kept.len() == 30, "closed before the end");
        first.docker(&["service", "rm", "web"])?;
        let removed = Instant::now();
        while !kept.is_empty() {
            let open = kept.len();
            ask_all(&mut kept)
                .with_context(|| format!("{:?} after the end, {open} open", removed.elapsed()))?;
            ensure!(removed.elapsed() < UPDATE_TIMEOUT, "{open} are not closed");
            std::thread::sleep(PAUSE);
        }
        for to in &to {
            let late = TcpStream::connect_timeout(&(*to).into(), Duration::from_secs(5));
            let late = late.map(drop).map_err(|error| error.kind());
            ensure!(
                late == Err(std::io::ErrorKind::ConnectionRefused),
                "{late:?} through {to}"
            );
        }
        Ok(())
    })?;
    cluster.down()
}
