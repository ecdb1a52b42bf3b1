//! What passes through a node, for those who watch: `skein flows`, `skein capture`, metrics of services.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::{kernel, sockets, swarm};
use std::{
    net::SocketAddrV4,
    process::{Child, Stdio},
    time::Duration,
};
use xtask::{
    check::{requests::await_published, services},
    cluster::{Attach, Cluster, Daemon, Host, Shape},
    wait_until,
};

/// Far more than a record takes from the kernel to people.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Of the captures' lease, and what a loaded machine needs.
const LEASE_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Port of the client, by which its flows are found.
const FROM: u16 = 40_200;

/// The last flows of a node, as far as `options` want them.
fn flows(node: &Host, options: &str) -> anyhow::Result<Vec<Value>> {
    let text = node.run(&format!("skein flows --format json -n 1000 {options}"))?;
    let flows = text.lines().map(serde_json::from_str);
    flows.collect::<Result<_, _>>().context(text.clone())
}

/// The one flow that `options` want, once it is told of.
fn await_flow(node: &Host, options: &str) -> anyhow::Result<Value> {
    wait_until(
        &format!("{} tells of {options}", node.name()),
        TOLD_WITHIN,
        || {
            let found = flows(node, options)?;
            ensure!(!found.is_empty());
            Ok(())
        },
    )?;
    let found = flows(node, options)?;
    let [flow] = &found[..] else {
        anyhow::bail!("several of {options} on {}: {found:?}", node.name());
    };
    Ok(flow.clone())
}

/// By events.
fn of_event<'a>(flows: &'a [Value], event: &str) -> Vec<&'a Value> {
    flows.iter().filter(|flow| flow["event"] == event).collect()
}

#[test]
fn flows_are_told_of_by_every_node_that_they_pass() -> anyhow::Result<()> {
    let cluster = swarm("watching", 2, 1)?;
    let (first, second, client) = (cluster.host("n1")?, cluster.host("n2")?, cluster.client()?);
    let on_second = [
        "-p",
        "30100:8080",
        "-p",
        "30100:8080/udp",
        "--constraint",
        "node.hostname==n2",
    ];
    services::create(first, "web", 1, &on_second)?;
    services::create(first, "none", 0, &["-p", "30101:8080"])?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let task = first.docker(&["service", "ps", "-q", "--no-trunc", "web"])?;
    let task = task.trim();

    let call = format!(
        "curl -sS -m 5 --local-port {FROM} http://{}:30100/",
        first.address()
    );
    client.run(&call)?;
    let ours = format!("--port {FROM} --protocol tcp");
    let entry = await_flow(first, &format!("{ours} --verdict forwarded --node n2"))?;
    let of_request = |flow: &Value| {
        let source = format!("{}:{FROM}", client.address());
        let destination = format!("{}:30100", first.address());
        ensure!(
            flow["source"] == source && flow["destination"] == destination,
            "{flow}"
        );
        ensure!(
            flow["service"] == "web" && flow["tcp_flags"] == "SYN",
            "{flow}"
        );
        ensure!(
            flow["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z')),
            "{flow}"
        );
        anyhow::Ok(())
    };
    of_request(&entry)?;
    ensure!(
        entry["event"] == "opened" && entry["to_node"] == "n2" && entry["node"] == "n1",
        "{entry}"
    );
    let delivered = await_flow(second, &format!("{ours} --verdict delivered --task {task}"))?;
    of_request(&delivered)?;
    ensure!(
        delivered["task"] == task && delivered["network"] == "ingress",
        "{delivered}"
    );
    for node in [first, second] {
        wait_until("the end is told of", TOLD_WITHIN, || {
            let all = flows(node, &ours)?;
            let closed = of_event(&all, "closed");
            ensure!(
                closed.len() == 1 && closed[0]["service"] == "web",
                "{all:?}"
            );
            ensure!(of_event(&all, "opened").len() == 1, "{all:?}");
            Ok(())
        })?;
    }

    what_is_refused_is_told_of_with_its_reason(first, client)?;
    filters_leave_what_is_not_asked_for(first, client)?;
    a_follower_sees_what_comes(first, client)?;
    counts_what_was_sent(first, second, client)?;

    // What is gone has no series.
    first.docker(&["service", "rm", "web"])?;
    wait_until("the series are gone", TOLD_WITHIN, || {
        let metrics = second.run("curl -sSf -m 5 http://127.0.0.1:9789/metrics")?;
        ensure!(!metrics.contains("service=\"web\""), "{metrics}");
        Ok(())
    })?;
    cluster.down()
}

fn what_is_refused_is_told_of_with_its_reason(node: &Host, client: &Host) -> anyhow::Result<()> {
    let to = format!("http://{}:30101/", node.address());
    client.shell(&format!(
        "! curl -sS -m 5 --local-port {FROM} {to} 2>/dev/null"
    ))?;
    let refused = await_flow(node, "--reason no_task --verdict refused")?;
    ensure!(
        refused["service"] == "none" && refused["event"] == "dropped",
        "{refused}"
    );
    let text = node.run("skein flows --reason no_task")?;
    ensure!(
        text.contains("refused") && text.contains(": no_task"),
        "{text}"
    );
    let line = "skein_dataplane_service_dropped_packets_total{service=\"none\",protocol=\"tcp\",port=\"30101\",reason=\"no_task\"}";
    ensure!(kernel::metric(node, line)? == 1);
    let text = node.run("skein status")?;
    ensure!(text.contains("docker service ps"), "no advice: {text}");
    Ok(())
}

fn filters_leave_what_is_not_asked_for(node: &Host, client: &Host) -> anyhow::Result<()> {
    let of_client = format!("--client {}", client.address());
    ensure!(!flows(node, &of_client)?.is_empty());
    for none in [
        "--client 203.0.113.0/24",
        "--service nobody",
        "--reason ttl",
        "--port 9",
        "--node n9",
        "--protocol icmp --verdict forwarded",
    ] {
        let found = flows(node, none)?;
        ensure!(found.is_empty(), "{none}: {found:?}");
    }
    for (bad, said) in [
        ("--client nowhere", "neither an IPv4 address nor a network"),
        ("--reason bad", "no_task"),
    ] {
        let complaint = node.shell(&format!("skein flows {bad} 2>&1 || true"))?;
        ensure!(complaint.contains(said), "{complaint}");
    }
    Ok(())
}

fn a_follower_sees_what_comes(node: &Host, client: &Host) -> anyhow::Result<()> {
    let follow =
        "skein flows --follow --service web --verdict forwarded --format json > /run/followed";
    let mut follower = begin(node, follow)?;
    let seen = || node.shell("cat /run/followed");
    let call = format!("curl -sS -m 5 http://{}:30100/", node.address());
    wait_until("a follower sees a flow", TOLD_WITHIN, || {
        client.run(&call)?;
        ensure!(seen()?.contains("\"opened\""), "nothing yet");
        Ok(())
    })?;
    end(&mut follower)
}

/// Of datagrams, each of which is one packet there, and one back.
fn counts_what_was_sent(entry: &Host, of_task: &Host, client: &Host) -> anyhow::Result<()> {
    const DATAGRAMS: u64 = 10;
    const BYTES: usize = 100;
    /// IPv4 and UDP.
    const HEADERS: u64 = 28;
    let line = |name: &str, more: &str| {
        format!(
            "skein_dataplane_service_{name}{{service=\"web\",protocol=\"udp\",port=\"30100\"{more}}}"
        )
    };
    let read = || -> anyhow::Result<[u64; 4]> {
        let metric = |name, more| kernel::metric(of_task, &line(name, more));
        Ok([
            metric("packets_total", ",direction=\"in\"")?,
            metric("packets_total", ",direction=\"out\"")?,
            metric("bytes_total", ",direction=\"in\"")?,
            metric("opened_flows_total", "")?,
        ])
    };
    let before = read()?;
    let to = SocketAddrV4::new(entry.address(), 30_100);
    let socket = sockets::within(client, || sockets::connect_udp(to))?;
    for _ in 0..DATAGRAMS {
        sockets::ask_by(&socket, &[b'x'; BYTES])?;
    }
    let after = read()?;
    let risen = [0, 1, 2, 3].map(|nth| after[nth] - before[nth]);
    let bytes = DATAGRAMS * (BYTES as u64 + HEADERS);
    ensure!(risen == [DATAGRAMS, DATAGRAMS, bytes, 1], "{risen:?}");
    wait_until("it is active", TOLD_WITHIN, || {
        let active = kernel::metric(of_task, &line("active_flows", ""))?;
        ensure!(active >= 1, "{active}");
        Ok(())
    })
}

/// A command that goes on.
fn begin(node: &Host, script: &str) -> anyhow::Result<Child> {
    let mut command = node.command("sh");
    command.args(["-c", &format!("exec {script}")]);
    let command = command.stdin(Stdio::null());
    command
        .spawn()
        .with_context(|| format!("cannot begin {script}"))
}

/// As by Ctrl-C.
fn end(command: &mut Child) -> anyhow::Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(command.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    let ended = command.wait()?;
    ensure!(ended.success(), "it ended with {ended}");
    Ok(())
}

/// A capture that is on.
fn capture(node: &Host, options: &str) -> anyhow::Result<Child> {
    let script = format!("skein capture {options} 2> /run/capturing");
    let capture = begin(node, &script)?;
    wait_until("the capture is on", TOLD_WITHIN, || {
        let said = node.shell("cat /run/capturing")?;
        ensure!(said.contains("capturing"), "{said}");
        Ok(())
    })?;
    Ok(capture)
}

#[test]
fn packets_that_xdp_forwards_are_captured() -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 2,
        managers: 1,
        init: true,
        attach: Attach::Xdp,
    };
    let cluster = Cluster::up("capturing", &shape)?;
    let (first, second, client) = (cluster.host("n1")?, cluster.host("n2")?, cluster.client()?);
    let on_second = ["-p", "30100:8080", "--constraint", "node.hostname==n2"];
    services::create(first, "web", 1, &on_second)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let call = |port: u16| {
        let to = first.address();
        client.run(&format!(
            "curl -sS -m 5 --local-port {port} http://{to}:30100/"
        ))
    };

    let mut entry = capture(
        first,
        &format!("--port {FROM} --service web -w /run/entry.pcapng"),
    )?;
    let mut at_task = capture(
        second,
        &format!("--client {} -w /run/task.pcapng", client.address()),
    )?;
    let refused = first.shell("skein capture -w /run/other.pcapng 2>&1 || true")?;
    ensure!(refused.contains("one at a time"), "{refused}");
    call(FROM)?;
    call(FROM + 1)?;
    let (from, to) = (client.address(), first.address());
    // Packets are there once they are read.
    std::thread::sleep(Duration::from_secs(1));
    end(&mut entry)?;
    end(&mut at_task)?;
    let read = first.run("tcpdump -n -r /run/entry.pcapng")?;
    let sent = |flags: &str| format!("IP {from}.{FROM} > {to}.30100: Flags [{flags}]");
    for flags in ["S", "P.", "F."] {
        ensure!(read.contains(&sent(flags)), "{flags}: {read}");
    }
    let answered = format!("IP {to}.30100 > {from}.{FROM}: Flags [S.]");
    ensure!(read.contains(&answered), "{read}");
    let others = format!("{from}.{}", FROM + 1);
    ensure!(!read.contains(&others), "{read}");
    let read = second.run("tcpdump -n -r /run/task.pcapng")?;
    ensure!(
        read.contains(&sent("S")) && read.contains(&others),
        "{read}"
    );
    let (until, _) = kernel::captures_until(first)?;
    ensure!(until == 0, "nobody captures: {until}");

    // By a pipe, which is closed by whoever has seen enough.
    let piped = "skein capture --count 3 -w - | tcpdump -n -r - 2>/dev/null > /run/piped";
    let mut piped = begin(first, &format!("sh -c '{piped}'"))?;
    wait_until("packets come by the pipe", TOLD_WITHIN, || {
        call(FROM + 2)?;
        let read = first.shell("cat /run/piped")?;
        ensure!(read.lines().count() == 3, "{read}");
        Ok(())
    })?;
    piped.wait()?;

    // Nobody renews the lease.
    let mut orphan = capture(first, "-w /run/orphan.pcapng")?;
    let (until, now) = kernel::captures_until(first)?;
    ensure!(until > now, "the capture is off");
    first.kill(&[Daemon::Dataplane])?;
    ensure!(!orphan.wait()?.success(), "its daemon is gone");
    wait_until("the lease ends", LEASE_ENDS_WITHIN, || {
        let (until, now) = kernel::captures_until(first)?;
        ensure!(until < now, "still on");
        Ok(())
    })?;
    call(FROM + 3)?;
    first.start(&[Daemon::Dataplane])?;
    let mut again = capture(first, "-w /run/again.pcapng")?;
    end(&mut again)?;
    cluster.down()
}
