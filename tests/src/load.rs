//! Requests at a steady rate from the client through all nodes, while something happens: half of them
//! on connections of their own, half on kept ones.
//!
//! Nothing is tried again: every request that gets no whole answer is counted, with its reason.

use crate::{
    from_env,
    sockets::{connect, read_answer, within},
};
use anyhow::{Context as _, ensure};
use std::{
    collections::BTreeMap,
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use xtask::cluster::{Cluster, Host};

/// Requests a second in total, if the machine can; `SKEIN_RATE` says another number.
const RATE: u32 = 2_000;
/// Threads that ask, each with a request under way at a time, for each thousand of requests a second: one may
/// take 32 ms.
const WORKERS_PER_THOUSAND: u32 = 32;
/// How long a request may take, its connection included. A SYN that is lost is sent again after 1 s:
/// such a request is answered, and counted as slow.
const DEADLINE: Duration = Duration::from_secs(5);
/// What takes longer was helped by a retransmission, or the machine was busy.
const SLOW: Duration = Duration::from_millis(900);
/// Answered requests a second below which nothing was shown: even with health checks of twenty tasks
/// beside the load, two cores that others use too answer some times as many.
const RATE_MIN: f64 = 200.0;
/// The share of requests that may be slow: a packet that is lost is sent again, and no failure is seen.
/// Loaded machines were seen to have 0.03 %.
const SLOW_MAX: f64 = 0.01;
/// Failures that are told one by one.
const TOLD_MAX: usize = 20;

/// How a worker uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Each request has one of its own.
    OneRequest,
    /// It keeps one to each node until an answer says that it is the last.
    Kept,
}

/// A request without an answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the change began; before it, zero.
    pub after: Duration,
    /// When the request began: since the change did; before it, zero.
    pub begun: Duration,
    /// The node that was asked.
    pub node: Ipv4Addr,
    /// What it was doing, and what became of it.
    pub what: String,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Answered requests.
    pub answered: u64,
    /// Those of them that took long.
    pub slow: u64,
    /// All failures.
    pub failures: Vec<Failure>,
    /// How long it went on.
    pub took: Duration,
}

impl Outcome {
    /// That every request was answered, hardly any late, and that there were many.
    ///
    /// # Errors
    /// One was not, or the load was none; with all that is known of it.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.failures.is_empty(), "{self}");
        ensure!(self.rate() >= RATE_MIN, "too little of a load: {self}");
        let slow = self.slow as f64 / self.answered as f64;
        ensure!(slow <= SLOW_MAX, "too many are slow: {self}");
        Ok(())
    }

    fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate();
        let (answered, slow, failed) = (self.answered, self.slow, self.failures.len());
        write!(
            f,
            "{answered} answered ({rate:.0} a second, {slow} of them slow), {failed} failed"
        )?;
        // A request fails up to its deadline after it has begun: what has gone wrong, has at the latter time.
        let begun = || self.failures.iter().map(|failure| failure.begun);
        if let (Some(first), Some(last)) = (begun().min(), begun().max()) {
            write!(
                f,
                ", which began {first:.3?} to {last:.3?} after the change did"
            )?;
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for failure in &self.failures {
            *kinds.entry(&failure.what).or_default() += 1;
        }
        for (kind, count) in kinds {
            write!(f, "\n  {count} times: {kind}")?;
        }
        for failure in self.failures.iter().take(TOLD_MAX) {
            let Failure {
                after,
                begun,
                node,
                what,
            } = failure;
            write!(f, "\n  {begun:.3?} to {after:.3?} through {node}: {what}")?;
        }
        Ok(())
    }
}

/// A change that no request to a published port may suffer from: see [`under_load`].
///
/// # Errors
/// The change fails, or a request does; with what became of all.
pub fn unnoticed(
    cluster: &Cluster,
    port: u16,
    what: &str,
    change: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let outcome = under_load(cluster, port, change).with_context(|| what.to_owned())?;
    println!("{what}: {outcome} in {:.1?}", outcome.took);
    outcome.check().with_context(|| what.to_owned())
}

/// Loads a published port through all nodes while `change` is made, and a while before and after it.
///
/// # Errors
/// The change fails, or the client cannot be entered. Requests that fail are in the outcome.
pub fn under_load(
    cluster: &Cluster,
    port: u16,
    change: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let nodes: Vec<&Host> = cluster.nodes().collect();
    under_load_through(cluster, &nodes, port, change)
}

/// The same through some of the nodes.
///
/// # Errors
/// As above.
pub fn under_load_through(
    cluster: &Cluster,
    nodes: &[&Host],
    port: u16,
    change: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    /// Of load without any change.
    const QUIET: Duration = Duration::from_millis(500);
    let to = nodes
        .iter()
        .map(|node| SocketAddrV4::new(node.address(), port));
    let to: Vec<_> = to.collect();
    let shared = Shared {
        to,
        rate: from_env("SKEIN_RATE", RATE)?.max(1),
        start: Instant::now(),
        stop: AtomicBool::new(false),
        change: Mutex::new(None),
        outcome: Mutex::default(),
    };
    let client = cluster.client()?;
    let changed = std::thread::scope(|scope| {
        let load = scope.spawn(|| within(client, || shared.run()));
        let stop = StopOnDrop(&shared.stop);
        std::thread::sleep(QUIET);
        *lock(&shared.change) = Some(Instant::now());
        let changed = change();
        std::thread::sleep(QUIET);
        drop(stop);
        let ended = load.join();
        let ended = ended.map_err(|_| anyhow::anyhow!("the load panicked"))?;
        ended.and(changed)
    });
    let mut outcome = shared.outcome.into_inner().unwrap_or_default();
    outcome.took = shared.start.elapsed();
    changed.with_context(|| format!("a change under load: {outcome}"))?;
    Ok(outcome)
}

/// Ends the load also where the change panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Shared {
    to: Vec<SocketAddrV4>,
    /// Requests a second in total.
    rate: u32,
    start: Instant,
    stop: AtomicBool,
    /// When the change began.
    change: Mutex<Option<Instant>>,
    outcome: Mutex<Outcome>,
}

/// A worker that panicked has said why; what the others count still counts.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    fn run(&self) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            // They are in the namespace of the thread that begins them.
            let workers = (self.rate * WORKERS_PER_THOUSAND / 1_000).max(1);
            for number in 0..workers {
                scope.spawn(move || self.work(number, workers));
            }
        });
        Ok(())
    }

    fn work(&self, number: u32, workers: u32) {
        let mode = match number % 2 {
            0 => Mode::OneRequest,
            _ => Mode::Kept,
        };
        let interval = Duration::from_secs(1) * workers / self.rate;
        let mut due = self.start + interval * number / workers;
        let mut kept: BTreeMap<SocketAddrV4, TcpStream> = BTreeMap::new();
        for to in self.to.iter().cycle().skip(number as usize).copied() {
            // What is late is made up for: it is the rate that is asked for, as far as the machine goes.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += interval;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let begun = Instant::now();
            let answered = ask(mode, to, kept.remove(&to));
            let mut outcome = lock(&self.outcome);
            match answered {
                Ok(stream) => {
                    outcome.answered += 1;
                    outcome.slow += u64::from(begun.elapsed() > SLOW);
                    kept.extend(stream.map(|stream| (to, stream)));
                }
                Err(what) => {
                    let change = *lock(&self.change);
                    let since = |moment: Instant| {
                        change.map_or(Duration::ZERO, |at| moment.saturating_duration_since(at))
                    };
                    outcome.failures.push(Failure {
                        after: since(Instant::now()),
                        begun: since(begun),
                        node: *to.ip(),
                        what,
                    });
                }
            }
        }
    }
}

/// One request; the connection if another may follow on it.
fn ask(mode: Mode, to: SocketAddrV4, kept: Option<TcpStream>) -> Result<Option<TcpStream>, String> {
    let on = match (mode, &kept) {
        (Mode::OneRequest, _) => "a connection of its own",
        (Mode::Kept, None) => "a connection to keep",
        (Mode::Kept, Some(_)) => "a kept connection",
    };
    let failed = |doing: &str, error: &anyhow::Error| {
        let kind = error.downcast_ref::<std::io::Error>();
        let why = match kind.map(std::io::Error::kind) {
            Some(ErrorKind::WouldBlock | ErrorKind::TimedOut) => "nothing came in time".into(),
            Some(kind) => format!("{kind:?}"),
            None => format!("{error:#}"),
        };
        format!("{on}, {doing}: {why}")
    };
    let mut stream = match kept {
        Some(stream) => stream,
        None => connect(to, DEADLINE).map_err(|error| failed("connect", &error))?,
    };
    let request: &[u8] = match mode {
        Mode::OneRequest => b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
        Mode::Kept => b"GET / HTTP/1.1\r\nHost: web\r\n\r\n",
    };
    stream
        .write_all(request)
        .map_err(|error| failed("request", &error.into()))?;
    let (head, _) = read_answer(&mut stream).map_err(|error| failed("answer", &error))?;
    if !is_last(&head) {
        return Ok(Some(stream));
    }
    // The server closes first, so that no port of the client waits for a minute to be used again. How
    // it does is nobody's loss: the answer is whole.
    let _ = stream.read(&mut [0]);
    Ok(None)
}

/// Whether an answer says that it is the last on its connection.
pub fn is_last(head: &str) -> bool {
    head.to_ascii_lowercase().contains("connection: close")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_when_its_failures_began() {
        let mut outcome = Outcome {
            answered: 10,
            took: Duration::from_secs(1),
            ..Outcome::default()
        };
        assert_eq!(
            outcome.to_string(),
            "10 answered (10 a second, 0 of them slow), 0 failed"
        );
        for begun in [1_500, 250] {
            outcome.failures.push(Failure {
                after: Duration::from_millis(begun + 5_000),
                begun: Duration::from_millis(begun),
                node: Ipv4Addr::LOCALHOST,
                what: "nothing".into(),
            });
        }
        let told = outcome.to_string();
        let lines: Vec<&str> = told.lines().collect();
        let [first, kinds, one, other] = lines[..] else {
            panic!("{told}");
        };
        assert!(first.ends_with("2 failed, which began 250.000ms to 1.500s after the change did"));
        assert_eq!(kinds, "  2 times: nothing");
        assert_eq!(one, "  1.500s to 6.500s through 127.0.0.1: nothing");
        assert_eq!(other, "  250.000ms to 5.250s through 127.0.0.1: nothing");
    }
}
