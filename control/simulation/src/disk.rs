//! A manager's disk: what was synced stays, what was not may be lost with a crash.

use crate::executor::{self, Process, Random};
use parking_lot::Mutex;
use rand::Rng as _;
use skein_control::raft::foundation::{Bytes, Done, Loaded, LogId, SnapshotMeta, Storage, Vote};
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use tokio::sync::{Notify, oneshot};

/// How long a sync takes: a good disk, and one that is busy.
const SYNC_MS: (u64, u64) = (1, 12);
/// One sync in so many takes long, as disks of shared machines do now and then.
const SLOW_SYNC_ONE_IN: u32 = 200;
/// How long that is: longer than a heartbeat, so that what it holds up is sent again.
const SLOW_SYNC_MS: (u64, u64) = (100, 1_200);

/// How long a disk that lies leaves in its cache what it said was synced: some writes of many.
const LYING_SYNC: Duration = Duration::from_secs(1);

/// Clones are ways to the same disk.
#[derive(Clone)]
pub struct Disk {
    platter: Arc<Mutex<Platter>>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct Platter {
    durable: Loaded,
    /// In the order in which they were handed in.
    unsynced: VecDeque<(Write, Option<Done>)>,
    /// A broken disk: it says that writes are synced which are not.
    lies: bool,
    /// It refuses the next write.
    refuses: bool,
}

enum Write {
    Append(Vec<(u64, Vec<u8>)>),
    Truncate(u64),
    Purge(LogId),
    Vote(Vote),
    Committed(Option<LogId>),
    Snapshot(SnapshotMeta, Bytes),
}

impl Write {
    fn apply(self, to: &mut Loaded) {
        match self {
            Self::Append(entries) => to.entries.extend(entries),
            Self::Truncate(from) => drop(to.entries.split_off(&from)),
            Self::Purge(up_to) => {
                to.entries = to.entries.split_off(&(up_to.index + 1));
                to.purged = Some(up_to);
            }
            Self::Vote(vote) => to.vote = Some(vote),
            Self::Committed(committed) => to.committed = committed,
            Self::Snapshot(meta, data) => {
                let present = to.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
                if present <= meta.last_log_id {
                    to.snapshot = Some((meta, data));
                }
            }
        }
    }
}

impl Disk {
    /// An empty disk. One that `lies` says that writes are synced which are not: for tests of the
    /// simulator itself.
    pub fn new(lies: bool) -> Self {
        let platter = Platter {
            lies,
            ..Platter::default()
        };
        Self {
            platter: Arc::new(Mutex::new(platter)),
            news: Arc::default(),
        }
    }

    /// Begins to sync, in the process of the disk's user. What is on it.
    pub fn open(&self, user: Process) -> Loaded {
        executor::spawn_in(user, self.clone().sync_all());
        self.platter.lock().durable.clone()
    }

    /// Whether there is a log on it.
    pub fn has_log(&self) -> bool {
        let platter = self.platter.lock();
        let durable = &platter.durable;
        let written = durable.vote.is_some() || !durable.entries.is_empty();
        written || durable.snapshot.is_some() || !platter.unsynced.is_empty()
    }

    /// Removes the log: its user has stopped.
    pub fn wipe(&self) {
        let mut platter = self.platter.lock();
        platter.durable = Loaded::default();
        platter.unsynced.clear();
    }

    /// The next write fails, and nothing of it is written.
    pub fn refuse_next(&self) {
        self.platter.lock().refuses = true;
    }

    /// What is on it once all is synced that was handed in: for a user who has it open already.
    pub async fn reopen(&self) -> Loaded {
        loop {
            {
                let platter = self.platter.lock();
                if platter.unsynced.is_empty() {
                    return platter.durable.clone();
                }
            }
            executor::sleep(sync_time()).await;
        }
    }

    /// The user's process has ended; of what was not synced any first part may be there.
    pub fn crash(&self) {
        let (unsynced, lies) = {
            let mut platter = self.platter.lock();
            (std::mem::take(&mut platter.unsynced), platter.lies)
        };
        let kept = match lies {
            true => 0,
            false => Random.random_range(0..=unsynced.len()),
        };
        let mut platter = self.platter.lock();
        for (write, _) in unsynced.into_iter().take(kept) {
            write.apply(&mut platter.durable);
        }
    }

    async fn sync_all(self) {
        loop {
            let (waiting, lies) = {
                let platter = self.platter.lock();
                (platter.unsynced.len(), platter.lies)
            };
            if waiting == 0 {
                self.news.notified().await;
                continue;
            }
            let time = if lies { LYING_SYNC } else { sync_time() };
            executor::sleep(time).await;
            let mut dones = Vec::new();
            {
                let mut platter = self.platter.lock();
                for _ in 0..waiting {
                    let Some((write, done)) = platter.unsynced.pop_front() else {
                        break;
                    };
                    write.apply(&mut platter.durable);
                    dones.extend(done);
                }
            }
            for done in dones {
                done(Ok(()));
            }
        }
    }

    fn put(&self, write: Write, done: Done) {
        let at_once = {
            let mut platter = self.platter.lock();
            if std::mem::take(&mut platter.refuses) {
                drop(platter);
                return done(Err(io::Error::other("the disk refuses this write")));
            }
            let (later, at_once) = match platter.lies {
                true => (None, Some(done)),
                false => (Some(done), None),
            };
            platter.unsynced.push_back((write, later));
            at_once
        };
        self.news.notify_one();
        if let Some(done) = at_once {
            done(Ok(()));
        }
    }

    async fn wait(&self, write: Write) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.put(write, Box::new(move |result| drop(sender.send(result))));
        receiver.await.map_err(io::Error::other)?
    }
}

fn sync_time() -> Duration {
    let (least, most) = match Random.random_ratio(1, SLOW_SYNC_ONE_IN) {
        true => SLOW_SYNC_MS,
        false => SYNC_MS,
    };
    Duration::from_millis(Random.random_range(least..=most))
}

impl Storage for Disk {
    async fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: Done) -> io::Result<()> {
        self.put(Write::Append(entries), done);
        Ok(())
    }

    async fn truncate(&self, from: u64) -> io::Result<()> {
        self.wait(Write::Truncate(from)).await
    }

    async fn purge(&self, up_to: LogId) -> io::Result<()> {
        self.wait(Write::Purge(up_to)).await
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.wait(Write::Vote(vote)).await
    }

    async fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.put(Write::Committed(committed), Box::new(|_| ()));
        Ok(())
    }

    async fn save_snapshot(&self, meta: SnapshotMeta, data: Bytes) -> io::Result<()> {
        self.wait(Write::Snapshot(meta, data)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of four appended entries are there after a crash, and whether all are that were acknowledged, on a
    /// disk that lies about what it has written, or does not.
    fn kept(seed: u64, lies: bool) -> (usize, bool) {
        let world = async move {
            let disk = Disk::new(lies);
            let user = executor::process();
            disk.open(user);
            let vote = Vote::new(1, 1);
            disk.save_vote(vote).await.unwrap();
            let acknowledged = Arc::new(Mutex::new(0));
            for index in 0..4 {
                let acknowledged = acknowledged.clone();
                let done = Box::new(move |_| *acknowledged.lock() += 1);
                disk.append(vec![(index, vec![1])], done).await.unwrap();
            }
            executor::kill(user);
            disk.crash();
            let loaded = disk.open(executor::process());
            assert!(lies || loaded.vote == Some(vote));
            assert!(
                loaded
                    .entries
                    .keys()
                    .copied()
                    .eq(0..loaded.entries.len() as u64)
            );
            let lost = loaded.entries.len() < *acknowledged.lock();
            (loaded.entries.len(), lost)
        };
        executor::run(seed, world, || false).0.unwrap()
    }

    #[test]
    fn a_disk_refuses_one_write_and_takes_the_next() {
        let world = async move {
            let disk = Disk::new(false);
            let user = executor::process();
            disk.open(user);
            disk.refuse_next();
            assert!(disk.save_vote(Vote::new(1, 1)).await.is_err());
            disk.save_vote(Vote::new(2, 1)).await.unwrap();
            assert_eq!(disk.reopen().await.vote, Some(Vote::new(2, 1)));
        };
        executor::run(1, world, || false).0.unwrap();
    }

    #[test]
    fn nothing_is_left_on_a_disk_that_was_wiped() {
        let world = async move {
            let disk = Disk::new(false);
            assert!(!disk.has_log());
            disk.open(executor::process());
            disk.save_vote(Vote::new(1, 1)).await.unwrap();
            let entries = vec![(1, vec![1])];
            disk.append(entries, Box::new(|_| ())).await.unwrap();
            assert!(disk.has_log());
            disk.wipe();
            assert!(!disk.has_log());
            let loaded = disk.reopen().await;
            assert!(loaded.vote.is_none() && loaded.entries.is_empty());
        };
        executor::run(1, world, || false).0.unwrap();
    }

    #[test]
    fn a_crash_takes_a_last_part_of_what_was_not_synced_and_nothing_acknowledged() {
        let lengths: std::collections::BTreeSet<_> = (0..50)
            .map(|seed| {
                let (length, lost) = kept(seed, false);
                assert!(!lost);
                length
            })
            .collect();
        assert!(lengths.len() > 2, "{lengths:?}");
        assert_eq!(kept(1, true), (0, true), "a disk that lies is noticed");
    }
}
