//! Runs a world on one thread, in virtual time, in an order drawn from its seed.
//!
//! Which of the tasks that can go on does so is drawn each time: a task is one of a set, however it
//! was woken. So the order in which a channel wakes those that wait, which tokio draws from randomness
//! of its own, makes no difference. Time stands still while any task can go on, and then moves to the
//! next timer, alone: no task ever finds that a timer and a message have come at once.

use parking_lot::Mutex;
use rand::{Rng as _, RngCore, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// A group of tasks that die together: a daemon, or the world around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(u32);

/// The world itself: it never dies.
pub const WORLD: Process = Process(0);

/// Steps that a world may take at one moment: more means that its tasks wake each other for ever.
const STEPS_PER_MOMENT_MAX: u64 = 1_000_000;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks that can go on.
type Ready = Arc<Mutex<BTreeSet<u64>>>;

struct Task {
    process: Process,
    work: Work,
    waker: Waker,
}

struct TaskWaker {
    id: u64,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().insert(self.id);
    }
}

struct Executor {
    /// Nanoseconds since the world began.
    now: u64,
    rng: ChaCha8Rng,
    ready: Ready,
    /// Without the one that is being polled.
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    /// By moment and number.
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
    processes: BTreeSet<Process>,
    next_process: u32,
    current: Process,
    /// Of all that was done: two runs that differ anywhere differ here.
    fingerprint: u64,
}

thread_local! {
    static EXECUTOR: RefCell<Option<Executor>> = const { RefCell::new(None) };
}

fn with<T>(act: impl FnOnce(&mut Executor) -> T) -> T {
    EXECUTOR.with_borrow_mut(|executor| {
        act(executor
            .as_mut()
            .expect("what belongs to a world is used within it only"))
    })
}

/// Mixes a value into a fingerprint (FNV-1a).
pub fn mix(fingerprint: u64, value: u64) -> u64 {
    value
        .to_le_bytes()
        .into_iter()
        .fold(fingerprint, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// Runs `main` as the world of a seed; `stop` ends it early. What `main` came to, if it came to an
/// end, and the world's fingerprint.
pub fn run<T: Send + 'static>(
    seed: u64,
    main: impl Future<Output = T> + Send + 'static,
    stop: impl Fn() -> bool,
) -> (Option<T>, u64) {
    /// However the world ends, the thread is free for the next one.
    struct Cleared;
    impl Drop for Cleared {
        fn drop(&mut self) {
            // Tasks that are dropped may still look for their executor.
            while let Some(task) = EXECUTOR.with_borrow_mut(|executor| {
                let executor = executor.as_mut()?;
                executor.processes.clear();
                Some(executor.tasks.pop_first()?.1)
            }) {
                drop(task);
            }
            EXECUTOR.set(None);
        }
    }
    EXECUTOR.set(Some(Executor {
        now: 0,
        rng: ChaCha8Rng::seed_from_u64(seed),
        ready: Ready::default(),
        tasks: BTreeMap::new(),
        next_task: 0,
        timers: BTreeMap::new(),
        next_timer: 0,
        processes: BTreeSet::from([WORLD]),
        next_process: 1,
        current: WORLD,
        fingerprint: 0xcbf2_9ce4_8422_2325,
    }));
    let _cleared = Cleared;
    let result = Arc::new(Mutex::new(None));
    let slot = result.clone();
    spawn_in(WORLD, async move {
        let value = main.await;
        *slot.lock() = Some(value);
    });
    let mut steps_at_moment = 0;
    while result.lock().is_none() && !stop() {
        if step() {
            steps_at_moment += 1;
            assert!(
                steps_at_moment < STEPS_PER_MOMENT_MAX,
                "the world's tasks wake each other for ever"
            );
        } else {
            steps_at_moment = 0;
            assert!(
                with(Executor::fire_next),
                "every task waits, and for no time"
            );
        }
    }
    let value = result.lock().take();
    (value, with(|executor| executor.fingerprint))
}

/// Lets one task go on; whether there was any.
fn step() -> bool {
    let Some((id, mut task)) = with(Executor::take_ready) else {
        return false;
    };
    let waker = task.waker.clone();
    let polled = task.work.as_mut().poll(&mut Context::from_waker(&waker));
    with(|executor| executor.current = WORLD);
    match polled {
        Poll::Ready(()) => drop(task),
        Poll::Pending => {
            let dead = with(|executor| {
                if executor.processes.contains(&task.process) {
                    executor.tasks.insert(id, task);
                    return None;
                }
                Some(task)
            });
            drop(dead);
        }
    }
    true
}

impl Executor {
    fn take_ready(&mut self) -> Option<(u64, Task)> {
        loop {
            let id = {
                let mut ready = self.ready.lock();
                if ready.is_empty() {
                    return None;
                }
                let nth = self.rng.random_range(0..ready.len());
                let id = *ready.iter().nth(nth)?;
                ready.remove(&id);
                id
            };
            // Those that have ended may be woken still.
            if let Some(task) = self.tasks.remove(&id) {
                self.current = task.process;
                self.fingerprint = mix(mix(self.fingerprint, id), self.now);
                return Some((id, task));
            }
        }
    }

    /// Moves time to the next timer; whether there was any.
    fn fire_next(&mut self) -> bool {
        let Some(((moment, _), waker)) = self.timers.pop_first() else {
            return false;
        };
        self.now = self.now.max(moment);
        waker.wake();
        true
    }
}

/// Nanoseconds since the world began.
pub fn now() -> u64 {
    with(|executor| executor.now)
}

/// Mixes what was seen into the world's fingerprint.
pub fn note(value: u64) {
    with(|executor| executor.fingerprint = mix(executor.fingerprint, value));
}

/// A new process.
pub fn process() -> Process {
    with(|executor| {
        let process = Process(executor.next_process);
        executor.next_process += 1;
        executor.processes.insert(process);
        process
    })
}

/// Ends a process: none of its tasks goes on.
pub fn kill(process: Process) {
    let tasks = with(|executor| {
        executor.processes.remove(&process);
        let of = |(id, task): (&u64, &Task)| (task.process == process).then_some(*id);
        let ids: Vec<u64> = executor.tasks.iter().filter_map(of).collect();
        let tasks = ids.into_iter().filter_map(|id| executor.tasks.remove(&id));
        tasks.collect::<Vec<_>>()
    });
    // Outside: what they let go of may look for the executor.
    drop(tasks);
}

/// Runs a task in a process, unless that has ended.
pub fn spawn_in(process: Process, work: impl Future<Output = ()> + Send + 'static) {
    let work: Work = Box::pin(work);
    let refused = with(|executor| {
        if !executor.processes.contains(&process) {
            return Some(work);
        }
        let id = executor.next_task;
        executor.next_task += 1;
        let ready = executor.ready.clone();
        ready.lock().insert(id);
        let waker = Waker::from(Arc::new(TaskWaker { id, ready }));
        let task = Task {
            process,
            work,
            waker,
        };
        executor.tasks.insert(id, task);
        None
    });
    drop(refused);
}

/// Runs a task in the process of the one that asks.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    spawn_in(with(|executor| executor.current), work);
}

/// The world's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        with(|executor| executor.rng.next_u32())
    }
    fn next_u64(&mut self) -> u64 {
        with(|executor| executor.rng.next_u64())
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        with(|executor| executor.rng.fill_bytes(bytes));
    }
}

/// The same, for the consensus library's version of the trait.
impl rand_core_06::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        RngCore::next_u32(self)
    }
    fn next_u64(&mut self) -> u64 {
        RngCore::next_u64(self)
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        RngCore::fill_bytes(self, bytes);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core_06::Error> {
        RngCore::fill_bytes(self, bytes);
        Ok(())
    }
}

/// Ends at a moment of virtual time.
#[derive(Debug)]
pub struct Sleep {
    at: u64,
    timer: Option<(u64, u64)>,
}

/// Waits.
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(now().saturating_add(nanos(time)))
}

/// Waits for a moment, in nanoseconds since the world began.
pub fn sleep_until(at: u64) -> Sleep {
    Sleep { at, timer: None }
}

/// A length of time in nanoseconds.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        with(|executor| match self.timer {
            None => {
                let timer = (self.at.max(executor.now), executor.next_timer);
                executor.next_timer += 1;
                executor.timers.insert(timer, waker);
                self.timer = Some(timer);
                Poll::Pending
            }
            // Only the timer itself ends it, so that it never does so beside anything else.
            Some(timer) => match executor.timers.get_mut(&timer) {
                Some(present) => {
                    *present = waker;
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // The world may be over.
            let waker = EXECUTOR.try_with(|executor| {
                let mut executor = executor.try_borrow_mut().ok()?;
                executor.as_mut()?.timers.remove(&timer)
            });
            drop(waker);
        }
    }
}

/// A future with a deadline.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

/// Gives a future a deadline, in nanoseconds since the world began.
pub fn timeout_at<F: Future>(at: u64, future: F) -> Timeout<F> {
    Timeout {
        future: Box::pin(future),
        sleep: sleep_until(at),
    }
}

/// Gives a future a deadline.
pub fn timeout<F: Future>(time: Duration, future: F) -> Timeout<F> {
    timeout_at(now().saturating_add(nanos(time)), future)
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        let slept = Pin::new(&mut self.sleep).poll(context);
        slept.map(|()| Err(Elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, watch};

    fn trace(seed: u64) -> (Vec<(u64, u32)>, u64) {
        let (result, fingerprint) = run(
            seed,
            async {
                let (sender, mut receiver) = mpsc::channel(100);
                let (go, going) = watch::channel(false);
                for n in 0..20u32 {
                    let (sender, mut going) = (sender.clone(), going.clone());
                    spawn(async move {
                        going.wait_for(|go| *go).await.unwrap();
                        let time = Duration::from_millis(Random.random_range(0..5));
                        sleep(time).await;
                        sender.send((now(), n)).await.unwrap();
                    });
                }
                drop(sender);
                sleep(Duration::from_secs(3600)).await;
                go.send_replace(true);
                let mut seen = Vec::new();
                while let Some(message) = receiver.recv().await {
                    seen.push(message);
                }
                seen
            },
            || false,
        );
        (result.unwrap(), fingerprint)
    }

    #[test]
    fn a_seed_has_one_order_and_seeds_differ() {
        let (seen, fingerprint) = trace(1);
        assert_eq!(seen.len(), 20);
        assert!(seen.is_sorted_by_key(|(at, _)| *at));
        for _ in 0..5 {
            assert_eq!(trace(1), (seen.clone(), fingerprint));
        }
        assert_ne!(trace(2), (seen, fingerprint));
    }

    #[test]
    fn the_tasks_of_a_dead_process_do_nothing_more() {
        let (alive, _) = run(
            3,
            async {
                let process = process();
                let (sender, mut receiver) = mpsc::channel::<u32>(10);
                spawn_in(process, async move {
                    for n in 0.. {
                        sleep(Duration::from_secs(1)).await;
                        sender.send(n).await.unwrap();
                    }
                });
                sleep(Duration::from_millis(2500)).await;
                kill(process);
                spawn_in(process, async { unreachable!() });
                let mut alive = 0;
                while receiver.recv().await.is_some() {
                    alive += 1;
                }
                (alive, now())
            },
            || false,
        );
        assert_eq!(alive, Some((2, 2_500_000_000)));
    }

    #[test]
    fn a_deadline_passes_unless_the_future_is_quicker() {
        let (results, _) = run(
            4,
            async {
                let second = Duration::from_secs(1);
                let late = timeout(second, sleep(second * 2)).await;
                let early = timeout(second * 2, sleep(second)).await;
                (late, early, now())
            },
            || false,
        );
        assert_eq!(results, Some((Err(Elapsed), Ok(()), 2_000_000_000)));
    }
}
