//! The network between hosts: messages are late, lost, come twice, or find no way.

use crate::{
    executor::{self, Process, Random, WORLD},
    faults::Spells,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::Rng as _;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

/// A machine: a node of the cluster, or one that clients are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u32);

/// How long a message takes while nothing is wrong.
const DELAY_MS: (u64, u64) = (1, 4);
/// How long a connection that hears nothing any more is held. Callers have shorter deadlines.
const SILENCE: Duration = Duration::from_secs(60);
/// How long until a stream is given up whose other end cannot be reached: HTTP/2's keep-alive.
const STREAM_PATIENCE: Duration = Duration::from_secs(6);
/// How often a stream that finds no way tries again.
const STREAM_RETRY: Duration = Duration::from_millis(200);
/// Messages of a stream that are under way.
const STREAM_WINDOW: usize = 4;

/// What is wrong with every link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// How likely a message is lost.
    pub loss: f64,
    /// How likely one arrives twice.
    pub duplication: f64,
    /// How much longer a message may take.
    pub delay: Duration,
}

/// Clones are the same network.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    weather: Spells<Weather>,
    /// From where to where nothing comes through, and of how many cuts that is.
    cut: BTreeMap<(Host, Host), u32>,
    /// What listens on each host.
    listening: BTreeMap<Host, Process>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nobody listens there.
    Refused,
    /// Who was asked died before it answered.
    Reset,
}

impl Network {
    /// A process of a host listens from now on, until it dies.
    pub fn listen(&self, host: Host, process: Process) {
        self.0.lock().listening.insert(host, process);
    }

    /// Nothing listens on a host any more.
    pub fn hang_up(&self, host: Host) {
        self.0.lock().listening.remove(&host);
    }

    /// The weather changes to this, until it passes or another comes.
    pub fn begin_weather(&self, weather: Weather) {
        self.0.lock().weather.begin(weather);
    }

    /// This weather passes.
    pub fn end_weather(&self, weather: Weather) {
        self.0.lock().weather.end(weather);
    }

    /// Lets nothing through from `from` to `to`.
    pub fn cut(&self, from: Host, to: Host) {
        *self.0.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// Takes one cut between them back: other faults' cuts stay.
    pub fn mend(&self, from: Host, to: Host) {
        let mut inner = self.0.lock();
        let Some(cuts) = inner.cut.get_mut(&(from, to)) else {
            return;
        };
        *cuts -= 1;
        if *cuts == 0 {
            inner.cut.remove(&(from, to));
        }
    }

    /// Nothing is wrong any more.
    pub fn heal(&self) {
        let mut inner = self.0.lock();
        inner.cut.clear();
        inner.weather = Spells::default();
    }

    fn is_cut(&self, from: Host, to: Host) -> bool {
        from != to && self.0.lock().cut.contains_key(&(from, to))
    }

    fn weather(&self) -> Weather {
        self.0.lock().weather.now()
    }

    /// How long a message takes; `None` if it is lost.
    fn fate(&self, from: Host, to: Host) -> Option<Duration> {
        if from == to {
            return Some(Duration::ZERO);
        }
        let weather = self.weather();
        if self.is_cut(from, to) || Random.random_bool(weather.loss) {
            return None;
        }
        Some(self.delay())
    }

    fn delay(&self) -> Duration {
        let weather = self.weather();
        let usual = Duration::from_millis(Random.random_range(DELAY_MS.0..=DELAY_MS.1));
        usual + weather.delay.mul_f64(Random.random_range(0.0..=1.0))
    }

    fn listener(&self, host: Host) -> Option<Process> {
        self.0.lock().listening.get(&host).copied()
    }

    /// Asks what listens on `to`; `handle` is run there, twice where the question comes twice. An
    /// answer that is lost never comes: callers need a deadline.
    pub async fn call<A: Send + 'static>(
        &self,
        from: Host,
        to: Host,
        handle: impl Fn() -> BoxFuture<'static, A> + Send + Sync + 'static,
    ) -> Result<A, Broken> {
        let (sender, receiver) = oneshot::channel();
        let twice = from != to && Random.random_bool(self.weather().duplication);
        let handle = Arc::new(handle);
        if twice {
            let (unheard, _) = oneshot::channel();
            self.ask(from, to, handle.clone(), unheard);
        }
        self.ask(from, to, handle, sender);
        receiver.await.unwrap_or(Err(Broken::Reset))
    }

    fn ask<A: Send + 'static>(
        &self,
        from: Host,
        to: Host,
        handle: Arc<impl Fn() -> BoxFuture<'static, A> + Send + Sync + 'static>,
        answer: oneshot::Sender<Result<A, Broken>>,
    ) {
        let network = self.clone();
        executor::spawn_in(WORLD, async move {
            let Some(delay) = network.fate(from, to) else {
                return silence(answer).await;
            };
            executor::sleep(delay).await;
            let Some(listener) = network.listener(to) else {
                // Those who wait no longer need no answer, here and below.
                let _ = answer.send(Err(Broken::Refused));
                return;
            };
            let (done, result) = oneshot::channel();
            executor::spawn_in(listener, async move {
                // The caller may have given up, or its machine.
                let _ = done.send(handle().await);
            });
            let result = result.await.map_err(|_| Broken::Reset);
            let Some(delay) = network.fate(to, from) else {
                return silence(answer).await;
            };
            executor::sleep(delay).await;
            let _ = answer.send(result);
        });
    }

    /// Carries a stream from `from`, in whose process this is asked, to `to`: in order and whole, as
    /// long as there is a way.
    pub fn carry<T: Send + 'static>(
        &self,
        from: Host,
        to: Host,
        items: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> mpsc::Receiver<Result<T, Status>> {
        let (sender, receiver) = mpsc::channel(STREAM_WINDOW);
        let network = self.clone();
        let mut items = Box::pin(items);
        executor::spawn(async move {
            loop {
                let item = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    item = items.next() => item,
                };
                let began = executor::now();
                while network.is_cut(from, to) || network.is_cut(to, from) {
                    if executor::now() - began > executor::nanos(STREAM_PATIENCE) {
                        return;
                    }
                    executor::sleep(STREAM_RETRY).await;
                }
                if from != to {
                    executor::sleep(network.delay()).await;
                }
                let Some(item) = item else { return };
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// Holds a connection on which nothing is heard any more.
async fn silence<A: Send + 'static>(mut answer: oneshot::Sender<Result<A, Broken>>) {
    // Whichever comes first: that the caller gives up, or that its machine does.
    let _ = executor::timeout(SILENCE, answer.closed()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_ends_leaves_those_of_others() {
        let network = Network::default();
        let (a, b, c) = (Host(1), Host(2), Host(3));
        network.cut(a, b);
        network.cut(a, b);
        network.cut(a, c);
        network.mend(a, b);
        assert!(network.is_cut(a, b) && !network.is_cut(b, a) && network.is_cut(a, c));
        network.mend(a, b);
        // One more is one that was healed with all others.
        network.mend(a, b);
        assert!(!network.is_cut(a, b) && network.is_cut(a, c));
        network.begin_weather(Weather {
            loss: 0.5,
            ..Weather::default()
        });
        network.heal();
        assert!(!network.is_cut(a, c));
        assert_eq!(network.weather(), Weather::default());
    }
}
