//! Ports in host mode: published on the node of each task, and nowhere else.

use anyhow::{Context as _, ensure};
use skein_tests::{
    load::unnoticed,
    sockets::{call_program, program_on},
    swarm,
};
use std::{collections::BTreeSet, time::Duration};
use xtask::{
    check::{
        requests::{ask, ask_each, await_published},
        services,
    },
    cluster::{Daemon, Host},
    wait_until,
};

/// For an update of three tasks on a loaded machine.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(120);
/// What curl exits with where nobody listens.
const REFUSED: &str = "7";

/// Where the running tasks of a service are published, as `docker service ps` shows it: `*:8080->80/tcp`.
fn shown_ports(host: &Host, service: &str) -> anyhow::Result<Vec<String>> {
    let ps = ["service", "ps", "--filter", "desired-state=running"];
    let shown = host.docker(&[&ps[..], &["--format", "{{.Ports}}", service]].concat())?;
    let ports = shown.split([',', '\n']).map(str::trim);
    let ports = ports.filter(|port| !port.is_empty());
    Ok(ports.map(str::to_owned).collect())
}

/// The numbers that nodes chose for the ports of a service that asks for one each.
fn chosen_ports(host: &Host, service: &str, count: usize) -> anyhow::Result<Vec<u16>> {
    wait_until("ports are shown", services::SETTLE_TIMEOUT, || {
        let shown = shown_ports(host, service)?;
        ensure!(shown.len() == count, "{service} has ports {shown:?}");
        let number = |shown: &String| {
            let number = shown.strip_prefix("*:")?.strip_suffix("->8080/tcp")?;
            number.parse::<u16>().ok()
        };
        let numbers: Option<Vec<u16>> = shown.iter().map(number).collect();
        numbers.with_context(|| format!("{service} has ports {shown:?}"))
    })
}

fn overlays(host: &Host) -> anyhow::Result<()> {
    for network in ["front", "back"] {
        host.docker(&["network", "create", "-d", "overlay", network])?;
    }
    Ok(())
}

const ON_OVERLAYS: [&str; 4] = ["--network", "front", "--network", "back"];

fn ensure_refused(from: &Host, to: &Host, port: u16) -> anyhow::Result<()> {
    let url = format!("http://{}:{port}/", to.address());
    let code = from.shell(&format!("curl -s -o /dev/null -m 2 {url}; echo $?"))?;
    ensure!(code.trim() == REFUSED, "{url} gave curl's code {code}");
    Ok(())
}

#[test]
fn a_host_port_leads_to_its_nodes_own_task() -> anyhow::Result<()> {
    let cluster = swarm("host-ports", 3, 1)?;
    let (first, client) = (cluster.host("n1")?, cluster.client()?);
    overlays(first)?;
    let ports = [
        "-p",
        "mode=host,published=8080,target=8080",
        "-p",
        "mode=host,published=8081,target=8080,protocol=udp",
    ];
    let on_second = ["--constraint", "node.hostname==n2"];
    let options = [&ports[..], &ON_OVERLAYS, &on_second].concat();
    services::create(first, "web", 1, &options)?;
    let second = cluster.host("n2")?;
    await_published(&cluster, [second], 8080)?;

    // The client's address is kept, and no other node answers.
    ask_each(&cluster, [second], 8080, 10)?;
    for other in ["n1", "n3"] {
        ensure_refused(client, cluster.host(other)?, 8080)?;
    }
    // From nodes: the task's own, by all its addresses, and another.
    let own = second.address().to_string();
    for (from, to) in [
        (second, "127.0.0.1"),
        (second, "localhost"),
        (second, own.as_str()),
        (first, own.as_str()),
    ] {
        for answer in ask(from, to, 8080, 5)? {
            let expected = from.address().to_string();
            ensure!(
                answer.client == expected && answer.node == "n2",
                "{answer:?}"
            );
        }
    }
    for (from, to) in [
        (client, own.as_str()),
        (second, "127.0.0.1"),
        (second, own.as_str()),
    ] {
        let said = from.shell(&format!("echo hello | socat -t 2 - UDP4:{to}:8081"))?;
        ensure!(said.contains("\"hostname\""), "to {to} got {said:?}");
    }
    let shown: BTreeSet<String> = shown_ports(first, "web")?.into_iter().collect();
    let expected = ["*:8080->8080/tcp", "*:8081->8080/udp"].map(str::to_owned);
    ensure!(shown == expected.into(), "shown are {shown:?}");

    // The port is another service's nowhere on that node.
    services::create_unwatched(first, "rival", 1, &options)?;
    wait_until("it is said why", services::SETTLE_TIMEOUT, || {
        let tasks = services::tasks(first, "rival")?;
        let said = "host-mode port already in use on 1 node";
        ensure!(
            tasks.iter().any(|task| task.error.contains(said)),
            "{tasks:?}"
        );
        Ok(())
    })?;
    first.docker(&["service", "rm", "web"])?;
    services::settled(first, "rival", 1)?;
    await_published(&cluster, [second], 8080)?;
    cluster.down()
}

#[test]
fn nodes_choose_ports_that_nobody_has() -> anyhow::Result<()> {
    let cluster = swarm("host-ports-chosen", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    overlays(first)?;
    let server = program_on(second, 32_768)?;
    let on_second = ["--constraint", "node.hostname==n2"];
    let any_port = ["-p", "mode=host,target=8080"];
    services::create(first, "plain", 2, &[any_port, on_second].concat())?;
    let more = [&any_port[..], &ON_OVERLAYS, &on_second].concat();
    services::create(first, "linked", 1, &more)?;
    let mut ports = chosen_ports(first, "plain", 2)?;
    ports.extend(chosen_ports(first, "linked", 1)?);
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    ensure!(distinct.len() == 3, "chosen are {ports:?}");
    ensure!(
        distinct.iter().all(|port| *port > 32_768),
        "chosen are {ports:?}"
    );
    for port in &ports {
        await_published(&cluster, [second], *port)?;
        ask_each(&cluster, [second], *port, 3)?;
        ensure_refused(cluster.client()?, first, *port)?;
    }
    // The same after the agent has begun anew, and while it is away.
    second.kill(&[Daemon::Control])?;
    ask_each(&cluster, [second], ports[0], 3)?;
    second.start(&[Daemon::Control])?;
    services::settled(first, "plain", 2)?;
    ask_each(&cluster, [second], ports[0], 3)?;
    ensure!(
        chosen_ports(first, "plain", 2)? == ports[..2],
        "they changed"
    );
    // It is no other service's to publish.
    let taken = format!("{}:8080", ports[0]);
    let refused = services::create_unwatched(first, "rival", 1, &["-p", &taken]);
    let refused = format!("{:#}", refused.err().context("a port was given twice")?);
    ensure!(refused.contains("as a host-published port"), "{refused}");
    server.end()?;
    cluster.down()
}

#[test]
fn updates_and_daemons_that_end_are_unnoticed() -> anyhow::Result<()> {
    let cluster = swarm("host-ports-update", 3, 1)?;
    let first = cluster.host("n1")?;
    overlays(first)?;
    let options = [
        &ON_OVERLAYS[..],
        &["-p", "mode=host,published=8080,target=8080"],
        &["--update-order", "start-first", "--update-monitor", "500ms"],
    ];
    services::create(first, "web", 3, &options.concat())?;
    await_published(&cluster, cluster.nodes(), 8080)?;
    for round in 1..=2 {
        unnoticed(
            &cluster,
            8080,
            &format!("start-first, round {round}"),
            || {
                services::update(first, "web", &["--force"], UPDATE_TIMEOUT)?;
                services::settled(first, "web", 3)
            },
        )?;
    }
    unnoticed(
        &cluster,
        8080,
        "skein-control killed and started everywhere",
        || {
            for node in cluster.nodes() {
                node.kill(&[Daemon::Control])?;
            }
            std::thread::sleep(Duration::from_secs(2));
            for node in cluster.nodes() {
                node.start(&[Daemon::Control])?;
            }
            let runs = || services::settled(first, "web", 3);
            wait_until("a manager leads again", services::SETTLE_TIMEOUT, runs)
        },
    )?;
    unnoticed(
        &cluster,
        8080,
        "skein-dataplane killed and started everywhere",
        || {
            for node in cluster.nodes() {
                node.kill(&[Daemon::Dataplane])?;
                std::thread::sleep(Duration::from_millis(500));
                node.start(&[Daemon::Dataplane])?;
            }
            Ok(())
        },
    )?;
    cluster.down()
}

#[test]
fn a_port_of_a_host_program_stays_its_own() -> anyhow::Result<()> {
    let cluster = swarm("host-ports-taken", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let server = program_on(first, 8080)?;
    let port = ["-p", "mode=host,published=8080,target=8080"];
    services::create(first, "web", 2, &port)?;
    await_published(&cluster, [second], 8080)?;
    let said = call_program(cluster.client()?, first, 8080)?;
    ensure!(said == "host", "the program's client got {said:?}");
    wait_until("the user is told", services::SETTLE_TIMEOUT, || {
        let tasks = services::tasks(first, "web")?;
        let told = "port 8080 is not published on this node";
        ensure!(
            tasks.iter().any(|task| task.error.contains(told)),
            "{tasks:?}"
        );
        Ok(())
    })?;
    server.end()?;
    // It is the service's as soon as the program lets go of it.
    await_published(&cluster, [first], 8080)?;
    cluster.down()
}
