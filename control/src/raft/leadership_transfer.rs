//! How a leader that is to go hands the lead over, instead of letting the others miss it: they would not notice for
//! seconds, and refuse their votes to anybody until then.
//!
//! The library has no such step, but what it is made of: a member whose vote is another's keeps no leader's lease. So
//! the leader first asks all whether they take part; it takes no proposals any more, and waits until its successor
//! has all that it has. Then it tells the others, and itself, to promise their votes of the next term to the
//! successor, and that one to stand for election. A promise is no vote: who has more than the successor still refuses
//! it. Where anything of it fails, the group elects somebody as it does without a leader.

use super::{
    Leadership, Raft,
    peering::{Line, Peering as _},
    platform::{self, Platform},
    types::{LogId, TypeConfig, Vote},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use openraft::{CommittedLeaderId, network::RaftNetworkFactory as _, raft::AppendEntriesRequest};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

/// How long the others may take to say that they take part, for which a connection is made, and to do what they are
/// told. Who is slower is no successor, and not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(750);
/// How long the successor may take to get what it lacks, while nobody can write.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks at how far it is.
const CATCH_UP_POLL: Duration = Duration::from_millis(5);
/// How long it may take until the new leader is heard: two round trips, and a write to a few disks.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// A successor has answered within this time: some beats.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// What a leader that hands over tells another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadershipTransfer {
    /// The leader's, as its followers have it: who has another one by now does nothing.
    pub vote: Vote,
    /// The member that is to lead.
    pub successor: u64,
    /// What is to be done.
    pub step: Step,
}

impl LeadershipTransfer {
    /// The successor's vote of the next term.
    fn promise(&self) -> Vote {
        Vote::new(self.vote.leader_id().term + 1, self.successor)
    }
}

/// The steps of a member in a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say whether it would take part.
    Probe,
    /// Promise the successor the vote of the next term.
    Yield,
    /// Stand for election.
    TimeoutNow,
}

/// The ways to the other members.
type Lines<P> = BTreeMap<u64, Line<P>>;

/// Those who propose, and whether they may.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
    inside: AtomicUsize,
}

/// Somebody proposes.
pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    /// `None`: nobody may propose now.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        (!self.closed.load(Ordering::SeqCst)).then_some(inside)
    }

    fn is_empty(&self) -> bool {
        self.inside.load(Ordering::SeqCst) == 0
    }

    /// `None`: somebody else has closed it.
    fn close(&self) -> Option<Closed<'_>> {
        let was_closed = self.closed.swap(true, Ordering::SeqCst);
        (!was_closed).then(|| Closed(self))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The gate is closed until this is dropped.
struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }
}

/// Why the lead was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Nothing has changed: who led leads. Another try may come to something.
    #[error("{0}")]
    Unchanged(String),
    /// The others were told to give way: the group elects somebody, with or without this member's help.
    #[error("{0}")]
    GivenUp(String),
}

impl TransferError {
    fn unchanged(reason: impl Into<String>) -> Self {
        Self::Unchanged(reason.into())
    }
}

/// Who of those that may lead lacks least of the log.
fn successor(candidates: &BTreeSet<u64>, lag: &BTreeMap<u64, u64>) -> Option<u64> {
    let lag = |id: &u64| lag.get(id).copied().map(|lag| (lag, *id));
    candidates.iter().filter_map(lag).min().map(|(_, id)| id)
}

impl<P: Platform> Raft<P> {
    /// Makes another member the leader, if this one leads: then it returns once that one, or whoever was quicker, is
    /// known.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn transfer_leadership(&self) -> Result<(), TransferError> {
        let begun = platform::now::<P>();
        let unchanged = TransferError::Unchanged;
        let vote = self.vote().await.map_err(unchanged)?;
        if vote.leader_id().node_id != self.id() || !vote.is_committed() {
            return Err(TransferError::unchanged("this manager does not lead"));
        }
        let order = |successor, step| LeadershipTransfer {
            vote,
            successor,
            step,
        };
        let (lines, takes_part) = self
            .takers(order(0, Step::Probe))
            .await
            .map_err(unchanged)?;
        let next = self.successor_of(&takes_part);
        let next =
            next.ok_or_else(|| TransferError::unchanged("no other manager is up to date"))?;

        let gate = self.gate().close();
        let gate =
            gate.ok_or_else(|| TransferError::unchanged("it is being handed over already"))?;
        let catching_up = platform::timeout::<P, _>(CATCH_UP_TIMEOUT, self.caught_up(next)).await;
        catching_up
            .ok_or_else(|| TransferError::unchanged("the next leader does not catch up in time"))?;
        let mut followers = takes_part;
        followers.remove(&next);
        tell_all::<P>(&lines, &followers, order(next, Step::Yield)).await;
        let given_way = self.handle_transfer(order(next, Step::Yield)).await;
        given_way.map_err(TransferError::GivenUp)?;
        drop(gate);
        // What it answers matters less than who is elected: it may be late, and leads nevertheless.
        tell_all::<P>(&lines, &[next].into(), order(next, Step::TimeoutNow)).await;
        let mut leadership = self.leadership();
        let other = |now: &Leadership| {
            let leader = now.leader.as_ref();
            now.term > vote.leader_id().term
                && leader.is_some_and(|leader| leader.raft_id != self.id())
        };
        let elected = async {
            let now = leadership.wait_for(other).await.ok()?;
            Some(now.leader.as_ref()?.raft_id)
        };
        match platform::timeout::<P, _>(ELECTION_TIMEOUT, elected).await {
            Some(Some(leader)) => {
                let took = platform::now::<P>() - begun;
                tracing::info!(leader, meant = next, ?took, "handed the lead over");
                Ok(())
            }
            Some(None) => Err(TransferError::GivenUp(
                "this Raft member has stopped".into(),
            )),
            None => Err(TransferError::GivenUp(format!(
                "member {next} was to lead, and nobody is elected yet"
            ))),
        }
    }

    /// Those that take part, a majority with this member, and the ways to all.
    async fn takers(&self, ask: LeadershipTransfer) -> Result<(Lines<P>, BTreeSet<u64>), String> {
        let group = self.group();
        if group.joint {
            return Err("the group is being changed".into());
        }
        let others = group.voters.iter().copied().filter(|id| *id != self.id());
        let others: BTreeSet<u64> = others.collect();
        let lines = self.lines(&others).await;
        let takes_part = tell_all::<P>(&lines, &others, ask).await;
        if takes_part.len() < group.voters.len() / 2 {
            let (some, all) = (takes_part.len(), others.len());
            return Err(format!("of {all} others {some} take part"));
        }
        Ok((lines, takes_part))
    }

    /// Who of some leads next: one that is wanted in the group, answers, and lacks least.
    fn successor_of(&self, some: &BTreeSet<u64>) -> Option<u64> {
        let wanted = self.state().cluster().map(|cluster| {
            let managers = cluster.managers.values();
            managers
                .map(|member| member.raft_id)
                .collect::<BTreeSet<u64>>()
        });
        let may_lead = |id: &u64| {
            let is_wanted = wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
            is_wanted && self.contacts().within(*id, HEARD_WITHIN)
        };
        let candidates = some.iter().copied().filter(may_lead).collect();
        successor(&candidates, &self.group().lag)
    }

    /// Does what the leader tells that hands over.
    ///
    /// # Errors
    /// It is not the leader that this member follows.
    pub async fn handle_transfer(&self, order: LeadershipTransfer) -> Result<(), String> {
        let own = self.vote().await?;
        // It was told twice; or it is the leader, which hears of the others' promises in their answers to its beats.
        if order.step == Step::Yield && own == order.promise() {
            return Ok(());
        }
        if own != order.vote {
            return Err(format!("the leader that is followed is another: {own}"));
        }
        match order.step {
            Step::Probe => Ok(()),
            Step::Yield => self.yield_to(order).await,
            Step::TimeoutNow if order.successor != self.id() => Err("another is to stand".into()),
            Step::TimeoutNow => {
                let standing = self.openraft().trigger().elect().await;
                standing.map_err(|error| error.to_string())
            }
        }
    }

    /// Promises the successor this member's vote of the next term, as one that had voted for it and whose answer was
    /// lost: by a message of that term, which is about no entry that there is.
    async fn yield_to(&self, order: LeadershipTransfer) -> Result<(), String> {
        let promise = order.promise();
        let (term, successor) = (promise.leader_id().term, promise.leader_id().node_id);
        let message = AppendEntriesRequest::<TypeConfig<P>> {
            vote: promise,
            prev_log_id: Some(LogId::new(
                CommittedLeaderId::new(term, successor),
                u64::MAX,
            )),
            entries: Vec::new(),
            leader_commit: None,
        };
        let answer = self.openraft().append_entries(message).await;
        answer.map_err(|error| error.to_string())?;
        let own = self.vote().await?;
        match own.leader_id().term >= term {
            true => Ok(()),
            false => Err(format!("the promise was not taken: {own}")),
        }
    }

    async fn vote(&self) -> Result<Vote, String> {
        let vote = self.openraft().with_raft_state(|state| *state.vote_ref());
        vote.await.map_err(|error| error.to_string())
    }

    /// Until all that was proposed here is applied, and the successor has it.
    async fn caught_up(&self, successor: u64) {
        loop {
            let is_there = {
                let metrics = self.openraft().metrics();
                let metrics = metrics.borrow();
                let last = metrics.last_log_index;
                let applied = metrics.last_applied.map(|applied| applied.index);
                let replication = metrics.replication.as_ref();
                let matched = replication.and_then(|r| r.get(&successor).copied().flatten());
                applied >= last && matched.map(|matched| matched.index) >= last
            };
            if is_there && self.gate().is_empty() {
                return;
            }
            platform::sleep::<P>(CATCH_UP_POLL).await;
        }
    }

    async fn lines(&self, members: &BTreeSet<u64>) -> Lines<P> {
        let mut network = self.side_network();
        let mut lines = Lines::<P>::new();
        for (id, peer) in self.peers() {
            if members.contains(&id) {
                lines.insert(id, network.new_client(id, &peer).await);
            }
        }
        lines
    }
}

/// Tells several members at once; those that have done it in time.
async fn tell_all<P: Platform>(
    lines: &Lines<P>,
    members: &BTreeSet<u64>,
    order: LeadershipTransfer,
) -> BTreeSet<u64> {
    let mut telling = FuturesUnordered::new();
    for (id, line) in lines.iter().filter(|(id, _)| members.contains(id)) {
        telling.push(tell::<P>(*id, line, order));
    }
    let mut done = BTreeSet::new();
    while let Some(member) = telling.next().await {
        done.extend(member);
    }
    done
}

/// Tells one member: its ID if it has done it in time.
async fn tell<P: Platform>(id: u64, line: &Line<P>, order: LeadershipTransfer) -> Option<u64> {
    match platform::timeout::<P, _>(ANSWER_TIMEOUT, line.transfer_leadership(order)).await? {
        Ok(()) => Some(id),
        Err(status) => {
            let error = status.message();
            tracing::debug!(member = id, ?order, error, "takes no part in the hand-over");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_least_is_next() {
        let lag: BTreeMap<u64, u64> = [(1, 0), (2, 7), (3, 2), (4, 2)].into();
        for (candidates, next) in [
            (&[2, 3, 4][..], Some(3)),
            (&[2], Some(2)),
            // Nothing is known of how far it is.
            (&[9], None),
            (&[], None),
        ] {
            assert_eq!(successor(&candidates.iter().copied().collect(), &lag), next);
        }
    }

    #[test]
    fn a_promise_is_newer_than_the_leader_and_no_lead() {
        let order = LeadershipTransfer {
            vote: Vote::new_committed(7, 3),
            successor: 1,
            step: Step::Yield,
        };
        let promise = order.promise();
        assert!(promise > order.vote && !promise.is_committed());
        assert_eq!(promise, Vote::new(8, 1));
    }

    #[test]
    fn a_closed_gate_lets_nobody_in_and_those_inside_finish() {
        let gate = Gate::default();
        let inside = gate.enter().unwrap();
        let closed = gate.close().unwrap();
        assert!(gate.close().is_none());
        assert!(gate.enter().is_none() && !gate.is_empty());
        drop(inside);
        assert!(gate.is_empty());
        drop(closed);
        assert!(gate.enter().is_some() && gate.is_empty());
    }
}
