//! A whole application by `docker stack deploy`: it works, is updated under its users, and rolls back.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::{api, cli, sockets, swarm};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};
use xtask::{
    check::{names, services},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

const STACK: &str = "voting";
const VOTE_PORT: u16 = 5000;
const RESULT_PORT: u16 = 5001;
/// From a vote to its place in the result: the worker looks five times a second.
const COUNTED: Duration = Duration::from_secs(30);
/// An update of three tasks, or one that fails and is rolled back, each watched for 2 s.
const UPDATED: Duration = Duration::from_secs(120);
/// Everything of the stack has ended, and is removed.
const REMOVED: Duration = Duration::from_secs(60);

/// Deploys the stack at its place, with these variables in the environment.
fn deploy(host: &Host, environment: &str) -> anyhow::Result<()> {
    deploy_by(host, &format!("{environment} docker"), STACK)
}

/// Deploys any of the stacks here, by a CLI as a shell calls it.
fn deploy_by(host: &Host, cli: &str, stack: &str) -> anyhow::Result<()> {
    let folder = xtask::root().join("tests/stacks").join(stack);
    let socket = Daemon::Control.socket();
    host.shell(&format!(
        "cd {} && {cli} --host unix://{socket} stack deploy -c stack.yml --resolve-image never {stack}",
        folder.display()
    ))
    .map(drop)
}

/// What the application's pages answer to a user, through one node.
fn page(cluster: &Cluster, node: &Host, port: u16, path: &str) -> anyhow::Result<String> {
    let url = format!("http://{}:{port}/cgi-bin/{path}", node.address());
    cluster.client()?.run(&format!("curl -sS -f -m 10 {url}"))
}

/// Votes once through each node; what was said.
fn vote(cluster: &Cluster, choice: &str) -> anyhow::Result<BTreeSet<String>> {
    let nodes = cluster.nodes();
    let said = nodes.map(|node| page(cluster, node, VOTE_PORT, &format!("vote?{choice}")));
    let said: BTreeSet<String> = said.collect::<Result<_, _>>()?;
    Ok(said.iter().map(|said| said.trim().to_owned()).collect())
}

/// Waits until every node shows so many votes for a choice.
fn await_count(cluster: &Cluster, choice: &str, count: usize) -> anyhow::Result<()> {
    let expected = format!("{count} {choice}");
    for node in cluster.nodes() {
        let what = format!("{} shows {expected}", node.name());
        wait_until(&what, COUNTED, || {
            let shown = page(cluster, node, RESULT_PORT, "result")?;
            let mut lines = shown.lines().map(str::trim);
            ensure!(lines.any(|line| line == expected), "it shows {shown:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A service of the stack, as the API has it.
fn service(host: &Host, name: &str) -> anyhow::Result<Value> {
    api::ask(host, "GET", &format!("/services/{STACK}_{name}"))?.json()
}

/// Waits until the last update of a service of the stack ended like this.
fn await_update(host: &Host, name: &str, state: &str) -> anyhow::Result<()> {
    services::await_update(host, &format!("{STACK}_{name}"), state, UPDATED)
}

/// IDs of the tasks of the stack that are to run.
fn tasks(host: &Host, name: &str) -> anyhow::Result<BTreeSet<String>> {
    let filters = format!("-f name={STACK}_{name} -f desired-state=running");
    let line = format!("stack ps -q --no-trunc {filters} {STACK}");
    let words: Vec<_> = line.split_whitespace().collect();
    let ids = host.docker(&words)?;
    Ok(ids.lines().map(str::to_owned).collect())
}

#[test]
fn an_application_is_deployed_updated_and_rolled_back() -> anyhow::Result<()> {
    let cluster = swarm("stack", 3, 1)?;
    let first = cluster.host("n1")?;
    deploy(first, "GREETING=first")?;
    for (name, replicas) in [
        ("vote", 2),
        ("queue", 1),
        ("worker", 1),
        ("db", 1),
        ("result", 1),
    ] {
        services::settled(first, &format!("{STACK}_{name}"), replicas)?;
    }
    wait_until("all nodes take votes", COUNTED, || {
        vote(&cluster, "warmup").map(drop)
    })?;
    ensure!(vote(&cluster, "cats")? == BTreeSet::from(["first: queued cats".into()]));
    await_count(&cluster, "cats", 3)?;

    // Only what has changed is replaced, and the votes stay.
    let others = ["queue", "worker", "db", "result"];
    let before: Vec<_> = others
        .iter()
        .map(|name| tasks(first, name))
        .collect::<Result<_, _>>()?;
    deploy(first, "GREETING=second")?;
    await_update(first, "vote", "completed")?;
    wait_until("all nodes have the new page", COUNTED, || {
        let said = vote(&cluster, "dogs")?;
        ensure!(
            said == BTreeSet::from(["second: queued dogs".into()]),
            "{said:?}"
        );
        Ok(())
    })?;
    let after: Vec<_> = others
        .iter()
        .map(|name| tasks(first, name))
        .collect::<Result<_, _>>()?;
    ensure!(
        before == after,
        "tasks of services that did not change: {before:?}, then {after:?}"
    );
    await_count(&cluster, "cats", 3)?;

    // By hand, and by itself where the new tasks fail.
    first.docker(&["service", "rollback", "--detach", &format!("{STACK}_vote")])?;
    await_update(first, "vote", "rollback_completed")?;
    ensure!(vote(&cluster, "cats")? == BTreeSet::from(["first: queued cats".into()]));
    deploy(first, "GREETING=third SERVER=absent")?;
    await_update(first, "vote", "rollback_completed")?;
    let environment = &service(first, "vote")?["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"];
    ensure!(environment[0] == "GREETING=first", "{environment}");
    ensure!(vote(&cluster, "cats")? == BTreeSet::from(["first: queued cats".into()]));
    await_count(&cluster, "cats", 9)?;

    first.docker(&["stack", "rm", STACK])?;
    wait_until("nothing is left of the stack", REMOVED, || {
        for kind in ["services", "networks", "secrets", "configs", "tasks"] {
            let path = format!(
                "/{kind}?filters=%7B%22label%22%3A%5B%22com.docker.stack.namespace%22%5D%7D"
            );
            let left = api::ask(first, "GET", &path)?.json()?;
            let left = left.as_array().context("no list")?;
            ensure!(left.is_empty(), "{kind}: {left:?}");
        }
        Ok(())
    })?;
    ensure!(
        vote(&cluster, "cats").is_err(),
        "somebody still takes votes"
    );
    cluster.down()
}

/// The stack of a server and its client, and the network that they have in common.
const PAIR: &str = "pair";
const FRONT: &str = "pair_front";
/// The server's grace period.
const GRACE: Duration = Duration::from_secs(8);
/// Until its end is noticed: the grace period, what comes before and after it, and the wait for an answer.
const ENDED: Duration = Duration::from_secs(30);

/// Subnet and network identifier of the network.
fn place(host: &Host) -> anyhow::Result<(String, String)> {
    let network = api::ask(host, "GET", &format!("/networks/{FRONT}"))?.json()?;
    let subnet = network["IPAM"]["Config"][0]["Subnet"].as_str();
    let vni = network["Options"]["com.docker.network.driver.overlay.vxlanid_list"].as_str();
    let both = subnet.zip(vni);
    let (subnet, vni) = both.with_context(|| format!("no place: {network}"))?;
    Ok((subnet.to_owned(), vni.to_owned()))
}

/// What a user sees of a network that was removed, while tasks are on it: nothing. But what it has is no
/// other's.
fn is_gone_but_for_its_place(host: &Host, (subnet, vni): &(String, String)) -> anyhow::Result<()> {
    let name = format!("name={FRONT}");
    let listed = host.docker(&["network", "ls", "-q", "--filter", &name])?;
    ensure!(listed.trim().is_empty(), "it is listed: {listed}");
    let inspected = api::ask(host, "GET", &format!("/networks/{FRONT}"))?;
    ensure!(inspected.status == 404, "it is shown: {inspected:?}");
    host.docker(&["network", "create", "-d", "overlay", FRONT])?;
    let next = place(host)?;
    ensure!(next.0 != *subnet && next.1 != *vni, "given again: {next:?}");
    host.docker(&["network", "rm", FRONT])?;
    ensure!(take(host, vni).is_err(), "{vni} is given again");
    Ok(())
}

/// Makes a network with that identifier, and removes it.
fn take(host: &Host, vni: &str) -> anyhow::Result<()> {
    let option = format!("com.docker.network.driver.overlay.vxlanid_list={vni}");
    host.docker(&[
        "network", "create", "-d", "overlay", "--opt", &option, "taken",
    ])?;
    host.docker(&["network", "rm", "taken"]).map(drop)
}

#[test]
fn connections_over_an_overlay_outlive_the_stack_that_has_it() -> anyhow::Result<()> {
    let cluster = swarm("stack-rm", 2, 1)?;
    let first = cluster.host("n1")?;
    for cli in cli::installed()? {
        deploy_by(first, &cli.path, PAIR)?;
        for name in ["pair_server", "pair_client"] {
            services::settled(first, name, 1)?;
        }
        let before = place(first)?;
        let mut to = names::resolve(first, "pair_client", "server")?;
        to.extend(names::resolve(first, "pair_client", "tasks.server")?);
        ensure!(to.len() == 2, "the server is at {to:?}");
        sockets::within_task(first, "pair_client", || {
            let connect = |address: &String| {
                let to = SocketAddrV4::new(address.parse::<Ipv4Addr>()?, 8080);
                sockets::connect(to, sockets::TIMEOUT).context(to)
            };
            let mut kept: Vec<TcpStream> = to.iter().map(connect).collect::<Result<_, _>>()?;
            let mut ask = || {
                kept.iter_mut()
                    .try_for_each(|on| sockets::ask_on(on).map(drop))
            };
            ask()?;
            let removed = Instant::now();
            first.docker_by(&cli.path, &["stack", "rm", PAIR])?;
            ask().context("right after the removal")?;
            is_gone_but_for_its_place(first, &before)?;
            let mut answered = removed.elapsed();
            while ask().is_ok() {
                answered = removed.elapsed();
                ensure!(answered < ENDED, "the server does not end");
                std::thread::sleep(Duration::from_millis(50));
            }
            ensure!(answered >= GRACE, "cut {answered:?} after the removal");
            Ok(())
        })?;
        // With the client, which has the longer grace period.
        let what = "the network's identifier can be had again";
        wait_until(what, ENDED, || take(first, &before.1))?;
    }
    cluster.down()
}
