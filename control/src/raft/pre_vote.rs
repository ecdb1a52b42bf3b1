//! Whether this member stands for election: Raft's pre-vote, which openraft does not have.
//!
//! A member that was cut off hears from no leader. If it stood for election again and again its term
//! would grow, and once it is back the others would have to elect anew to follow it there. So it asks
//! them first: it stands only while a quorum answers, none of which hears from a leader.
//!
//! Those whom it would need to be elected are the same, and they refuse their votes for the same time
//! after they have heard from a leader. So who is kept from standing here would not have been elected,
//! and a quorum without a leader is not kept from electing one: it is asked well before openraft's own
//! time to stand has come. Nor does a member answer one that it takes for none of the group, to whom it would give no
//! vote: who was let go and has not heard of it would stand again and again, and with the vote of any that has not
//! heard of it either be ahead of those that can be elected.

use super::{
    Raft,
    contacts::Contacts,
    handle::{ELECTION_MS, HEARTBEAT_MS},
    peering::{Line, Peering as _},
    platform::{self, Instant, Platform},
    types::Peer,
};
use crate::rpc::PeerIdentity;
use futures::{StreamExt as _, stream::FuturesUnordered};
use openraft::{Instant as _, RaftState, ServerState, network::RaftNetworkFactory as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tonic::{Code, Status};

/// A leader that was heard within this time leads: for as long openraft refuses its vote to another.
const LEASE: Duration = Duration::from_millis(ELECTION_MS.1);
/// A leader that was not heard for this long is none any more: by then openraft stands for election.
const GIVEN_UP: Duration = LEASE.saturating_add(Duration::from_millis(ELECTION_MS.1));
/// A leader whom no majority has answered for this long leads nobody any more. The library lets it claim to for ever, and
/// others may lead, or have let it go, so that nobody answers it again. Generous: who is taken for none loses all nodes'
/// sessions, and a machine that stood still for a while is none to be missed.
const ALONE: Duration = Duration::from_secs(10);
/// Between looks. Several of them fit between the end of the lease and openraft's time to stand.
const TICK: Duration = Duration::from_millis(HEARTBEAT_MS);
/// How long the others may take to answer: a member asks, and asks once more, before openraft's
/// shortest time to stand has come. Who does not answer in this time would hardly vote in time either.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(ELECTION_MS.0 / 4);
// Both answers are there in time, so that nobody who is asked here delays an election.
const _: () = assert!(2 * (TICK.as_millis() + ANSWER_TIMEOUT.as_millis()) <= ELECTION_MS.0 as u128);

/// What another member has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreVoteReply {
    /// It hears from no leader, so that it may vote for this member.
    Leaderless,
    /// It hears from a leader.
    Led,
    /// It has not answered.
    None,
}

/// Whether `own` stands: in each of the group's configurations (two while it changes) a majority of
/// the voters, itself among them, is without a leader.
fn stands(own: u64, configs: &[BTreeSet<u64>], answers: &BTreeMap<u64, PreVoteReply>) -> bool {
    configs.iter().all(|voters| {
        let leaderless =
            |id: &&u64| **id == own || answers.get(id) == Some(&PreVoteReply::Leaderless);
        let count = voters.iter().filter(leaderless).count();
        count > voters.len() / 2
    })
}

/// Whether a leader leads still: a majority in each configuration, itself among them, has answered it
/// within a time.
fn is_followed<P: Platform>(
    own: u64,
    configs: &[BTreeSet<u64>],
    contacts: &Contacts<P>,
    time: Duration,
) -> bool {
    configs.iter().all(|voters| {
        let answered = |id: &&u64| **id == own || contacts.within(**id, time);
        voters.iter().filter(answered).count() > voters.len() / 2
    })
}

/// What this member knows of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    /// It is the leader, or claims to be.
    Own,
    /// It last heard from its leader so long ago.
    Other(Duration),
    /// It knows of none.
    Unknown,
}

impl Leader {
    fn is_heard_within(self, time: Duration) -> bool {
        match self {
            Self::Own => true,
            Self::Other(silence) => silence <= time,
            Self::Unknown => false,
        }
    }
}

impl<P: Platform> Raft<P> {
    /// Has this member stand for election only as the others agree.
    pub fn stand_as_agreed(&self) {
        self.spawn(run(self.clone()));
    }

    /// What this member answers a node that asks before it stands: whether it hears from a leader.
    ///
    /// # Errors
    /// The node is no member of the group, as far as this one knows, and would not be voted for.
    pub async fn pre_vote(&self, caller: &PeerIdentity) -> Result<bool, Status> {
        let mut members = self.members().into_iter();
        if !members.any(|member| member.node_id == caller.node_id) {
            return Err(Status::permission_denied(
                "only members of the group may stand for election",
            ));
        }
        Ok(self.is_led().await)
    }

    /// `None` once the member has stopped.
    async fn leader_seen(&self) -> Option<Leader> {
        let seen = self
            .openraft()
            .with_raft_state(|state: &RaftState<u64, Peer, Instant<P>>| {
                if state.server_state == ServerState::Leader {
                    return Leader::Own;
                }
                match state.vote_last_modified() {
                    Some(heard) if state.vote_ref().is_committed() => {
                        Leader::Other(heard.elapsed())
                    }
                    _ => Leader::Unknown,
                }
            });
        seen.await.ok()
    }

    fn configs(&self) -> Vec<BTreeSet<u64>> {
        let metrics = self.openraft().metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().clone()
    }

    /// The others of the group, and itself, by ID.
    pub(super) fn peers(&self) -> BTreeMap<u64, Peer> {
        let metrics = self.openraft().metrics();
        let metrics = metrics.borrow();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, peer)| (*id, peer.clone())).collect()
    }

    /// Whether this member, which claims to lead, was answered by a majority within a time.
    fn is_followed_within(&self, time: Duration) -> bool {
        is_followed(self.id(), &self.configs(), self.contacts(), time)
    }

    /// Whether a leader leads this member, or it leads itself.
    async fn is_led(&self) -> bool {
        match self.leader_seen().await {
            Some(Leader::Own) => self.is_followed_within(LEASE),
            Some(leader) => leader.is_heard_within(LEASE),
            None => false,
        }
    }
}

/// Whatever ends this module's part: a member of which nobody takes care stands as openraft has it.
struct Unattended<'a, P: Platform>(&'a Raft<P>);

impl<P: Platform> Drop for Unattended<'_, P> {
    fn drop(&mut self) {
        self.0.openraft().runtime_config().elect(true);
    }
}

/// The ways to the other members, while no leader is heard.
struct Others<P: Platform> {
    network: P::Network,
    lines: BTreeMap<u64, (Peer, Line<P>)>,
}

impl<P: Platform> Others<P> {
    fn new(network: P::Network) -> Self {
        Self {
            network,
            lines: BTreeMap::new(),
        }
    }

    /// There is a leader: nothing is asked for a while, and certificates may change meanwhile.
    fn hang_up(&mut self) {
        self.lines.clear();
    }

    /// Whether the group has it that this member stands.
    async fn agree(&mut self, raft: &Raft<P>) -> bool {
        let (own, configs) = (raft.id(), raft.configs());
        let mut answers = BTreeMap::new();
        if stands(own, &configs, &answers) {
            return true;
        }
        self.connect(raft).await;
        let mut asked: FuturesUnordered<_> = self
            .lines
            .iter()
            .map(|(id, (_, line))| async { (*id, ask::<P>(line).await) })
            .collect();
        while let Some((id, answer)) = asked.next().await {
            answers.insert(id, answer);
            // Who has gone would keep the others waiting.
            if stands(own, &configs, &answers) {
                return true;
            }
        }
        tracing::debug!(?answers, "not standing for election");
        false
    }

    async fn connect(&mut self, raft: &Raft<P>) {
        let peers = raft.peers();
        self.lines
            .retain(|id, (peer, _)| peers.get(id) == Some(peer));
        for (id, peer) in peers {
            if id != raft.id() && !self.lines.contains_key(&id) {
                let line = self.network.new_client(id, &peer).await;
                self.lines.insert(id, (peer, line));
            }
        }
    }
}

async fn ask<P: Platform>(line: &Line<P>) -> PreVoteReply {
    match platform::timeout::<P, _>(ANSWER_TIMEOUT, line.pre_vote()).await {
        Some(Ok(true)) => PreVoteReply::Led,
        Some(Ok(false)) => PreVoteReply::Leaderless,
        // One of an older build is not in the way of an election.
        Some(Err(status)) if status.code() == Code::Unimplemented => PreVoteReply::Leaderless,
        Some(Err(_)) | None => PreVoteReply::None,
    }
}

/// Lets the member stand for election whenever it may, until it stops.
async fn run<P: Platform>(raft: Raft<P>) {
    let _unattended = Unattended(&raft);
    let stop = raft.stopping();
    let mut others = Others::<P>::new(raft.side_network());
    loop {
        let Some(leader) = raft.leader_seen().await else {
            return;
        };
        raft.set_followed(match leader {
            Leader::Own => raft.is_followed_within(ALONE),
            other => other.is_heard_within(GIVEN_UP),
        });
        let stands = if leader.is_heard_within(LEASE) {
            others.hang_up();
            false
        } else {
            // What was agreed on at the last look may have passed: not while the others are asked.
            raft.openraft().runtime_config().elect(false);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                stands = others.agree(&raft) => stands,
            }
        };
        raft.openraft().runtime_config().elect(stands);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = platform::sleep::<P>(TICK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::platform::Daemon;

    #[test]
    fn it_stands_while_a_majority_is_without_a_leader() {
        use PreVoteReply::{Leaderless, Led, None};
        let all: BTreeSet<u64> = (1..=3).collect();
        let two: BTreeSet<u64> = [1, 4].into();
        for (configs, answers, expected) in [
            // Alone, or not initialised yet.
            (vec![[1].into()], vec![], true),
            (vec![], vec![], true),
            // Cut off.
            (vec![all.clone()], vec![], false),
            (vec![all.clone()], vec![(2, None), (3, None)], false),
            // The others have a leader.
            (vec![all.clone()], vec![(2, Led), (3, Led)], false),
            (vec![all.clone()], vec![(2, Led)], false),
            // The leader is gone.
            (vec![all.clone()], vec![(2, None), (3, Leaderless)], true),
            // One of them has not noticed yet, or thinks so wrongly.
            (vec![all.clone()], vec![(2, Led), (3, Leaderless)], true),
            // Both configurations count while one follows the other.
            (vec![all.clone(), two.clone()], vec![(2, Leaderless)], false),
            (
                vec![all.clone(), two.clone()],
                vec![(2, Leaderless), (4, Leaderless)],
                true,
            ),
            (vec![all, two], vec![(4, Leaderless)], false),
        ] {
            let answers: BTreeMap<_, _> = answers.into_iter().collect();
            assert_eq!(
                stands(1, &configs, &answers),
                expected,
                "{configs:?} {answers:?}"
            );
        }
    }

    #[test]
    fn a_leader_that_a_majority_does_not_answer_leads_nobody() {
        let (voters, contacts) = ([[1, 2, 3].into()], Contacts::<Daemon>::default());
        assert!(!is_followed(1, &voters, &contacts, LEASE));
        contacts.answered(3);
        assert!(is_followed(1, &voters, &contacts, LEASE));
        assert!(is_followed(
            1,
            &[[1].into()],
            &Contacts::<Daemon>::default(),
            LEASE
        ));
    }

    #[test]
    fn a_leader_is_heard_for_the_time_of_the_lease() {
        assert!(Leader::Own.is_heard_within(LEASE));
        assert!(Leader::Other(LEASE).is_heard_within(LEASE));
        let silent = Leader::Other(LEASE + Duration::from_millis(1));
        assert!(!silent.is_heard_within(LEASE) && silent.is_heard_within(GIVEN_UP));
        assert!(!Leader::Unknown.is_heard_within(GIVEN_UP));
    }
}
