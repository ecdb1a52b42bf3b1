//! What operators see: `skein` on the nodes of a cluster.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::swarm;
use std::time::Duration;
use xtask::{
    check::{requests::await_published, services},
    cluster::{Daemon, Host},
    wait_until,
};

/// From a change to its place in every kernel, or from a node's silence to its being suspected: a second
/// or so, but on a loaded machine.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// What `skein status` said on a node.
struct Said {
    succeeded: bool,
    status: Value,
    complaints: String,
}

impl Said {
    /// The one item of a list of this node's whose field is `value`.
    fn item(&self, list: &str, field: &str, value: &str) -> anyhow::Result<&Value> {
        let items = self.status["node"][list].as_array();
        let mut items = items.into_iter().flatten();
        let found = items.find(|item| item[field] == value);
        found.with_context(|| format!("no {list} has the {field} {value} in {}", self.status))
    }
}

fn status(node: &Host) -> anyhow::Result<Said> {
    let json = "/run/sight.json";
    let complaints = node.shell(&format!(
        "if skein status --format json 2>&1 >{json}; then echo succeeded; fi"
    ))?;
    let text = node.run(&format!("cat {json}"))?;
    let status = serde_json::from_str(&text);
    Ok(Said {
        succeeded: complaints.ends_with("succeeded\n"),
        status: status.with_context(|| format!("{text:?}; {complaints}"))?,
        complaints,
    })
}

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
    ensure!(other["forwarding"] == "vxlan", "{other}");

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
