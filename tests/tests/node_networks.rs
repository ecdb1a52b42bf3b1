//! Networks of swarm scope that are each node's own: made by its engine as one of its own networks says.

use anyhow::{Context as _, ensure};
use skein_tests::{api, swarm};
use std::{net::Ipv4Addr, time::Duration};
use xtask::{
    check::{
        requests::{ask_each, await_published},
        services,
    },
    cluster::Host,
    wait_until,
};

/// A network that nobody needs goes at the second look, 20 s after the first.
const GONE: Duration = Duration::from_secs(120);
/// Until a task that cannot be made is reported.
const REFUSED: Duration = Duration::from_secs(30);

fn docker(host: &Host, line: &str) -> anyhow::Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let said = host.docker(&words)?;
    Ok(said.trim().to_owned())
}

/// The address of a service's task on this node, on one network.
fn address(host: &Host, service: &str, network: &str) -> anyhow::Result<Ipv4Addr> {
    let container = services::container_of(host, service)?;
    let inspected = api::ask(host, "GET", &format!("/containers/{container}/json"))?.json()?;
    let address = inspected["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
    let address = address.with_context(|| format!("not on {network}: {inspected}"))?;
    address
        .parse()
        .with_context(|| format!("{address:?} is its address"))
}

/// Tasks of both nodes on a `macvlan`: they reach each other there without Skein, and are reached by their
/// published port with it.
#[test]
fn tasks_are_on_the_nodes_own_lan_and_have_published_ports() -> anyhow::Result<()> {
    let cluster = swarm("own-lan", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    for (host, range) in [(first, "10.87.0.64/26"), (second, "10.87.0.128/26")] {
        let addresses = format!("--subnet 10.87.0.0/24 --gateway 10.87.0.1 --ip-range {range}");
        let line = format!("network create --config-only {addresses} -o parent=eth0 lan-here");
        docker(host, &line)?;
    }
    docker(
        first,
        "network create -d macvlan --scope swarm --config-from lan-here lan",
    )?;
    let on_lan = ["--network", "lan", "-p", "30210:8080"];
    services::create(first, "web", 2, &on_lan)?;

    let (one, other) = (
        address(first, "web", "lan")?,
        address(second, "web", "lan")?,
    );
    ensure!(
        (64..128).contains(&one.octets()[3]) && (128..192).contains(&other.octets()[3]),
        "{one} and {other} are not the nodes' own"
    );
    for (host, to) in [(first, other), (second, one)] {
        let get = format!("wget -q -O - http://{to}:8080/");
        let said = services::exec(host, "web", &get)?;
        ensure!(said.contains("\"hostname\""), "{to} answered {said:?}");
        // The engine knows the names of its own containers.
        let said = services::exec(host, "web", "wget -q -O - http://tasks.web:8080/")?;
        ensure!(said.contains("\"hostname\""), "tasks.web answered {said:?}");
    }
    await_published(&cluster, cluster.nodes(), 30_210)?;
    let tasks = ask_each(&cluster, cluster.nodes(), 30_210, 20)?;
    ensure!(tasks.len() == 2, "{tasks:?} answered");

    // As the managers have it, and as this worker's engine does.
    for host in cluster.nodes() {
        let format = "{{.Driver}} {{.Scope}} {{.ConfigFrom.Network}} {{len .Containers}}";
        let shown = host.docker(&["network", "inspect", "--format", format, "lan"])?;
        ensure!(
            shown.trim() == "macvlan swarm lan-here 1",
            "{}: {shown}",
            host.name()
        );
    }
    docker(first, "service rm web")?;
    docker(first, "network rm lan")?;
    for host in cluster.nodes() {
        let what = format!("the network on {} is gone", host.name());
        wait_until(&what, GONE, || {
            let left = host.engine(&["network", "ls", "-q", "--filter", "driver=macvlan"])?;
            ensure!(left.trim().is_empty(), "there is {left:?}");
            Ok(())
        })?;
        docker(host, "network rm lan-here")?;
    }
    cluster.down()
}

#[test]
fn what_the_node_lacks_is_said() -> anyhow::Result<()> {
    let cluster = swarm("no-lan", 1, 1)?;
    let first = cluster.host("n1")?;
    docker(
        first,
        "network create -d macvlan --scope swarm --config-from absent lan",
    )?;
    let on_lan = ["--network", "lan", "--restart-condition", "none"];
    services::create_unwatched(first, "web", 1, &on_lan)?;
    wait_until("the task says why it does not run", REFUSED, || {
        let said = docker(
            first,
            "service ps --no-trunc --format {{.CurrentState}}:{{.Error}} web",
        )?;
        ensure!(
            said.starts_with("Rejected")
                && said.contains("configuration network \"absent\" does not exist"),
            "{said}"
        );
        Ok(())
    })?;
    cluster.down()
}

#[test]
fn services_are_on_the_nodes_own_bridges_and_on_an_overlay() -> anyhow::Result<()> {
    let cluster = swarm("own-bridge", 2, 1)?;
    let first = cluster.host("n1")?;
    docker(first, "network create -d overlay front")?;
    docker(first, "network create -d bridge --scope swarm own")?;
    let on_both = ["--network", "own", "--network", "front", "-p", "30220:8080"];
    services::create(first, "web", 2, &on_both)?;
    await_published(&cluster, cluster.nodes(), 30_220)?;
    let tasks = ask_each(&cluster, cluster.nodes(), 30_220, 20)?;
    ensure!(tasks.len() == 2, "{tasks:?} answered");
    // The engine chooses the way out, by the networks' names: names are found all the same.
    docker(first, "network create -d bridge --scope swarm early")?;
    services::create(
        first,
        "other",
        2,
        &["--network", "early", "--network", "front"],
    )?;
    for host in cluster.nodes() {
        let said = services::exec(host, "other", "wget -q -O - http://web:8080/")?;
        ensure!(said.contains("\"task\":\"web."), "web answered {said:?}");
    }
    // Those that every engine has.
    services::create(first, "on-bridge", 2, &["--network", "bridge"])?;
    services::create(first, "on-host", 1, &["--network", "host"])?;
    cluster.down()
}
