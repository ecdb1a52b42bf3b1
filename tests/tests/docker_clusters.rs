//! What users of Docker's routing mesh ran into with nodes that go, leaders that change, and networks that fill, each by
//! the number of its issue: a test of its name.

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use skein_tests::{
    bulk,
    load::{Outcome, under_load_through},
    overlay, swarm,
};
use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    time::{Duration, Instant},
};
use xtask::{
    check::{
        names::resolve,
        nodes::leader,
        requests::{ask, await_published},
        services,
        status::{SEEN_WITHIN, status},
    },
    cluster::{Daemon, Host},
    wait_until,
};

const WEB: u16 = 30_100;
/// From the loss of a node: no request that begins later is sent there.
const FOUND_WITHIN: Duration = Duration::from_secs(1);

/// moby#25526: a task sees the address of a node in place of its client's.
#[test]
fn source_ip_preserved_25526() -> anyhow::Result<()> {
    let cluster = swarm("source-ip", 3, 1)?;
    let (first, client) = (cluster.host("n1")?, cluster.client()?);
    let (ingress, on_host) = (
        format!("{WEB}:8080"),
        "mode=host,published=8081,target=8080",
    );
    services::create(first, "web", 3, &["-p", &ingress, "--publish", on_host])?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    let mut tasks = BTreeSet::new();
    for node in cluster.nodes() {
        for (port, count) in [(WEB, 20), (8081, 2)] {
            for answer in ask(client, &node.address().to_string(), port, count)? {
                ensure!(answer.client == client.address().to_string(), "{answer:?}");
                tasks.insert(answer.hostname);
            }
        }
    }
    ensure!(tasks.len() == 3, "{tasks:?}");
    cluster.down()
}

/// The failures of a load that was asked for when the node was to have been found lost.
fn late(outcome: &Outcome) -> Vec<String> {
    let failures = outcome.failures.iter();
    let late = failures.filter(|failure| failure.begun >= FOUND_WITHIN);
    late.map(|failure| format!("{:?} after: {}", failure.begun, failure.what))
        .collect()
}

/// moby#35548: requests go on to tasks of a node that is no more, for minutes.
#[test]
fn node_kill_no_dead_backend_after_1s_35548() -> anyhow::Result<()> {
    let cluster = swarm("node-kill", 4, 1)?;
    let first = cluster.host("n1")?;
    let port = format!("{WEB}:8080");
    services::create(first, "web", 8, &["-p", &port])?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    let survivors: Vec<&Host> = cluster.nodes().filter(|node| node.name() != "n4").collect();
    let lose = |what: &str, how: &dyn Fn() -> anyhow::Result<()>| {
        let outcome = under_load_through(&cluster, &survivors, WEB, || {
            how()?;
            // Before its tasks are given to others.
            std::thread::sleep(4 * FOUND_WITHIN);
            Ok(())
        })?;
        println!("{what}: {outcome}");
        ensure!(outcome.answered > 1_000, "too little of a load: {outcome}");
        // Requests that wait for packets sent again may all be answered by others in time.
        ensure!(
            outcome.slow > 0 || !outcome.failures.is_empty(),
            "{what}: nobody noticed, so nothing was shown"
        );
        let late = late(&outcome);
        ensure!(late.is_empty(), "{what}: {late:#?}");
        Ok(())
    };
    lose("a cable is pulled", &|| cluster.cut("n4"))?;
    cluster.mend("n4")?;
    for node in &survivors {
        wait_until("the node is heard again", SEEN_WITHIN, || {
            let said = status(node)?;
            let member = said.item("members", "hostname", "n4")?;
            ensure!(member["up"] == true, "{member}");
            Ok(())
        })?;
    }
    let host = cluster.node("n4")?;
    lose("a machine ends", &|| {
        // With it go all of its processes, its network and whatever its kernel had.
        Ok(kill(Pid::from_raw(host.process()), Signal::SIGKILL)?)
    })?;
    cluster.down()
}

/// moby#53141: a node that was cut off knows no names for hours.
#[test]
fn partition_30s_heals_53141() -> anyhow::Result<()> {
    const CUT: Duration = Duration::from_secs(30);
    let cluster = swarm("partition", 3, 1)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let port = format!("{WEB}:8080");
    services::create(first, "web", 3, &["--network", "back", "-p", &port])?;
    let on_third = ["--network", "back", "--constraint", "node.hostname==n3"];
    services::create(first, "asker", 1, &on_third)?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    let vip = resolve(third, "asker", "web")?;
    ensure!(vip.len() == 1, "{vip:?}");
    cluster.cut("n3")?;
    let cut = Instant::now();
    while cut.elapsed() < CUT {
        // Nobody tells it anything: it goes on with what it has.
        let found = resolve(third, "asker", "web")?;
        ensure!(
            found == vip,
            "after {:?} without the others: {found:?}",
            cut.elapsed()
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    cluster.mend("n3")?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    services::settled(first, "web", 3)?;
    wait_until("a task of the node finds all of them", SEEN_WITHIN, || {
        // The managers may have given its task away, and made it another.
        services::settled(first, "asker", 1)?;
        ensure!(resolve(third, "asker", "web")? == vip);
        let tasks = resolve(third, "asker", "tasks.web")?;
        ensure!(tasks.len() == 3, "{tasks:?}");
        let said = services::exec(third, "asker", "wget -q -O - http://web:8080/")?;
        ensure!(said.contains("\"task\":\"web."), "{said:?}");
        Ok(())
    })?;
    cluster.down()
}

/// The addresses of a service's VIPs.
fn vips(manager: &Host, service: &str) -> anyhow::Result<Vec<String>> {
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}";
    let said = manager.docker(&["service", "inspect", "--format", format, service])?;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// moby#30134, moby#33795: under a new leader a service gets a second VIP, or another one's.
#[test]
fn leader_change_no_second_vip_30134() -> anyhow::Result<()> {
    const ROUNDS: usize = 3;
    const SERVICES: usize = 6;
    let cluster = swarm("second-vip", 3, 3)?;
    let any = cluster.host("n1")?;
    any.docker(&["network", "create", "-d", "overlay", "back"])?;
    let mut names = Vec::new();
    for round in 0..ROUNDS {
        let leads = leader(any)?;
        let leads = cluster.node(&leads)?;
        let other = cluster.nodes().find(|node| node.name() != leads.name());
        let other = other.context("there are others")?;
        std::thread::scope(|scope| {
            let killing = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150));
                leads.kill(&[Daemon::Control])
            });
            for nth in 0..SERVICES {
                let name = format!("s{round}-{nth}");
                let create =
                    |name: &str| services::create_unwatched(other, name, 1, &["--network", "back"]);
                // What was asked of the old leader may have been done: then the name is taken.
                if let Err(error) = create(&name) {
                    wait_until("there is a leader", SEEN_WITHIN, || leader(other))?;
                    let is_there = other.docker(&["service", "inspect", &name]).is_ok();
                    if !is_there {
                        create(&name).with_context(|| format!("after {error:#}"))?;
                    }
                }
                names.push(name);
            }
            killing.join().expect("no panic")
        })?;
        leads.start(&[Daemon::Control])?;
    }
    let mut all = BTreeSet::new();
    for name in &names {
        services::settled(any, name, 1)?;
        let vips = vips(any, name)?;
        ensure!(vips.len() == 1, "{name} has {vips:?}");
        ensure!(all.insert(vips.concat()), "{vips:?} is another's already");
    }
    let asker = names.first().context("a service")?;
    let node = cluster
        .nodes()
        .find(|node| services::container_of(node, asker).is_ok());
    let node = node.context("a node has the task")?;
    for name in &names {
        let found = resolve(node, asker, name)?;
        let expected = vips(any, name)?.concat();
        let expected = expected.split('/').next().unwrap_or_default();
        ensure!(found == [expected], "{name} is {found:?}, not {expected}");
    }
    cluster.down()
}

/// moby#43052: a /24 is full with a hundred services, as each node takes an address of it for itself.
#[test]
fn three_hundred_services_in_a_24_43052() -> anyhow::Result<()> {
    /// All but the subnet's own, the broadcast's and the gateway's.
    const ADDRESSES: usize = 253;
    let cluster = swarm("full-24", 2, 1)?;
    let first = cluster.host("n1")?;
    overlay(first, "back", "10.77.0.0/24")?;
    let mut given = BTreeSet::new();
    for nth in 0..ADDRESSES {
        let name = format!("s{nth}");
        services::create_unwatched(first, &name, 0, &["--network", "back"])?;
        let vips = vips(first, &name)?;
        ensure!(
            vips.len() == 1 && given.insert(vips.concat()),
            "{name} has {vips:?}"
        );
    }
    // The next one is told why it has none.
    full_pool_is_said(first, "over")?;
    first.docker(&["service", "rm", "s0", "s1"])?;
    services::settled(first, "over", 1)?;
    cluster.down()
}

/// docker/for-aws#104: tasks for which there is no address wait, and nobody says why.
#[test]
fn full_pool_error_visible_for_aws_104() -> anyhow::Result<()> {
    let cluster = swarm("full-pool", 1, 1)?;
    let first = cluster.host("n1")?;
    overlay(first, "back", "10.78.0.0/29")?;
    // Its VIP and four tasks.
    services::create(first, "web", 4, &["--network", "back"])?;
    full_pool_is_said(first, "over")?;
    first.docker(&["service", "rm", "web"])?;
    services::settled(first, "over", 1)?;
    cluster.down()
}

/// Makes a service for which the network `back` has no address.
fn full_pool_is_said(manager: &Host, name: &str) -> anyhow::Result<()> {
    services::create_unwatched(manager, name, 1, &["--network", "back"])?;
    wait_until("the reason is in `service ps`", SEEN_WITHIN, || {
        let said = manager.docker(&[
            "service",
            "ps",
            "--no-trunc",
            "--format",
            "{{.Error}}",
            name,
        ])?;
        ensure!(
            said.contains("could not find an available IP") && said.contains("back"),
            "{said:?}"
        );
        Ok(())
    })
}

/// libnetwork#2082: of a service with very many tasks, not all are found by name.
#[test]
fn big_tasks_dns() -> anyhow::Result<()> {
    const TASKS: usize = 110;
    /// Of two engines on a loaded machine.
    const STARTED_WITHIN: Duration = Duration::from_secs(180);
    let cluster = swarm("big-tasks", 2, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let sleeps = ["--network", "back", "--entrypoint", "sleep 3600"];
    services::create_unwatched(first, "many", TASKS, &sleeps)?;
    wait_until("all tasks run", STARTED_WITHIN, || {
        let tasks = services::tasks(first, "many")?;
        let running = tasks.iter().filter(|task| task.state == "Running").count();
        ensure!(running == TASKS, "{running} run");
        Ok(())
    })?;
    services::create(
        first,
        "asker",
        1,
        &["--network", "back", "--constraint", "node.hostname==n1"],
    )?;
    wait_until("all are found by name", SEEN_WITHIN, || {
        let found: BTreeSet<String> = resolve(first, "asker", "tasks.many")?.into_iter().collect();
        ensure!(found.len() == TASKS, "{} are found", found.len());
        Ok(())
    })?;
    // What fits into a datagram of old is found by whoever asks no more.
    let said = services::exec(first, "asker", "nslookup tasks.many")?;
    ensure!(said.matches("Address").count() > 10, "{said}");
    cluster.down()
}

/// moby#24906: nodes whose networks carry packets of different lengths lose the long ones.
#[test]
fn mtu_mix_9000_and_1500_24906() -> anyhow::Result<()> {
    const BYTES: u64 = 8 << 20;
    const BACK: u16 = 9_000;
    let cluster = swarm("mtu-mix", 2, 1)?;
    let nodes: Vec<&Host> = cluster.nodes().collect();
    let [first, second] = nodes[..] else {
        anyhow::bail!("two nodes");
    };
    first.shell("ip link set eth0 mtu 9000")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let on_back = ["--network", "back"];
    for (on, port) in [(first, WEB), (second, WEB + 1)] {
        bulk::serve(first, &format!("on-{}", on.name()), port, on, &on_back)?;
    }
    for (from, to) in [(first, second), (second, first)] {
        // Between tasks, and from the client through the other node.
        let (asks, serves) = (format!("on-{}", from.name()), format!("on-{}", to.name()));
        let address = resolve(from, &asks, &serves)?;
        let address = address.first().context("the service has an address")?;
        let within = format!("nsenter --net --target {}", services::pid_of(from, &asks)?);
        bulk::comes_back(
            from,
            &within,
            SocketAddrV4::new(address.parse()?, BACK),
            BYTES,
        )?;
        let port = if to.name() == "n1" { WEB } else { WEB + 1 };
        let through = SocketAddrV4::new(from.address(), port);
        bulk::comes_back(cluster.client()?, "", through, BYTES)?;
    }
    let mtu = |node: &Host| -> anyhow::Result<String> {
        services::exec(
            node,
            &format!("on-{}", node.name()),
            "cat /sys/class/net/eth0/mtu",
        )
    };
    ensure!(
        mtu(first)?.trim() == "8950",
        "the wide node's tasks have {}",
        mtu(first)?
    );
    ensure!(
        mtu(second)?.trim() == "1450",
        "the narrow node's tasks have {}",
        mtu(second)?
    );
    cluster.down()
}
