//! Managers that die, and come back with all they had; and a node that joins them meanwhile.

use anyhow::{Context as _, ensure};
use skein_tests::{ledger::Ledger, outsiders, rounds, swarm};
use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};
use xtask::{
    check::{nodes::leader, services},
    cluster::{Cluster, Daemon, Host},
    wait_until,
};

/// An election begins 2.5 to 3.4 s after the last heartbeat; on a loaded machine it takes longer.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// A node that joins is away from its manager: it asks again after at most 30 s.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// From the kill of a manager to the next write that is acknowledged: what users were promised.
const RESUME_TIMEOUT: Duration = Duration::from_secs(5);

fn others<'a>(cluster: &'a Cluster, name: &str) -> Vec<&'a Host> {
    let is_other = |host: &&Host| host.name() != name;
    cluster.nodes().filter(is_other).collect()
}

/// How often a manager is killed: enough to meet leaders and followers, at work and while they start.
const ROUNDS: u32 = 6;

/// Kills a manager in the middle of writes, and starts it. Returns how long nothing could be written.
fn kill_and_start(
    cluster: &Cluster,
    ledger: &mut Ledger,
    round: u32,
    victim: &Host,
) -> anyhow::Result<Duration> {
    let survivors = others(cluster, victim.name());
    let killed = OnceLock::new();
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            // Another moment of a write in each round.
            std::thread::sleep(Duration::from_millis(u64::from(round) * 389 % 1500));
            let done = victim.kill(&[Daemon::Control]);
            // Not before: what it agreed to until then would pass for written without it.
            killed.get_or_init(Instant::now);
            done
        });
        let is_over = |ledger: &Ledger, moment: &Instant| {
            ledger.resumed(*moment).is_some() || moment.elapsed() > ELECTION_TIMEOUT
        };
        let prefix = format!("round-{round}");
        ledger.write(survivors[round as usize % 2], &prefix, |ledger| {
            killed.get().is_some_and(|moment| is_over(ledger, moment))
        });
        killing.join().expect("no panic")
    })?;
    let moment = *killed.get().context("nobody killed it")?;
    let resumed = ledger.resumed(moment);
    let resumed =
        resumed.with_context(|| format!("no write after {} was killed", victim.name()))?;
    victim.start(&[Daemon::Control])?;
    Ok(resumed - moment)
}

#[test]
fn managers_killed_in_turn_forget_nothing() -> anyhow::Result<()> {
    let cluster = swarm("killed-managers", 3, 3)?;
    let mut ledger = Ledger::default();
    let mut gaps = Vec::new();
    for round in 0..rounds(ROUNDS)? {
        let first = cluster.host("n1")?;
        let victim = match round % 2 {
            0 => leader(first)?,
            _ => format!("n{}", round % 3 + 1),
        };
        let victim = cluster.host(&victim)?;
        gaps.push(kill_and_start(&cluster, &mut ledger, round, victim)?);
        if round % 3 == 2 {
            // Once more, while it reads what it had.
            std::thread::sleep(Duration::from_millis(u64::from(round) * 31 % 400));
            victim.kill(&[Daemon::Control])?;
            victim.start(&[Daemon::Control])?;
        }
        for host in cluster.nodes() {
            let knows = || ledger.check(host);
            wait_until("a manager knows all", ELECTION_TIMEOUT, knows)?;
        }
        if round % 2 == 1 {
            ledger.remove_all(first)?;
        }
    }
    gaps.sort();
    let seconds: Vec<_> = gaps
        .iter()
        .map(|gap| format!("{:.1}", gap.as_secs_f32()))
        .collect();
    println!(
        "{} writes acknowledged; seconds without one: {}",
        ledger.acknowledged(),
        seconds.join(" ")
    );
    let longest = gaps.last().context("no round")?;
    ensure!(
        *longest <= RESUME_TIMEOUT,
        "no write for {:.1} s",
        longest.as_secs_f32()
    );
    cluster.down()
}

/// Writes through another manager while a leader is made to go; the longest time without one.
fn while_it_goes(
    cluster: &Cluster,
    ledger: &mut Ledger,
    prefix: &str,
    go: impl FnOnce(&Host) -> anyhow::Result<()> + Send,
) -> anyhow::Result<Duration> {
    /// Writes before and after: more than an election takes.
    const AROUND: Duration = Duration::from_millis(500);
    const AFTER: Duration = Duration::from_secs(4);
    let leading = leader(cluster.host("n1")?)?;
    let other = others(cluster, &leading)[0];
    let leading = cluster.host(&leading)?;
    let (begun, gone) = (Instant::now(), OnceLock::new());
    std::thread::scope(|scope| {
        let going = scope.spawn(|| {
            std::thread::sleep(AROUND);
            let went = go(leading);
            gone.get_or_init(Instant::now);
            went
        });
        ledger.write(other, prefix, |_| {
            gone.get().is_some_and(|moment| moment.elapsed() > AFTER)
        });
        going.join().expect("no panic")
    })?;
    ledger
        .longest_pause(begun)
        .with_context(|| format!("no write while {} went", leading.name()))
}

/// The others do not have to miss it first, which takes them 2.5 s and more.
#[test]
fn a_leader_that_goes_hands_the_lead_over() -> anyhow::Result<()> {
    const MISSED: Duration = Duration::from_millis(2500);
    /// A machine that is busy with other things may be late once.
    const ATTEMPTS: u32 = 3;
    let cluster = swarm("managers-go", 3, 3)?;
    let mut ledger = Ledger::default();
    let mut shortest = |what: &str,
                        go: fn(&Host) -> anyhow::Result<()>,
                        back: fn(&Cluster, &Host) -> anyhow::Result<()>| {
        let mut pauses = Vec::new();
        for attempt in 0..ATTEMPTS {
            let first = cluster.host("n1")?;
            let gone = leader(first)?;
            pauses.push(while_it_goes(
                &cluster,
                &mut ledger,
                &format!("{what}-{attempt}"),
                go,
            )?);
            back(&cluster, cluster.host(&gone)?)?;
            let knows = || cluster.nodes().try_for_each(|host| ledger.check(host));
            wait_until("all managers know all", ELECTION_TIMEOUT, knows)?;
            if pauses[attempt as usize] < MISSED {
                println!("{what}: {pauses:.2?} without a write");
                return Ok(());
            }
        }
        anyhow::bail!("{what}: {pauses:.2?} without a write");
    };
    shortest(
        "stopped",
        |host| host.stop(&[Daemon::Control]),
        |_, host| host.start(&[Daemon::Control]),
    )?;
    shortest(
        "demoted",
        |host| host.docker(&["node", "demote", host.name()]).map(drop),
        |cluster, host| {
            let other = others(cluster, host.name())[0];
            let is = |role: &str| {
                let said = host.docker(&["info", "--format", "{{.Swarm.ControlAvailable}}"])?;
                ensure!(said.trim() == role, "{} says {said}", host.name());
                Ok(())
            };
            wait_until("it is a worker", ELECTION_TIMEOUT, || is("false"))?;
            other.docker(&["node", "promote", host.name()])?;
            wait_until("it is a manager", ELECTION_TIMEOUT, || is("true"))
        },
    )?;
    shortest(
        "left",
        |host| host.docker(&["swarm", "leave", "--force"]).map(drop),
        |cluster, host| {
            let other = others(cluster, host.name())[0];
            // Nobody who is gone keeps a vote.
            let managers = ["node", "ls", "--filter", "role=manager", "-q"];
            let left = other.docker(&managers)?;
            ensure!(left.lines().count() == 2, "the managers are {left}");
            let token = other.docker(&["swarm", "join-token", "-q", "manager"])?;
            let address = format!("{}:2377", other.address());
            host.docker(&["swarm", "join", "--token", token.trim(), &address])
                .map(drop)
        },
    )?;
    cluster.down()
}

/// A manager whose disk is full is none for as long as that lasts; its daemon goes on, and so does it.
#[test]
fn a_manager_with_a_full_disk_comes_back_once_there_is_room() -> anyhow::Result<()> {
    /// What fills the log's file system, and the file that does.
    const LOG_DIR: &str = "/var/lib/skein/control/raft";
    const FILLER: &str = "/var/lib/skein/control/raft/filler";
    let cluster = swarm("managers-full", 3, 3)?;
    let leading = leader(cluster.host("n1")?)?;
    let full = others(&cluster, &leading)[0];
    let leading = cluster.host(&leading)?;
    full.kill(&[Daemon::Control])?;
    full.shell(&format!(
        "mv {LOG_DIR} /run/log && mkdir {LOG_DIR} && mount -t tmpfs -o size=32m tmpfs {LOG_DIR} && cp -a /run/log/. {LOG_DIR}"
    ))?;
    full.start(&[Daemon::Control])?;
    let daemon = full.process_of(Daemon::Control);
    let answers = || full.docker(&["config", "ls"]);
    wait_until("it takes part", ELECTION_TIMEOUT, answers)?;
    full.shell(&format!("! cat /dev/zero > {FILLER} 2>/dev/null"))?;

    let mut ledger = Ledger::default();
    let ended =
        || -> anyhow::Result<bool> { Ok(full.log(Daemon::Control)?.contains("Raft ended")) };
    // Long ones, for which its file has to grow.
    for n in 0.. {
        ensure!(n < 40, "it has room for {n} configs on a full disk");
        if ended()? {
            break;
        }
        leading.shell(&format!(
            "head -c 400000 /dev/zero | docker --host unix://{} config create long-{n} -",
            Daemon::Control.socket()
        ))?;
    }
    let until = Instant::now() + Duration::from_secs(3);
    ledger.write(leading, "meanwhile", |_| Instant::now() > until);
    ensure!(ledger.acknowledged() > 0, "the others do not go on");

    full.run(&format!("rm {FILLER}"))?;
    wait_until("it knows all again", Duration::from_secs(30), || {
        ledger.check(full)
    })?;
    ensure!(
        full.process_of(Daemon::Control) == daemon,
        "its daemon was started again"
    );
    cluster.down()
}

/// An election would make another session of every node's with the managers: until then they are Unknown.
#[test]
fn a_manager_that_was_cut_off_comes_back_without_an_election() -> anyhow::Result<()> {
    let cluster = swarm("managers-cut", 3, 3)?;
    let first = cluster.host("n1")?;
    let leading = leader(first)?;
    let follower = others(&cluster, &leading)[0].name().to_owned();
    let asked = others(&cluster, &follower)[0];
    cluster.cut(&follower)?;
    // In which it would have stood for election several times.
    std::thread::sleep(Duration::from_secs(10));
    cluster.mend(&follower)?;
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        let nodes = asked.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
        let up = |name: &str| nodes.lines().any(|line| line == format!("{name} Ready"));
        ensure!(
            others(&cluster, &follower)
                .iter()
                .all(|host| up(host.name())),
            "docker node ls says {nodes}"
        );
        let now = leader(asked)?;
        ensure!(now == leading, "{now} leads instead of {leading}");
    }
    // It counts again.
    cluster.host(&leading)?.kill(&[Daemon::Control])?;
    let host = cluster.host(&follower)?;
    wait_until("it elects another leader", ELECTION_TIMEOUT, || {
        host.docker(&["service", "ls"])
    })?;
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

/// `docker swarm join` says after a while that it goes on in the background: it does so whatever becomes of the daemon.
#[test]
fn a_join_that_goes_on_outlives_its_daemon() -> anyhow::Result<()> {
    let cluster = outsiders("join-goes-on", 2)?;
    let (manager, joining) = (cluster.host("n1")?, cluster.host("n2")?);
    manager.docker(&["swarm", "init"])?;
    let token = manager.docker(&["swarm", "join-token", "-q", "worker"])?;
    let state = |is: &str| {
        let said = joining.docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
        ensure!(said.trim() == is, "{} says {said}", joining.name());
        Ok(())
    };
    cluster.cut("n1")?;
    // The user gives up before that is said.
    joining.shell(&format!(
        "timeout 3 docker --host unix://{} swarm join --token {} {}:2377 || true",
        Daemon::Control.socket(),
        token.trim(),
        manager.address(),
    ))?;
    state("pending")?;
    joining.kill(&[Daemon::Control])?;
    joining.start(&[Daemon::Control])?;
    state("pending")?;
    cluster.mend("n1")?;
    wait_until("the node has joined", JOIN_TIMEOUT, || state("active"))?;
    let ready = || {
        let nodes = manager.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
        ensure!(nodes.contains("n2 Ready"), "docker node ls says {nodes}");
        Ok(())
    };
    wait_until("the managers have the node", JOIN_TIMEOUT, ready)?;
    cluster.down()
}
