//! What operators see: `skein` on the nodes of a cluster.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::swarm;
use xtask::{
    check::{
        requests::await_published,
        services,
        status::{SEEN_WITHIN, await_forwarding, status},
    },
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// Waits until the leader says of a node that it is, or is not, behind.
fn await_behind(leader: &Host, hostname: &str, behind: bool) -> anyhow::Result<()> {
    let what = format!("behind is {behind} of {hostname}");
    wait_until(&what, SEEN_WITHIN, || {
        let said = status(leader)?;
        let nodes = said.status["cluster"]["nodes"].as_array();
        let mut nodes = nodes.into_iter().flatten();
        let node = nodes.find(|node| node["hostname"] == hostname);
        let node = node.with_context(|| format!("it is not in {}", said.status))?;
        let told = node["told_version"].as_u64();
        ensure!(node["behind"] == behind && told > Some(0), "{node}");
        Ok(())
    })
}

#[test]
fn a_node_shows_what_its_kernel_has_whichever_daemon_is_away() -> anyhow::Result<()> {
    let cluster = swarm("sight", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let options = ["-p", "30100:8080", "--network", "back"];
    services::create(first, "web", 2, &options)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    await_behind(first, "n1", false)?;
    await_behind(first, "n2", false)?;

    shows_what_is_programmed(first)?;
    await_forwarding(first, second, "l2", "l2")?;
    traces_name_who_then_answers(&cluster, first, second)?;
    tells_prometheus(first, second)?;
    let script = first.run("skein completion bash")?;
    ensure!(script.contains("_skein"), "{script}");
    let worker = status(second)?;
    ensure!(worker.succeeded && worker.status["cluster"].is_null());
    let hint = "not a swarm manager";
    ensure!(worker.complaints.contains(hint), "{}", worker.complaints);

    // Without skein-control, this node is seen all the same.
    first.kill(&[Daemon::Control])?;
    let said = status(first)?;
    ensure!(!said.succeeded, "a daemon is away, and nothing failed");
    let complaint = "cannot ask skein-control at /run/skein/docker.sock";
    ensure!(said.complaints.contains(complaint), "{}", said.complaints);
    said.item("services", "name", "web")?;
    first.start(&[Daemon::Control])?;
    await_behind(first, "n2", false)?;

    // Without skein-dataplane, a node does not get what changes, and its leader says so.
    second.kill(&[Daemon::Dataplane])?;
    let said = status(second)?;
    let complaint = "cannot ask skein-dataplane at /run/skein/inspect.sock";
    ensure!(!said.succeeded && said.status["node"].is_null());
    ensure!(said.complaints.contains(complaint), "{}", said.complaints);
    let only_there = ["-p", "30101:8080", "--constraint", "node.hostname==n1"];
    services::create(first, "more", 1, &only_there)?;
    await_behind(first, "n2", true)?;
    let text = first.run("skein status")?;
    ensure!(text.contains("BEHIND"), "{text}");
    second.start(&[Daemon::Dataplane])?;
    await_behind(first, "n2", false)?;
    status(second)?.item("services", "name", "more")?;

    // A node that nobody hears any more.
    cluster.cut("n2")?;
    wait_until("n2 is suspected", SEEN_WITHIN, || {
        let said = status(first)?;
        let member = said.item("members", "hostname", "n2")?;
        ensure!(member["suspected"] == true, "{member}");
        Ok(())
    })?;
    cluster.down()
}

/// Of the service `web`, with two tasks, and of the programs and maps that serve it.
fn shows_what_is_programmed(node: &Host) -> anyhow::Result<()> {
    let said = status(node)?;
    ensure!(said.succeeded, "{}", said.complaints);
    let of_node = &said.status["node"];
    ensure!(of_node["hostname"] == node.name(), "{of_node}");
    ensure!(of_node["wanted_version"].as_u64() > Some(0), "{of_node}");
    ensure!(
        of_node["wanted_version"] == of_node["kernel_version"],
        "{of_node}"
    );
    let other = said.item("members", "hostname", "n2")?;
    ensure!(
        other["up"] == true && other["suspected"] == false,
        "{other}"
    );

    let web = said.item("services", "name", "web")?;
    let port = &web["ports"][0];
    ensure!(
        port["published"] == 30_100 && port["target"] == 8080,
        "{web}"
    );
    let tasks = |list: &Value| {
        let shares = list.as_array().into_iter().flatten();
        shares
            .filter_map(|share| share["tasks"].as_u64())
            .sum::<u64>()
    };
    ensure!(tasks(&web["nodes"]) == 2, "{web}");
    let mut vips = web["vips"].as_array().into_iter().flatten();
    let vip = vips.find(|vip| vip["network"] == "back");
    let vip = vip.with_context(|| format!("no VIP on back in {web}"))?;
    let ids = services::tasks(node, "web")?.len();
    let backends = vip["backends"].as_array().context("backends")?;
    ensure!(backends.len() == ids, "{web}");
    ensure!(
        backends.iter().all(|backend| backend["task_id"] != ""),
        "{web}"
    );

    let uplink = said.item("programs", "program", "skein_uplink")?;
    ensure!(uplink["hook"] == "tc" && uplink["device"] != "", "{uplink}");
    let sockets = said.item("programs", "program", "skein_connect4")?;
    ensure!(sockets["hook"] == "cgroup", "{sockets}");
    let ports = said.item("maps", "name", "PUBLISHED")?;
    ensure!(
        ports["entries"] == 1 && ports["forgets"] == false,
        "{ports}"
    );
    let flows = said.item("maps", "name", "CONNTRACK")?;
    ensure!(flows["forgets"] == true, "{flows}");

    let no_task = said.item("drops", "reason", "no_task")?;
    let explanation = no_task["explanation"].as_str();
    ensure!(
        explanation.is_some_and(|text| text.contains("reset")),
        "{no_task}"
    );

    let text = node.run("skein status")?;
    for expected in ["tcp 30100 -> 8080", "skein_uplink", "CLUSTER"] {
        ensure!(text.contains(expected), "{expected} is not in {text}");
    }
    Ok(())
}

/// What dashboards made for Docker's engine look for.
fn tells_prometheus(manager: &Host, worker: &Host) -> anyhow::Result<()> {
    let scrape = "curl -sSf -m 5 http://127.0.0.1:9788/metrics";
    let told = manager.run(scrape)?;
    for line in [
        "swarm_node_manager 1",
        "swarm_manager_leader 1",
        "swarm_manager_nodes{state=\"ready\"} 2",
        "swarm_manager_services_total 1",
        "swarm_manager_tasks_total{state=\"running\"} 2",
        "skein_control_nodes_behind 0",
    ] {
        ensure!(told.contains(&format!("\n{line}\n")), "{line}: {told}");
    }
    let told = worker.run(scrape)?;
    ensure!(told.contains("\nswarm_node_manager 0\n"), "{told}");
    ensure!(!told.contains("swarm_manager"), "{told}");
    Ok(())
}

/// Enough flows for each node and each task of a service with two of both.
const TRACED_PORTS: std::ops::Range<u16> = 40_000..40_010;

fn trace(node: &Host, what: &str) -> anyhow::Result<Value> {
    let text = node.run(&format!("skein trace --format json {what}"))?;
    serde_json::from_str(&text).context(text)
}

/// What the programs say to a packet that was traced is what was decided.
fn agrees(traced: &Value) -> anyhow::Result<()> {
    let ran = traced["runs"]
        .as_array()
        .is_some_and(|runs| !runs.is_empty());
    ensure!(ran && traced["not_run"] == "", "{traced}");
    ensure!(traced["disagreement"] == "", "{traced}");
    Ok(())
}

/// Of flows to the service `web` that begin after the trace, by the same tuple.
fn traces_name_who_then_answers(
    cluster: &Cluster,
    first: &Host,
    second: &Host,
) -> anyhow::Result<()> {
    let (client, entry) = (cluster.client()?, first.address());
    let (mut here, mut there) = (0, 0);
    for port in TRACED_PORTS {
        let what = format!("{} web:30100 --source-port {port}", client.address());
        let traced = trace(first, &what)?;
        let again = trace(first, &what)?;
        // The second would find what the first had left behind.
        ensure!(traced == again, "{traced}, then {again}");
        agrees(&traced)?;
        ensure!(traced["service"] == "web", "{traced}");
        let said = client.run(&format!(
            "curl -sS -m 2 --local-port {port} http://{entry}:30100/"
        ))?;
        let answer: Value = serde_json::from_str(&said).context(said)?;
        let (node, task) = (traced["node"].as_str(), traced["task"].as_str());
        match answer["node"].as_str() {
            Some("n1") => {
                here += 1;
                ensure!(task.is_some_and(|task| !task.is_empty()), "{traced}");
            }
            Some("n2") => {
                there += 1;
                ensure!(node.is_some_and(|node| node.starts_with("n2 ")), "{traced}");
            }
            _ => anyhow::bail!("{answer}"),
        }
        let known = trace(first, &what)?;
        let not_run = known["not_run"].as_str();
        ensure!(
            not_run.is_some_and(|why| why.contains("known")),
            "programs ran on the tuple of a flow: {known}"
        );
    }
    ensure!(here + there == TRACED_PORTS.len());

    let (from, to) = (client.address(), second.address());
    let forwarded = trace(first, &format!("{from} {to}:30100 --forwarded-by n2"))?;
    ensure!(
        forwarded["task"] != "" && forwarded["rewritten"] != "",
        "{forwarded}"
    );
    let other = trace(first, &format!("{from} {entry}:9"))?;
    agrees(&other)?;
    let outcome = other["outcome"].as_str();
    ensure!(
        outcome.is_some_and(|text| text.contains("none of Skein's")),
        "{other}"
    );

    let task = first.docker(&["service", "ps", "-q", "--filter", "node=n1", "web"])?;
    let task = task
        .split_whitespace()
        .next()
        .context("web has no task on n1")?;
    let called = trace(first, &format!("{task} web:8080"))?;
    agrees(&called)?;
    agrees(&trace(first, "127.0.0.1 127.0.0.1:30100")?)?;
    ensure!(
        called["service"] == "web" && called["rewritten"] != "",
        "{called}"
    );
    let refused = trace(first, &format!("{from} web:9"));
    let refused = format!("{:#}", refused.err().context("port 9 is not published")?);
    ensure!(refused.contains("does not publish port 9"), "{refused}");
    Ok(())
}
