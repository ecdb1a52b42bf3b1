//! The return modes `symmetric`, `dsr` and `snat`: what a task sees, and which way its answers take.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_abi::verdict::Counter;
use skein_tests::{api, bulk, kernel, load::unnoticed, sockets, swarm};
use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};
use xtask::{
    check::{
        requests::{Answer, ask, await_published},
        return_mode::{self, RETURN_MODE_LABEL, RETURN_MODES},
        services,
        status::await_forwarding,
    },
    cluster::{Attach, Cluster, Daemon, Forwarding, Host, Shape},
};

/// The demo's server, and one that sends back what it is sent; and their ports.
const SERVICES: [&str; 2] = ["web", "echo"];
const WEB: u16 = 30_100;
const ECHO: u16 = 30_101;
/// Three fragments on an Ethernet, and as many back.
const LARGE: usize = 4_000;
/// Of each request at least SYN, request and FIN go there, and as much comes back.
const PACKETS: u64 = 3;
/// Enough for many segments of the largest size in flight.
const BULK_BYTES: u64 = 16 << 20;

/// Both services, each with its one task on the last node.
fn serve(cluster: &Cluster, first: &Host, last: &Host) -> anyhow::Result<()> {
    let constraint = format!("node.hostname=={}", last.name());
    let (web, web_udp) = (format!("{WEB}:8080"), format!("{WEB}:8080/udp"));
    let on_last = ["-p", &web, "-p", &web_udp, "--constraint", &constraint];
    services::create(first, "web", 1, &on_last)?;
    bulk::serve(first, "echo", ECHO, last, &[])?;
    await_published(cluster, cluster.nodes(), WEB)
}

/// Gives both services a mode, or takes it away, and waits until each node has `expected`.
fn choose(cluster: &Cluster, mode: Option<&str>, expected: &str) -> anyhow::Result<()> {
    return_mode::choose(
        cluster.host("n1")?,
        cluster.nodes(),
        &SERVICES,
        mode,
        expected,
    )
}

/// Whom the task sees, of a client that calls a node.
fn seen(mode: &str, client: Ipv4Addr, called: &Host) -> String {
    match mode {
        "snat" => called.address(),
        _ => client,
    }
    .to_string()
}

/// A flow that was begun in one mode, and is to stay as it was.
struct Kept {
    stream: TcpStream,
    answer: Answer,
}

impl Kept {
    fn begin(client: &Host, called: &Host, mode: &str) -> anyhow::Result<Self> {
        let to = SocketAddrV4::new(called.address(), WEB);
        let mut stream = sockets::within(client, || sockets::connect(to, sockets::TIMEOUT))?;
        let answer = sockets::ask_on(&mut stream)?;
        let expected = seen(mode, client.address(), called);
        ensure!(answer.client == expected, "{mode}: {answer:?}");
        Ok(Self { stream, answer })
    }

    fn goes_on(&mut self) -> anyhow::Result<()> {
        let answer = sockets::ask_on(&mut self.stream)?;
        ensure!(
            answer == self.answer,
            "{answer:?}, no more {:?}",
            self.answer
        );
        Ok(())
    }
}

/// Packets that nodes let out to clients: those that the called one does, and that the task's does itself.
fn let_out(first: &Host, last: &Host) -> anyhow::Result<[u64; 2]> {
    Ok([
        kernel::count(first, Counter::ReplyOut)?,
        kernel::count(last, Counter::ReplyDirect)?,
    ])
}

#[test]
fn modes_hold_by_tc() -> anyhow::Result<()> {
    modes_hold("modes-tc", Attach::Tc)
}

#[test]
fn modes_hold_by_xdp() -> anyhow::Result<()> {
    modes_hold("modes-xdp", Attach::Xdp)
}

fn modes_hold(name: &str, attach: Attach) -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 3,
        managers: 1,
        init: true,
        attach,
    };
    let cluster = Cluster::up(name, &shape)?;
    let (first, second, third) = (
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    );
    serve(&cluster, first, third)?;
    // What was begun in any mode by any forwarding outlives all changes that follow.
    let mut kept = Vec::new();
    for (forwarding, by) in [(Forwarding::Auto, "l2"), (Forwarding::Vxlan, "vxlan")] {
        for node in cluster.nodes().filter(|_| by == "vxlan") {
            node.set_forwarding(forwarding)?;
            node.kill(&[Daemon::Dataplane])?;
            node.start(&[Daemon::Dataplane])?;
        }
        for entry in [first, second] {
            await_forwarding(entry, third, by, by)?;
            await_forwarding(third, entry, by, by)?;
        }
        for mode in RETURN_MODES {
            choose(&cluster, Some(mode), mode)?;
            let with = || format!("{mode} by {by}");
            clients_are_answered(&cluster, first, third, mode).with_context(with)?;
            members_are_answered(first, second, third, mode).with_context(with)?;
            kept.push(Kept::begin(cluster.client()?, first, mode)?);
            for flow in &mut kept {
                flow.goes_on().with_context(with)?;
            }
        }
    }
    traces_tell_the_mode(&cluster, first, third)?;

    // The entry's table names a node without a task: that one sends on, and has no part in the answer.
    kernel::send_all_to(first, WEB, second.address())?;
    for mode in RETURN_MODES {
        choose(&cluster, Some(mode), mode)?;
        let before = kernel::count(second, Counter::SecondHop)?;
        clients_of_one_are_answered(&cluster, first, mode, 10).context("by two hops")?;
        let sent = kernel::count(second, Counter::SecondHop)? - before;
        ensure!(sent >= 10 * PACKETS, "{mode}: {sent} took two hops");
    }
    for flow in &mut kept {
        flow.goes_on()?;
    }
    cluster.down()
}

/// The client's requests through all nodes: who the task sees, and which way its answers take.
fn clients_are_answered(
    cluster: &Cluster,
    first: &Host,
    last: &Host,
    mode: &str,
) -> anyhow::Result<()> {
    const REQUESTS: usize = 20;
    let client = cluster.client()?;
    let before = let_out(first, last)?;
    clients_of_one_are_answered(cluster, first, mode, REQUESTS)?;
    let to = SocketAddrV4::new(first.address(), ECHO);
    bulk::comes_back(client, "", to, BULK_BYTES)?;
    let after = let_out(first, last)?;
    let [by_first, by_last] = std::array::from_fn(|n| after[n] - before[n]);
    let least = REQUESTS as u64 * PACKETS;
    let [passed, not_passed] = match mode {
        "dsr" => [by_last, by_first],
        _ => [by_first, by_last],
    };
    ensure!(
        passed >= least && not_passed == 0,
        "{mode}: the called node let out {by_first} packets, the task's node {by_last}"
    );
    for entry in cluster.nodes().filter(|node| node.name() != first.name()) {
        clients_of_one_are_answered(cluster, entry, mode, 5)?;
    }
    Ok(())
}

/// The client's requests through one node, by TCP and UDP.
fn clients_of_one_are_answered(
    cluster: &Cluster,
    entry: &Host,
    mode: &str,
    count: usize,
) -> anyhow::Result<()> {
    let client = cluster.client()?;
    let expected = seen(mode, client.address(), entry);
    let mut answers = ask(client, &entry.address().to_string(), WEB, count)?;
    let to = SocketAddrV4::new(entry.address(), WEB);
    let socket = sockets::within(client, || sockets::connect_udp(to))?;
    for len in [5, LARGE] {
        answers.push(sockets::ask_by(&socket, &vec![0; len])?);
    }
    for answer in answers {
        let name = entry.name();
        ensure!(
            answer.client == expected,
            "{mode} through {name}: {answer:?}"
        );
    }
    Ok(())
}

/// Requests of nodes to each other's published port, and to their own.
fn members_are_answered(
    first: &Host,
    second: &Host,
    third: &Host,
    mode: &str,
) -> anyhow::Result<()> {
    for (from, called) in [
        (second, first),
        (third, first),
        (first, third),
        (first, first),
        (third, third),
    ] {
        let expected = seen(mode, from.address(), called);
        for answer in ask(from, &called.address().to_string(), WEB, 3)? {
            let (from, called) = (from.name(), called.name());
            ensure!(answer.client == expected, "{from} to {called}: {answer:?}");
        }
    }
    Ok(())
}

/// What traces say on the called node and on the task's, in any mode.
fn traces_tell_the_mode(cluster: &Cluster, first: &Host, last: &Host) -> anyhow::Result<()> {
    let client = cluster.client()?.address();
    let trace = |node: &Host, what: &str| -> anyhow::Result<Value> {
        let text = node.run(&format!("skein trace --format json {client} {what}"))?;
        serde_json::from_str(&text).context(text)
    };
    for mode in RETURN_MODES.into_iter().rev() {
        choose(cluster, Some(mode), mode)?;
        for node in [first, last] {
            let traced = trace(node, &format!("web:{WEB}"))?;
            let decisions = traced["decisions"].to_string();
            ensure!(
                decisions.contains(&format!("go back by {mode}")),
                "{traced}"
            );
            ensure!(traced["disagreement"] == "", "{traced}");
        }
        // At the task's node, who the task is to see.
        let to = first.address();
        let traced = trace(last, &format!("{to}:{WEB} --forwarded-by {}", first.name()))?;
        let expected = format!("tcp {}:", seen(mode, client, first));
        let rewritten = traced["rewritten"].as_str().unwrap_or_default();
        ensure!(rewritten.starts_with(&expected), "{mode}: {traced}");
    }
    Ok(())
}

#[test]
fn a_change_of_mode_goes_unnoticed() -> anyhow::Result<()> {
    let cluster = swarm("modes-changed", 3, 1)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    serve(&cluster, first, third)?;
    unnoticed(&cluster, WEB, "all modes in turn", || {
        for mode in ["dsr", "snat", "symmetric", "snat", "dsr"] {
            choose(&cluster, Some(mode), mode)?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    })?;

    // What is no mode is refused, and changes nothing.
    let label = format!("{RETURN_MODE_LABEL}=direct");
    let refused = first.docker(&["service", "update", "-d", "--label-add", &label, "web"]);
    let refused = format!("{:#}", refused.err().context("it was taken")?);
    ensure!(
        refused.contains("it may be symmetric, dsr or snat"),
        "{refused}"
    );
    // Services without the label have the swarm's own.
    let default = |mode: &str| {
        let swarm = api::ask(first, "GET", "/swarm")?.json()?;
        let mut spec = swarm["Spec"].clone();
        spec["Labels"] = serde_json::json!({ RETURN_MODE_LABEL: mode });
        let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
        api::send(first, "POST", &path, &spec.to_string())
    };
    let refused = default("direct")?;
    ensure!(refused.status == 400, "{refused:?}");
    ensure!(
        refused
            .message()?
            .contains("it may be symmetric, dsr or snat")
    );
    let taken = default("snat")?;
    ensure!(taken.status == 200, "{taken:?}");
    return_mode::await_mode(cluster.nodes(), &SERVICES, "dsr")?;
    choose(&cluster, None, "snat")?;
    clients_of_one_are_answered(&cluster, first, "snat", 5)?;
    // The docker CLI has no word for labels of a swarm, and leaves them as they are.
    first.docker(&["swarm", "update", "--task-history-limit", "3"])?;
    choose(&cluster, Some("symmetric"), "symmetric")?;
    choose(&cluster, None, "snat")?;
    cluster.down()
}
