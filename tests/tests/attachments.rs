//! Containers that are no task's, on attachable networks: on workers as on managers.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::{api, cli, swarm};
use std::{thread, time::Duration};
use xtask::{
    IMAGE,
    check::{requests::ask, services},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// From a change to its effect on every node, on a loaded machine.
const SETTLE: Duration = Duration::from_secs(60);
/// Until a place is given back whose container went unseen: half a minute, and a look every 20 s.
const UNSEEN_GONE: Duration = Duration::from_secs(120);
/// How often a daemon is killed while containers come and go.
const ROUNDS: usize = 4;
/// A network that nobody needs goes at the second look, 20 s after the first.
const TWIN_GONE: Duration = Duration::from_secs(120);

/// A manager and two workers with the attachable network `front`.
fn cluster(name: &str) -> anyhow::Result<Cluster> {
    let cluster = swarm(name, 3, 1)?;
    let create = "network create -d overlay --attachable --subnet 10.80.0.0/24 front";
    docker(cluster.host("n1")?, create)?;
    Ok(cluster)
}

fn docker(host: &Host, line: &str) -> anyhow::Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let said = host.docker(&words)?;
    Ok(said.trim().to_owned())
}

/// What a command that must fail says.
fn refused(host: &Host, line: &str) -> anyhow::Result<String> {
    match docker(host, line) {
        Ok(said) => anyhow::bail!("{line} was not refused: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Runs the demo server under a name.
fn run(host: &Host, name: &str, options: &str) -> anyhow::Result<()> {
    let line = format!("run -d --name {name} {options} {IMAGE}");
    docker(host, &line).map(drop)
}

/// The address of a container on a network.
fn address(host: &Host, name: &str, network: &str) -> anyhow::Result<String> {
    let inspected = api::ask(host, "GET", &format!("/containers/{name}/json"))?.json()?;
    let address = inspected["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
    let address = address.filter(|address| !address.is_empty());
    Ok(address
        .with_context(|| format!("{name} is not on {network}: {inspected}"))?
        .to_owned())
}

/// Waits until a container of one host gets the page of a server, and that of the right one.
fn reaches(host: &Host, from: &str, to: &str, expected: &str) -> anyhow::Result<()> {
    let what = format!("{from} on {} reaches {to}", host.name());
    wait_until(&what, SETTLE, || {
        let get = format!("exec {from} busybox timeout 3 busybox wget -q -O - http://{to}:8080/");
        let said = docker(host, &get)?;
        ensure!(said.contains(expected), "{from} got {said:?} from {to}");
        Ok(())
    })
}

/// Whether nobody has a name, as far as a container of a host knows.
fn is_unknown(host: &Host, from: &str, name: &str) -> anyhow::Result<()> {
    let said = refused(host, &format!("exec {from} busybox nslookup {name}"))?;
    // SERVFAIL as well as NXDOMAIN: there is nobody to ask for names that are not the cluster's.
    ensure!(said.contains("can't find"), "{said}");
    Ok(())
}

/// What the demo server says of the container that it runs in.
fn hostname(host: &Host, name: &str) -> anyhow::Result<String> {
    let hostname = docker(
        host,
        &format!("inspect --format {{{{.Config.Hostname}}}} {name}"),
    )?;
    Ok(format!("\"hostname\":\"{hostname}\""))
}

/// Attachments as a manager has them.
fn attachments(manager: &Host) -> anyhow::Result<Vec<Value>> {
    let path = "/tasks?filters=%7B%22runtime%22%3A%5B%22attachment%22%5D%7D";
    let tasks = api::ask(manager, "GET", path)?.json()?;
    Ok(tasks.as_array().context("no tasks")?.clone())
}

fn await_attachments(manager: &Host, count: usize) -> anyhow::Result<()> {
    wait_until(&format!("{count} attachments"), UNSEEN_GONE, || {
        let present = attachments(manager)?;
        ensure!(present.len() == count, "{present:?}");
        Ok(())
    })
}

fn await_no_twin(host: &Host) -> anyhow::Result<()> {
    let what = format!("the twin on {} is gone", host.name());
    wait_until(&what, TWIN_GONE, || {
        let networks = host.engine(&["network", "ls", "-q", "--filter", "driver=skein"])?;
        ensure!(networks.trim().is_empty(), "there are {networks:?}");
        Ok(())
    })
}

#[test]
fn containers_of_users_reach_each_other_and_services() -> anyhow::Result<()> {
    let cluster = cluster("attachable")?;
    let (manager, worker) = (cluster.host("n1")?, cluster.host("n2")?);
    run(worker, "one", "--network front --network-alias first")?;
    run(manager, "two", "--network front")?;
    services::create(manager, "web", 2, &["--network", "front"])?;
    let (one, two) = (hostname(worker, "one")?, hostname(manager, "two")?);
    let of_one = address(worker, "one", "front")?;
    reaches(manager, "two", &of_one, &one)?;
    reaches(manager, "two", "one", &one)?;
    reaches(manager, "two", "first", &one)?;
    reaches(worker, "one", "two", &two)?;
    for (host, name) in [(worker, "one"), (manager, "two")] {
        reaches(host, name, "web", "\"hostname\"")?;
        docker(host, &format!("exec {name} ping -c 1 -W 3 web"))?;
    }
    // A service's task reaches them by name.
    wait_until("a task reaches a container", SETTLE, || {
        let has_task = |node: &&Host| services::container_of(node, "web").is_ok();
        let nodes: Vec<_> = cluster.nodes().filter(has_task).collect();
        ensure!(!nodes.is_empty(), "no task of web");
        for node in nodes {
            let said = services::exec(node, "web", "wget -q -O - http://one:8080/")?;
            ensure!(said.contains(&one), "web got {said:?}");
        }
        Ok(())
    })?;
    // The swarm's network, and not the engine's, is what users see.
    let network = docker(manager, "network inspect --format {{.Id}} front")?;
    for (host, name) in [(worker, "one"), (manager, "two")] {
        let inspected = api::ask(host, "GET", &format!("/containers/{name}/json"))?.json()?;
        let shown = &inspected["NetworkSettings"]["Networks"]["front"]["NetworkID"];
        ensure!(shown == network.as_str(), "{name} is on {shown}");
        ensure!(inspected["HostConfig"]["NetworkMode"] == "front");
        let by_id = docker(
            host,
            &format!("network inspect --format {{{{.Name}}}} {network}"),
        )?;
        ensure!(by_id == "front", "{by_id}");
    }
    let verbose = api::ask(manager, "GET", "/networks/front?verbose=true")?.json()?;
    let own = verbose["Services"][""]["Tasks"].as_array();
    let own = own.context("no containers of users are told of")?;
    let mut names: Vec<_> = own
        .iter()
        .filter_map(|task| task["Name"].as_str())
        .collect();
    names.sort_unstable();
    ensure!(names == ["one", "two"], "{names:?}");
    // They are no tasks of anybody's.
    let tasks = api::ask(manager, "GET", "/tasks")?.json()?;
    ensure!(tasks.as_array().is_some_and(|tasks| tasks.len() == 2));
    await_attachments(manager, 2)?;

    docker(manager, "service rm web")?;
    let said = refused(manager, "network rm front")?;
    ensure!(said.contains("is in use by task"), "{said}");
    docker(worker, "rm -f one")?;
    docker(manager, "rm -f two")?;
    await_attachments(manager, 0)?;
    wait_until("the network can go", SETTLE, || {
        docker(manager, "network rm front").map(drop)
    })?;
    await_no_twin(worker)?;
    cluster.down()
}

#[test]
fn addresses_are_the_containers_until_they_are_removed() -> anyhow::Result<()> {
    let cluster = cluster("attachable-addresses")?;
    let (manager, worker, other) = (
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    );
    run(worker, "fixed", "--network front --ip 10.80.0.77")?;
    run(other, "peer", "--network front")?;
    ensure!(address(worker, "fixed", "front")? == "10.80.0.77");
    let fixed = hostname(worker, "fixed")?;
    reaches(other, "peer", "10.80.0.77", &fixed)?;
    reaches(other, "peer", "fixed", &fixed)?;
    let said = refused(
        other,
        &format!("run -d --network front --ip 10.80.0.77 {IMAGE}"),
    )?;
    ensure!(said.contains("already in use"), "{said}");

    // A stop keeps the address, and hides the name.
    docker(worker, "stop -t 0 fixed")?;
    wait_until("the name is gone", SETTLE, || {
        is_unknown(other, "peer", "fixed")
    })?;
    docker(worker, "start fixed")?;
    ensure!(address(worker, "fixed", "front")? == "10.80.0.77");
    reaches(other, "peer", "fixed", &fixed)?;

    // Whatever is started anew.
    for daemon in [Daemon::Control, Daemon::Dataplane, Daemon::Engine] {
        worker.kill(&[daemon])?;
        worker.start(&[daemon])?;
        if daemon == Daemon::Engine {
            docker(worker, "start fixed")?;
        }
        ensure!(address(worker, "fixed", "front")? == "10.80.0.77");
        reaches(other, "peer", "fixed", &fixed)?;
        reaches(worker, "fixed", "peer", "\"hostname\"")?;
    }
    await_attachments(manager, 2)?;

    docker(worker, "rm -f fixed")?;
    wait_until("the address is free", SETTLE, || {
        run(other, "next", "--network front --ip 10.80.0.77")
    })?;
    let next = hostname(other, "next")?;
    reaches(other, "peer", "10.80.0.77", &next)?;
    await_no_twin(worker)?;

    // A node that leaves takes its containers off.
    docker(other, "swarm leave")?;
    await_attachments(manager, 0)?;
    let inspected = api::ask(other, "GET", "/containers/next/json")?.json()?;
    let networks = &inspected["NetworkSettings"]["Networks"];
    ensure!(networks.get("front").is_none(), "{networks}");
    cluster.down()
}

#[test]
fn containers_join_and_leave_networks() -> anyhow::Result<()> {
    let cluster = cluster("attachable-connect")?;
    let (manager, worker) = (cluster.host("n1")?, cluster.host("n2")?);
    docker(manager, "network create -d overlay --attachable back")?;
    run(manager, "peer", "--network back")?;
    // On two at once.
    run(worker, "both", "--network front")?;
    docker(worker, "network connect --alias joined back both")?;
    let both = hostname(worker, "both")?;
    reaches(manager, "peer", "joined", &both)?;
    reaches(worker, "both", "peer", "\"hostname\"")?;
    docker(worker, "restart -t 0 both")?;
    reaches(manager, "peer", "joined", &both)?;
    let said = refused(worker, "network connect back both")?;
    ensure!(said.contains("already"), "{said}");
    docker(worker, "network disconnect back both")?;
    await_attachments(manager, 2)?;
    wait_until("the name is gone", SETTLE, || {
        is_unknown(manager, "peer", "joined")
    })?;

    // Names stay known by whichever network is left, with a way out by the engine's own as well.
    run(worker, "first", "--network front")?;
    docker(worker, "network connect bridge first")?;
    docker(worker, "network connect back first")?;
    reaches(worker, "first", "peer", "\"hostname\"")?;
    docker(worker, "network disconnect front first")?;
    reaches(worker, "first", "peer", "\"hostname\"")?;
    // An address is free at once for who gave it back on this node.
    docker(worker, "network connect --ip 10.80.0.78 front first")?;
    docker(worker, "network disconnect front first")?;
    docker(worker, "network connect --ip 10.80.0.78 front first")?;
    docker(worker, "rm -f first")?;
    await_attachments(manager, 2)?;

    // One with a network of the engine's keeps its way out, and its ports.
    run(worker, "published", "--network front -p 8090:8080")?;
    let published = hostname(worker, "published")?;
    let shown = docker(worker, "port published")?;
    ensure!(shown.contains("8090"), "{shown}");
    let answers = ask(cluster.client()?, &worker.address().to_string(), 8090, 3)?;
    ensure!(answers.len() == 3);
    reaches(worker, "both", "published", &published)?;
    reaches(worker, "published", "both", &both)?;
    docker(worker, "restart -t 0 published")?;
    wait_until("the port answers again", SETTLE, || {
        ask(cluster.client()?, &worker.address().to_string(), 8090, 1).map(drop)
    })?;
    run(worker, "local", "")?;
    docker(worker, "network connect front local")?;
    let of_both = address(worker, "both", "front")?;
    reaches(worker, "local", &of_both, &both)?;
    reaches(worker, "both", "local", &hostname(worker, "local")?)?;
    cluster.down()
}

#[test]
fn what_cannot_be_attached_is_refused() -> anyhow::Result<()> {
    let cluster = cluster("attachable-refused")?;
    let (manager, worker) = (cluster.host("n1")?, cluster.host("n2")?);
    docker(manager, "network create -d overlay plain")?;
    for host in [manager, worker] {
        let create = format!("run -d --network plain {IMAGE}");
        let said = refused(host, &create)?;
        let expected = "Could not attach to network plain: rpc error: code = PermissionDenied desc \
             = network plain not manually attachable";
        ensure!(said.contains(expected), "{said}");
        // As Docker does it, the container is made, and its start fails.
        let said = refused(
            host,
            &format!("run -d --name lost --network absent {IMAGE}"),
        )?;
        ensure!(said.contains("network absent not found"), "{said}");
        let said = refused(host, "network connect absent lost")?;
        ensure!(said.contains("not found"), "{said}");
        docker(host, "rm lost")?;
        let said = refused(
            host,
            &format!("run -d --network front --ip 10.81.0.5 {IMAGE}"),
        )?;
        ensure!(said.contains("is not in subnet 10.80.0.0/24"), "{said}");
        let said = refused(host, "run -d --network front absent-image")?;
        ensure!(said.contains("Unable to find image"), "{said}");
    }
    let create = |settings: &str| {
        let body = format!(
            r#"{{"Image":"{IMAGE}","HostConfig":{{"NetworkMode":"front"}},
                "NetworkingConfig":{{"EndpointsConfig":{{"front":{settings}}}}}}}"#
        );
        api::send(worker, "POST", "/containers/create", &body)
    };
    for (settings, status) in [
        (r#"{"IPAMConfig":{"IPv4Address":"10.80.0"}}"#, 400),
        (r#"{"IPAMConfig":{"IPv4Address":"fd00::1"}}"#, 400),
        (r#"{"IPAMConfig":{"IPv4Address":"10.80.0.1"}}"#, 400),
        (r#"{"IPAMConfig":{"IPv4Address":"10.80.0.255"}}"#, 400),
        (r#"{"MacAddress":"02:42:ac:11:00:02"}"#, 400),
        (r#"{"Aliases":[""]}"#, 400),
    ] {
        let answer = create(settings)?;
        ensure!(answer.status == status, "{settings}: {answer:?}");
        answer.message()?;
    }
    for (body, status) in [
        ("{}", 400),
        ("[]", 400),
        ("{", 400),
        (r#"{"Container":"absent"}"#, 404),
    ] {
        let answer = api::send(worker, "POST", "/networks/front/connect", body)?;
        ensure!(answer.status == status, "{body}: {answer:?}");
    }
    // Nothing of all that is left.
    await_attachments(manager, 0)?;
    let containers = docker(worker, "ps -aq")?;
    ensure!(containers.is_empty(), "{containers}");
    cluster.down()
}

#[test]
fn every_cli_makes_starts_and_ends_containers() -> anyhow::Result<()> {
    let cluster = cluster("attachable-clis")?;
    let (manager, worker) = (cluster.host("n1")?, cluster.host("n2")?);
    let network = docker(manager, "network inspect --format {{.Id}} front")?;
    run(manager, "peer", "--network front")?;
    for cli in cli::installed()? {
        let by_cli = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            worker.docker_by(&cli.path, &words)
        };
        // By a prefix of the ID, on a node that knows nothing of the network yet, or no more.
        for reference in [&network[..10], &network, "front"] {
            by_cli(&format!(
                "create --name own --network {reference} --ip 10.80.0.99 --network-alias known {IMAGE}"
            ))?;
            by_cli("start own")?;
            let own = hostname(worker, "own")?;
            reaches(manager, "peer", "known", &own)?;
            let twin = by_cli("network inspect --format {{.Containers}} front")?;
            ensure!(twin.contains("own"), "{reference}: {twin}");
            by_cli("kill own")?;
            by_cli("start own")?;
            by_cli("restart -t 0 own")?;
            reaches(manager, "peer", "own", &own)?;
            ensure!(address(worker, "own", "front")? == "10.80.0.99");
            by_cli("rm -f own")?;
            await_attachments(manager, 1)?;
        }
    }
    // The engine itself starts what ends.
    run(worker, "kept", "--network front --restart always")?;
    let kept = hostname(worker, "kept")?;
    let before = address(worker, "kept", "front")?;
    let pid = docker(worker, "inspect --format {{.State.Pid}} kept")?;
    worker.run(&format!("kill -9 {pid}"))?;
    wait_until("the engine starts it again", SETTLE, || {
        let now = docker(worker, "inspect --format {{.State.Pid}} kept")?;
        ensure!(now != pid && now != "0", "process {now}");
        Ok(())
    })?;
    reaches(manager, "peer", "kept", &kept)?;
    ensure!(address(worker, "kept", "front")? == before);
    // It is no service's.
    ensure!(docker(manager, "service ls -q")?.is_empty());
    cluster.down()
}

#[test]
fn nothing_is_leaked_while_the_daemon_is_killed() -> anyhow::Result<()> {
    let cluster = cluster("attachable-killed")?;
    let (manager, worker) = (cluster.host("n1")?, cluster.host("n2")?);
    run(worker, "stays", "--network front --ip 10.80.0.70")?;
    run(worker, "goes", "--network front --ip 10.80.0.71")?;
    let stays = hostname(worker, "stays")?;
    worker.kill(&[Daemon::Control])?;
    worker.engine(&["rm", "-f", "goes"])?;
    worker.engine(&["kill", "stays"])?;
    worker.engine(&["start", "stays"])?;
    worker.start(&[Daemon::Control])?;
    await_attachments(manager, 1)?;
    run(manager, "peer", "--network front --ip 10.80.0.71")?;
    reaches(manager, "peer", "stays", &stays)?;

    for round in 0..ROUNDS {
        thread::scope(|scope| {
            // Whether one comes to be does not matter: all of them must go without a trace.
            let coming = scope.spawn(|| {
                (0..3).for_each(|nth| {
                    let made = run(worker, &format!("come{round}-{nth}"), "--network front");
                    drop(made);
                });
            });
            thread::sleep(Duration::from_millis(400 * (round as u64 + 1)));
            worker.kill(&[Daemon::Control])?;
            let came = coming.join();
            ensure!(came.is_ok(), "the containers' thread panicked");
            worker.start(&[Daemon::Control])
        })?;
    }
    for id in worker
        .engine(&["ps", "-aq", "--filter", "name=come"])?
        .split_whitespace()
    {
        docker(worker, &format!("rm -f {id}"))?;
    }
    await_attachments(manager, 2)?;
    ensure!(address(worker, "stays", "front")? == "10.80.0.70");
    reaches(manager, "peer", "stays", &stays)?;
    docker(worker, "rm -f stays")?;
    docker(manager, "rm -f peer")?;
    await_attachments(manager, 0)?;
    await_no_twin(worker)?;
    docker(manager, "network rm front")?;
    cluster.down()
}

#[test]
fn a_node_that_was_cut_off_gives_back_what_it_left_meanwhile() -> anyhow::Result<()> {
    let cluster = cluster("attachable-cut")?;
    let (manager, worker, other) = (
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    );
    run(worker, "stays", "--network front --ip 10.80.0.70")?;
    run(worker, "goes", "--network front --ip 10.80.0.71")?;
    run(other, "lost", "--network front --ip 10.80.0.72")?;
    run(manager, "peer", "--network front")?;
    let stays = hostname(worker, "stays")?;
    reaches(manager, "peer", "stays", &stays)?;
    cluster.cut("n2")?;
    docker(worker, "rm -f goes")?;
    let said = refused(worker, &format!("run -d --network front {IMAGE}"))?;
    ensure!(said.contains("attaching to network failed"), "{said}");
    wait_until("the node is down", SETTLE, || {
        let nodes = docker(manager, "node ls --format {{.Hostname}}={{.Status}}")?;
        ensure!(nodes.contains("n2=Down"), "{nodes}");
        Ok(())
    })?;
    // Nobody knows what runs there: its addresses are its own.
    let said = refused(
        manager,
        &format!("run -d --network front --ip 10.80.0.70 {IMAGE}"),
    )?;
    ensure!(said.contains("already in use"), "{said}");
    cluster.mend("n2")?;
    await_attachments(manager, 3)?;
    reaches(manager, "peer", "stays", &stays)?;
    run(other, "next", "--network front --ip 10.80.0.71")?;
    docker(other, "rm -f next")?;

    // A node that is removed has no addresses any more.
    cluster.cut("n3")?;
    wait_until("the node can be removed", SETTLE, || {
        docker(manager, "node rm --force n3").map(drop)
    })?;
    await_attachments(manager, 2)?;
    run(manager, "next", "--network front --ip 10.80.0.72")?;
    cluster.down()
}
