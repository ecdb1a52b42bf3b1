//! A load balancer of the user's own in front of all nodes: HAProxy with its health checks.

use anyhow::{Context as _, ensure};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xtask::{
    check::{requests::await_published, services},
    cluster::{Cluster, Host},
    wait_until,
};

/// The port that HAProxy listens on, on the client.
const FRONT: u16 = 9000;
/// The service's published port.
const PORT: u16 = 30_100;
/// Clients that ask one request after the other, a connection each.
const WORKERS: usize = 4;
/// How long they ask.
const LOAD: Duration = Duration::from_secs(24);
/// When a node is cut off, and when its cable is back: before the managers give its tasks away.
const CUT: Duration = Duration::from_secs(3);
const MENDED: Duration = Duration::from_secs(12);
/// Two checks a second apart, and a loaded machine.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// Starts HAProxy on the client, in front of all nodes; it ends with its host. Returns where it is noted
/// when its check of `watched` has found it down, in nanoseconds since 1970.
fn start_front(cluster: &Cluster, watched: &str) -> anyhow::Result<Arc<OnceLock<u64>>> {
    let mut config = format!(
        "global\n log stdout format raw daemon\n\
         defaults\n mode http\n log global\n retries 0\n\
         \x20timeout connect 2s\n timeout client 5s\n timeout server 5s\n timeout check 1s\n\
         listen front\n bind 127.0.0.1:{FRONT}\n balance roundrobin\n option httpchk GET /\n\
         \x20default-server check inter 1s fall 2 rise 2\n"
    );
    for node in cluster.nodes() {
        config += &format!(" server {} {}:{PORT}\n", node.name(), node.address());
    }
    let client = cluster.client()?;
    let mut haproxy = client.command("/usr/sbin/haproxy");
    haproxy.args(["-db", "-f", "/dev/stdin"]);
    haproxy.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = haproxy.spawn()?;
    let stdin = process.stdin.take().context("HAProxy reads nothing")?;
    { stdin }.write_all(config.as_bytes())?;
    let said = process.stdout.take().context("HAProxy says nothing")?;
    let fired = Arc::new(OnceLock::new());
    let (noted, down) = (fired.clone(), format!("Server front/{watched} is DOWN"));
    // Until the pipe is closed.
    std::thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if line.contains(&down) {
                noted.get_or_init(now);
            }
        }
    });
    let asks = format!("curl -sSf -o /dev/null -m 2 http://127.0.0.1:{FRONT}/");
    wait_until("HAProxy answers", CHECK_TIMEOUT, || client.run(&asks))?;
    Ok(fired)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// What a request came to: when it began, nanoseconds since 1970, and the status, 0 without an answer.
type Outcome = (u64, u16);

/// Asks for as long as [`LOAD`].
fn ask(client: &Host) -> anyhow::Result<Vec<Outcome>> {
    let seconds = LOAD.as_secs();
    let said = client.shell(&format!(
        "end=$(($(date +%s)+{seconds})); while [ $(date +%s) -lt $end ]; do t=$(date +%s%N); \
         echo $t $(curl -s -o /dev/null -m 6 -w '%{{http_code}}' http://127.0.0.1:{FRONT}/); done"
    ))?;
    let outcome = |line: &str| {
        let (began, status) = line.split_once(' ').context("no outcome")?;
        Ok((began.parse()?, status.parse()?))
    };
    said.lines().map(outcome).collect()
}

#[test]
fn no_request_fails_once_the_check_of_a_lost_node_has_fired() -> anyhow::Result<()> {
    let cluster = skein_tests::swarm("front", 3, 1)?;
    let publish = format!("{PORT}:8080");
    services::create(cluster.host("n1")?, "web", 6, &["-p", &publish])?;
    await_published(&cluster, cluster.nodes(), PORT)?;
    let fired = start_front(&cluster, "n3")?;
    let client = cluster.client()?;
    let mut outcomes = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| ask(client))).collect();
        std::thread::sleep(CUT);
        cluster.cut("n3")?;
        std::thread::sleep(MENDED - CUT);
        cluster.mend("n3")?;
        let mut outcomes = Vec::new();
        for worker in workers {
            outcomes.extend(worker.join().expect("no panic")?);
        }
        anyhow::Ok(outcomes)
    })?;
    outcomes.sort_unstable();
    let fired = *fired.get().context("HAProxy's check never fired")?;
    let began = outcomes.first().context("no request was made")?.0;
    let seconds = |moment: u64| moment.saturating_sub(began) as f64 / 1e9;
    let failed = |outcome: &&Outcome| outcome.1 != 200;
    let (before, after) = outcomes.split_at(outcomes.partition_point(|o| o.0 < fired));
    println!(
        "the check fired at {:.1} s; of {} requests before it failed, at: {:?}; after it were {}",
        seconds(fired),
        before.len(),
        before
            .iter()
            .filter(failed)
            .map(|o| (seconds(o.0), o.1))
            .collect::<Vec<_>>(),
        after.len()
    );
    let late: Vec<_> = after
        .iter()
        .filter(failed)
        .map(|o| (seconds(o.0), o.1))
        .collect();
    ensure!(
        late.is_empty(),
        "failed after the check had fired: {late:?}"
    );
    ensure!(after.len() > 100, "hardly any request: {}", after.len());
    cluster.down()
}
