//! When a member makes a snapshot, and how much of the log it keeps behind one: `Raft.SnapshotInterval`
//! and `Raft.LogEntriesForSlowFollowers` of the cluster's spec, which may change while it runs, as far
//! as memory allows.
//!
//! Consensus itself is told to do neither on its own account: what it takes of both at its start holds
//! until its end.

use super::{Raft, platform::Platform};
use openraft::metrics::RaftDataMetrics;
use skein_model::RaftConfig;
use tokio_util::sync::CancellationToken;

/// Lengths of the log, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Entries applied since the last snapshot, at which the next one is made; at least 1.
    pub since_snapshot: u64,
    /// Entries kept behind a snapshot, so that a member that was away a moment needs no snapshot.
    pub behind_snapshot: u64,
}

impl Extent {
    /// The most that a daemon's member has. All entries are in memory, where one that makes some
    /// hundred tasks takes 300 KiB: these are 600 MB of such, each.
    pub const MOST: Self = Self {
        since_snapshot: 2_000,
        behind_snapshot: 2_000,
    };

    /// What a spec asks for, within `most`. An interval of 0, with which Swarm's managers make no
    /// snapshots at all, is the longest one.
    fn of(config: &RaftConfig, most: Self) -> Self {
        let since_snapshot = match config.snapshot_interval {
            0 => most.since_snapshot,
            interval => interval.min(most.since_snapshot),
        };
        Self {
            since_snapshot,
            behind_snapshot: config
                .log_entries_for_slow_followers
                .min(most.behind_snapshot),
        }
    }
}

/// How far a member is, in indices of the log; 0 for what it has none of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    applied: u64,
    /// The last entry in the last snapshot.
    snapshot: u64,
    /// The last entry that is away.
    purged: u64,
}

impl Progress {
    fn of(metrics: &RaftDataMetrics<u64>) -> Self {
        let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
        Self {
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    /// Make a snapshot.
    snapshot: bool,
    /// Away with this entry and all before it.
    purge: Option<u64>,
}

fn due(progress: Progress, extent: Extent) -> Due {
    let since = progress.applied.saturating_sub(progress.snapshot);
    let purge = progress.snapshot.saturating_sub(extent.behind_snapshot);
    Due {
        snapshot: since >= extent.since_snapshot,
        purge: (purge > progress.purged).then_some(purge),
    }
}

/// Says which wish is not granted in full. That Swarm's own default is not need not be told.
fn tell(config: &RaftConfig, extent: Extent) {
    let (interval, behind) = (
        config.snapshot_interval,
        config.log_entries_for_slow_followers,
    );
    if interval != extent.since_snapshot && interval != RaftConfig::default().snapshot_interval {
        tracing::warn!(
            asked = interval,
            "the swarm's Raft.SnapshotInterval is longer than managers have memory for: snapshots are \
             made every {} entries",
            extent.since_snapshot
        );
    }
    if behind != extent.behind_snapshot {
        tracing::warn!(
            asked = behind,
            "the swarm's Raft.LogEntriesForSlowFollowers is more than managers have memory for: {} \
             are kept behind a snapshot",
            extent.behind_snapshot
        );
    }
}

/// Runs until `stop`, or until Raft has ended.
pub(super) async fn run<P: Platform>(raft: Raft<P>, most: Extent, stop: CancellationToken) {
    let mut metrics = raft.openraft().data_metrics();
    let mut known = RaftConfig::default();
    // What is asked for once is done once no other member is being sent it.
    let mut purging = 0;
    loop {
        let progress = Progress::of(&metrics.borrow_and_update());
        let state = raft.state();
        let config = state.cluster().map(|cluster| &cluster.spec.raft);
        let config = config.unwrap_or(&known).clone();
        let extent = Extent::of(&config, most);
        if config != known {
            tell(&config, extent);
            known = config;
        }
        let due = due(progress, extent);
        let trigger = raft.openraft().trigger();
        // An error: Raft has ended. A snapshot that is being made already is not made twice.
        if due.snapshot && trigger.snapshot().await.is_err() {
            return;
        }
        if let Some(upto) = due.purge.filter(|upto| *upto > purging) {
            purging = upto;
            if trigger.purge_log(upto).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Extent = Extent {
        since_snapshot: 100,
        behind_snapshot: 50,
    };

    #[test]
    fn what_is_due_follows_from_how_far_the_member_is() {
        let extent = Extent {
            since_snapshot: 10,
            behind_snapshot: 4,
        };
        for (applied, snapshot, purged, makes, purge) in [
            (0, 0, 0, false, None),
            (9, 0, 0, false, None),
            (10, 0, 0, true, None),
            // Made, or taken over from the leader.
            (10, 10, 0, false, Some(6)),
            (19, 10, 6, false, None),
            (20, 10, 6, true, None),
            (20, 20, 6, false, Some(16)),
            // Less than what is to be kept is there.
            (3, 3, 0, false, None),
            // A snapshot of the leader's, with nothing behind it.
            (500, 500, 500, false, None),
            // The snapshot is ahead of what the machine says that it has applied.
            (5, 20, 16, false, None),
        ] {
            let progress = Progress {
                applied,
                snapshot,
                purged,
            };
            let expected = Due {
                snapshot: makes,
                purge,
            };
            assert_eq!(due(progress, extent), expected, "{progress:?}");
        }
        let none = Extent {
            behind_snapshot: 0,
            ..extent
        };
        let progress = Progress {
            applied: 10,
            snapshot: 10,
            purged: 0,
        };
        assert_eq!(due(progress, none).purge, Some(10));
    }

    #[test]
    fn wishes_are_granted_as_far_as_memory_allows() {
        for (interval, behind, since_snapshot, behind_snapshot) in [
            (7, 3, 7, 3),
            (100, 50, 100, 50),
            (101, 51, 100, 50),
            (u64::MAX, u64::MAX, 100, 50),
            (0, 0, 100, 0),
        ] {
            let config = RaftConfig {
                snapshot_interval: interval,
                log_entries_for_slow_followers: behind,
                ..RaftConfig::default()
            };
            let expected = Extent {
                since_snapshot,
                behind_snapshot,
            };
            assert_eq!(Extent::of(&config, MOST), expected);
        }
    }
}
