//! A client that asks at a fixed rate, whatever becomes of the answers: a process of its own, on the
//! client's host.
//!
//! Every request has a time at which it is due, and its latency counts from then, not from when a
//! connection was free for it: a server that stalls makes all wait that were due meanwhile, and all of
//! them count (no "coordinated omission", as Gil Tene calls what most load generators do). What is not
//! answered in the end counts as long as it waited.

use super::{CONNECTIONS, server::HTTP};
use crate::{
    machine::Busy,
    stats::{quantile, sorted},
};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};
use xtask::{cluster::Host, output};

/// For a connection's beginning.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Before latencies and processor time count: every connection has carried something by then.
const WARM_UP: Duration = Duration::from_millis(500);
/// From the last request that is due to the end: far more than any answer takes, unless the server is
/// behind.
pub const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// Longest answer, bytes.
const ANSWER_MAX: usize = 4096;
/// Fields of its head.
const HEADERS_MAX: usize = 16;
/// The timer's, where connections have theirs from 0.
const TIMER: u64 = u64::MAX;
/// Events of one look.
const EVENTS: usize = 64;

/// Arguments of the client's process.
#[derive(Args, Clone, Copy, Debug)]
pub struct LoadArgs {
    /// Address of the server.
    #[arg(long)]
    server: Ipv4Addr,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    /// How long it asks, without what does not count.
    #[arg(long)]
    seconds: u64,
}

/// What became of the requests of one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Of how many the latency counts.
    pub due: u64,
    /// How many of them were not answered in the end.
    pub unanswered: u64,
    /// Latency of 50, 99 and 99.9 in 100 requests, in milliseconds.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// Processor time of the whole machine, in seconds.
    pub busy: f64,
}

impl Load {
    /// Processor time of the whole machine for each answer, in millionths of a second.
    pub fn busy_each(&self) -> f64 {
        self.busy * 1e6 / (self.due - self.unanswered) as f64
    }
}

/// Asks at a fixed rate from a host.
///
/// # Errors
/// A connection breaks, an answer is none, or nothing is answered.
pub fn load(client: &Host, server: Ipv4Addr, rate: u32, time: Duration) -> anyhow::Result<Load> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut load = client.command(&own.to_string_lossy());
    load.args(["load", "--server", &server.to_string()]);
    load.args(["--rate", &rate.to_string()]);
    load.args(["--seconds", &time.as_secs().to_string()]);
    let said = output(&mut load)?;
    serde_json::from_str(&said).with_context(|| format!("the load says {said}"))
}

/// The client's process: prints a [`Load`] as JSON.
///
/// # Errors
/// As [`load`].
pub fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let load = Client::connect(args)?.ask()?;
    println!("{}", serde_json::to_string(&load)?);
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// When the request was due that it waits for the answer of.
    due: Option<Instant>,
    /// What has come of that answer.
    answer: Vec<u8>,
}

struct Client {
    epoll: Epoll,
    timer: TimerFd,
    connections: Vec<Connection>,
    /// Those without a request, the one that waits longest first: all take turns.
    idle: VecDeque<usize>,
    request: Vec<u8>,
    schedule: Schedule,
}

/// When requests are due: evenly, from `begin` on.
struct Schedule {
    begin: Instant,
    rate: u32,
    /// All of them.
    total: u64,
    /// How many of the first do not count.
    warm: u64,
}

impl Schedule {
    fn due(&self, n: u64) -> Instant {
        self.begin + Duration::from_nanos(n * 1_000_000_000 / u64::from(self.rate))
    }
}

impl Client {
    fn connect(args: &LoadArgs) -> anyhow::Result<Self> {
        ensure!(args.rate > 0, "a rate of 0 asks nothing");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for n in 0..CONNECTIONS {
            let to = (args.server, HTTP).into();
            let stream = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)
                .with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64))?;
            connections.push(Connection {
                stream,
                due: None,
                answer: Vec::with_capacity(ANSWER_MAX),
            });
        }
        let rate = u64::from(args.rate);
        let warm = rate * WARM_UP.as_millis() as u64 / 1_000;
        Ok(Self {
            epoll,
            timer,
            connections,
            idle: (0..CONNECTIONS).collect(),
            request: format!("GET / HTTP/1.1\r\nHost: {}:{HTTP}\r\n\r\n", args.server).into(),
            schedule: Schedule {
                begin: Instant::now(),
                rate: args.rate,
                total: warm + rate * args.seconds,
                warm,
            },
        })
    }

    fn ask(mut self) -> anyhow::Result<Load> {
        self.schedule.begin = Instant::now();
        let counts_from = self.schedule.due(self.schedule.warm);
        let last = self.schedule.due(self.schedule.total);
        let end = last + LAST_ANSWERS;
        let mut latencies = Vec::with_capacity(self.schedule.total as usize);
        let mut begun = 0;
        let mut busy = None;
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let now = Instant::now();
            if busy.is_none() && now >= counts_from {
                busy = Some(Busy::now()?);
            }
            while begun < self.schedule.total && self.schedule.due(begun) <= now {
                let Some(free) = self.idle.pop_front() else {
                    break;
                };
                self.begin(free, self.schedule.due(begun))?;
                begun += 1;
            }
            let is_asked = begun == self.schedule.total;
            if now >= end || (is_asked && self.idle.len() == self.connections.len()) {
                break;
            }
            // What waits for a connection waits for an answer, which wakes it.
            let next = self.schedule.due(begun);
            let next = if is_asked || next <= now { end } else { next };
            self.wake_at(next)?;
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..count] {
                if event.data() == TIMER {
                    // It has been set anew meanwhile if it says that there is nothing to read.
                    match self.timer.wait() {
                        Ok(()) | Err(nix::errno::Errno::EAGAIN) => {}
                        Err(error) => return Err(error).context("the timer"),
                    }
                } else if let Some(due) = self.read(event.data() as usize)?
                    && due >= counts_from
                {
                    latencies.push(milliseconds(due.elapsed()));
                }
            }
        }
        let used = busy.context("it ended before it counted")?.used()?;
        let answered = latencies.len() as u64;
        ensure!(answered > 0, "nothing was answered");
        // Those that were due and are not answered: they have waited so long at least.
        let now = Instant::now();
        let waiting = self.connections.iter().filter_map(|of| of.due);
        let unbegun = (begun..self.schedule.total).map(|n| self.schedule.due(n));
        let waiting = waiting.chain(unbegun).filter(|due| *due >= counts_from);
        latencies.extend(waiting.map(|due| milliseconds(now.saturating_duration_since(due))));
        let due = latencies.len() as u64;
        let ascending = sorted(&latencies);
        let at = |q| quantile(&ascending, q).context("no latencies");
        Ok(Load {
            due,
            unanswered: due - answered,
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
            busy: used,
        })
    }

    fn wake_at(&self, at: Instant) -> anyhow::Result<()> {
        // Nothing at all would not set it, but stop it.
        let after = at.saturating_duration_since(Instant::now());
        let after = TimeSpec::from(after.max(Duration::from_nanos(1)));
        self.timer
            .set(Expiration::OneShot(after), TimerSetTimeFlags::empty())
            .context("cannot set a timer")
    }

    fn begin(&mut self, n: usize, due: Instant) -> anyhow::Result<()> {
        let connection = &mut self.connections[n];
        // It is empty but for this request, so that it takes all of it at once.
        let written = connection.stream.write(&self.request);
        let written = written.context("a connection broke")?;
        ensure!(written == self.request.len(), "a request was cut");
        connection.due = Some(due);
        Ok(())
    }

    /// Takes what has come; when the request was due, if its answer is whole.
    fn read(&mut self, n: usize) -> anyhow::Result<Option<Instant>> {
        let connection = &mut self.connections[n];
        let mut buffer = [0; ANSWER_MAX];
        match connection.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(read) => connection.answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("a connection broke"),
        }
        if !is_whole(&connection.answer)? {
            return Ok(None);
        }
        connection.answer.clear();
        self.idle.push_back(n);
        Ok(connection.due.take())
    }
}

/// Whether an answer is there to its end.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).context("no answer of HTTP")?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(false);
    };
    ensure!(
        response.code == Some(200),
        "it was answered with {:?}",
        response.code
    );
    let mut headers = response.headers.iter();
    let length = headers.find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|of| std::str::from_utf8(of.value).ok()?.parse().ok());
    let length: usize = length.context("an answer without a length")?;
    ensure!(answer.len() <= head + length, "more came than an answer");
    Ok(answer.len() == head + length)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";

    #[test]
    fn answers_are_whole_at_their_end() {
        for (answer, whole) in [
            ("", false),
            ("HTTP/1.1 200 OK\r\nContent-", false),
            (HEAD, false),
            (&format!("{HEAD}ab"), false),
            (&format!("{HEAD}abc"), true),
        ] {
            assert_eq!(is_whole(answer.as_bytes()).unwrap(), whole, "{answer}");
        }
        for bad in [
            &format!("{HEAD}abcd"),
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0\r\n",
        ] {
            assert!(is_whole(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_due_evenly() {
        let begin = Instant::now();
        let schedule = Schedule {
            begin,
            rate: 30_000,
            total: 0,
            warm: 0,
        };
        assert_eq!(schedule.due(0), begin);
        assert_eq!(schedule.due(30_000), begin + Duration::from_secs(1));
        assert_eq!(schedule.due(45_000), begin + Duration::from_millis(1_500));
    }

    #[test]
    fn processor_time_is_shared_by_what_was_answered() {
        let load = Load {
            due: 1_000,
            unanswered: 500,
            p50: 0.0,
            p99: 0.0,
            p999: 0.0,
            busy: 0.01,
        };
        assert!((load.busy_each() - 20.0).abs() < 1e-9);
    }
}
