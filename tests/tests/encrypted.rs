//! Encrypted overlays: nothing of them crosses the wire in the clear, nothing in the clear is taken for theirs. Docker's
//! own were broken in both by CVE-2023-28840, -28841 and -28842; each has a test that attacks.

use anyhow::{Context as _, ensure};
use skein_abi::verdict::Counter;
use skein_tests::{kernel, sockets, swarm};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::{Child, Stdio},
    time::{Duration, Instant},
};
use xtask::{
    check::{names, services, status::status},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// The identifier of the overlays here: `sealed` is encrypted, `open` is not.
const SEALED: u32 = 7_001;
const OPEN: u32 = 7_002;
/// What no frame on the wire may have in it.
const MARKER: &str = "this-is-not-for-the-wire";
/// Where victims listen.
const PORT: u16 = 5_000;
/// For packets that nothing should keep.
const SOON: Duration = Duration::from_secs(20);
/// Until flows go on after the dataplane of one of their nodes has been started anew: it says so itself, by a
/// handshake. (On a machine that runs nothing else, a fraction of a second.)
const RESUMED_WITHIN: Duration = Duration::from_secs(15);
const LARGE: usize = 8 << 20;

/// Looks at all frames that the switch carries, for a while.
const WATCHER: &str = r#"
import socket, struct, sys, time
marker, vni, seconds = sys.argv[1].encode(), int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.settimeout(0.1)
seen = {"marker": 0, "vni": 0, "sealed": 0}
print("watching", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        frame = s.recv(1 << 17)
    except TimeoutError:
        continue
    seen["marker"] += marker in frame
    if frame[12:14] != b"\x08\x00" or frame[23] != 17:
        continue
    udp = 14 + (frame[14] & 15) * 4
    if struct.unpack("!H", frame[20:22])[0] & 0x1fff or len(frame) < udp + 16:
        continue
    port = struct.unpack("!H", frame[udp + 2:udp + 4])[0]
    seen["vni"] += port == 4789 and int.from_bytes(frame[udp + 12:udp + 15], "big") == vni
    seen["sealed"] += port == 4793
print(seen["marker"], seen["vni"], seen["sealed"], flush=True)
"#;

/// What a host sends that has no key: VXLAN in the clear, with a datagram for a task.
const INJECTOR: &str = r#"
import socket, struct, sys
outer, to, vni, inner, task, port, text = sys.argv[1:]
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff
def ip(src, dst, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0, src, dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
def udp(sport, dport, payload):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
inner, task = socket.inet_aton(inner), socket.inet_aton(task)
frame = b"\x02\x42" + task + b"\x02\x42" + inner + b"\x08\x00"
frame += ip(inner, task, udp(4000, int(port), text.encode()))
vxlan = struct.pack("!BBHI", 8, 0, 0, int(vni) << 8) + frame
packet = ip(socket.inet_aton(outer), socket.inet_aton(to), udp(50000, 4789, vxlan))
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range(10):
    s.sendto(packet, (to, 0))
"#;

/// Three nodes with both overlays; on each, `asker` on the first node, and `echo`, which sends back what it gets, on
/// the second.
fn cluster(name: &str) -> anyhow::Result<Cluster> {
    let cluster = swarm(name, 3, 1)?;
    let first = cluster.host("n1")?;
    for (network, vni, encrypted) in [("sealed", SEALED, true), ("open", OPEN, false)] {
        let vni = format!("com.docker.network.driver.overlay.vxlanid_list={vni}");
        let mut create = vec!["network", "create", "-d", "overlay", "--opt", &vni];
        if encrypted {
            create.extend(["--opt", "encrypted"]);
        }
        create.push(network);
        first.docker(&create)?;
        for (role, node, entrypoint) in [("asker", "n1", "sleep 1d"), ("echo", "n2", ECHO)] {
            let on = format!("node.hostname=={node}");
            let options = [
                "--network",
                network,
                "--constraint",
                &on,
                "--entrypoint",
                entrypoint,
            ];
            services::create(first, &format!("{network}-{role}"), 1, &options)?;
        }
        wait_until(&format!("{network} carries"), SOON, || {
            echoes(&mut connect(&cluster, network)?, b"hello")
        })?;
    }
    Ok(cluster)
}

const ECHO: &str = "nc -ll -p 9000 -e /bin/cat";

/// A connection of the network's asker to its echo, by the VIP.
fn connect(cluster: &Cluster, network: &str) -> anyhow::Result<TcpStream> {
    let (first, asker) = (cluster.host("n1")?, format!("{network}-asker"));
    let vip = names::resolve(first, &asker, &format!("{network}-echo"))?;
    let vip = vip.first().context("the echo has no VIP")?.parse()?;
    sockets::within_task(first, &asker, || {
        let stream = sockets::connect(SocketAddrV4::new(vip, 9000), sockets::TIMEOUT)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    })
}

/// Sends bytes, and gets them back.
fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    let mut writer = stream.try_clone()?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || writer.write_all(bytes));
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).context("nothing comes back")?;
        ensure!(back == bytes, "something else came back");
        let written = writing.join();
        written.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(())
    })
}

/// The address of a service's one task on its network.
fn task_of(host: &Host, asker: &str, service: &str) -> anyhow::Result<Ipv4Addr> {
    let tasks = names::resolve(host, asker, &format!("tasks.{service}"))?;
    Ok(tasks.first().context("it has no task")?.parse()?)
}

/// What the switch saw: frames with the marker in them, frames of the encrypted overlay in the clear, and frames of
/// the tunnels.
struct Watch(Child);

impl Watch {
    fn begin(cluster: &Cluster, vni: u32, seconds: u32) -> anyhow::Result<Self> {
        let mut python = cluster.host("switch")?.command("python3");
        python.args([
            "-c",
            WATCHER,
            MARKER,
            &vni.to_string(),
            &seconds.to_string(),
        ]);
        let mut child = python.stdout(Stdio::piped()).spawn()?;
        let mut first = [0; 9];
        let said = child.stdout.as_mut().context("it has no output")?;
        said.read_exact(&mut first)
            .context("the watcher does not start")?;
        Ok(Self(child))
    }

    fn end(self) -> anyhow::Result<[u64; 3]> {
        let output = self.0.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let counts: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        let counts: Result<[u64; 3], _> = counts?.try_into();
        counts.map_err(|said| anyhow::anyhow!("the watcher says {said:?}"))
    }
}

#[test]
fn an_encrypted_overlay_carries_what_others_do() -> anyhow::Result<()> {
    let cluster = cluster("encrypted")?;
    let [first, second] = [cluster.host("n1")?, cluster.host("n2")?];
    let options = first.docker(&["network", "inspect", "-f", "{{json .Options}}", "sealed"])?;
    ensure!(options.contains("\"encrypted\":\"\""), "{options}");
    let large: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    echoes(&mut connect(&cluster, "sealed")?, &large)?;
    let task = task_of(first, "sealed-asker", "sealed-echo")?;
    for to in [
        format!("ping -c 3 -W 2 {task}"),
        format!("ping -c 2 -s 4000 -W 2 {task}"),
    ] {
        services::exec(first, "sealed-asker", &to)?;
    }
    // As large as it goes in one piece on the wire.
    for (network, mtu) in [("sealed", "1390"), ("open", "1450")] {
        let asker = format!("{network}-asker");
        let said = services::exec(first, &asker, "cat /sys/class/net/eth0/mtu")?;
        ensure!(said.trim() == mtu, "{network} has the MTU {said}");
    }
    for node in [first, second] {
        let said = status(node)?;
        let tunnel = &said.status["node"]["tunnel"];
        ensure!(tunnel["peers"] == 2, "{tunnel}");
        let mode = tunnel["mode"].as_str().unwrap_or_default();
        let reason = tunnel["reason"].as_str().unwrap_or_default();
        ensure!(
            ["kernel", "userspace"].contains(&mode) && reason.len() > 10,
            "{tunnel}"
        );
        let mode_of_key = node.run("stat -c %a /var/lib/skein/dataplane/tunnel-key")?;
        ensure!(
            mode_of_key.trim() == "600",
            "the key has mode {mode_of_key}"
        );
    }
    // All goes with the last such network.
    for service in ["sealed-asker", "sealed-echo"] {
        first.docker(&["service", "rm", service])?;
    }
    wait_until("the network goes", Duration::from_secs(60), || {
        first.docker(&["network", "rm", "sealed"])
    })?;
    wait_until("the tunnels go", Duration::from_secs(60), || {
        let left = second.shell("ip -br link show; ip route show 100.66.0.0/16")?;
        ensure!(
            !left.contains("skein-wg") && !left.contains("blackhole"),
            "{left}"
        );
        Ok(())
    })?;
    echoes(&mut connect(&cluster, "open")?, b"hello")?;
    cluster.down()
}

#[test]
fn cve_2023_28840_cleartext_from_anybody_is_not_taken() -> anyhow::Result<()> {
    let cluster = cluster("cve-28840")?;
    let client = cluster.client()?.address();
    let mut attack = Attack::on(&cluster, "sealed", SEALED)?;
    attack.injects(client, Counter::DropNotMember)?;
    attack.sees_nothing()?;
    cluster.down()
}

#[test]
fn cve_2023_28841_nothing_leaves_in_the_clear() -> anyhow::Result<()> {
    let cluster = cluster("cve-28841")?;
    let first = cluster.host("n1")?;
    let text = MARKER.repeat(1_000);
    // What is seen where nothing is encrypted.
    let watch = Watch::begin(&cluster, OPEN, 5)?;
    echoes(&mut connect(&cluster, "open")?, text.as_bytes())?;
    let [marker, vni, _] = watch.end()?;
    ensure!(
        marker > 0 && vni > 0,
        "the watcher sees {marker} and {vni} frames of its kind"
    );

    let watch = Watch::begin(&cluster, SEALED, 5)?;
    let mut stream = connect(&cluster, "sealed")?;
    echoes(&mut stream, text.as_bytes())?;
    let [marker, vni, sealed] = watch.end()?;
    ensure!(
        (marker, vni) == (0, 0),
        "{marker} and {vni} frames were in the clear"
    );
    ensure!(sealed > 0, "nothing was encrypted");

    // Not while nobody encrypts either, nor with the device gone.
    first.kill(&[Daemon::Dataplane])?;
    for without in ["true", "ip link del skein-wg"] {
        first.run(without)?;
        let watch = Watch::begin(&cluster, SEALED, 4)?;
        // It waits in the sender's buffer, and is sent again and again.
        stream.write_all(MARKER.as_bytes())?;
        let [marker, vni, _] = watch.end()?;
        ensure!(
            (marker, vni) == (0, 0),
            "{marker} and {vni} frames without a daemon"
        );
    }
    first.start(&[Daemon::Dataplane])?;
    let began = Instant::now();
    let mut back = vec![0; 2 * MARKER.len()];
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream
        .read_exact(&mut back)
        .context("the connection does not go on")?;
    println!(
        "what had waited was back {:?} after the start",
        began.elapsed()
    );
    cluster.down()
}

#[test]
fn cve_2023_28842_cleartext_from_a_members_address_is_not_taken() -> anyhow::Result<()> {
    let cluster = cluster("cve-28842")?;
    let first = cluster.host("n1")?.address();
    // Where nothing is encrypted, this is what a host can do that forges a member's address.
    let open = Attack::on(&cluster, "open", OPEN)?;
    open.inject(first, open.node, OPEN)?;
    let mut room = [0; 64];
    open.victim
        .recv(&mut room)
        .context("the injector does not work")?;

    let mut attack = Attack::on(&cluster, "sealed", SEALED)?;
    attack.injects(first, Counter::DropCleartext)?;
    // From an address in the tunnels, to the node, and to its own address there.
    let [of_first, of_second] = [secure(&cluster, "n1")?, secure(&cluster, "n2")?];
    attack.injects(of_first, Counter::DropCleartext)?;
    let to = attack.node;
    let client = cluster.client()?;
    client.run(&format!("ip route add {of_second}/32 via {to}"))?;
    for outer in [of_first, first] {
        attack.injects_to(outer, of_second, Counter::DropCleartext)?;
    }
    attack.sees_nothing()?;

    // Nor does a node send on in its own name what its containers send, by a bridge of the engine's, or its users.
    let first = cluster.host("n1")?;
    let way = |from: &str| first.shell(&format!("ip route get {of_second} {from} 2>&1 || true"));
    let own = way("")?;
    ensure!(
        own.contains("dev skein-wg") && own.contains(&format!("src {of_first}")),
        "{own}"
    );
    for other in ["from 172.17.0.9 iif docker0", "uid 1000"] {
        let way = way(other)?;
        ensure!(!way.contains("skein-wg"), "{other}: {way}");
    }
    cluster.down()
}

/// A node's address in the tunnels.
fn secure(cluster: &Cluster, node: &str) -> anyhow::Result<Ipv4Addr> {
    let said = status(cluster.host(node)?)?;
    let address = said.status["node"]["tunnel"]["address"].as_str();
    Ok(address.context("it has no end of tunnels")?.parse()?)
}

/// A client of the segment that injects, and a task of the second node that listens.
struct Attack<'a> {
    cluster: &'a Cluster,
    victim: UdpSocket,
    vni: u32,
    /// The victim's node.
    node: Ipv4Addr,
    /// The victim, and who it would be from.
    task: Ipv4Addr,
    asker: Ipv4Addr,
}

impl<'a> Attack<'a> {
    fn on(cluster: &'a Cluster, network: &str, vni: u32) -> anyhow::Result<Self> {
        let [first, second] = [cluster.host("n1")?, cluster.host("n2")?];
        let (asker, echo) = (format!("{network}-asker"), format!("{network}-echo"));
        let victim = sockets::within_task(second, &echo, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        })?;
        Ok(Self {
            cluster,
            victim,
            vni,
            node: second.address(),
            task: task_of(first, &asker, &echo)?,
            asker: task_of(first, &asker, &asker)?,
        })
    }

    /// Ten packets with an outer source and destination.
    fn inject(&self, outer: Ipv4Addr, to: Ipv4Addr, vni: u32) -> anyhow::Result<()> {
        let mut python = self.cluster.client()?.command("python3");
        python.args(["-c", INJECTOR]);
        python.args([outer, to].map(|address| address.to_string()));
        python.args([
            vni.to_string(),
            self.asker.to_string(),
            self.task.to_string(),
        ]);
        python.args([&PORT.to_string(), "injected"]);
        let ended = python.status().context("cannot run python3")?;
        ensure!(ended.success(), "the injector failed");
        Ok(())
    }

    fn injects(&mut self, outer: Ipv4Addr, reason: Counter) -> anyhow::Result<()> {
        self.injects_to(outer, self.node, reason)
    }

    /// Each of them is dropped, for this reason.
    fn injects_to(&mut self, outer: Ipv4Addr, to: Ipv4Addr, reason: Counter) -> anyhow::Result<()> {
        let second = self.cluster.host("n2")?;
        let before = kernel::count(second, reason)?;
        self.inject(outer, to, self.vni)?;
        wait_until("all is dropped", SOON, || {
            let dropped = kernel::count(second, reason)? - before;
            ensure!(
                dropped >= 10,
                "{outer} to {to}: {dropped} were dropped as {reason:?}"
            );
            Ok(())
        })
    }

    /// Nothing came to the task but what the asker sent.
    fn sees_nothing(&self) -> anyhow::Result<()> {
        let mut room = [0; 64];
        if let Ok((read, from)) = self.victim.recv_from(&mut room) {
            anyhow::bail!("the task got {read} bytes from {from}");
        }
        let first = self.cluster.host("n1")?;
        let to = SocketAddrV4::new(self.task, PORT);
        sockets::within_task(first, "sealed-asker", || {
            Ok(sockets::connect_udp(to)?.send(b"asked")?)
        })?;
        let (read, from) = self
            .victim
            .recv_from(&mut room)
            .context("the victim is deaf")?;
        ensure!(
            &room[..read] == b"asked" && from.ip() == self.asker,
            "{from}"
        );
        Ok(())
    }
}

/// How long it takes until a connection that was open is answered again.
fn resumes(stream: &mut TcpStream) -> anyhow::Result<Duration> {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    echoes(stream, b"are you there?")?;
    Ok(began.elapsed())
}

#[test]
fn connections_outlive_the_daemon_and_its_key() -> anyhow::Result<()> {
    let cluster = cluster("encrypted-restart")?;
    let mut stream = connect(&cluster, "sealed")?;
    for name in ["n1", "n2"] {
        let node = cluster.host(name)?;
        for new_key in [false, true] {
            echoes(&mut stream, b"hello")?;
            node.kill(&[Daemon::Dataplane])?;
            if new_key {
                node.run("rm /var/lib/skein/dataplane/tunnel-key")?;
            }
            let key =
                |node: &Host| node.shell("sha256sum /var/lib/skein/dataplane/tunnel-key || true");
            let before = key(node)?;
            node.start(&[Daemon::Dataplane])?;
            ensure!((key(node)? != before) == new_key, "the key of {name}");
            let resumed = resumes(&mut stream)?;
            println!("{name}, new key: {new_key}: answered after {resumed:?}");
            ensure!(resumed < RESUMED_WITHIN, "answered after {resumed:?}");
            // Others begin anew, too.
            echoes(&mut connect(&cluster, "sealed")?, b"hello")?;
        }
    }
    // One whose nodes have both been started anew, without a packet between.
    for name in ["n1", "n2"] {
        cluster.host(name)?.kill(&[Daemon::Dataplane])?;
    }
    for name in ["n1", "n2"] {
        cluster.host(name)?.start(&[Daemon::Dataplane])?;
    }
    let resumed = resumes(&mut stream)?;
    ensure!(resumed < RESUMED_WITHIN, "answered after {resumed:?}");
    cluster.down()
}

#[test]
fn a_node_that_joins_later_is_let_in_and_one_that_leaves_is_not() -> anyhow::Result<()> {
    let cluster = skein_tests::outsiders("encrypted-late", 3)?;
    let [first, second, third] = [
        cluster.host("n1")?,
        cluster.host("n2")?,
        cluster.host("n3")?,
    ];
    first.docker(&[
        "swarm",
        "init",
        "--advertise-addr",
        &first.address().to_string(),
    ])?;
    let token = first.docker(&["swarm", "join-token", "-q", "worker"])?;
    let manager = format!("{}:2377", first.address());
    let join = |node: &Host| node.docker(&["swarm", "join", "--token", token.trim(), &manager]);
    join(second)?;
    first.docker(&[
        "network",
        "create",
        "-d",
        "overlay",
        "--opt",
        "encrypted",
        "sealed",
    ])?;
    let everywhere = [
        "service", "create", "-d", "--name", "web", "--mode", "global",
    ];
    let options = ["--network", "sealed", "--no-resolve-image", xtask::IMAGE];
    first.docker(&[&everywhere[..], &options].concat())?;
    services::settled(first, "web", 2)?;
    join(third)?;
    services::settled(first, "web", 3)?;
    let nodes = [first, second, third];
    for node in nodes {
        wait_until("all reach all", SOON, || {
            let tasks = names::resolve(node, "web", "tasks.web")?;
            ensure!(tasks.len() == 3, "{tasks:?}");
            for task in tasks {
                let get = format!("wget -q -O - http://{task}:8080/");
                services::exec(node, "web", &get)?;
            }
            Ok(())
        })?;
    }
    let peers = |node: &Host| {
        let said = status(node)?;
        Ok::<_, anyhow::Error>(said.status["node"]["tunnel"]["peers"].clone())
    };
    ensure!(peers(first)? == 2);
    third.docker(&["swarm", "leave"])?;
    wait_until("it is down", Duration::from_secs(60), || {
        first.docker(&["node", "rm", "n3"])
    })?;
    wait_until("its key is forgotten", SOON, || {
        for node in [first, second] {
            let peers = peers(node)?;
            ensure!(peers == 1, "{} has {peers} peers", node.name());
        }
        Ok(())
    })?;
    cluster.down()
}

/// Rounds of each network, in turns.
const ROUNDS: usize = 5;
/// How long each sends.
const ROUND: Duration = Duration::from_secs(2);
/// Far below what one core encrypts: what falls below it waits for something, again and again.
const THROUGHPUT_MIN: f64 = 20.0;

/// MBit/s of one connection from the asker to the echo's container.
fn throughput(cluster: &Cluster, network: &str) -> anyhow::Result<f64> {
    let [first, second] = [cluster.host("n1")?, cluster.host("n2")?];
    let (asker, echo) = (format!("{network}-asker"), format!("{network}-echo"));
    let listener = sockets::within_task(second, &echo, || {
        Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?)
    })?;
    let to = SocketAddrV4::new(task_of(first, &asker, &echo)?, PORT);
    let mut stream =
        sockets::within_task(first, &asker, || sockets::connect(to, sockets::TIMEOUT))?;
    stream.set_write_timeout(Some(SOON))?;
    let (mut taken, _) = listener.accept()?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let (mut room, mut all) = (vec![0; 1 << 20], 0_u64);
            while let Ok(read @ 1..) = taken.read(&mut room) {
                all += read as u64;
            }
            all
        });
        let (chunk, began) = (vec![0x5a; 1 << 20], Instant::now());
        while began.elapsed() < ROUND {
            stream.write_all(&chunk)?;
        }
        drop(stream);
        let all = reading.join();
        let all = all.map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        Ok(all as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64())
    })
}

#[test]
fn encryption_costs_throughput_and_no_more() -> anyhow::Result<()> {
    let cluster = cluster("encrypted-speed")?;
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (network, figures) in ["open", "sealed"].into_iter().zip(&mut figures) {
            figures.push(throughput(&cluster, network)?);
        }
    }
    for (network, figures) in ["open", "sealed"].into_iter().zip(&mut figures) {
        figures.sort_by(f64::total_cmp);
        println!(
            "{network}: {figures:.0?} Mbit/s, median {:.0}",
            figures[ROUNDS / 2]
        );
    }
    let sealed = figures[1][ROUNDS / 2];
    ensure!(
        sealed >= THROUGHPUT_MIN,
        "an encrypted overlay carries {sealed:.0} Mbit/s"
    );
    cluster.down()
}
