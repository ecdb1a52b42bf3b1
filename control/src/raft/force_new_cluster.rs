//! A swarm that lost its quorum, made anew from what one of its managers has.

use super::{
    disk,
    platform::{Daemon, Loaded},
    types::{Entry, LogId, Peer, SnapshotMeta, StoredMembership, Vote},
};
use crate::{clock, identity::LogKeys};
use openraft::{CommittedLeaderId, EntryPayload, Membership};
use skein_model::{
    Action, Cluster, Node, NodeRole, NodeState, Proposal, RaftMember, Rejection, State, Timestamp,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

/// Makes the log in the file `path`, of a member that is stopped, that of a group of which it is the
/// only member, reached at `address`. Its new Raft ID, under which no member of the old group knows it.
/// Blocks.
///
/// All that the log holds is kept, committed or not: what this member does not know to be committed
/// may have been acknowledged nevertheless.
///
/// # Errors
/// The file cannot be read or written, or has no swarm in it.
pub fn survive(path: &Path, keys: &LogKeys, node_id: &str, address: &str) -> io::Result<u64> {
    let mut new_id = 0;
    disk::restart_from(path, keys, |loaded| {
        let (mut state, mut last) = replay(loaded.snapshot_and_log()?)?;
        let term = loaded_term(&loaded).max(last.leader_id.term) + 1;
        last = LogId::new(CommittedLeaderId::new(term, 0), last.index + 1);
        new_id = reduce(&mut state, last.index, node_id, address, clock::now())?;
        let peer = Peer {
            node_id: node_id.to_owned(),
            address: address.to_owned(),
        };
        let only = BTreeMap::from([(new_id, peer)]);
        let members = Membership::new(vec![BTreeSet::from([new_id])], only);
        let snapshot = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), members),
            snapshot_id: last.to_string(),
        };
        let data = serde_json::to_vec(&state).map_err(io::Error::other)?;
        Ok((Vote::new(term, new_id), snapshot, data))
    })?;
    Ok(new_id)
}

fn loaded_term(loaded: &Loaded) -> u64 {
    loaded.vote.map_or(0, |vote| vote.leader_id().get_term())
}

type SnapshotAndLog<'a> = (State, Option<LogId>, &'a Loaded);

impl Loaded {
    fn snapshot_and_log(&self) -> io::Result<SnapshotAndLog<'_>> {
        Ok(match &self.snapshot {
            Some((meta, data)) => {
                let state = serde_json::from_slice(data).map_err(io::Error::other)?;
                (state, meta.last_log_id, self)
            }
            None => (State::default(), None, self),
        })
    }
}

/// The state after all of the log, and its last entry.
fn replay((mut state, from, loaded): SnapshotAndLog<'_>) -> io::Result<(State, LogId)> {
    let mut last = from;
    for (index, entry) in &loaded.entries {
        if from.is_some_and(|from| *index <= from.index) {
            continue;
        }
        if last.is_some_and(|last| *index != last.index + 1) {
            break;
        }
        let entry: Entry<Daemon> = serde_json::from_slice(entry)?;
        match &entry.payload {
            // What is rejected was rejected when it was applied.
            EntryPayload::Normal(proposal) => drop(state.apply(*index, proposal)),
            EntryPayload::Blank | EntryPayload::Membership(_) => state.skip_to(*index),
        }
        last = Some(entry.log_id);
    }
    let nothing = || io::Error::other("the Raft log has no swarm in it");
    Ok((state, last.ok_or_else(nothing)?))
}

/// Leaves one manager; the others are workers that are down.
fn reduce(
    state: &mut State,
    index: u64,
    survivor: &str,
    address: &str,
    at: Timestamp,
) -> io::Result<u64> {
    let nothing = || io::Error::other("the Raft log has no swarm in it");
    let mut cluster = Cluster::clone(state.cluster().ok_or_else(nothing)?);
    let raft_id = cluster.next_raft_id;
    cluster.next_raft_id += 1;
    let addr = address.to_owned();
    cluster.managers = BTreeMap::from([(survivor.to_owned(), RaftMember { raft_id, addr })]);
    let managers = state.nodes().filter(|node| {
        let any = [node.role, node.spec.role].contains(&NodeRole::Manager);
        any && node.id != survivor
    });
    let dropped = managers.map(|node| {
        let mut node = Node::clone(node);
        (node.role, node.spec.role) = (NodeRole::Worker, NodeRole::Worker);
        node.status.state = NodeState::Down;
        node.status.message = "the swarm was made anew without this manager".into();
        Action::Update(node.into())
    });
    let mut actions: Vec<_> = dropped.collect();
    actions.push(Action::Update(cluster.into()));
    let applied = state.apply(index, &Proposal { at, actions });
    applied.map_err(|error: Rejection| io::Error::other(error.to_string()))?;
    Ok(raft_id)
}
