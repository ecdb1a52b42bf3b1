//! A whole application by `docker stack deploy`: it works, is updated under its users, and rolls back.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::{api, swarm};
use std::{collections::BTreeSet, time::Duration};
use xtask::{
    check::services,
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
    let folder = xtask::root().join("tests/stacks").join(STACK);
    let socket = Daemon::Control.socket();
    host.shell(&format!(
        "cd {} && {environment} docker --host unix://{socket} stack deploy -c stack.yml \
         --resolve-image never {STACK}",
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

/// Waits until the last update of a service ended like this.
fn await_update(host: &Host, name: &str, state: &str) -> anyhow::Result<()> {
    let what = format!("the update of {name} is {state}");
    wait_until(&what, UPDATED, || {
        let status = &service(host, name)?["UpdateStatus"];
        ensure!(status["State"] == state, "it is {status}");
        Ok(())
    })
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
