//! Flows that live long without a packet, or are very many: what Docker's mesh loses, each by the number of its issue.
//!
//! Hours are made seconds: the lifetimes of the kernel's entries are, by the same divisor.

use anyhow::{Context as _, ensure};
use skein_abi::config::Timeouts;
use skein_tests::{kernel, sockets, swarm};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddrV4, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};
use xtask::{
    check::{requests::await_published, services},
    cluster::{Cluster, Host},
    image::binary,
};

const WEB: u16 = 30_100;
const LATE: u16 = 30_101;
/// An hour is 6 seconds.
const DIVISOR: u32 = 600;

fn hours(hours: u32) -> Duration {
    Duration::from_secs(3600) * hours / DIVISOR
}

fn minutes(minutes: u32) -> Duration {
    Duration::from_secs(60) * minutes / DIVISOR
}

fn shorten(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .nodes()
        .try_for_each(|node| kernel::shorten_timeouts(node, DIVISOR.into()))
}

/// A connection through each node, to the one task of the last.
fn through_each(cluster: &Cluster, port: u16) -> anyhow::Result<Vec<TcpStream>> {
    let connect =
        |node: &Host| sockets::connect(SocketAddrV4::new(node.address(), port), sockets::TIMEOUT);
    cluster.nodes().map(connect).collect()
}

/// moby#31208: a connection that is idle for 15 minutes is dropped, and nobody is told.
#[test]
fn idle_3h_tcp_31208() -> anyhow::Result<()> {
    let shipped = Duration::from_nanos(Timeouts::default().established);
    ensure!(
        shipped >= Duration::from_secs((2 * 60 + 15) * 60),
        "entries live for {shipped:?}"
    );
    let cluster = swarm("idle", 3, 1)?;
    let first = cluster.host("n1")?;
    let port = format!("{WEB}:8080");
    services::create(first, "web", 3, &["-p", &port])?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    shorten(&cluster)?;
    sockets::within(cluster.client()?, || {
        let mut streams = Vec::new();
        for mut stream in through_each(&cluster, WEB)?
            .into_iter()
            .chain(through_each(&cluster, WEB)?)
        {
            let task = sockets::ask_on(&mut stream)?.hostname;
            streams.push((stream, task));
        }
        // Within what entries live, and beyond: then the tables, which have not changed, know.
        for idle in [hours(2), hours(3)] {
            std::thread::sleep(idle);
            shorten(&cluster)?;
            for (stream, task) in &mut streams {
                let answer = sockets::ask_on(stream).with_context(|| format!("after {idle:?}"))?;
                ensure!(
                    answer.hostname == *task,
                    "{} answers for {task}",
                    answer.hostname
                );
            }
        }
        Ok(())
    })?;
    cluster.down()
}

/// moby#29655: a connection of which one side has closed its half is reset after a minute.
#[test]
fn half_closed_10min_29655() -> anyhow::Result<()> {
    let cluster = swarm("half-closed", 2, 1)?;
    let first = cluster.host("n1")?;
    let port = format!("{LATE}:9000");
    // Answers long after its client has said all.
    let seconds = minutes(10).as_secs() + 2;
    let script = format!("nc -ll -p 9000 -e /bin/sh -c 'cat; sleep {seconds}; echo late'");
    let on_second = [
        "service",
        "create",
        "-d",
        "--name",
        "late",
        "-p",
        &port,
        "--constraint",
        "node.hostname==n2",
    ];
    let runs = ["--entrypoint", "/bin/sh", "skein-demo", "-c", &script];
    first.docker(&[&on_second[..], &runs].concat())?;
    services::settled(first, "late", 1)?;
    shorten(&cluster)?;
    sockets::within(cluster.client()?, || {
        let mut streams = through_each(&cluster, LATE)?;
        for stream in &mut streams {
            stream.write_all(b"early\n")?;
            stream.shutdown(Shutdown::Write)?;
        }
        for stream in &mut streams {
            stream.set_read_timeout(Some(Duration::from_secs(seconds) + sockets::TIMEOUT))?;
            let mut said = String::new();
            stream.read_to_string(&mut said).context("the other half")?;
            ensure!(said == "early\nlate\n", "{said:?}");
        }
        Ok(())
    })?;
    cluster.down()
}

/// moby#35082: one client has no more than 28,000 connections to a service, and waits a second for some.
#[test]
fn sixty_thousand_connections_of_one_client_35082() -> anyhow::Result<()> {
    /// Each a process, which may have some 20,000 files open.
    const CALLERS: usize = 4;
    const OF_EACH: usize = 15_000;
    let cluster = swarm("many-flows", 2, 1)?;
    let (first, client) = (cluster.host("n1")?, cluster.client()?);
    let port = format!("{WEB}:8080");
    // A sixth of the connections each, and some more.
    let bears = [
        "--env",
        "CONNECTIONS_MAX=15000",
        "--env",
        "HEAD_SECONDS=600",
    ];
    let options = [&["-p", &port, "--ulimit", "nofile=16000:16000"][..], &bears].concat();
    services::create(first, "web", 6, &options)?;
    await_published(&cluster, cluster.nodes(), WEB)?;
    client.shell("echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")?;
    let program = binary()?;
    let program = program.to_str().context("a path that is no text")?;
    let to = SocketAddrV4::new(first.address(), WEB).to_string();
    let begun = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = client.command(program);
        caller.args(["hold", "--to", &to, "--connections", &OF_EACH.to_string()]);
        caller.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut caller = caller.spawn()?;
        let said = caller.stdout.take().context("it says nothing")?;
        callers.push((BufReader::new(said).lines(), caller));
    }
    for (said, _) in &mut callers {
        let said = said.next().context("not all connections were made")??;
        ensure!(said == format!("{OF_EACH} open"), "{said}");
    }
    println!(
        "{} connections took {:?}",
        CALLERS * OF_EACH,
        begun.elapsed()
    );
    // All at once; then each is its task's still.
    for (said, caller) in &mut callers {
        writeln!(caller.stdin.take().context("it reads nothing")?, "ask")?;
        let said = said.next().context("not all connections were answered")??;
        ensure!(said == format!("{OF_EACH} answered"), "{said}");
        ensure!(caller.wait()?.success());
    }
    cluster.down()
}
