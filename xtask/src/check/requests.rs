//! Requests to published ports, one by one, with curl.

use crate::{
    cluster::{Cluster, Host},
    run::wait_until,
};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::{collections::BTreeSet, time::Duration};

/// How long one request may take, in seconds: a lost SYN is sent again after one.
const REQUEST_SECONDS: u32 = 2;
/// From a task's start to its place in every node's kernel; far less but on a loaded machine.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the demo server answers, as far as checks read it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Answer {
    /// The container's host name: tells tasks apart.
    pub hostname: String,
    /// The task's node.
    pub node: String,
    /// The address that the server saw.
    pub client: String,
}

/// `count` requests from a host to an address, one connection each. All must be answered.
///
/// # Errors
/// One was not; with the answers so far.
pub fn ask(from: &Host, address: &str, port: u16, count: usize) -> anyhow::Result<Vec<Answer>> {
    let said = from
        .shell(&format!(
            "i=0; while [ $i -lt {count} ]; do \
             curl -sS -m {REQUEST_SECONDS} http://{address}:{port}/ || exit 1; i=$((i+1)); done"
        ))
        .with_context(|| format!("a request from {} to {address}:{port}", from.name()))?;
    let answers = serde_json::Deserializer::from_str(&said).into_iter::<Answer>();
    let answers = answers.collect::<Result<Vec<_>, _>>();
    let answers = answers.with_context(|| format!("{address}:{port} answered {said}"))?;
    ensure!(
        answers.len() == count,
        "{address}:{port} gave {} answers to {count} requests",
        answers.len()
    );
    Ok(answers)
}

/// Waits until a published port answers through each of these nodes: a task runs a moment before every
/// node has been told of it.
///
/// # Errors
/// One does not in time.
pub fn await_published<'a>(
    cluster: &Cluster,
    nodes: impl IntoIterator<Item = &'a Host>,
    port: u16,
) -> anyhow::Result<()> {
    let client = cluster.client()?;
    for node in nodes {
        let address = node.address().to_string();
        let what = format!("port {port} answers through {}", node.name());
        wait_until(&what, PUBLISH_TIMEOUT, || ask(client, &address, port, 1))?;
    }
    Ok(())
}

/// `count` requests from the client to each of these nodes: all are answered, each names the client's
/// own address. Returns the tasks that answered.
///
/// # Errors
/// What does not hold.
pub fn ask_each<'a>(
    cluster: &Cluster,
    nodes: impl IntoIterator<Item = &'a Host>,
    port: u16,
    count: usize,
) -> anyhow::Result<BTreeSet<String>> {
    let client = cluster.client()?;
    let own = client.address().to_string();
    let mut tasks = BTreeSet::new();
    for node in nodes {
        for answer in ask(client, &node.address().to_string(), port, count)? {
            ensure!(
                answer.client == own,
                "through {} the task saw {} instead of {own}",
                node.name(),
                answer.client
            );
            tasks.insert(answer.hostname);
        }
    }
    Ok(tasks)
}
