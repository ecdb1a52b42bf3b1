//! Makes the Raft group what `Cluster.managers` says. Only the leader does, and only this task
//! changes the group, one step at a time.

use super::{
    Raft,
    leadership_transfer::TransferError,
    platform::{self, Platform},
    types::Peer,
};
use openraft::ChangeMembers;
use skein_model::RaftMember;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the group is looked at when nothing happens: learners catch up without a sound.
const TICK: Duration = Duration::from_millis(250);
/// A change that takes longer has no quorum; it is looked at anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a leader that is to go tries to hand the lead over before it goes without; all of it is within
/// [`STEP_TIMEOUT`].
const TRANSFER_ATTEMPTS: u32 = 3;
/// A learner that lacks at most so many entries becomes a voter: it can take part at once.
const LAG_MAX: u64 = 100;

/// The group as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// A change was begun and not ended.
    pub joint: bool,
    /// How many entries each member lacks, where known.
    pub lag: BTreeMap<u64, u64>,
    /// Where the group calls each member.
    pub addresses: BTreeMap<u64, String>,
}

/// One change of the group.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A member is reached elsewhere from now on.
    Readdress(u64, Peer),
    AddLearner(u64, Peer),
    Promote(u64),
    RemoveVoter(u64),
    /// The leader is to go: another one then removes it.
    LeadershipTransfer,
    RemoveLearner(u64),
    /// End a change that a former leader began.
    Finish,
}

/// The next step from the group as it is to the one wanted; `None` if there is nothing to do now.
///
/// Who is reached elsewhere may be needed for all else. Members are added before others are removed, and the leader
/// goes last.
pub(super) fn next_step(
    wanted: &BTreeMap<String, RaftMember>,
    group: &Group,
    leader: u64,
) -> Option<Step> {
    if wanted.is_empty() {
        return None;
    }
    if group.joint {
        return Some(Step::Finish);
    }
    let is_wanted = |id: &u64| wanted.values().any(|member| member.raft_id == *id);
    let peer = |(node_id, member): (&String, &RaftMember)| Peer {
        node_id: node_id.clone(),
        address: member.addr.clone(),
    };
    let is_elsewhere = |(_, member): &(&String, &RaftMember)| {
        let called = group.addresses.get(&member.raft_id);
        called.is_some_and(|called| *called != member.addr)
    };
    if let Some(moved) = wanted.iter().find(is_elsewhere) {
        return Some(Step::Readdress(moved.1.raft_id, peer(moved)));
    }
    let known = |id| group.voters.contains(&id) || group.learners.contains(&id);
    if let Some(new) = wanted.iter().find(|(_, m)| !known(m.raft_id)) {
        return Some(Step::AddLearner(new.1.raft_id, peer(new)));
    }
    let ready = |id: &&u64| is_wanted(id) && group.lag.get(id).is_some_and(|lag| *lag <= LAG_MAX);
    if let Some(id) = group.learners.iter().find(ready) {
        return Some(Step::Promote(*id));
    }
    if let Some(id) = group.learners.iter().find(|id| !is_wanted(id)) {
        return Some(Step::RemoveLearner(*id));
    }
    let mut leaving = group.voters.iter().filter(|id| !is_wanted(id));
    let next = leaving.clone().find(|id| **id != leader);
    let next = next.or_else(|| leaving.next())?;
    // The last voter stays: a group without voters is none.
    (group.voters.len() > 1).then_some(match *next == leader {
        true => Step::LeadershipTransfer,
        false => Step::RemoveVoter(*next),
    })
}

/// Runs until `shutdown`, or until Raft has ended.
pub(super) async fn follow_store<P: Platform>(raft: Raft<P>, shutdown: CancellationToken) {
    let mut leadership = raft.leadership();
    let mut state = raft.watch();
    loop {
        let leads = leadership.borrow_and_update().is_self;
        let step = leads
            .then(|| {
                let state = state.borrow_and_update();
                let cluster = state.cluster()?;
                next_step(&cluster.managers, &raft.group(), raft.id())
            })
            .flatten();
        if let Some(step) = step {
            let taken = platform::timeout::<P, _>(STEP_TIMEOUT, raft.take_step(&step)).await;
            match taken.unwrap_or_else(|| Err("no answer from a quorum".into())) {
                Ok(()) => {
                    tracing::info!(?step, "changed the group of managers");
                    continue;
                }
                Err(error) => tracing::warn!(?step, error, "could not change the group"),
            }
        }
        let idle = async {
            if leads {
                platform::sleep::<P>(TICK).await;
                Ok(())
            } else {
                leadership.changed().await
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // An error: Raft has ended, whether or not anybody was told to stop.
            ended = idle => if ended.is_err() { return },
        }
    }
}

impl<P: Platform> Raft<P> {
    pub(super) fn group(&self) -> Group {
        let metrics = self.openraft().metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or_default();
        let lag = |(id, matched): (&u64, &Option<openraft::LogId<u64>>)| {
            matched.map(|matched| (*id, last.saturating_sub(matched.index)))
        };
        let addresses = membership.nodes();
        let addresses = addresses.map(|(id, peer)| (*id, peer.address.clone()));
        Group {
            addresses: addresses.collect(),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            lag: metrics
                .replication
                .iter()
                .flatten()
                .filter_map(lag)
                .collect(),
        }
    }

    /// Hands the lead over, once more where what is in the way may pass.
    async fn transfer_patiently(&self) -> Result<(), TransferError> {
        let mut attempt = 1;
        loop {
            let handed_over = self.transfer_leadership().await;
            let Err(error) = &handed_over else {
                return handed_over;
            };
            tracing::warn!(%error, attempt, "the lead of the managers could not be handed over");
            if attempt == TRANSFER_ATTEMPTS || matches!(error, TransferError::GivenUp(_)) {
                return handed_over;
            }
            attempt += 1;
            platform::sleep::<P>(TICK).await;
        }
    }

    pub(super) async fn take_step(&self, step: &Step) -> Result<(), String> {
        let raft = self.openraft();
        let step = match step {
            Step::LeadershipTransfer => match self.transfer_patiently().await {
                // Whoever leads now takes the next step.
                Ok(()) | Err(TransferError::GivenUp(_)) => return Ok(()),
                // Who cannot hand over goes all the same, and the others miss it.
                Err(TransferError::Unchanged(_)) => &Step::RemoveVoter(self.id()),
            },
            step => step,
        };
        let one = |id: &u64| BTreeSet::from([*id]);
        let result = match step {
            Step::Readdress(id, peer) => {
                // Under that ID nobody but this very node answers, wherever it is.
                let change = ChangeMembers::SetNodes(BTreeMap::from([(*id, peer.clone())]));
                raft.change_membership(change, true).await
            }
            Step::AddLearner(id, peer) => raft.add_learner(*id, peer.clone(), false).await,
            Step::Promote(id) => {
                let change = ChangeMembers::AddVoterIds(one(id));
                raft.change_membership(change, true).await
            }
            // Was taken above.
            Step::LeadershipTransfer => return Ok(()),
            Step::RemoveVoter(id) => {
                let change = ChangeMembers::RemoveVoters(one(id));
                raft.change_membership(change, false).await
            }
            Step::RemoveLearner(id) => {
                let change = ChangeMembers::RemoveNodes(one(id));
                raft.change_membership(change, false).await
            }
            Step::Finish => {
                // The end of a joint change is the change to nothing new.
                let change = ChangeMembers::AddVoterIds(BTreeSet::new());
                raft.change_membership(change, false).await
            }
        };
        result.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(ids: &[u64]) -> BTreeMap<String, RaftMember> {
        let member = |id: &u64| {
            let addr = format!("10.0.0.{id}:2377");
            (format!("n{id}"), RaftMember { raft_id: *id, addr })
        };
        ids.iter().map(member).collect()
    }

    fn group(voters: &[u64], learners: &[(u64, u64)]) -> Group {
        let learning = learners.iter().map(|(id, _)| id);
        let addresses = voters.iter().chain(learning);
        Group {
            addresses: addresses
                .map(|id| (*id, format!("10.0.0.{id}:2377")))
                .collect(),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().map(|(id, _)| *id).collect(),
            joint: false,
            lag: learners.iter().copied().collect(),
        }
    }

    #[test]
    fn members_learn_before_they_vote() {
        let wanted = wanted(&[1, 2]);
        let peer = Peer {
            node_id: "n2".into(),
            address: "10.0.0.2:2377".into(),
        };
        let step = next_step(&wanted, &group(&[1], &[]), 1);
        assert_eq!(step, Some(Step::AddLearner(2, peer)));
        let behind = group(&[1], &[(2, LAG_MAX + 1)]);
        assert_eq!(next_step(&wanted, &behind, 1), None);
        let caught_up = group(&[1], &[(2, LAG_MAX)]);
        assert_eq!(next_step(&wanted, &caught_up, 1), Some(Step::Promote(2)));
        assert_eq!(next_step(&wanted, &group(&[1, 2], &[]), 1), None);
    }

    #[test]
    fn who_is_not_wanted_goes_the_leader_last() {
        let full = group(&[1, 2, 3], &[(4, 0)]);
        let gone = wanted(&[3]);
        assert_eq!(next_step(&gone, &full, 1), Some(Step::RemoveLearner(4)));
        let voters = group(&[1, 2, 3], &[]);
        assert_eq!(next_step(&gone, &voters, 1), Some(Step::RemoveVoter(2)));
        let two = group(&[1, 3], &[]);
        assert_eq!(next_step(&gone, &two, 1), Some(Step::LeadershipTransfer));
        assert_eq!(next_step(&gone, &two, 3), Some(Step::RemoveVoter(1)));
        assert_eq!(next_step(&wanted(&[9]), &group(&[1], &[(9, 500)]), 1), None);
        assert_eq!(next_step(&BTreeMap::new(), &voters, 1), None);
    }

    #[test]
    fn who_is_reached_elsewhere_is_called_there_before_anything_else_is_done() {
        let mut wanted = wanted(&[1, 2, 3]);
        wanted.get_mut("n2").unwrap().addr = "10.0.9.2:2400".into();
        let peer = Peer {
            node_id: "n2".into(),
            address: "10.0.9.2:2400".into(),
        };
        let mut group = group(&[1, 2], &[(4, 0)]);
        let moved = Some(Step::Readdress(2, peer.clone()));
        assert_eq!(next_step(&wanted, &group, 1), moved);
        group.addresses.insert(2, peer.address);
        let added = next_step(&wanted, &group, 1);
        assert!(matches!(added, Some(Step::AddLearner(3, _))), "{added:?}");
    }

    #[test]
    fn a_change_half_done_is_ended_first() {
        let mut half = group(&[1, 2], &[]);
        half.joint = true;
        assert_eq!(next_step(&wanted(&[1]), &half, 1), Some(Step::Finish));
    }
}
