//! What a member of the group stands on. The daemon's members have tokio, a sealed file and gRPC; a
//! simulation gives its members time, disks and wires of its own, and runs all else of this module as
//! it is. For that alone types of the consensus library are visible outside.

use super::{
    disk::Disk,
    network::Network,
    peering::Peering,
    piece::Bytes,
    types::{LogId, SnapshotMeta, TypeConfig, Vote},
};
use openraft::{AsyncRuntime, Instant as _, TokioRuntime, network::RaftNetworkFactory};
use rand::Rng;
use std::{collections::BTreeMap, fmt::Debug, future::Future, io, time::Duration};

/// What is called once a write is on disk, or failed.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One set of foundations.
pub trait Platform:
    Debug + Clone + Copy + Default + PartialEq + Eq + PartialOrd + Ord + Send + Sync + 'static
{
    /// Runs tasks, tells the time, draws election timeouts.
    type Runtime: AsyncRuntime;
    /// What outlives a crash.
    type Disk: Storage;
    /// The ways to the other members.
    type Network: RaftNetworkFactory<TypeConfig<Self>, Network: Peering> + Clone;

    /// Does work that takes long where that hurts nobody.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;

    /// Randomness for IDs and for choices: no two managers have the same.
    fn rng() -> impl Rng;
}

/// Writes are made in the order in which they are handed in.
pub trait Storage: Clone + Send + Sync + 'static {
    /// Appends entries, by index; `done` is called once they are on disk.
    fn append(
        &self,
        entries: Vec<(u64, Vec<u8>)>,
        done: Done,
    ) -> impl Future<Output = io::Result<()>> + Send;
    /// Away with the entry at this index and all after it; waits until they are gone.
    fn truncate(&self, from: u64) -> impl Future<Output = io::Result<()>> + Send;
    /// Away with this entry and all before it; waits until they are gone.
    fn purge(&self, up_to: LogId) -> impl Future<Output = io::Result<()>> + Send;
    /// Waits until the vote is on disk.
    fn save_vote(&self, vote: Vote) -> impl Future<Output = io::Result<()>> + Send;
    /// How far the log is committed; may be lost in a crash.
    fn save_committed(
        &self,
        committed: Option<LogId>,
    ) -> impl Future<Output = io::Result<()>> + Send;
    /// Waits until the snapshot is on disk, unless a newer one is.
    fn save_snapshot(
        &self,
        meta: SnapshotMeta,
        data: Bytes,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// What was on disk. Entries are as they were handed to [`Storage::append`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "Raft's own terms")]
pub struct Loaded {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub entries: BTreeMap<u64, Vec<u8>>,
    pub snapshot: Option<(SnapshotMeta, Bytes)>,
}

/// The daemon's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Daemon;

impl Platform for Daemon {
    type Runtime = TokioRuntime;
    type Disk = Disk;
    type Network = Network;

    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let working = tokio::task::spawn_blocking(work);
        working.await.map_err(io::Error::other)?
    }

    fn rng() -> impl Rng {
        rand::rng()
    }
}

/// A moment on the platform's clock that never jumps.
pub(crate) type Instant<P> = <<P as Platform>::Runtime as AsyncRuntime>::Instant;

/// Now, by that clock.
pub(crate) fn now<P: Platform>() -> Instant<P> {
    Instant::<P>::now()
}

/// Waits on the platform's time.
pub(crate) async fn sleep<P: Platform>(time: Duration) {
    P::Runtime::sleep(time).await;
}

/// Waits for a moment.
pub(crate) async fn sleep_until<P: Platform>(moment: Instant<P>) {
    P::Runtime::sleep_until(moment).await;
}

/// Runs a task that nobody waits for.
pub(crate) fn spawn<P: Platform>(task: impl Future<Output = ()> + Send + 'static) {
    drop(P::Runtime::spawn(task));
}

/// `None` if `future` takes longer on the platform's time.
pub(crate) async fn timeout<P: Platform, T: Send>(
    time: Duration,
    future: impl Future<Output = T> + Send,
) -> Option<T> {
    P::Runtime::timeout(time, future).await.ok()
}
