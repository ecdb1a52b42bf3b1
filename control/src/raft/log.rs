//! The Raft log as openraft wants it, over a [`Storage`](super::platform::Storage).

use super::{
    platform::{Loaded, Platform, Storage as _},
    snapshots::Snapshots,
    types::{Entry, LogId, StorageError, StorageIoError, TypeConfig, Vote},
};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::RwLock;
use std::{collections::BTreeMap, fmt::Debug, io, ops::RangeBounds, sync::Arc};

/// The Raft log: all of it in memory (snapshots keep it short), and on disk before it counts.
pub struct Log<P: Platform> {
    cache: Arc<RwLock<Cache<P>>>,
    disk: P::Disk,
    snapshots: Snapshots,
}

/// How far the log goes, for others than openraft. It keeps no disk open.
pub struct End<P: Platform>(Arc<RwLock<Cache<P>>>);

impl<P: Platform> End<P> {
    /// The index of the last entry, be it known to this member alone; 0: there is none.
    pub fn last_index(&self) -> u64 {
        let cache = self.0.read();
        let last = cache.entries.last_key_value().map(|(index, _)| *index);
        last.or(cache.purged.map(|id| id.index)).unwrap_or(0)
    }
}

struct Cache<P: Platform> {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry<P>>,
}

impl<P: Platform> Log<P> {
    /// The log as it was on disk, of member `id`.
    ///
    /// # Errors
    /// An entry is not what was written.
    pub fn new(
        disk: P::Disk,
        loaded: &mut Loaded,
        id: u64,
        snapshots: Snapshots,
    ) -> io::Result<Self> {
        let entries = std::mem::take(&mut loaded.entries).into_iter();
        let decode = |(index, json): (u64, Vec<u8>)| {
            let entry = serde_json::from_slice(&json);
            let unreadable = |error| {
                io::Error::other(format!(
                    "could not read entry {index} of the Raft log: {error}"
                ))
            };
            Ok((index, entry.map_err(unreadable)?))
        };
        let cache = Cache {
            vote: loaded.vote.map(|vote| elected_anew(vote, id)),
            committed: loaded.committed,
            purged: loaded.purged,
            entries: entries.map(decode).collect::<io::Result<_>>()?,
        };
        Ok(Self {
            cache: Arc::new(RwLock::new(cache)),
            disk,
            snapshots,
        })
    }

    /// See [`End`].
    pub fn end(&self) -> End<P> {
        End(self.cache.clone())
    }

    fn read(&self, range: impl RangeBounds<u64>) -> Vec<Entry<P>> {
        let cache = self.cache.read();
        let entries = cache.entries.range(range);
        entries.map(|(_, entry)| entry.clone()).collect()
    }
}

impl<P: Platform> Clone for Log<P> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            disk: self.disk.clone(),
            snapshots: self.snapshots.clone(),
        }
    }
}

/// The vote with which a member starts. openraft takes a member whose own vote is committed for the
/// leader at once, with no entry of its own to wait for, and how far the log is committed may be missing
/// on disk: it would serve reads that lack acknowledged writes. As a vote that is not decided yet, it
/// makes the member stand for election in the next term, and a leader's first entry there settles all
/// before it.
fn elected_anew(vote: Vote, id: u64) -> Vote {
    let leader = vote.leader_id();
    match leader.voted_for() {
        Some(own) if own == id => Vote::new(leader.get_term(), id),
        _ => vote,
    }
}

fn write_failed(error: io::Error) -> StorageError {
    StorageIoError::write_logs(&error).into()
}

impl<P: Platform> RaftLogReader<TypeConfig<P>> for Log<P> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<P>>, StorageError> {
        Ok(self.read(range))
    }

    /// What is sent to another member, who takes it for what comes right after `start - 1`. A leader that was
    /// deposed, or has waited long for that member, may ask for what was purged meanwhile: then there is
    /// nothing to send, which openraft takes for a heartbeat, rather than what is left behind the gap.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<P>>, StorageError> {
        let mut entries = self.read(start..end);
        let whole = (start..).zip(&entries);
        let whole = whole.take_while(|(index, entry)| entry.log_id.index == *index);
        let whole = whole.count();
        entries.truncate(whole);
        Ok(entries)
    }
}

impl<P: Platform> RaftLogStorage<TypeConfig<P>> for Log<P> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<P>>, StorageError> {
        let cache = self.cache.read();
        let last = cache.entries.last_key_value();
        Ok(LogState {
            last_purged_log_id: cache.purged,
            last_log_id: last.map(|(_, entry)| entry.log_id).or(cache.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.disk.save_vote(*vote).await;
        saved.map_err(|error| StorageIoError::write_vote(&error))?;
        self.cache.write().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.cache.read().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.disk.save_committed(committed).await;
        saved.map_err(write_failed)?;
        self.cache.write().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.cache.read().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig<P>>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<P>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let encode = |entry: &Entry<P>| Ok((entry.log_id.index, serde_json::to_vec(entry)?));
        let encoded = entries.iter().map(encode).collect::<io::Result<Vec<_>>>();
        let encoded = encoded.map_err(write_failed)?;
        {
            let mut cache = self.cache.write();
            for entry in entries {
                cache.entries.insert(entry.log_id.index, entry);
            }
        }
        let done = Box::new(move |result| callback.log_io_completed(result));
        let appended = self.disk.append(encoded, done).await;
        appended.map_err(write_failed)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        drop(self.cache.write().entries.split_off(&log_id.index));
        let truncated = self.disk.truncate(log_id.index).await;
        truncated.map_err(write_failed)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let covered = self.snapshots.cover(log_id).await;
        covered.map_err(write_failed)?;
        {
            let mut cache = self.cache.write();
            cache.purged = Some(log_id);
            cache.entries = cache.entries.split_off(&(log_id.index + 1));
        }
        self.disk.purge(log_id).await.map_err(write_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_members_own_vote_is_open_again() {
        let committed = Vote::new_committed(3, 1);
        assert_eq!(elected_anew(committed, 1), Vote::new(3, 1));
        assert_eq!(elected_anew(committed, 2), committed);
        assert_eq!(elected_anew(Vote::default(), 1), Vote::default());
    }
}
