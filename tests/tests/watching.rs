//! What passes through a node, for those who watch: `skein flows`, `skein capture`, metrics of services.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_tests::{kernel, sockets, swarm};
use std::{
    net::SocketAddrV4,
    process::{Child, ExitStatus, Stdio},
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
    // By whatever port: one that was just used is not free yet.
    let to = format!("http://{}:30101/", node.address());
    let said = client.shell(&format!("curl -sS -m 5 {to} 2>&1; echo $?"))?;
    ensure!(said.trim().ends_with('7'), "curl said {said}");
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
    let follower = Following::begin(node, "follower", follow)?;
    let seen = || node.shell("cat /run/followed");
    let call = format!("curl -sS -m 5 http://{}:30100/", node.address());
    wait_until("a follower sees a flow", TOLD_WITHIN, || {
        client.run(&call)?;
        ensure!(seen()?.contains("\"opened\""), "nothing yet");
        Ok(())
    })?;
    follower.end()
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

/// A command that goes on, on a host.
struct Following<'a> {
    host: &'a Host,
    /// Of the host's files that are about it.
    name: String,
    /// Ends with the command, as that does: it only waits for it.
    outside: Child,
}

impl<'a> Following<'a> {
    /// Whatever else the host's files in /run are called, `name` is this one's.
    fn begin(host: &'a Host, name: &str, script: &str) -> anyhow::Result<Self> {
        let mut command = host.command("sh");
        command.args(["-c", &format!("echo $$ > /run/{name}.pid; exec {script}")]);
        let outside = command.stdin(Stdio::null()).spawn();
        Ok(Self {
            host,
            name: name.to_owned(),
            outside: outside.with_context(|| format!("cannot begin {script}"))?,
        })
    }

    /// `skein capture` with these options, once it is on.
    fn capture(host: &'a Host, name: &str, options: &str) -> anyhow::Result<Self> {
        let script = format!("skein capture {options} 2> /run/{name}.said");
        let capture = Self::begin(host, name, &script)?;
        wait_until("the capture is on", TOLD_WITHIN, || {
            let said = capture.said()?;
            ensure!(said.contains("capturing"), "{said}");
            Ok(())
        })?;
        Ok(capture)
    }

    fn said(&self) -> anyhow::Result<String> {
        self.host.shell(&format!("cat /run/{}.said", self.name))
    }

    /// As by Ctrl-C, which is no failure.
    fn end(mut self) -> anyhow::Result<()> {
        self.host
            .shell(&format!("kill -INT $(cat /run/{}.pid)", self.name))?;
        let status = self.ended()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// How it ended.
    fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        wait_until(&format!("{} ends", self.name), TOLD_WITHIN, || {
            status = self.outside.try_wait()?;
            ensure!(status.is_some(), "it runs");
            Ok(())
        })?;
        status.context("it has ended")
    }
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

    let options = format!("--port {FROM} --service web -w /run/entry.pcapng");
    let entry = Following::capture(first, "entry", &options)?;
    let options = format!("--client {} -w /run/task.pcapng", client.address());
    let at_task = Following::capture(second, "task", &options)?;
    let refused = first.shell("skein capture -w /run/other.pcapng 2>&1 || true")?;
    ensure!(refused.contains("one at a time"), "{refused}");
    call(FROM)?;
    call(FROM + 1)?;
    let (from, to) = (client.address(), first.address());
    // Packets are there once they are read.
    std::thread::sleep(Duration::from_secs(1));
    entry.end()?;
    at_task.end()?;
    let said = first.shell("cat /run/entry.said")?;
    ensure!(said.contains("packets captured, 0 lost"), "{said}");
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
    let mut piped = Following::begin(first, "piped", &format!("sh -c '{piped}'"))?;
    // It may not be on yet; and a port that was just used is not free.
    let mut port = FROM + 1;
    wait_until("packets come by the pipe", TOLD_WITHIN, || {
        port += 1;
        call(port)?;
        let read = first.shell("cat /run/piped")?;
        ensure!(read.lines().count() == 3, "{read}");
        Ok(())
    })?;
    ensure!(piped.ended()?.success());

    // Nobody renews the lease.
    let mut orphan = Following::capture(first, "orphan", "-w /run/orphan.pcapng")?;
    let (until, now) = kernel::captures_until(first)?;
    ensure!(until > now, "the capture is off");
    first.kill(&[Daemon::Dataplane])?;
    ensure!(!orphan.ended()?.success(), "its daemon is gone");
    wait_until("the lease ends", LEASE_ENDS_WITHIN, || {
        let (until, now) = kernel::captures_until(first)?;
        ensure!(until < now, "still on");
        Ok(())
    })?;
    call(port + 1)?;
    first.start(&[Daemon::Dataplane])?;
    Following::capture(first, "again", "-w /run/again.pcapng")?.end()?;
    cluster.down()
}
