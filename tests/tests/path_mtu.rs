//! Packets that do not fit: fragments, and paths narrower than either end knows.

use anyhow::ensure;
use skein_abi::verdict::Counter;
use skein_tests::{bulk, kernel, sockets, swarm};
use std::{net::SocketAddrV4, time::Duration};
use xtask::{
    check::{names, requests::await_published, services},
    cluster::{Cluster, Host},
};

/// Three fragments on an Ethernet, and as many back.
const LARGE: usize = 4_000;
/// What fits the client's link to the byte, with IPv4's header and UDP's, and no VXLAN.
const BRIM: usize = 1_500 - 28;
/// Enough for a connection to use segments of the largest size.
const BULK_BYTES: u64 = 4 << 20;
/// The least MTU of IPv6 links: what tunnels over such have.
const NARROW: u32 = 1_280;

#[test]
fn datagrams_of_any_size_come_back() -> anyhow::Result<()> {
    let cluster = swarm("large-datagrams", 3, 1)?;
    let first = cluster.host("n1")?;
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    let on_second = [
        "-p",
        "30100:8080/udp",
        "-p",
        "30100:8080",
        "-p",
        "30101:9999/udp",
        "--network",
        "back",
        "--constraint",
        "node.hostname==n2",
    ];
    services::create(first, "web", 1, &on_second)?;
    let on_first = ["--network", "back", "--constraint", "node.hostname==n1"];
    services::create(first, "asker", 1, &on_first)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;

    let client = cluster.client()?;
    let own = client.address().to_string();
    let route =
        format!("ip route replace 198.18.0.0/24 dev eth0 proto kernel scope link src {own}");
    for mtu in [1_500, 1_400] {
        // By its route: a device also takes nothing that is longer than its MTU.
        client.run(&format!("{route} mtu {mtu}"))?;
        for node in cluster.nodes() {
            let to = SocketAddrV4::new(node.address(), 30_100);
            let socket = sockets::within(client, || sockets::connect_udp(to))?;
            for _ in 0..10 {
                let answer = sockets::ask_by(&socket, &[0; LARGE])?;
                ensure!(answer.client == own, "through {to} the task saw {answer:?}");
            }
        }
    }
    client.run(&format!("{route} mtu 1500"))?;

    // Too long for the way between two nodes, and forbidden to be fragmented: until the client knows.
    let to = SocketAddrV4::new(first.address(), 30_100);
    let socket = sockets::within(client, || sockets::connect_udp(to))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let known = |host: &Host| host.shell(&format!("ip route get {} | grep -o 'mtu .*'", to.ip()));
    let ask = || sockets::ask_by(&socket, &[0; BRIM]);
    xtask::wait_until("the client learns the MTU", Duration::from_secs(5), ask)?;
    let known = known(client)?;
    ensure!(known.starts_with("mtu 1450"), "it has learnt {known:?}");

    // A port that no task listens on says so.
    let to = SocketAddrV4::new(first.address(), 30_101);
    let refused = sockets::within(client, || {
        sockets::ask_by(&sockets::connect_udp(to)?, b"hello")
    });
    let refused = refused.map_or_else(|error| format!("{error:#}"), |answer| format!("{answer:?}"));
    ensure!(refused.contains("refused"), "the client got {refused}");

    // Other askers: the node itself, a task by the VIP and by its own node.
    let said = first.shell(&format!(
        "head -c {LARGE} /dev/zero | socat -b 65507 -t 2 - UDP4:127.0.0.1:30100 | wc -c"
    ))?;
    ensure!(
        said.trim().parse::<usize>()? >= LARGE,
        "the node got {said} bytes"
    );
    let vip = names::resolve(first, "asker", "web")?.concat().parse()?;
    for to in [
        SocketAddrV4::new(vip, 8080),
        SocketAddrV4::new(first.address(), 30_100),
    ] {
        let socket = sockets::within_task(first, "asker", || sockets::connect_udp(to))?;
        for _ in 0..10 {
            sockets::ask_by(&socket, &[0; LARGE])?;
        }
    }
    cluster.down()
}

/// A service that sends bulk back, on the second of two nodes, and a network behind the client, to which that
/// routes as by a narrow link.
fn with_a_narrow_link(name: &str, options: &[&str]) -> anyhow::Result<Cluster> {
    let cluster = swarm(name, 2, 1)?;
    bulk::serve(
        cluster.host("n1")?,
        "bulk",
        30_100,
        cluster.host("n2")?,
        options,
    )?;
    let client = cluster.client()?;
    for line in [
        "ip netns add far",
        "ip link add far0 type veth peer name eth0 netns far",
        "ip address add 192.0.2.1/24 dev far0",
        "ip link set far0 up",
        "ip -n far address add 192.0.2.2/24 dev eth0",
        "ip -n far link set eth0 up",
        "ip -n far route add default via 192.0.2.1",
        "sysctl -qw net.ipv4.ip_forward=1",
        &format!("ip route add 192.0.2.2/32 dev far0 mtu {NARROW}"),
    ] {
        client.run(line)?;
    }
    Ok(cluster)
}

/// Bulk comes back to the network behind the client, and the task on the second node has learnt how narrow the
/// link is, by ICMP; for the next time it forgets it.
fn the_link_is_found(cluster: &Cluster, called: &Host) -> anyhow::Result<()> {
    let to = SocketAddrV4::new(called.address(), 30_100);
    bulk::comes_back(cluster.client()?, "ip netns exec far", to, BULK_BYTES)?;
    let second = cluster.host("n2")?;
    let pid = services::pid_of(second, "bulk")?;
    let within = format!("nsenter --net --target {pid} ip route");
    let learnt = second.run(&format!("{within} get 192.0.2.2"))?;
    ensure!(
        learnt.contains(&format!("mtu {NARROW}")),
        "through {} the task has learnt {learnt:?}",
        called.name()
    );
    second.run(&format!("{within} flush cache"))?;
    Ok(())
}

#[test]
fn a_narrow_path_behind_the_client_is_found() -> anyhow::Result<()> {
    let cluster = with_a_narrow_link("narrow-path", &[])?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let client = cluster.client()?.address();
    let route = format!("ip route add 192.0.2.0/24 via {client}");
    first.run(&route)?;
    // This one knows of the narrow link itself.
    second.run(&format!("{route} mtu {NARROW}"))?;
    for node in [first, second] {
        the_link_is_found(&cluster, node)?;
    }
    cluster.down()
}

#[test]
fn a_narrow_path_is_found_where_answers_go_straight_to_clients() -> anyhow::Result<()> {
    let by_dsr = ["--label", "skein.ingress.mode=dsr"];
    let cluster = with_a_narrow_link("narrow-dsr", &by_dsr)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let client = cluster.client()?.address();
    for node in [first, second] {
        node.run(&format!("ip route add 192.0.2.0/24 via {client}"))?;
    }
    // Who cannot send an answer on says so to the node that the client called, which has sent none.
    let before = kernel::count(first, Counter::ReplyOut)?;
    the_link_is_found(&cluster, first)?;
    ensure!(kernel::count(first, Counter::ReplyOut)? == before);
    ensure!(kernel::count(second, Counter::ReplyDirect)? > 0);
    // Those to whom the task's node has no other way hear from that itself.
    second.run(&format!(
        "ip route change 192.0.2.0/24 via {client} mtu {NARROW}"
    ))?;
    the_link_is_found(&cluster, first)?;
    cluster.down()
}
