//! Packets that do not fit: fragments, and paths narrower than either end knows.

use anyhow::ensure;
use skein_tests::{sockets, swarm};
use std::{net::SocketAddrV4, time::Duration};
use xtask::{
    check::{names, requests::await_published, services},
    cluster::Host,
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

#[test]
fn a_narrow_path_behind_the_client_is_found() -> anyhow::Result<()> {
    let cluster = swarm("narrow-path", 2, 1)?;
    let (first, second) = (cluster.host("n1")?, cluster.host("n2")?);
    let echo = [
        "-p",
        "30100:9000",
        "--constraint",
        "node.hostname==n2",
        "--entrypoint",
        "nc -ll -p 9000 -e /bin/cat",
    ];
    services::create(first, "bulk", 1, &echo)?;
    // Another network behind the client, which it routes to as by a narrow link.
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
    let route = format!("ip route add 192.0.2.0/24 via {}", client.address());
    first.run(&route)?;
    // This one knows of the narrow link itself.
    second.run(&format!("{route} mtu {NARROW}"))?;
    for node in [first, second] {
        let bulk = || -> anyhow::Result<u64> {
            let echoed = client.shell(&format!(
                "head -c {BULK_BYTES} /dev/zero | ip netns exec far \
                 timeout 30 socat -t 10 - TCP4:{}:30100 | wc -c",
                node.address()
            ))?;
            Ok(echoed.trim().parse()?)
        };
        let begins = || {
            let echoed = bulk()?;
            ensure!(echoed > 0, "nothing came back");
            Ok(echoed)
        };
        let echoed = xtask::wait_until("bulk comes back", services::SETTLE_TIMEOUT, begins)?;
        ensure!(
            echoed == BULK_BYTES,
            "{echoed} of {BULK_BYTES} bytes came back through {}",
            node.name()
        );
        // The task itself has learnt it, by ICMP; and anew for the next.
        let pid = services::pid_of(second, "bulk")?;
        let within = format!("nsenter --net --target {pid} ip route");
        let learnt = second.run(&format!("{within} get 192.0.2.2"))?;
        ensure!(
            learnt.contains(&format!("mtu {NARROW}")),
            "through {} the task has learnt {learnt:?}",
            node.name()
        );
        second.run(&format!("{within} flush cache"))?;
    }
    cluster.down()
}
