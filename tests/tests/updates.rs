//! Changes of running services, and of what runs them.

use anyhow::ensure;
use skein_tests::swarm;
use std::time::Duration;
use xtask::{
    check::{names, requests::ask_each, services},
    cluster::Daemon,
    wait_until,
};

/// An engine that waits for an absent plugin takes 15 s a container; one that does not is up at once.
const ENGINE_START_MAX: Duration = Duration::from_secs(15);

#[test]
fn running_services_get_networks_and_mounts() -> anyhow::Result<()> {
    let cluster = swarm("network-add", 2, 1)?;
    let first = cluster.host("n1")?;
    for network in ["front", "back"] {
        first.docker(&["network", "create", "-d", "overlay", network])?;
    }
    services::create(first, "web", 2, &["--network", "front", "-p", "30100:8080"])?;
    services::create(first, "other", 2, &["--network", "back"])?;
    let update = |change: &[&str]| -> anyhow::Result<()> {
        services::update(first, "web", change, services::SETTLE_TIMEOUT)?;
        services::settled(first, "web", 2)
    };
    update(&["--network-add", "back"])?;
    for node in cluster.nodes() {
        let said = services::exec(node, "other", "wget -q -O - http://web:8080/")?;
        ensure!(said.contains("\"task\":\"web."), "other got {said:?}");
        ensure!(names::resolve(node, "other", "tasks.web")?.len() == 2);
    }
    ask_each(&cluster, cluster.nodes(), 30_100, 20)?;

    update(&["--mount-add", "type=volume,source=kept,target=/data"])?;
    for node in cluster.nodes() {
        let mounts = services::exec(node, "web", "cat /proc/mounts")?;
        ensure!(mounts.contains(" /data "), "web has {mounts}");
    }
    let tasks = ask_each(&cluster, cluster.nodes(), 30_100, 20)?;
    ensure!(tasks.len() == 2, "{tasks:?} answered");

    update(&["--network-rm", "back"])?;
    for node in cluster.nodes() {
        ensure!(names::resolve(node, "other", "web")?.is_empty());
    }
    ask_each(&cluster, cluster.nodes(), 30_100, 20)?;
    cluster.down()
}

#[test]
fn an_engine_restarts_with_tasks_running() -> anyhow::Result<()> {
    let cluster = swarm("engine-restart", 3, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    services::create(first, "web", 3, &["--network", "back", "-p", "30100:8080"])?;
    let second = cluster.host("n2")?;
    for round in 0..2 {
        second.kill(&[Daemon::Engine])?;
        let began = std::time::Instant::now();
        second.start(&[Daemon::Engine])?;
        let took = began.elapsed();
        ensure!(took < ENGINE_START_MAX, "the engine took {took:?} to start");
        // Its containers may have gone with it: then others take their place.
        let whole = || {
            services::settled(first, "web", 3)?;
            let tasks = ask_each(&cluster, cluster.nodes(), 30_100, 30)?;
            ensure!(tasks.len() == 3, "{tasks:?} answered");
            Ok(())
        };
        wait_until("the service is whole", services::SETTLE_TIMEOUT, whole)?;
        for task in services::tasks(first, "web")? {
            let node = cluster.host(&task.node)?;
            let tasks = names::resolve(node, "web", "tasks.web")?;
            ensure!(tasks.len() == 3, "round {round}: tasks.web is {tasks:?}");
        }
    }
    cluster.down()
}
