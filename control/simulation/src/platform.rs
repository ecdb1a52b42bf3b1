//! What managers stand on in a simulated cluster, in place of tokio, a file and gRPC.

use crate::{
    disk::Disk,
    executor::{self, Elapsed, Random, Sleep, Timeout},
    transport::Transport,
};
use openraft::{AsyncRuntime, async_runtime::TokioOneShotSender};
use rand::Rng;
use skein_control::raft::foundation::Platform;
use std::{
    fmt,
    future::Future,
    io,
    ops::{Add, AddAssign, Sub, SubAssign},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;

/// The simulation's platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Simulated;

impl Platform for Simulated {
    type Runtime = Virtual;
    type Disk = Disk;
    type Network = Transport;

    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        work()
    }

    fn rng() -> impl Rng {
        Random
    }
}

/// Virtual time, and tasks of the world's one thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Virtual;

/// A moment of virtual time: nanoseconds since the world began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(executor::nanos(time)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(executor::nanos(time)))
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, time: Duration) {
        *self = *self - time;
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl openraft::Instant for Moment {
    fn now() -> Self {
        Self(executor::now())
    }
}

/// What a task came to, once it has ended.
#[derive(Debug)]
pub struct JoinHandle<T>(oneshot::Receiver<T>);

/// The task's process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed;

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task's process was killed")
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Killed>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.0).poll(context);
        received.map(|value| value.map_err(|_| Killed))
    }
}

impl AsyncRuntime for Virtual {
    type JoinError = Killed;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Moment;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = Random;
    type OneshotSender<T: Send> = TokioOneShotSender<T>;
    type OneshotReceiver<T: Send> = oneshot::Receiver<T>;
    type OneshotReceiverError = oneshot::error::RecvError;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        executor::spawn(async move {
            // Nobody may wait for it.
            let _ = sender.send(future.await);
        });
        JoinHandle(receiver)
    }

    fn sleep(duration: Duration) -> Sleep {
        executor::sleep(duration)
    }

    fn sleep_until(deadline: Moment) -> Sleep {
        executor::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        executor::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Moment, future: F) -> Timeout<F> {
        executor::timeout_at(deadline.0, future)
    }

    fn is_panic(_killed: &Killed) -> bool {
        false
    }

    fn thread_rng() -> Random {
        Random
    }

    fn oneshot<T: Send>() -> (TokioOneShotSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (TokioOneShotSender(sender), receiver)
    }
}
