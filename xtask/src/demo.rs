//! Everything on a cluster of three nodes, shown and checked.

use crate::{
    cluster::{Cluster, Daemon, Host, Shape},
    image::IMAGE,
    run::{Step, wait_until},
    setup,
};
use anyhow::{Context as _, ensure};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// From a service's creation to its last task's start, on a loaded machine.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests to each node in one check.
const REQUESTS: usize = 100;

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
    };
    let folder = crate::target_dir()?.join("skein-demo-cluster");
    let cluster = Cluster::up(&folder, &shape, true)?;
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
    create(first, "web", 3)?;
    let port = port_of(first, "web")?;
    step.end(&format!("port {port}"));

    let step = Step::begin("ask each node 100 times from the client");
    let names: Vec<String> = ["n1", "n2", "n3"].map(str::to_owned).into();
    let tasks = ask_all(cluster, &names, &port)?;
    ensure!(tasks.len() == 3, "of three replicas {tasks:?} answered");
    step.end("300 of 300 answered, by all replicas, each naming the client's own address");

    let step = Step::begin("the same with one replica on one node");
    create(first, "one", 1)?;
    let tasks = ask_all(cluster, &names, &port_of(first, "one")?)?;
    ensure!(tasks.len() == 1, "of one replica {tasks:?} answered");
    step.end("300 of 300");

    let step = Step::begin("look names up from inside a task");
    let vip = names_of(first, "web", "web")?;
    let tasks = names_of(first, "web", "tasks.web")?;
    ensure!(vip.len() == 1, "web is {vip:?}");
    ensure!(tasks.len() == 3, "tasks.web is {tasks:?}");
    step.end(&format!(
        "web is {}, tasks.web has 3 addresses",
        vip.join(" ")
    ));

    let step = Step::begin("restart a node's dataplane under load");
    let node = cluster.host("n2")?;
    let load = Load::begin(cluster, node, &port, 6)?;
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
    let leader = leader(cluster)?;
    let others: Vec<&Host> = cluster
        .nodes()
        .filter(|host| host.name() != leader)
        .collect();
    let load = Load::begin(cluster, others[0], &port, 4)?;
    cluster
        .host(&leader)?
        .kill(&[Daemon::Control, Daemon::Engine, Daemon::Dataplane])?;
    let load = load.end()?;
    let names: Vec<String> = others.iter().map(|host| host.name().to_owned()).collect();
    ask_all(cluster, &names, &port)?;
    wait_until("a new leader scales the service", SERVICE_TIMEOUT, || {
        others[0].docker(&["service", "scale", "-d", "web=4"])
    })?;
    wait_until("four tasks run", SERVICE_TIMEOUT, || {
        running(others[0], "web", 4)
    })?;
    step.end(&format!(
        "{leader} killed; the others answer ({load}); scaled to 4"
    ));
    let step = Step::begin("start them again");
    cluster.host(&leader)?.start(Daemon::ALL)?;
    step.end("they run");

    let step = Step::begin("cut a node off");
    cluster.cut(&leader)?;
    std::thread::sleep(Duration::from_secs(5));
    ask_all(cluster, &names, &port)?;
    step.end("5 s later every request to the others is answered");
    Ok(())
}

fn create(host: &Host, name: &str, replicas: u64) -> anyhow::Result<()> {
    let replicas_flag = format!("--replicas={replicas}");
    host.docker(&[
        "service",
        "create",
        "-d",
        "--name",
        name,
        &replicas_flag,
        "--network",
        "back",
        "--publish",
        "target=8080",
        "--env",
        "NODE={{.Node.Hostname}}",
        "--env",
        "TASK={{.Task.Name}}",
        "--no-resolve-image",
        IMAGE,
    ])?;
    wait_until("the service runs", SERVICE_TIMEOUT, || {
        running(host, name, replicas as usize)
    })
}

fn running(host: &Host, service: &str, wanted: usize) -> anyhow::Result<()> {
    let format = "{{.CurrentState}} {{.Error}}";
    let tasks = host.docker(&[
        "service",
        "ps",
        "--filter",
        "desired-state=running",
        "--format",
        format,
        service,
    ])?;
    let running = tasks.lines().filter(|line| line.starts_with("Running"));
    ensure!(running.count() == wanted, "tasks of {service}: {tasks}");
    Ok(())
}

fn port_of(host: &Host, service: &str) -> anyhow::Result<String> {
    let format = "{{(index .Endpoint.Ports 0).PublishedPort}}";
    let port = host.docker(&["service", "inspect", "--format", format, service])?;
    Ok(port.trim().to_owned())
}

/// Asks each node 100 times, and returns the tasks that answered. Every request must be answered, and
/// name the client's own address.
fn ask_all(cluster: &Cluster, nodes: &[String], port: &str) -> anyhow::Result<BTreeSet<String>> {
    let client = cluster.client()?;
    let own = format!("\"client\":\"{}\"", client.address());
    let mut tasks = BTreeSet::new();
    for node in nodes {
        let address = cluster.host(node)?.address();
        let answers = client.shell(&format!(
            "i=0; while [ $i -lt {REQUESTS} ]; do curl -sS -m 2 http://{address}:{port}/ || exit 1; echo; i=$((i+1)); done"
        ));
        let answers = answers.with_context(|| format!("a request to {node} failed"))?;
        let answers: Vec<&str> = answers.lines().filter(|line| !line.is_empty()).collect();
        ensure!(
            answers.len() == REQUESTS,
            "{node} answered {}",
            answers.len()
        );
        for answer in answers {
            ensure!(answer.contains(&own), "{node} answered {answer}");
            let answer: serde_json::Value = serde_json::from_str(answer)?;
            tasks.insert(answer["hostname"].to_string());
        }
    }
    Ok(tasks)
}

/// What a name is, asked with dig inside the first task of a service on this node.
fn names_of(host: &Host, service: &str, name: &str) -> anyhow::Result<Vec<String>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let containers = host.engine(&["ps", "-q", "--filter", &filter])?;
    let container = containers.lines().next().context("no task on this node")?;
    let pid = host.engine(&["inspect", "--format", "{{.State.Pid}}", container])?;
    let answer = host.shell(&format!(
        "nsenter --net --target {} dig +short +time=3 +tries=2 @127.0.0.11 {name}",
        pid.trim()
    ))?;
    Ok(answer.lines().map(str::to_owned).collect())
}

fn leader(cluster: &Cluster) -> anyhow::Result<String> {
    let nodes = cluster.host("n1")?.docker(&[
        "node",
        "ls",
        "--format",
        "{{.Hostname}} {{.ManagerStatus}}",
    ])?;
    let leader = nodes.lines().find_map(|line| line.strip_suffix(" Leader"));
    Ok(leader.context("no leader")?.to_owned())
}

/// Requests one after the other from the client to one node.
struct Load(std::process::Child);

impl Load {
    fn begin(cluster: &Cluster, node: &Host, port: &str, seconds: u32) -> anyhow::Result<Self> {
        let script = format!(
            "ok=0; bad=0; end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do \
             if curl -s -o /dev/null -m 2 http://{}:{port}/; then ok=$((ok+1)); else bad=$((bad+1)); fi; done; \
             echo $ok $bad",
            node.address()
        );
        let mut load = cluster.client()?.command("sh");
        let load = load
            .args(["-c", &script])
            .stdout(std::process::Stdio::piped());
        Ok(Self(load.spawn()?))
    }

    /// How many were answered; one that was not is an error.
    fn end(self) -> anyhow::Result<String> {
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (ok, bad) = said
            .trim()
            .split_once(' ')
            .context("the load did not end")?;
        ensure!(
            bad == "0" && ok != "0",
            "{bad} requests failed, {ok} were answered"
        );
        Ok(format!("{ok} of {ok} requests answered"))
    }
}
