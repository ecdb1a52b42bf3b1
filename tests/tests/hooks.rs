//! The mesh by native XDP, the same as by tc; and the programs without the daemon that attached them.

use anyhow::{Context as _, ensure};
use skein_abi::verdict::Counter;
use skein_tests::{
    bulk,
    kernel::{self, programs},
    sockets, swarm,
};
use std::{
    net::{SocketAddrV4, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};
use xtask::{
    check::{
        load::Load,
        names,
        requests::{Answer, ask_each, await_published},
        services,
        status::status,
    },
    cluster::{Attach, Cluster, Daemon, Host, Shape},
    wait_until,
};

/// Enough for many segments of the largest size in flight.
const BULK_BYTES: u64 = 32 << 20;

/// The kernel tells at once that a device is gone.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn xdp_carries_what_tc_does() -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 3,
        managers: 1,
        init: true,
        attach: Attach::Xdp,
    };
    let cluster = Cluster::up("xdp", &shape)?;
    let first = cluster.host("n1")?;
    let on_third = ["-p", "30100:8080", "--constraint", "node.hostname==n3"];
    services::create(first, "web", 1, &on_third)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let before = kernel::count(first, Counter::XdpSent)?;
    ask_each(&cluster, cluster.nodes(), 30_100, 100)?;
    let sent = kernel::count(first, Counter::XdpSent)? - before;
    // Of each request at least SYN, request and FIN go there, and as much comes back.
    ensure!(sent >= 600, "XDP sent on {sent} packets of 100 requests");

    // A restart keeps the hook, and breaks nothing.
    let load = Load::begin(&cluster, first, 30_100, 4)?;
    first.kill(&[Daemon::Dataplane])?;
    first.start(&[Daemon::Dataplane])?;
    load.end()?;
    let before = kernel::count(first, Counter::XdpSent)?;
    ask_each(&cluster, [first], 30_100, 10)?;
    ensure!(
        kernel::count(first, Counter::XdpSent)? > before,
        "XDP went with the daemon"
    );

    // Bulk, both ways: segments as large as there are.
    bulk::serve(first, "bulk", 30_101, cluster.host("n3")?, &[])?;
    let to = SocketAddrV4::new(first.address(), 30_101);
    bulk::comes_back(cluster.client()?, "", to, BULK_BYTES)?;
    cluster.down()
}

/// Between two rounds of requests on flows that are kept.
const PAUSE: Duration = Duration::from_millis(10);
/// Rounds that must be answered before, during and after what flows are to outlive.
const ROUNDS: usize = 20;
/// How long those may take on a loaded machine.
const ROUNDS_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn flows_outlive_the_daemon_behind_tc() -> anyhow::Result<()> {
    flows_outlive_the_daemon("kept-tc", Attach::Tc)
}

#[test]
fn flows_outlive_the_daemon_behind_xdp() -> anyhow::Result<()> {
    flows_outlive_the_daemon("kept-xdp", Attach::Xdp)
}

/// Flows that were begun once: from the client to published ports, from a task to a VIP.
struct Kept {
    /// Who answered the first request of each, which answers all others.
    first: Vec<Answer>,
    published: TcpStream,
    datagrams: UdpSocket,
    vip: TcpStream,
}

impl Kept {
    fn begin(client: &Host, entry: &Host) -> anyhow::Result<Self> {
        let to = SocketAddrV4::new(entry.address(), 30_100);
        let (published, datagrams) = sockets::within(client, || {
            Ok((
                sockets::connect(to, sockets::TIMEOUT)?,
                sockets::connect_udp(to)?,
            ))
        })?;
        let vip = names::resolve(entry, "asker", "web")?;
        let vip = vip.first().context("web has no VIP")?.parse()?;
        let vip = sockets::within_task(entry, "asker", || {
            sockets::connect(SocketAddrV4::new(vip, 8080), sockets::TIMEOUT)
        })?;
        let mut kept = Self {
            first: Vec::new(),
            published,
            datagrams,
            vip,
        };
        kept.first = kept.answers()?;
        Ok(kept)
    }

    fn answers(&mut self) -> anyhow::Result<Vec<Answer>> {
        let published = sockets::ask_on(&mut self.published).context("on the connection")?;
        let datagram = sockets::ask_by(&self.datagrams, b"hello").context("by datagrams")?;
        let vip = sockets::ask_on(&mut self.vip).context("on the connection to the VIP")?;
        Ok(vec![published, datagram, vip])
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        let answers = self.answers()?;
        ensure!(answers == self.first, "{answers:?} after {:?}", self.first);
        Ok(())
    }
}

#[test]
fn a_device_that_somebody_removes_is_made_anew() -> anyhow::Result<()> {
    let cluster = swarm("repair", 2, 1)?;
    let [first, second] = [cluster.host("n1")?, cluster.host("n2")?];
    first.docker(&["network", "create", "-d", "overlay", "back"])?;
    services::create(first, "web", 2, &["--network", "back"])?;
    let tasks = names::resolve(first, "web", "tasks.web")?;
    let pid = services::pid_of(first, "web")?;
    let reach_all = || {
        for task in &tasks {
            let ask = format!("curl -sSf -m 2 -o /dev/null http://{task}:8080/");
            first.run(&format!("nsenter --net --target {pid} {ask}"))?;
        }
        Ok(())
    };
    reach_all()?;
    for node in [first, second] {
        node.run("ip link del skein-vxlan")?;
        wait_until(
            "tasks of other nodes are reached again",
            REPAIRED_WITHIN,
            reach_all,
        )?;
        let repairs = &status(node)?.status["node"]["repairs"]["differing"];
        ensure!(*repairs == 1, "{repairs} repairs");
    }
    cluster.down()
}

fn flows_outlive_the_daemon(name: &str, attach: Attach) -> anyhow::Result<()> {
    let shape = Shape {
        nodes: 2,
        managers: 1,
        init: true,
        attach,
    };
    let cluster = Cluster::up(name, &shape)?;
    let (entry, second) = (cluster.host("n1")?, cluster.host("n2")?);
    entry.docker(&["network", "create", "-d", "overlay", "back"])?;
    let web = [
        "-p",
        "30100:8080",
        "-p",
        "30100:8080/udp",
        "--network",
        "back",
        "--constraint",
        "node.hostname==n2",
    ];
    // Two tasks, so that a flow that begins anew is likely to show.
    services::create(entry, "web", 2, &web)?;
    let asker = ["--network", "back", "--constraint", "node.hostname==n1"];
    services::create(entry, "asker", 1, &asker)?;
    await_published(&cluster, [entry], 30_100)?;
    let mut kept = Kept::begin(cluster.client()?, entry)?;
    let (rounds, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                kept.ask()?;
                rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let more = |when: &str| {
            let before = rounds.load(Ordering::Relaxed);
            let what = format!("kept flows are answered {when}");
            xtask::wait_until(&what, ROUNDS_TIMEOUT, || {
                let now = rounds.load(Ordering::Relaxed);
                ensure!(asking.is_finished() || now >= before + ROUNDS);
                Ok(())
            })
        };
        let outlived = (|| {
            let nodes = [entry, second];
            more("before")?;
            let before = [programs(entry)?, programs(second)?];
            for node in nodes {
                node.kill(&[Daemon::Dataplane])?;
            }
            more("while no dataplane runs")?;
            ensure!(
                before == [programs(entry)?, programs(second)?],
                "programs went with their daemon"
            );
            for node in nodes {
                node.start(&[Daemon::Dataplane])?;
            }
            more("with the new dataplane's programs")?;
            for (node, before) in nodes.into_iter().zip(&before) {
                let after = programs(node)?;
                ensure!(
                    after.len() == before.len() && after.iter().zip(before).all(|(a, b)| a != b),
                    "on {} not every link has a new program: {before:?}, then {after:?}",
                    node.name()
                );
            }
            anyhow::Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let asked = asking.join();
        // What became of the flows says more than that too few requests were answered.
        asked.map_err(|_| anyhow::anyhow!("the thread that asks panicked"))??;
        outlived
    })?;
    cluster.down()
}
