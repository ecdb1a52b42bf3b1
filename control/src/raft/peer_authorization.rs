//! Whom a member takes for a leader, and for one that may stand: a certificate alone does not say it, as who was let go
//! has one until it expires. The rules are pure.

use super::{Member, Raft, platform::Platform, types::Vote};
use crate::rpc::{PeerIdentity, RemoteManager, Standing};
use skein_model::{Cluster, Node, NodeRole};
use std::sync::Arc;

/// Whether a node may write to this member's log as the leader `claimed`, whose vote is `vote`.
///
/// Who was let go has a manager's certificate until it expires, and must not lead. So a leader's ID must
/// be that of a member, or of a manager on its way into the group, and the node's own. Two IDs are
/// none that this member knows, and lead nevertheless. The leader that it follows already stays one: it
/// may be on its way out, and must hear that this was written. And who joined while this member was
/// away may lead it when it is back, and then its node is among the managers that this node was told
/// of: by the leader when it joined, or since then in its agent's session.
fn may_lead(caller: &PeerIdentity, vote: &Vote, known: &GroupView<'_>) -> bool {
    let claimed = vote.leader_id().node_id;
    let members = known.members.iter();
    let mut places = members.map(|member| (member.raft_id, member.node_id.as_str()));
    if let Some((_, node_id)) = places.find(|(id, _)| *id == claimed) {
        return node_id == caller.node_id;
    }
    let told = known.managers.iter().any(|m| m.node_id == caller.node_id);
    let Some(cluster) = known.cluster else {
        return told;
    };
    let place = cluster.managers.get(&caller.node_id);
    place.is_some_and(|place| place.raft_id == claimed)
        || (claimed >= cluster.next_raft_id && told)
        || *vote == known.vote
}

/// Whether a node may be voted for under the ID that it claims: who was let go may not know it yet, and
/// must not depose the leader by standing for election.
fn may_stand(caller: &PeerIdentity, claimed: u64, members: &[Member]) -> bool {
    members
        .iter()
        .any(|member| (member.raft_id, &member.node_id) == (claimed, &caller.node_id))
}

/// What a member knows of its group.
struct GroupView<'a> {
    members: &'a [Member],
    cluster: Option<&'a Cluster>,
    /// The managers that the node was told of.
    managers: &'a [RemoteManager],
    /// What it voted last, or was told by the leader.
    vote: Vote,
}

impl<P: Platform> Raft<P> {
    /// Whether a node may write to this member's log as the leader that `vote` is for. `managers` are those that
    /// this member's node was told of.
    pub fn takes_leader(
        &self,
        caller: &PeerIdentity,
        vote: &Vote,
        managers: &[RemoteManager],
    ) -> bool {
        let (state, own) = (self.state(), self.openraft().metrics().borrow().vote);
        let known = GroupView {
            members: &self.members(),
            cluster: state.cluster().map(|cluster| &**cluster),
            managers,
            vote: own,
        };
        may_lead(caller, vote, &known)
    }

    /// Whether a node may be voted for with `vote`.
    pub fn takes_candidate(&self, caller: &PeerIdentity, vote: &Vote) -> bool {
        may_stand(caller, vote.leader_id().node_id, &self.members())
    }

    /// What this manager's store knows of a caller. Only a leader's has all that was decided: others may not have
    /// heard yet that a node was promoted, and pass on to the leader what counts.
    pub fn standing(&self, node_id: &str) -> Standing {
        let state = self.state();
        let is_removed = |cluster: &Arc<Cluster>| cluster.removed_nodes.contains_key(node_id);
        if state.cluster().is_some_and(is_removed) {
            return Standing::Removed;
        }
        // One that is to be a manager gets its certificate before it is one, and keeps it until it is
        // out of the group.
        let is_worker =
            |node: &Arc<Node>| (node.role, node.spec.role) == (NodeRole::Worker, NodeRole::Worker);
        if self.leadership().borrow().is_self && state.node(node_id).is_some_and(is_worker) {
            return Standing::Worker;
        }
        Standing::AsCertified
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::RaftMember;

    #[test]
    fn who_was_let_go_leads_no_more_and_who_is_not_heard_of_yet_may() {
        let peer = |node_id: &str| PeerIdentity {
            node_id: node_id.into(),
            role: NodeRole::Manager,
        };
        let member = |raft_id, node_id: &str| Member {
            raft_id,
            node_id: node_id.into(),
            address: String::new(),
            votes: true,
        };
        let place = |raft_id| RaftMember {
            raft_id,
            addr: String::new(),
        };
        // Member 1 was let go; 5 has a place, and is no member yet; 7 came while this one was away.
        let cluster = Cluster {
            next_raft_id: 6,
            managers: [("n2".to_owned(), place(2)), ("n5".to_owned(), place(5))].into(),
            ..Cluster::default()
        };
        let members = [member(2, "n2"), member(3, "n3")];
        let managers = ["n2", "n7"].map(|node_id| RemoteManager {
            node_id: node_id.into(),
            address: String::new(),
        });
        let known = |vote| GroupView {
            members: &members,
            cluster: Some(&cluster),
            managers: &managers,
            vote,
        };
        let of = |term, id| Vote::new_committed(term, id);
        for (node_id, id, may) in [
            ("n2", 2, true),
            ("n3", 3, true),
            ("n1", 1, false),
            ("n1", 2, false),
            ("n5", 5, true),
            ("n4", 5, false),
            ("n7", 7, true),
            ("n7", 1, false),
            ("n1", 7, false),
            ("n8", 8, false),
        ] {
            let allowed = may_lead(&peer(node_id), &of(9, id), &known(of(8, 2)));
            assert_eq!(allowed, may, "{node_id} as {id}");
        }
        // On its way out, until there is another.
        assert!(may_lead(&peer("n1"), &of(8, 1), &known(of(8, 1))));
        assert!(!may_lead(&peer("n1"), &of(9, 1), &known(of(8, 1))));
        // A new member knows the managers that it was told of when it joined.
        let new = GroupView {
            members: &[],
            cluster: None,
            managers: &managers,
            vote: Vote::default(),
        };
        assert!(may_lead(&peer("n2"), &of(3, 2), &new));
        assert!(!may_lead(&peer("n1"), &of(3, 1), &new));
        for (node_id, id, may) in [("n2", 2, true), ("n2", 3, false), ("n1", 9, false)] {
            assert_eq!(
                may_stand(&peer(node_id), id, &members),
                may,
                "{node_id} as {id}"
            );
        }
    }
}
