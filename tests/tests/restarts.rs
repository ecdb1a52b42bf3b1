//! The dataplane of a node that carries many requests ends and comes back, as itself and as another build:
//! nobody notices.

use anyhow::{Context as _, ensure};
use skein_tests::{
    kernel::{Linked, programs},
    load,
    other_build::other_dataplane,
    rounds,
    sockets::{ask_on, connect, within, within_task},
    swarm,
};
use std::{
    net::{SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};
use xtask::{
    check::{
        names,
        requests::{Answer, await_published},
        services,
    },
    cluster::{Cluster, Daemon, Host},
};

const PORT: u16 = 30_100;
/// One for each node, and for upgrades one there and one back.
const ROUNDS: u32 = 4;
/// On an idle connection nothing takes so long, however long it was idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// In which the programs of the last round carry packets, before the next.
const PAUSE: Duration = Duration::from_millis(300);

#[test]
fn the_dataplane_is_killed_and_restarted_under_load() -> anyhow::Result<()> {
    let cluster = swarm("restarts-killed", 2, 1)?;
    unnoticed(&cluster, "kill -9 and restart", |node, _| {
        let before = programs(node)?;
        node.kill(&[Daemon::Dataplane])?;
        node.start(&[Daemon::Dataplane])?;
        replaced(node, &before, |before, after| before.tag == after.tag)
    })?;
    cluster.down()
}

#[test]
fn the_dataplane_is_upgraded_to_a_different_build_under_load() -> anyhow::Result<()> {
    let cluster = swarm("restarts-upgraded", 2, 1)?;
    let first = cluster.host("n1")?;
    let built = first.binaries().join(Daemon::Dataplane.name());
    // Which all hosts see.
    let other = other_dataplane(&built, first.binaries())?;
    unnoticed(&cluster, "upgrade", |node, turn| {
        let before = programs(node)?;
        let is_back = turn % 2 == 1;
        node.set_dataplane(if is_back { &built } else { &other })?;
        node.stop(&[Daemon::Dataplane])?;
        node.start(&[Daemon::Dataplane])?;
        replaced(node, &before, |before, after| before.tag != after.tag)
    })?;
    cluster.down()
}

/// That every link has another program, and the tags are as they are to be.
fn replaced(
    node: &Host,
    before: &[Linked],
    is_right: impl Fn(&Linked, &Linked) -> bool,
) -> anyhow::Result<()> {
    let after = programs(node)?;
    let pairs = || before.iter().zip(&after);
    ensure!(
        before.len() == after.len()
            && pairs().all(|(one, other)| one.link == other.link && one.id != other.id)
            && pairs().all(|(one, other)| is_right(one, other)),
        "on {} there was {before:?}, and now is {after:?}",
        node.name()
    );
    Ok(())
}

/// Connections that were asked on once, and then left alone.
struct Idle {
    /// Who answered.
    who: Answer,
    what: &'static str,
    stream: TcpStream,
}

impl Idle {
    fn begin(what: &'static str, mut stream: TcpStream) -> anyhow::Result<Self> {
        let who = ask_on(&mut stream).with_context(|| what.to_owned())?;
        Ok(Self { who, what, stream })
    }

    fn lives(mut self) -> anyhow::Result<()> {
        let what = self.what;
        let who = ask_on(&mut self.stream).with_context(|| format!("{what} is dead"))?;
        ensure!(who == self.who, "{what}: {who:?} after {:?}", self.who);
        Ok(())
    }
}

/// Does something to the dataplane of each node in turn, under one load through all of them, while connections
/// to a published port and to a VIP are idle. `change` has the node, and how often it was this one's turn.
fn unnoticed(
    cluster: &Cluster,
    what: &str,
    change: impl Fn(&Host, u32) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (entry, second) = (cluster.host("n1")?, cluster.host("n2")?);
    entry.docker(&["network", "create", "-d", "overlay", "back"])?;
    let on_second = "node.hostname==n2";
    let web = [
        // Its idle connections are to live.
        "--env",
        "HEAD_SECONDS=3600",
        "-p",
        "30100:8080",
        "--network",
        "back",
        "--constraint",
        on_second,
    ];
    services::create(entry, "web", 2, &web)?;
    let asker = ["--network", "back", "--constraint", "node.hostname==n1"];
    services::create(entry, "asker", 1, &asker)?;
    await_published(cluster, cluster.nodes(), PORT)?;

    let to = |node: &Host| SocketAddrV4::new(node.address(), PORT);
    let client = cluster.client()?;
    let by = |node: &Host| within(client, || connect(to(node), IDLE_TIMEOUT));
    let vip = names::resolve(entry, "asker", "web")?;
    let vip = vip.first().context("web has no VIP")?.parse()?;
    let to_vip = || connect(SocketAddrV4::new(vip, 8080), IDLE_TIMEOUT);
    let idle = [
        Idle::begin("an idle connection by another node", by(entry)?)?,
        Idle::begin("an idle connection by the task's node", by(second)?)?,
        Idle::begin(
            "an idle connection to the VIP",
            within_task(entry, "asker", to_vip)?,
        )?,
    ];

    let (rounds, nodes) = (rounds(ROUNDS)?, [entry, second]);
    let mut took = Vec::new();
    load::unnoticed(cluster, PORT, &format!("{what}, {rounds} times"), || {
        for round in 0..rounds {
            let node = nodes[round as usize % nodes.len()];
            let begun = Instant::now();
            change(node, round / nodes.len() as u32)
                .with_context(|| format!("round {round}, on {}", node.name()))?;
            took.push(begun.elapsed());
            std::thread::sleep(PAUSE);
        }
        Ok(())
    })?;
    idle.into_iter().try_for_each(Idle::lives)?;
    took.sort();
    let middle = took.get(took.len() / 2).copied().unwrap_or_default();
    println!(
        "{what}: {rounds} rounds, {:.1} s in the median, {:.1} s at most",
        middle.as_secs_f32(),
        took.last().copied().unwrap_or_default().as_secs_f32()
    );
    Ok(())
}
