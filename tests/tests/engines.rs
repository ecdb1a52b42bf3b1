//! Engines that end without a word.

use anyhow::ensure;
use skein_tests::swarm;
use std::time::Duration;
use xtask::{
    check::{
        load::Load,
        requests::{ask_each, await_published},
        services,
    },
    cluster::Daemon,
    wait_until,
};

/// For which requests go on: the engine's end, its start, and the tasks that take the place of those
/// that ended.
const LOAD_SECONDS: u32 = 25;
/// For which tasks that have ended may be called: their node tells of it, the managers agree, and every
/// node programs it, on a loaded machine.
const NOTICED_WITHIN: Duration = Duration::from_millis(700);

/// For which the engine is away after the end of its task: many times what may pass until nobody calls
/// the task any more.
const AWAY: Duration = Duration::from_secs(4);

/// An engine that was killed ends its containers when it starts again, and tells of it only once it is
/// up. Here the container ends by itself before that, which takes all chance out of it.
#[test]
fn tasks_of_a_killed_engine_are_called_no_more_once_they_have_ended() -> anyhow::Result<()> {
    let cluster = swarm("engine-killed", 3, 1)?;
    let first = cluster.host("n1")?;
    services::create(first, "web", 3, &["-p", "30100:8080"])?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let loads = cluster
        .nodes()
        .map(|node| Load::begin(&cluster, node, 30_100, LOAD_SECONDS));
    let loads: Vec<_> = loads.collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_secs(1));
    let third = cluster.host("n3")?;
    let container = third.engine(&["ps", "-q"])?;
    let inspect = ["inspect", "-f", "{{.State.Pid}}", container.trim()];
    let process = third.engine(&inspect)?;
    third.kill(&[Daemon::Engine])?;
    third.run(&format!("kill -9 {}", process.trim()))?;
    std::thread::sleep(AWAY);
    third.start(&[Daemon::Engine])?;
    for (load, node) in loads.into_iter().zip(cluster.nodes()) {
        let counts = load.counts()?;
        println!("through {}: {counts:?}", node.name());
        let (timed_out, refused): (Vec<_>, Vec<_>) = failures(&counts.said)
            .into_iter()
            .partition(|(_, why)| why.contains("timed out"));
        ensure!(
            timed_out.is_empty(),
            "requests through {} were not answered at all: {timed_out:?}",
            node.name()
        );
        let times: Vec<_> = refused.iter().map(|(time, _)| *time).collect();
        let first = times.iter().min().copied().unwrap_or_default();
        let last = times.iter().max().copied().unwrap_or_default();
        ensure!(
            last - first <= NOTICED_WITHIN && counts.ok > counts.bad,
            "requests through {} were refused for {:?}: {counts:?}",
            node.name(),
            last - first
        );
    }
    services::settled(first, "web", 3)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let tasks = ask_each(&cluster, cluster.nodes(), 30_100, 30)?;
    ensure!(tasks.len() == 3, "only {tasks:?} answer");
    cluster.down()
}

/// For the agent to give up its engine, the managers its node, and other nodes to have its tasks.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(75);

/// A node without an engine runs nothing, however well its daemons are: it counts as down, and what it was to
/// run others run. With its engine back it is a node like any other.
#[test]
fn tasks_of_an_engine_that_stays_away_run_elsewhere() -> anyhow::Result<()> {
    let cluster = swarm("engine-away", 3, 1)?;
    let first = cluster.host("n1")?;
    services::create(first, "web", 3, &["-p", "30100:8080"])?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let third = cluster.host("n3")?;
    let is_there = |task: &services::Task| task.node == "n3";
    ensure!(
        services::tasks(first, "web")?.iter().any(is_there),
        "no task is on the node whose engine is to go"
    );
    third.kill(&[Daemon::Engine])?;
    let is = |wanted: &str| {
        let status = first.docker(&["node", "inspect", "--format", "{{.Status.State}}", "n3"])?;
        ensure!(status.trim() == wanted, "n3 is {status}");
        Ok(())
    };
    wait_until("its tasks run elsewhere", GIVEN_UP_WITHIN, || {
        is("down")?;
        let tasks = services::tasks(first, "web")?;
        let running = tasks.iter().filter(|task| task.state == "Running");
        ensure!(
            running.count() == 3 && !tasks.iter().any(is_there),
            "{tasks:?}"
        );
        Ok(())
    })?;
    third.start(&[Daemon::Engine])?;
    wait_until("the node is ready again", GIVEN_UP_WITHIN, || is("ready"))?;
    services::settled(first, "web", 3)?;
    await_published(&cluster, cluster.nodes(), 30_100)?;
    let tasks = ask_each(&cluster, cluster.nodes(), 30_100, 30)?;
    ensure!(
        tasks.len() == 3,
        "not just the three wanted tasks answer: {tasks:?}"
    );
    cluster.down()
}

/// When requests failed, as the time of the day, and why.
fn failures(said: &str) -> Vec<(Duration, String)> {
    let failure = |line: &str| {
        let (time, why) = line.split_once(' ')?;
        let parts = time.split(':').map(|part| part.parse::<f64>().ok());
        let [hours, minutes, seconds] = parts.collect::<Option<Vec<_>>>()?.try_into().ok()?;
        let seconds = (hours * 60.0 + minutes) * 60.0 + seconds;
        Some((Duration::from_secs_f64(seconds), why.to_owned()))
    };
    said.lines().filter_map(failure).collect()
}
