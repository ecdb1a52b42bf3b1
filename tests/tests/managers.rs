//! Managers that die, and come back with all they had.

use anyhow::ensure;
use skein_tests::swarm;
use std::time::Duration;
use xtask::{
    check::services::{self, leader},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// An election takes 2-3 s after the last heartbeat, on a loaded machine more.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Names of all services, as a manager says them.
fn services_at(host: &Host) -> anyhow::Result<Vec<String>> {
    let names = host.docker(&["service", "ls", "--format", "{{.Name}}"])?;
    let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn others<'a>(cluster: &'a Cluster, name: &str) -> Vec<&'a Host> {
    let is_other = |host: &&Host| host.name() != name;
    cluster.nodes().filter(is_other).collect()
}

#[test]
fn managers_killed_in_turn_forget_nothing() -> anyhow::Result<()> {
    const ROUNDS: usize = 6;
    let cluster = swarm("killed-managers", 3, 3)?;
    let mut made = Vec::new();
    for round in 0..ROUNDS {
        let first = cluster.host("n1")?;
        let victim = match round % 2 {
            0 => leader(first)?,
            _ => format!("n{}", round % 3 + 1),
        };
        let host = cluster.host(&victim)?;
        let others = others(&cluster, &victim);
        // Whatever was acknowledged must be there, whoever is killed in the middle.
        let mut acknowledged = Vec::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                (0..8)
                    .map(|n| format!("s-{round}-{n}"))
                    .filter(|name| services::create_unwatched(others[0], name, 0, &[]).is_ok())
                    .collect::<Vec<_>>()
            });
            std::thread::sleep(Duration::from_millis(60 * round as u64));
            let killed = host.kill(&[Daemon::Control]);
            acknowledged = writer.join().unwrap_or_default();
            killed
        })?;
        made.extend(acknowledged);
        let mut attempt = 0;
        wait_until("the others write again", ELECTION_TIMEOUT, || {
            // A name of its own for each: one whose answer was lost may be there.
            attempt += 1;
            let name = format!("s-{round}-after-{attempt}");
            services::create_unwatched(others[1], &name, 0, &[])?;
            made.push(name);
            Ok(())
        })?;
        host.start(&[Daemon::Control])?;
        for host in cluster.nodes() {
            wait_until("a manager knows all", ELECTION_TIMEOUT, || {
                let known = services_at(host)?;
                let lost: Vec<_> = made.iter().filter(|name| !known.contains(name)).collect();
                ensure!(lost.is_empty(), "{} lost {lost:?}", host.name());
                Ok(())
            })?;
        }
    }
    ensure!(made.len() > ROUNDS, "hardly anything was written: {made:?}");
    cluster.down()
}

#[test]
fn a_dead_node_s_tasks_move() -> anyhow::Result<()> {
    let cluster = swarm("dead-node", 3, 1)?;
    let first = cluster.host("n1")?;
    services::create(first, "web", 3, &[])?;
    cluster.cut("n3")?;
    let moved = || {
        let tasks = services::tasks(first, "web")?;
        let running = tasks.iter().filter(|task| task.state == "Running");
        ensure!(
            running.count() == 3 && tasks.iter().all(|task| task.node != "n3"),
            "{tasks:?}"
        );
        Ok(())
    };
    // Three missed heartbeats of 5 s each, then an orphan's replacement.
    wait_until("the tasks move", Duration::from_secs(60), moved)?;
    let nodes = first.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
    ensure!(nodes.contains("n3 Down"), "docker node ls says {nodes}");
    cluster.mend("n3")?;
    let back = || {
        let nodes = first.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
        ensure!(nodes.contains("n3 Ready"), "docker node ls says {nodes}");
        let left = cluster.host("n3")?.engine(&["ps", "-q"])?;
        ensure!(left.is_empty(), "n3 still runs {left}");
        Ok(())
    };
    wait_until(
        "the node is back, without its old tasks",
        Duration::from_secs(60),
        back,
    )?;
    cluster.down()
}
