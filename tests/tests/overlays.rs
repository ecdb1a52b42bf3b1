//! Tasks on overlays.

use anyhow::ensure;
use skein_tests::{overlay, swarm};
use xtask::check::{
    names,
    requests::{ask_each, await_published},
    services,
};

#[test]
fn a_task_on_two_overlays_has_a_published_port() -> anyhow::Result<()> {
    let cluster = swarm("two-overlays", 2, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "front"])?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let both = [
        "--network",
        "front",
        "--network",
        "back",
        "-p",
        "30100:8080",
    ];
    services::create(first, "web", 2, &both)?;
    services::create(first, "only-front", 2, &["--network", "front"])?;
    services::create(first, "only-back", 2, &["--network", "back"])?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let tasks = ask_each(&cluster, cluster.nodes(), 30_100, 20)?;
    ensure!(tasks.len() == 2, "{tasks:?} answered");
    for node in cluster.nodes() {
        for service in ["only-front", "only-back"] {
            let said = services::exec(node, service, "wget -q -O - http://web:8080/")?;
            ensure!(said.contains("\"hostname\""), "{service} got {said:?}");
            let said =
                services::exec(node, "web", &format!("wget -q -O - http://{service}:8080/"))?;
            ensure!(
                said.contains("\"hostname\""),
                "web got {said:?} from {service}"
            );
        }
        // Names are those of the asker's networks.
        ensure!(names::resolve(node, "only-front", "only-back")?.is_empty());
        ensure!(names::resolve(node, "only-back", "web")?.len() == 1);
    }
    cluster.down()
}

#[test]
fn networks_may_have_the_same_subnet() -> anyhow::Result<()> {
    let cluster = swarm("same-subnet", 2, 1)?;
    let first = cluster.host("n1")?;
    for network in ["red", "blue"] {
        overlay(first, network, "10.77.0.0/24")?;
        let service = format!("{network}-web");
        services::create(first, &service, 2, &["--network", network])?;
    }
    for node in cluster.nodes() {
        for (network, other) in [("red", "blue"), ("blue", "red")] {
            let service = format!("{network}-web");
            let of_service = |answer: &str| answer.contains(&format!("\"task\":\"{service}."));
            for _ in 0..4 {
                let get = format!("wget -q -O - http://{service}:8080/");
                let said = services::exec(node, &service, &get)?;
                ensure!(of_service(&said), "{service} got {said:?}");
            }
            // Each task by its own address, which the other network has as well.
            let tasks = names::resolve(node, &service, &format!("tasks.{service}"))?;
            ensure!(tasks.len() == 2, "tasks.{service} is {tasks:?}");
            for task in tasks {
                let get = format!("wget -q -O - http://{task}:8080/");
                let said = services::exec(node, &service, &get)?;
                ensure!(of_service(&said), "{task} answered {service} with {said:?}");
            }
            let others = names::resolve(node, &service, &format!("{other}-web"))?;
            ensure!(
                others.is_empty(),
                "{service} resolves {other}-web to {others:?}"
            );
        }
    }
    cluster.down()
}

/// The way out of its tasks is the ingress network's: from one subnet to the other they need a route.
#[test]
fn a_network_may_have_several_subnets() -> anyhow::Result<()> {
    let cluster = swarm("subnets", 2, 1)?;
    let first = cluster.host("n1")?;
    let [one, other] = ["10.77.0.0/29", "10.78.4.0/29"];
    let create = ["network", "create", "-d", "overlay", "--attachable"];
    let subnets = ["--subnet", one, "--subnet", other, "wide"];
    first.docker(&[&create[..], &subnets].concat())?;
    // Each has room for five. The CLI sends them in any order, and the first has the VIP.
    let published = ["--network", "wide", "-p", "30100:8080"];
    services::create(first, "web", 8, &published)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let tasks = names::resolve(first, "web", "tasks.web")?;
    let in_one = tasks
        .iter()
        .filter(|task| task.starts_with("10.77.0."))
        .count();
    let in_other = tasks
        .iter()
        .filter(|task| task.starts_with("10.78.4."))
        .count();
    ensure!((in_one, in_other) == (4, 4), "the tasks are {tasks:?}");

    for node in cluster.nodes() {
        let listed = [
            "ps",
            "-q",
            "--filter",
            "label=com.docker.swarm.service.name=web",
        ];
        for container in node.docker(&listed)?.split_whitespace() {
            for to in tasks.iter().map(String::as_str).chain(["web"]) {
                let url = format!("http://{to}:8080/");
                let said = node.docker(&["exec", container, "wget", "-q", "-O", "-", &url])?;
                ensure!(
                    said.contains("\"hostname\""),
                    "{container} got {said:?} from {to}"
                );
            }
        }
    }
    // The last address there is.
    let entry = ["--entrypoint", "wget", "skein-demo"];
    let ask = ["-q", "-O", "-", "http://web:8080/"];
    let run = ["run", "--rm", "--network", "wide"];
    let said = first.docker(&[&run[..], &entry, &ask].concat())?;
    ensure!(
        said.contains("\"client\":\"10.77.0.") || said.contains("\"client\":\"10.78.4."),
        "the client is another one: {said}"
    );
    cluster.down()
}

#[test]
fn names_are_answered_over_udp_and_tcp() -> anyhow::Result<()> {
    let cluster = swarm("names", 2, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    services::create(first, "web", 3, &["--network", "back"])?;
    for node in cluster.nodes() {
        for transport in ["", "+tcp"] {
            let vip = names::resolve_with(node, "web", "web", transport)?;
            ensure!(vip.len() == 1, "web is {vip:?}");
            let tasks = names::resolve_with(node, "web", "tasks.web", transport)?;
            ensure!(tasks.len() == 3, "tasks.web is {tasks:?}");
            let unknown = names::resolve_with(node, "web", "no-such-name", transport)?;
            ensure!(unknown.is_empty(), "no-such-name is {unknown:?}");
        }
    }
    cluster.down()
}

#[test]
fn a_removed_network_s_name_can_be_used_at_once() -> anyhow::Result<()> {
    let cluster = swarm("same-name", 2, 1)?;
    let first = cluster.host("n1")?;
    let deploy = || {
        first.docker(&["network", "create", "-d", "overlay", "front"])?;
        first.docker(&["network", "create", "-d", "overlay", "back"])?;
        let on_both = ["--network", "front", "--network", "back"];
        services::create(first, "web", 2, &on_both)
    };
    deploy()?;
    first.docker(&["service", "rm", "web"])?;
    // Its tasks are still to end.
    first.docker(&["network", "rm", "front", "back"])?;
    deploy()?;
    let all = first.docker(&["service", "ps", "-q", "web"])?;
    ensure!(all.lines().count() == 2, "tasks failed: {all}");
    for node in cluster.nodes() {
        let said = services::exec(node, "web", "wget -q -O - http://web:8080/")?;
        ensure!(
            said.contains("\"hostname\""),
            "{} got {said:?}",
            node.name()
        );
    }
    cluster.down()
}
