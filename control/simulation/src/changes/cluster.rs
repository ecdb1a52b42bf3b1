//! Settings of the cluster: how its log is kept, and how much history tasks have.

use super::Change;
use crate::executor::Random;
use rand::Rng as _;
use skein_model::{Action, Cluster, State};

/// Raft settings that are asked for: the least and the most that a log has, and more than members keep.
const SNAPSHOT_INTERVAL: (u64, u64) = (5, 80);
const SLOW_FOLLOWERS_MAX: u64 = 20;
/// Tasks kept for each slot: none, all, and as many as Docker's default.
const HISTORY: (i64, i64) = (-1, 5);

pub(super) fn change(state: &State) -> Option<Change> {
    let mut cluster = Cluster::clone(state.cluster()?);
    let what = if Random.random_bool(0.5) {
        let raft = &mut cluster.spec.raft;
        raft.snapshot_interval = Random.random_range(SNAPSHOT_INTERVAL.0..=SNAPSHOT_INTERVAL.1);
        raft.log_entries_for_slow_followers = Random.random_range(0..=SLOW_FOLLOWERS_MAX);
        format!(
            "make a snapshot every {} entries, keep {} behind it",
            raft.snapshot_interval, raft.log_entries_for_slow_followers
        )
    } else {
        let limit = Random.random_range(HISTORY.0..=HISTORY.1);
        cluster.spec.orchestration.task_history_retention_limit = limit;
        format!("keep {limit} tasks of each slot")
    };
    Some((what, Action::Update(cluster.into())))
}
