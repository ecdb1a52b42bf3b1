//! To whom published ports are offered, and by which addresses of a node: what labels of a service narrow.

use anyhow::{Context as _, ensure};
use skein_abi::verdict::Counter;
use skein_tests::{kernel, swarm};
use std::collections::BTreeSet;
use xtask::{
    check::{
        requests::{Answer, ask, await_published},
        services,
        status::{SEEN_WITHIN, status},
    },
    cluster::{Cluster, Host},
    wait_until,
};

const WEB: u16 = 30_100;
const ON_HOST: u16 = 8081;
/// An address that no node has at first.
const LATE: &str = "198.18.0.77";

/// Gives a service labels, or takes those without a value away, and waits until all nodes' kernels have it so.
fn label(
    cluster: &Cluster,
    labels: &[(&str, Option<&str>)],
    shows: impl Fn(&serde_json::Value) -> bool,
) -> anyhow::Result<()> {
    let changes = labels.iter().flat_map(|(label, value)| match value {
        Some(value) => ["--label-add".to_owned(), format!("{label}={value}")],
        None => ["--label-rm".to_owned(), (*label).to_owned()],
    });
    let changes: Vec<String> = changes.collect();
    let mut update = vec!["service", "update", "-d"];
    update.extend(changes.iter().map(String::as_str));
    update.push("web");
    cluster.host("n1")?.docker(&update)?;
    for node in cluster.nodes() {
        let what = format!("{labels:?} in the kernel of {}", node.name());
        wait_until(&what, SEEN_WITHIN, || {
            let said = status(node)?;
            let web = said.item("services", "name", "web")?;
            ensure!(shows(web), "{web}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The addresses that the kernel has the service's ports at; `None`: at all.
fn bound_to(service: &serde_json::Value) -> Option<BTreeSet<String>> {
    let port = &service["ports"][0];
    let addresses = port["addresses"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|address| Some(address.as_str()?.to_owned()));
    (port["bound"] == true).then(|| addresses.collect())
}

fn answered(from: &Host, address: &str, port: u16) -> anyhow::Result<Answer> {
    let answers = ask(from, address, port, 1)?;
    answers.into_iter().next().context("one answer")
}

/// The host's own stack, where nothing listens, says so at once.
fn refused(from: &Host, address: &str, port: u16) -> anyhow::Result<()> {
    let said = from.shell(&format!(
        "curl -sS -m 5 http://{address}:{port}/ 2>&1; echo status $?"
    ))?;
    let name = from.name();
    ensure!(
        said.contains("status 7"),
        "{name} to {address}:{port}: {said}"
    );
    Ok(())
}

/// Nothing answers.
fn ignored(from: &Host, address: &str, port: u16) -> anyhow::Result<()> {
    let said = from.shell(&format!(
        "curl -sS -m 1 http://{address}:{port}/ 2>&1; echo status $?"
    ))?;
    let name = from.name();
    ensure!(
        said.contains("status 28"),
        "{name} to {address}:{port}: {said}"
    );
    Ok(())
}

/// moby#32299, moby#26696: what is to be at one address is published at all of them.
#[test]
fn bind_loopback_is_loopback_32299() -> anyhow::Result<()> {
    let cluster = swarm("bound", 2, 1)?;
    let (first, second, client) = (cluster.host("n1")?, cluster.host("n2")?, cluster.client()?);
    let (web, on_host) = (
        format!("{WEB}:8080"),
        format!("mode=host,published={ON_HOST},target=8080"),
    );
    // From the beginning: there is no moment at which it is anywhere else.
    let only_here = [
        "-p",
        &web,
        "--publish",
        &on_host,
        "--label",
        "skein.ingress.bind=127.0.0.1",
    ];
    services::create(first, "web", 2, &only_here)?;
    let loopback =
        |service: &serde_json::Value| bound_to(service) == Some(["127.0.0.1".to_owned()].into());
    label(
        &cluster,
        &[("skein.ingress.affinity", Some("none"))],
        loopback,
    )?;
    let addresses = [first, second].map(|node| node.address().to_string());
    for (node, own) in [first, second].into_iter().zip(&addresses) {
        for port in [WEB, ON_HOST] {
            wait_until("the port answers on loopback", SEEN_WITHIN, || {
                answered(node, "127.0.0.1", port)
            })?;
            refused(node, own, port)?;
            refused(client, own, port)?;
        }
        for other in addresses.iter().filter(|other| *other != own) {
            refused(node, other, WEB)?;
        }
    }

    // One address of one node.
    let own = format!("{}/32", addresses[0]);
    let only_first = |service: &serde_json::Value| {
        let expected = BTreeSet::from([addresses[0].clone()]);
        bound_to(service).is_some_and(|bound| bound.is_subset(&expected))
    };
    label(&cluster, &[("skein.ingress.bind", Some(&own))], only_first)?;
    for port in [WEB, ON_HOST] {
        ensure!(answered(client, &addresses[0], port)?.client == client.address().to_string());
        refused(first, "127.0.0.1", port)?;
        refused(client, &addresses[1], port)?;
    }
    answered(second, &addresses[0], WEB)?;

    // By device, and another for one port.
    let devices = first.shell(&format!("ip -o -4 address show to {}", addresses[0]))?;
    let device = devices
        .split_whitespace()
        .nth(1)
        .context("a device has the address")?
        .to_owned();
    let by_device =
        |service: &serde_json::Value| bound_to(service).is_some_and(|bound| bound.len() == 1);
    let own_port = format!("skein.ingress.bind.{ON_HOST}");
    let labels = [
        ("skein.ingress.bind", Some(device.as_str())),
        (own_port.as_str(), Some("127.0.0.1")),
    ];
    label(&cluster, &labels, by_device)?;
    for address in &addresses {
        answered(client, address, WEB)?;
        refused(client, address, ON_HOST)?;
    }
    answered(first, "127.0.0.1", ON_HOST)?;
    refused(first, "127.0.0.1", WEB)?;

    // An address that the node has later.
    label(&cluster, &[("skein.ingress.bind", Some(LATE))], |service| {
        bound_to(service) == Some(BTreeSet::new())
    })?;
    refused(client, &addresses[1], WEB)?;
    second.shell(&format!("ip address add {LATE}/24 dev {device}"))?;
    wait_until("the late address is the port's", SEEN_WITHIN, || {
        answered(client, LATE, WEB)
    })?;
    refused(client, &addresses[1], WEB)?;

    let all = [("skein.ingress.bind", None), (own_port.as_str(), None)];
    label(&cluster, &all, |service| bound_to(service).is_none())?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    answered(first, "127.0.0.1", WEB)?;
    cluster.down()
}

#[test]
fn a_service_takes_the_clients_that_it_is_to_take() -> anyhow::Result<()> {
    let cluster = swarm("sources", 3, 1)?;
    let (first, second, client) = (cluster.host("n1")?, cluster.host("n2")?, cluster.client()?);
    let web = format!("{WEB}:8080");
    let on_third = ["-p", &web, "--constraint", "node.hostname==n3"];
    services::create(first, "web", 1, &on_third)?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    let called = first.address().to_string();
    let of_client = client.address().to_string();
    let takes = |ranges: &'static [&str]| {
        move |service: &serde_json::Value| {
            let shown = service["sources"].as_array().cloned().unwrap_or_default();
            shown.len() == ranges.len() || ranges.is_empty()
        }
    };
    label(
        &cluster,
        &[(
            "skein.ingress.sources",
            Some(&format!("203.0.113.0/24,{of_client}")),
        )],
        takes(&["", ""]),
    )?;
    ensure!(answered(client, &called, WEB)?.client == of_client);
    let before = kernel::count(first, Counter::DropSource)?;
    ignored(second, &called, WEB)?;
    ensure!(kernel::count(first, Counter::DropSource)? > before);
    let traced = first.shell(&format!("skein trace {} web:{WEB}", second.address()))?;
    ensure!(traced.contains("takes no clients from there"), "{traced}");
    let traced = first.shell(&format!("skein trace {of_client} web:{WEB}"))?;
    ensure!(traced.contains("takes clients from there"), "{traced}");
    // The node's own programs may call whatever it has.
    answered(first, "127.0.0.1", WEB)?;
    label(
        &cluster,
        &[("skein.ingress.sources", Some("203.0.113.0/24"))],
        takes(&[""]),
    )?;
    ignored(client, &called, WEB)?;
    label(&cluster, &[("skein.ingress.sources", None)], |service| {
        service["sources"].as_array().is_none_or(Vec::is_empty)
    })?;
    for from in [client, second] {
        answered(from, &called, WEB)?;
    }
    for wrong in [
        "skein.ingress.source=10.0.0.0/8",
        "skein.ingress.sources=10.0.0.0/33",
        "skein.ingress.bind.81=eth0",
    ] {
        let create = [
            "service",
            "create",
            "--label",
            wrong,
            "-p",
            "30200:8080",
            "skein-demo",
        ];
        let refused = first.docker(&create).expect_err(wrong).to_string();
        ensure!(refused.contains("label skein.ingress."), "{refused}");
    }
    cluster.down()
}

#[test]
fn a_client_comes_to_one_task_where_it_is_to() -> anyhow::Result<()> {
    let cluster = swarm("affine", 3, 1)?;
    let (first, client) = (cluster.host("n1")?, cluster.client()?);
    let web = format!("{WEB}:8080");
    services::create(
        first,
        "web",
        6,
        &["-p", &web, "--label", "skein.ingress.affinity=client"],
    )?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    label(&cluster, &[], |service| service["client_affinity"] == true)?;
    let reached = |from: &Host| -> anyhow::Result<BTreeSet<String>> {
        let mut tasks = BTreeSet::new();
        for node in cluster.nodes() {
            let answers = ask(from, &node.address().to_string(), WEB, 20)?;
            tasks.extend(answers.into_iter().map(|answer| answer.hostname));
        }
        Ok(tasks)
    };
    let of_client = reached(client)?;
    ensure!(of_client.len() == 1, "{of_client:?}");
    label(
        &cluster,
        &[("skein.ingress.affinity", Some("none"))],
        |service| service["client_affinity"] != true,
    )?;
    let spread = reached(client)?;
    ensure!(spread.len() > 3, "{spread:?}");
    cluster.down()
}
