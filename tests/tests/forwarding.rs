//! How what clients send goes from node to node: by l2 where the network delivers it, else in VXLAN.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use skein_abi::verdict::Counter;
use skein_tests::{
    kernel,
    load::{under_load, unnoticed},
    outsiders, sockets, swarm,
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};
use xtask::{
    check::{
        requests::{ask, ask_each, await_published},
        services,
        status::{await_forwarding, status},
    },
    cluster::{Attach, Cluster, Daemon, Forwarding, Host, Shape},
    wait_until,
};

/// Three fragments on an Ethernet, and as many back.
const LARGE: usize = 4_000;
/// How long a network may drop what goes by l2 before it no longer does: a second until that is known, and
/// time for retransmissions, on a loaded machine.
const LEFT_WITHIN: Duration = Duration::from_secs(6);

/// A service with its one task on n3.
fn serve_on_third(first: &Host) -> anyhow::Result<()> {
    let on_third = [
        "-p",
        "30100:8080",
        "-p",
        "30100:8080/udp",
        "--constraint",
        "node.hostname==n3",
    ];
    services::create(first, "web", 1, &on_third)
}

/// A device of a node, as iproute2 shows it.
fn device(node: &Host, name: &str) -> anyhow::Result<Value> {
    let shown = node.run(&format!("ip -s -j link show {name}"))?;
    let mut shown: Value = serde_json::from_str(&shown)?;
    Ok(shown[0].take())
}

/// Packets for a node's tasks that came in VXLAN, by the kernel's own count. (Those in which answers come back
/// its device never sees, where XDP takes them.)
fn in_vxlan(node: &Host) -> anyhow::Result<u64> {
    let device = device(node, "skein-vxlan")?;
    let came = device["stats64"]["rx"]["packets"].as_u64();
    came.with_context(|| format!("ip says {device}"))
}

/// The switch drops what a node sends with an address that is another host's, or no longer does.
fn check_sources(cluster: &Cluster, nodes: &[&Host], checks: bool) -> anyhow::Result<()> {
    let change = if checks { "-A" } else { "-D" };
    for node in nodes {
        let (port, own) = (format!("to-{}", node.name()), node.address());
        cluster.host("switch")?.run(&format!(
            "ebtables {change} FORWARD -i {port} -p IPv4 --ip-source ! {own} -j DROP"
        ))?;
    }
    Ok(())
}

#[test]
fn l2_is_used_by_tc() -> anyhow::Result<()> {
    l2_is_used("l2-tc", Attach::Tc)
}

#[test]
fn l2_is_used_by_xdp() -> anyhow::Result<()> {
    l2_is_used("l2-xdp", Attach::Xdp)
}

fn l2_is_used(name: &str, attach: Attach) -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 3,
        managers: 1,
        init: true,
        attach,
    };
    let cluster = Cluster::up(name, &shape)?;
    let (first, second, third) = (
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    );
    serve_on_third(first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    for entry in [first, second] {
        await_forwarding(entry, third, "l2", "l2")?;
        await_forwarding(third, entry, "l2", "l2")?;
    }
    let text = first.run("skein status")?;
    ensure!(text.contains("it answers probes"), "{text}");

    let sent = || -> anyhow::Result<[u64; 4]> {
        Ok([
            in_vxlan(third)?,
            kernel::count(first, Counter::L2Sent)?,
            kernel::count(third, Counter::L2Sent)?,
            kernel::count(third, Counter::ReplySent)?,
        ])
    };
    let before = sent()?;
    ask_each(&cluster, [first], 30_100, 100)?;
    let to = SocketAddrV4::new(first.address(), 30_100);
    let client = cluster.client()?;
    let socket = sockets::within(client, || sockets::connect_udp(to))?;
    for len in [5, LARGE] {
        let answer = sockets::ask_by(&socket, &vec![0; len])?;
        ensure!(answer.client == client.address().to_string(), "{answer:?}");
    }
    let after = sent()?;
    let [vxlan, l2, l2_back, answers] = std::array::from_fn(|n| after[n] - before[n]);
    ensure!(
        vxlan == 0 && l2_back == answers,
        "{vxlan} packets went in VXLAN, {l2_back} of {answers} answers by l2"
    );
    // Of each request at least SYN, request and FIN go there, and as much comes back.
    ensure!(
        l2 >= 300 && l2_back >= 300,
        "{l2} went by l2, {l2_back} back"
    );

    // An address that is not the node's own may be several nodes': it is not tried.
    first.run("ip address add 198.18.0.101/24 dev eth0")?;
    let floating = "198.18.0.101";
    let what = "the other address answers";
    wait_until(what, LEFT_WITHIN, || ask(client, floating, 30_100, 1))?;
    let before = in_vxlan(third)?;
    ask(client, floating, 30_100, 10)?;
    ensure!(in_vxlan(third)? >= before + 30, "it went otherwise");
    cluster.down()
}

#[test]
fn a_network_that_drops_forged_frames_is_left() -> anyhow::Result<()> {
    let cluster = swarm("l2-dropped", 3, 1)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    serve_on_third(first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    await_forwarding(first, third, "l2", "l2")?;
    let to = SocketAddrV4::new(first.address(), 30_100);
    let client = cluster.client()?;
    let mut open = sockets::within(client, || sockets::connect(to, LEFT_WITHIN))?;
    let task = sockets::ask_on(&mut open)?;
    // Both forms are dropped, then that of requests alone, then that of answers alone.
    for nodes in [&[first, third][..], &[first], &[third]] {
        let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
        check_sources(&cluster, nodes, true)?;
        let begun = Instant::now();
        let answer = sockets::ask_on(&mut open).with_context(|| format!("{names:?}"))?;
        ensure!(answer == task, "{answer:?}");
        println!(
            "{names:?} dropped: the open connection stood still {:.1?}",
            begun.elapsed()
        );
        let why = await_forwarding(first, third, "vxlan", "vxlan")?;
        ensure!(why.contains("drops frames"), "{why}");
        ask_each(&cluster, [first], 30_100, 20)?;
        check_sources(&cluster, nodes, false)?;
        await_forwarding(first, third, "l2", "l2")?;
        ensure!(sockets::ask_on(&mut open)? == task);
        ask_each(&cluster, [first], 30_100, 20)?;
    }
    cluster.down()
}

#[test]
fn no_request_is_lost_when_the_forwarding_changes() -> anyhow::Result<()> {
    let cluster = swarm("l2-changes", 3, 1)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    serve_on_third(first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    await_forwarding(first, third, "l2", "l2")?;
    let choose = |node: &Host, forwarding| -> anyhow::Result<()> {
        node.set_forwarding(forwarding)?;
        node.kill(&[Daemon::Dataplane])?;
        node.start(&[Daemon::Dataplane])
    };
    unnoticed(&cluster, 30_100, "l2, vxlan by the entry, l2", || {
        choose(first, Forwarding::Vxlan)?;
        await_forwarding(first, third, "vxlan", "vxlan")?;
        await_forwarding(third, first, "vxlan", "vxlan")?;
        choose(first, Forwarding::Auto)?;
        await_forwarding(first, third, "l2", "l2").map(drop)
    })?;
    unnoticed(&cluster, 30_100, "l2, vxlan by the task's node, l2", || {
        choose(third, Forwarding::Vxlan)?;
        await_forwarding(first, third, "vxlan", "vxlan")?;
        choose(third, Forwarding::Auto)?;
        await_forwarding(first, third, "l2", "l2").map(drop)
    })?;
    // Where the network begins to drop, it takes retransmissions; and nothing else.
    let outcome = under_load(&cluster, 30_100, || {
        check_sources(&cluster, &[first, third], true)?;
        await_forwarding(first, third, "vxlan", "vxlan")?;
        check_sources(&cluster, &[first, third], false)?;
        await_forwarding(first, third, "l2", "l2").map(drop)
    })?;
    println!("a network that drops: {outcome} in {:.1?}", outcome.took);
    ensure!(outcome.failures.is_empty(), "{outcome}");
    cluster.down()
}

/// Where the third node is, behind a router.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 3);

#[test]
fn a_node_on_another_segment_gets_vxlan() -> anyhow::Result<()> {
    let cluster = outsiders("l2-routed", 3)?;
    let switch = cluster.host("switch")?;
    for line in [
        "ip address add 198.18.0.254/24 dev br0",
        "ip link add br1 type bridge forward_delay 0",
        "ip link set br1 up",
        "ip address add 198.18.1.254/24 dev br1",
        "ip link set to-n3 master br1",
        "sysctl -qw net.ipv4.ip_forward=1",
    ] {
        switch.run(line)?;
    }
    let (first, second, third) = (
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    );
    third.run("ip address flush dev eth0")?;
    third.run(&format!("ip address add {ELSEWHERE}/24 dev eth0"))?;
    third.run("ip route add default via 198.18.1.254")?;
    for host in [first, second, cluster.client()?] {
        host.run("ip route add 198.18.1.0/24 via 198.18.0.254")?;
    }
    let manager = first.address().to_string();
    first.docker(&["swarm", "init", "--advertise-addr", &manager])?;
    let token = first.docker(&["swarm", "join-token", "-q", "worker"])?;
    let elsewhere = ELSEWHERE.to_string();
    for (node, address) in [(second, second.address().to_string()), (third, elsewhere)] {
        node.docker(&[
            "swarm",
            "join",
            "--advertise-addr",
            &address,
            "--token",
            token.trim(),
            &format!("{manager}:2377"),
        ])?;
    }
    serve_on_third(first)?;
    await_published(&cluster, [first, second], 30_100)?;
    await_forwarding(first, second, "l2", "l2")?;
    let why = await_forwarding(first, third, "vxlan", "vxlan")?;
    ensure!(why.contains("shares no segment"), "{why}");
    let before = in_vxlan(third)?;
    ask_each(&cluster, [first, second], 30_100, 20)?;
    ensure!(in_vxlan(third)? >= before + 120, "it went otherwise");
    cluster.down()
}

/// What a host sends that is no member: frames as members send them to each other.
const FORGER: &str = r#"
import socket, struct, sys
ifname, target_mac, src, dst, sport, dport, flags = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((ifname, 0x0800))
own_mac = s.getsockname()[4]
src, dst = socket.inet_aton(src), socket.inet_aton(dst)
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0x4000, 64, 6, 0, src, dst)
ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
tcp = struct.pack("!HHIIBBHHH", int(sport), int(dport), 1, 1, 5 << 4, int(flags), 8192, 0, 0)
pseudo = src + dst + struct.pack("!BBH", 0, 6, len(tcp))
tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
for _ in range(10):
    s.send(bytes.fromhex(target_mac.replace(":", "")) + own_mac + b"\x08\x00" + ip + tcp)
"#;

#[test]
fn who_is_no_member_forwards_nothing() -> anyhow::Result<()> {
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const FROM: u16 = 40_000;
    let cluster = swarm("l2-forged", 3, 1)?;
    let (first, third) = (cluster.host("n1")?, cluster.host("n3")?);
    serve_on_third(first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    await_forwarding(first, third, "l2", "l2")?;
    let client = cluster.client()?;
    let (own, entry) = (client.address(), first.address());
    let forge = |to: &Host, from: (Ipv4Addr, u16), at: (Ipv4Addr, u16), flags: u8| {
        let device = device(to, "eth0")?;
        let mac = device["address"].as_str().context("no MAC address")?;
        let mut python = client.command("python3");
        python.args(["-c", FORGER, "eth0", mac]);
        python.args([from.0.to_string(), at.0.to_string()]);
        python.args([from.1.to_string(), at.1.to_string(), flags.to_string()]);
        let ended = python.status().context("cannot run python3")?;
        ensure!(ended.success(), "the forger failed");
        anyhow::Ok(())
    };
    let forged = |node: &Host| kernel::count(node, Counter::DropForged);

    // As if the entry node had sent it on: past that node, to the task.
    let (before, delivered) = (forged(third)?, kernel::count(third, Counter::Delivered)?);
    forge(third, (own, FROM), (entry, 30_100), SYN)?;
    ensure!(forged(third)? == before + 10, "not all was dropped");
    ensure!(kernel::count(third, Counter::Delivered)? == delivered);

    // As if the task had answered, in the middle of a connection: it lives on.
    let to = SocketAddrV4::new(entry, 30_100);
    let mut open = sockets::within(client, || sockets::connect_from(FROM, to))?;
    let task = sockets::ask_on(&mut open)?;
    let (before, out) = (forged(first)?, kernel::count(first, Counter::ReplyOut)?);
    forge(first, (entry, 30_100), (own, FROM), RST)?;
    ensure!(forged(first)? == before + 10, "not all was dropped");
    ensure!(kernel::count(first, Counter::ReplyOut)? == out);
    ensure!(sockets::ask_on(&mut open)? == task);
    let said = status(first)?;
    let shown = said.item("drops", "reason", "forged")?;
    ensure!(shown["packets"].as_u64() >= Some(10), "{shown}");
    cluster.down()
}
