//! Everything on a cluster of three nodes, shown and checked.

use crate::{
    check::{
        load::Load,
        names,
        nodes::leader,
        requests::{ask_each, await_published},
        services::{self, SETTLE_TIMEOUT, port_of},
    },
    cluster::{Attach, Cluster, Daemon, Host, Shape},
    image::IMAGE,
    run::{Step, wait_until},
    setup,
};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// Requests to each node in one check.
const REQUESTS: usize = 100;
/// How the demo's services are created: on a network, with an automatic port.
const OPTIONS: [&str; 4] = ["--network", "back", "--publish", "target=8080"];

/// Shows and checks everything.
///
/// # Errors
/// Something is not as it should be; nothing is left behind.
pub fn demo() -> anyhow::Result<()> {
    let began = Instant::now();
    setup::setup(false)?;
    let shape = Shape {
        nodes: 3,
        managers: 3,
        init: true,
        attach: Attach::Auto,
    };
    let cluster = Cluster::up("demo", &shape)?;
    let shown = Instant::now();
    show(&cluster)?;
    cluster.down()?;
    println!(
        "all of it held: {:.0} s, {:.0} s with the build",
        shown.elapsed().as_secs_f32(),
        began.elapsed().as_secs_f32()
    );
    Ok(())
}

fn show(cluster: &Cluster) -> anyhow::Result<()> {
    let first = cluster.host("n1")?;
    let step = Step::begin("create a service of 3 replicas with an automatic port");
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    services::create(first, "web", 3, &OPTIONS)?;
    let port = port_of(first, "web")?;
    await_published(cluster, cluster.nodes(), port)?;
    step.end(&format!("port {port}"));

    let step = Step::begin("ask each node 100 times from the client");
    let tasks = ask_each(cluster, cluster.nodes(), port, REQUESTS)?;
    ensure!(tasks.len() == 3, "of three replicas {tasks:?} answered");
    step.end("300 of 300 answered, by all replicas, each naming the client's own address");

    let step = Step::begin("the same with one replica on one node");
    services::create(first, "one", 1, &OPTIONS)?;
    let one = port_of(first, "one")?;
    await_published(cluster, cluster.nodes(), one)?;
    let tasks = ask_each(cluster, cluster.nodes(), one, REQUESTS)?;
    ensure!(tasks.len() == 1, "of one replica {tasks:?} answered");
    step.end("300 of 300");

    let step = Step::begin("look names up from inside a task");
    let vip = names::resolve(first, "web", "web")?;
    let tasks = names::resolve(first, "web", "tasks.web")?;
    ensure!(vip.len() == 1, "web is {vip:?}");
    ensure!(tasks.len() == 3, "tasks.web is {tasks:?}");
    step.end(&format!(
        "web is {}, tasks.web has 3 addresses",
        vip.join(" ")
    ));

    let step = Step::begin("restart a node's dataplane under load");
    let node = cluster.host("n2")?;
    let load = Load::begin(cluster, node, port, 6)?;
    node.kill(&[Daemon::Dataplane])?;
    std::thread::sleep(Duration::from_secs(1));
    node.start(&[Daemon::Dataplane])?;
    step.end(&load.end()?);

    let step = Step::begin("a plain container beside it all");
    for node in ["n1", "n2"] {
        let address = cluster.host(node)?.address();
        let script =
            format!("(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | nc -w 5 {address} {port}");
        let asked = first.engine(&[
            "run",
            "--rm",
            "--entrypoint",
            "/bin/sh",
            IMAGE,
            "-c",
            &script,
        ])?;
        ensure!(asked.contains("hostname"), "it got {asked:?} from {node}");
    }
    step.end("reaches the port on its own and on another node");

    let step = Step::begin("kill the leader's daemons and engine");
    let leader = leader(first)?;
    let others: Vec<&Host> = cluster
        .nodes()
        .filter(|host| host.name() != leader)
        .collect();
    let load = Load::begin(cluster, others[0], port, 4)?;
    cluster
        .host(&leader)?
        .kill(&[Daemon::Control, Daemon::Engine, Daemon::Dataplane])?;
    let load = load.end()?;
    ask_each(cluster, others.iter().copied(), port, REQUESTS)?;
    wait_until("a new leader scales the service", SETTLE_TIMEOUT, || {
        others[0].docker(&["service", "scale", "-d", "web=4"])
    })?;
    services::settled(others[0], "web", 4)?;
    step.end(&format!(
        "{leader} killed; the others answer ({load}); scaled to 4"
    ));
    let step = Step::begin("start them again");
    cluster.host(&leader)?.start(Daemon::ALL)?;
    step.end("they run");

    let step = Step::begin("cut a node off");
    cluster.cut(&leader)?;
    std::thread::sleep(Duration::from_secs(5));
    ask_each(cluster, others.iter().copied(), port, REQUESTS)?;
    step.end("5 s later every request to the others is answered");
    Ok(())
}
