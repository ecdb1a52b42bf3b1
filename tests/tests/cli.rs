//! Unmodified docker CLIs, old and new, do all that a user of Docker Swarm does with them.

use anyhow::{Context as _, ensure};
use skein_tests::{cli, swarm};
use std::time::Duration;
use xtask::{
    IMAGE,
    check::services::SETTLE_TIMEOUT,
    cluster::{Cluster, Host},
    wait_until,
};

/// From a task's start to the first of its lines in a followed log.
const LOG_TIMEOUT: Duration = Duration::from_secs(20);

/// One CLI at work on a cluster; everything that it makes has its name.
struct User<'a> {
    cluster: &'a Cluster,
    first: &'a Host,
    cli: &'a str,
    name: String,
}

impl User<'_> {
    fn run(&self, line: &str) -> anyhow::Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.first.docker_by(self.cli, &words)
    }

    /// The command line of this CLI for a shell.
    fn shell(&self, script: &str) -> anyhow::Result<String> {
        let docker = format!("{} -H unix:///run/skein/docker.sock", self.cli);
        self.first.shell(&script.replace("DOCKER", &docker))
    }

    fn own(&self, kind: &str) -> String {
        format!("{kind}-{}", self.name)
    }
}

/// Runs `what` with each CLI that is installed, all at once.
fn with_each(cluster: &Cluster, what: fn(&User<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let first = cluster.host("n1")?;
    let users = cli::installed()?;
    std::thread::scope(|scope| {
        let users: Vec<_> = users
            .iter()
            .map(|cli| {
                let user = User {
                    cluster,
                    first,
                    cli: &cli.path,
                    name: format!("by-{}", cli.version.replace('.', "-")),
                };
                let version = &cli.version;
                scope.spawn(move || what(&user).with_context(|| format!("docker {version}")))
            })
            .collect();
        for user in users {
            user.join().expect("a user panicked")?;
        }
        Ok(())
    })
}

/// What both lines and order of a table do not say.
fn has(said: &str, words: &[&str]) -> anyhow::Result<()> {
    for word in words {
        ensure!(said.contains(word), "no {word:?} in: {said}");
    }
    Ok(())
}

/// The progress display of `service create` and `service update` ends in this.
fn converged(said: &str) -> anyhow::Result<()> {
    let last = said.trim().lines().last().unwrap_or_default();
    // Newer CLIs name the service.
    ensure!(
        last.starts_with("verify: Service") && last.ends_with("converged"),
        "the last line is {last:?} of: {said}"
    );
    Ok(())
}

#[test]
fn every_cli_does_the_daily_work() -> anyhow::Result<()> {
    let cluster = swarm("cli", 2, 1)?;
    with_each(&cluster, |user| {
        system_and_nodes(user).context("system and nodes")?;
        networks(user).context("networks")?;
        services(user).context("services")?;
        service_logs(user).context("service logs")?;
        containers(user).context("containers")?;
        events_and_copies(user).context("events and copies")
    })?;
    cluster.down()
}

fn system_and_nodes(user: &User<'_>) -> anyhow::Result<()> {
    let first = user.first.address();
    has(
        &user.run("info")?,
        &[
            "Swarm: active",
            "Is Manager: true",
            "Managers: 1",
            "Nodes: 2",
            &format!("Node Address: {first}"),
            &format!("{first}:2377"),
        ],
    )?;
    has(&user.run("version")?, &["Client:", "Server:", "Skein"])?;
    for role in ["worker", "manager"] {
        let said = user.run(&format!("swarm join-token {role}"))?;
        has(&said, &["docker swarm join --token SWMTKN-1-"])?;
        has(&said, &[&format!("{first}:2377")])?;
    }
    let nodes = user.run("node ls")?;
    has(&nodes, &["n1", "n2", "Ready", "Active", "Leader", " * "])?;
    let id = user.run("node inspect self --format {{.ID}}")?;
    let shown = user.run("node inspect --pretty n1")?;
    has(&shown, &[id.trim(), "Leader:", "Reachable", "Ready"])?;
    let shown = user.run("node inspect n2 --format {{.Spec.Role}}/{{.Status.Addr}}")?;
    let second = user.cluster.host("n2")?.address();
    ensure!(shown.trim() == format!("worker/{second}"), "{shown}");
    has(&user.run("node ps n1 n2")?, &["CURRENT STATE"])
}

fn networks(user: &User<'_>) -> anyhow::Result<()> {
    let net = user.own("net");
    let id = user.run(&format!("network create -d overlay --attachable {net}"))?;
    let id = id.trim();
    let listed = user.run("network ls --no-trunc")?;
    let line = listed.lines().find(|line| line.contains(&net));
    has(line.unwrap_or(&listed), &[id, "overlay", "swarm"])?;
    has(&listed, &["ingress", "bridge", "host", "none"])?;
    let format = "{{.ID}}/{{.Driver}}/{{.Scope}}/{{.Attachable}}";
    let shown = user.run(&format!("network inspect --format {format} {net}"))?;
    ensure!(
        shown.trim() == format!("{id}/overlay/swarm/true"),
        "{shown}"
    );
    let removed = user.run(&format!("network rm {net}"))?;
    ensure!(removed.trim() == net, "{removed}");
    let listed = user.run("network ls")?;
    ensure!(!listed.contains(&net), "{listed}");
    Ok(())
}

fn services(user: &User<'_>) -> anyhow::Result<()> {
    let (web, net) = (user.own("web"), user.own("back"));
    user.run(&format!("network create -d overlay {net}"))?;
    // In the foreground, as users do it.
    let options = format!("--replicas 2 --network {net} --no-resolve-image -p 8080");
    converged(&user.run(&format!("service create --name {web} {options} {IMAGE}"))?)?;
    let listed = user.run("service ls")?;
    let line = listed.lines().find(|line| line.contains(&web));
    has(
        line.unwrap_or(&listed),
        &["replicated", "2/2", IMAGE, "->8080/tcp"],
    )?;
    let tasks = user.run(&format!("service ps {web}"))?;
    has(&tasks, &[&format!("{web}.1"), &format!("{web}.2")])?;
    has(&tasks, &["n1", "n2", "Running"])?;
    let on_node = user.run("node ps n1 n2")?;
    has(&on_node, &[&format!("{web}.1"), &format!("{web}.2")])?;
    let pretty = user.run(&format!("service inspect --pretty {web}"))?;
    has(
        &pretty,
        &["Name:", &web, "Replicated", "Replicas:", IMAGE, &net],
    )?;
    has(&pretty, &["PublishMode = ingress", "TargetPort = 8080"])?;
    let shown = user.run(&format!("service inspect {web}"))?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    ensure!(
        shown[0]["Spec"]["Name"] == web.as_str()
            && shown[0]["Endpoint"]["VirtualIPs"].as_array().map(Vec::len) == Some(2),
        "{shown}"
    );
    let refused = user.run(&format!("network rm {net}"));
    ensure!(refused.is_err(), "a network in use was removed");

    // Scaling and a new image, watched; and what came of it.
    converged(&user.run(&format!("service scale {web}=3"))?)?;
    converged(&user.run(&format!("service update --replicas 1 {web}"))?)?;
    user.first.engine(&["tag", IMAGE, &format!("{IMAGE}:2")])?;
    user.cluster
        .host("n2")?
        .engine(&["tag", IMAGE, &format!("{IMAGE}:2")])?;
    let update = "service update --no-resolve-image --image";
    converged(&user.run(&format!("{update} {IMAGE}:2 {web}"))?)?;
    let listed = user.run(&format!("service ls --filter name={web}"))?;
    has(&listed, &["1/1", &format!("{IMAGE}:2")])?;
    let tasks = user.run(&format!("service ps {web}"))?;
    has(&tasks, &[" \\_ ", "Shutdown", "Running"])?;
    let removed = user.run(&format!("service rm {web}"))?;
    ensure!(removed.trim() == web, "{removed}");
    ensure!(user.run(&format!("service inspect {web}")).is_err());
    // At once, as `docker stack rm` does it, though the tasks still end.
    user.run(&format!("network rm {net}"))?;
    let gone = || {
        let left = user.run(&format!("ps -a --filter name={web}. -q"))?;
        ensure!(left.is_empty(), "{left} is left");
        Ok(())
    };
    wait_until("the tasks are gone", SETTLE_TIMEOUT, gone)
}

fn service_logs(user: &User<'_>) -> anyhow::Result<()> {
    let ticks = user.own("ticks");
    let options = format!("-d --name {ticks} --replicas 2 --no-resolve-image --entrypoint /bin/sh");
    // The shell's own words need quotes, which `run` has none of.
    user.shell(&format!(
        "DOCKER service create {options} {IMAGE} -c \
         'echo begun; echo wrong >&2; n=0; while true; do n=$((n+1)); echo tick $n; sleep 1; done'"
    ))?;
    let lines = || {
        let said = user.shell(&format!("DOCKER service logs {ticks} 2>&1"))?;
        for words in [".1.", ".2.", "@n1", "@n2", "| begun", "| wrong", "| tick 2"] {
            ensure!(said.contains(words), "no {words:?} in: {said}");
        }
        Ok(())
    };
    wait_until("both tasks have logged", LOG_TIMEOUT, lines)?;
    // An engine that is just writing a line may tell of none.
    let tail = || {
        let tail = user.run(&format!("service logs --raw --tail 1 {ticks}"))?;
        ensure!(
            tail.lines().count() == 2 && tail.lines().all(|line| line.starts_with("tick ")),
            "the last lines are {tail:?}"
        );
        Ok(())
    };
    wait_until("the last line of each task", LOG_TIMEOUT, tail)?;
    // A followed log goes on until the reader has enough.
    let followed = user.shell(&format!(
        "DOCKER service logs -f --tail 0 {ticks} 2>&1 | head -n 4"
    ))?;
    ensure!(followed.lines().count() == 4, "{followed:?}");
    has(&followed, &["@n1", "@n2", "| tick "])?;
    user.run(&format!("service rm {ticks}")).map(drop)
}

fn containers(user: &User<'_>) -> anyhow::Result<()> {
    let name = user.own("alone");
    let images = user.run("images")?;
    has(&images, &[IMAGE])?;
    let said = user.run(&format!("run --rm --entrypoint /bin/echo {IMAGE} hello"))?;
    ensure!(said == "hello\n", "{said:?}");
    // The streams of an attached container: in, out and apart from it the errors; and its status.
    let said = user.shell(&format!(
        "printf 'a\\nb\\n' | DOCKER run -i --rm --entrypoint /bin/sh {IMAGE} \
         -c 'cat; echo wrong >&2; exit 3' 2>/dev/null; echo $?"
    ))?;
    ensure!(said == "a\nb\n3\n", "{said:?}");
    // A terminal of the container's, without one here.
    let said = user.shell(&format!(
        "echo 'echo $((20+22)); exit' | script -qec 'cat | DOCKER run -i --rm --entrypoint /bin/sh {IMAGE} -i 2>&1' /dev/null"
    ))?;
    has(&said, &["42"])?;
    let script = "echo first; while sleep 1; do echo more; done";
    user.shell(&format!(
        "DOCKER run -d --name {name} --entrypoint /bin/sh {IMAGE} -c '{script}'"
    ))?;
    has(&user.run("ps")?, &[&name, IMAGE, "Up "])?;
    let said = user.shell(&format!("echo hi | DOCKER exec -i {name} cat"))?;
    ensure!(said == "hi\n", "{said:?}");
    // More than any buffer on the way holds, in both directions.
    let count = 1_000_000;
    let said = user.shell(&format!(
        "head -c {count} /dev/zero | DOCKER exec -i {name} cat | wc -c"
    ))?;
    ensure!(said.trim() == count.to_string(), "{said:?}");
    let followed = user.shell(&format!("DOCKER logs -f {name} | head -n 2"))?;
    ensure!(followed == "first\nmore\n", "{followed:?}");
    user.run(&format!("rm -f {name}"))?;
    let left = user.run(&format!("ps -a -q --filter name={name}"))?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

fn events_and_copies(user: &User<'_>) -> anyhow::Result<()> {
    let name = user.own("seen");
    let began = user.first.run("date +%s.%N")?;
    user.run(&format!(
        "run -d --name {name} --entrypoint /bin/sleep {IMAGE} 100"
    ))?;
    let file = format!("/tmp/{name}");
    let said = user.shell(&format!(
        "echo kept > {file}; DOCKER cp {file} {name}:/data/there && \
         DOCKER exec {name} cat /data/there && DOCKER cp {name}:/data/there {file}.back && \
         cat {file}.back; rm -f {file} {file}.back"
    ))?;
    ensure!(
        said.lines().filter(|line| *line == "kept").count() == 2,
        "{said:?}"
    );
    user.run(&format!("rm -f {name}"))?;
    let until = user.first.run("date +%s.%N")?;
    let (began, until) = (began.trim(), until.trim());
    let events = user.run(&format!(
        "events --since {began} --until {until} --filter container={name} --format {{{{.Action}}}}"
    ))?;
    has(&events, &["create", "start", "die", "destroy"])?;
    // As they happen.
    let live = user.shell(&format!(
        "DOCKER events --filter event=create --filter label=who={name} --format '{{{{.Action}}}}' \
         > /tmp/{name}.events & sleep 1; DOCKER run --rm --label who={name} --entrypoint /bin/true {IMAGE}; \
         sleep 1; kill $!; cat /tmp/{name}.events; rm /tmp/{name}.events"
    ))?;
    ensure!(live == "create\n", "{live:?}");
    Ok(())
}

#[test]
fn every_cli_forms_and_leaves_a_swarm() -> anyhow::Result<()> {
    let cluster = skein_tests::outsiders("cli-forms", 2)?;
    for cli in cli::installed()? {
        forms_and_leaves(&cluster, &cli.path).with_context(|| format!("docker {}", cli.version))?;
    }
    cluster.down()
}

fn forms_and_leaves(cluster: &Cluster, cli: &str) -> anyhow::Result<()> {
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let docker = |host: &Host, line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        host.docker_by(cli, &words)
    };
    let state = |host: &Host| docker(host, "info --format {{.Swarm.LocalNodeState}}");
    for host in [first, second] {
        ensure!(state(host)?.trim() == "inactive", "{}", state(host)?);
    }
    // The one address that the host has needs not be named.
    let said = docker(first, "swarm init")?;
    has(
        &said,
        &[
            "Swarm initialized: current node (",
            ") is now a manager.",
            "docker swarm join --token SWMTKN-1-",
            &format!("{}:2377", first.address()),
        ],
    )?;
    let to = format!("{}:2377", first.address());
    let roles = [("worker", "a worker"), ("manager", "a manager")];
    for (role, said_of_it) in roles {
        let token = docker(first, &format!("swarm join-token -q {role}"))?;
        let said = docker(second, &format!("swarm join --token {} {to}", token.trim()))?;
        let expected = format!("This node joined a swarm as {said_of_it}.");
        ensure!(said.trim() == expected, "{said}");
        ensure!(state(second)?.trim() == "active");
        let is_manager = docker(second, "info --format {{.Swarm.ControlAvailable}}")?;
        ensure!(is_manager.trim() == (role == "manager").to_string());
        if role == "manager" {
            let managers = || {
                let nodes = docker(second, "node ls --format {{.ManagerStatus}}")?;
                let nodes: Vec<_> = nodes.lines().filter(|status| !status.is_empty()).collect();
                ensure!(nodes.len() == 2 && nodes.contains(&"Leader"), "{nodes:?}");
                Ok(())
            };
            wait_until("there are two managers", SETTLE_TIMEOUT, managers)?;
            let warned = docker(second, "info")?;
            has(&warned, &["Managers: 2"])?;
            let refused = docker(second, "swarm leave");
            let refused = refused.err().context("a manager left without --force")?;
            has(
                &refused.to_string(),
                &[
                    "You are attempting to leave the swarm on a node that is participating as a manager.",
                ],
            )?;
        }
        let force = if role == "manager" { " --force" } else { "" };
        let said = docker(second, &format!("swarm leave{force}"))?;
        ensure!(said.trim() == "Node left the swarm.", "{said}");
        ensure!(state(second)?.trim() == "inactive");
    }
    forget_nodes_that_left(first, roles.len(), &docker)?;
    let said = docker(first, "swarm leave --force")?;
    ensure!(said.trim() == "Node left the swarm.", "{said}");
    ensure!(state(first)?.trim() == "inactive");
    Ok(())
}

/// Removes the `count` nodes that left, before the managers find them down.
fn forget_nodes_that_left(
    first: &Host,
    count: usize,
    docker: &impl Fn(&Host, &str) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let nodes = docker(first, "node ls --format {{.ID}}/{{.ManagerStatus}}")?;
    let left: Vec<_> = nodes
        .lines()
        .filter_map(|line| line.strip_suffix('/'))
        .collect();
    ensure!(left.len() == count, "{nodes}");
    for id in left {
        let said = docker(first, &format!("node rm --force {id}"))?;
        ensure!(said.trim() == id, "{said}");
    }
    let nodes = docker(first, "node ls -q")?;
    ensure!(nodes.lines().count() == 1, "{nodes}");
    Ok(())
}
