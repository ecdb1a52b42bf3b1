//! The roles that nodes have come to be the ones wanted.
//!
//! A node that is to be a manager is one at once: it then gets its certificate, and asks to be let
//! into the Raft group. One that is to be a worker first leaves the group, so that it never counts
//! for a quorum without being reachable as a manager.

use super::quorum::QuorumView;
use crate::raft::{Member, warn_if_even};
use skein_model::{Cluster, Draft, Node, NodeRole};
use std::time::Duration;
use tracing::{info, warn};

/// Pause after a removal that would have cost the quorum, or is under way: Swarm's is 5 s, but a look
/// costs nothing.
const RETRY: Duration = Duration::from_millis(500);

/// Moves roles on. How long until there may be more to do.
pub(super) fn tend(draft: &mut Draft, group: &QuorumView) -> Option<Duration> {
    let cluster = draft.cluster();
    let has_seat = |id: &str| cluster.is_some_and(|cluster| cluster.managers.contains_key(id));
    let changing = draft.nodes().filter(|node| {
        let is_worker = (node.role, node.spec.role) == (NodeRole::Worker, NodeRole::Worker);
        // It may have asked for a seat just as it was demoted.
        node.role != node.spec.role || (is_worker && has_seat(&node.id))
    });
    let changing: Vec<_> = changing.cloned().collect();
    let mut again = None;
    for node in changing {
        let becomes_manager = node.spec.role == NodeRole::Manager;
        if becomes_manager || has_left(draft, group, &node.id) {
            let mut node = Node::clone(&node);
            node.role = node.spec.role;
            info!(node = node.id, role = ?node.role, "the node's role has changed");
            draft.put(node);
            // One more counts once it has joined the group.
            if !becomes_manager {
                let managers = draft.nodes().filter(|node| node.role == NodeRole::Manager);
                warn_if_even(managers.count());
            }
        } else {
            again = Some(RETRY);
        }
    }
    again
}

/// Whether the node is out of the Raft group; sees to it that it comes to be.
fn has_left(draft: &mut Draft, group: &QuorumView, node_id: &str) -> bool {
    let member = group
        .members
        .iter()
        .find(|member| member.node_id == node_id);
    let cluster = draft.cluster().cloned();
    let wanted = cluster.filter(|cluster| cluster.managers.contains_key(node_id));
    let Some(cluster) = wanted else {
        return member.is_none();
    };
    // One after the other: until the group has let the last one go, it is not known what it can spare.
    let stays = |member: &Member| cluster.managers.contains_key(&member.node_id);
    if !group.members.iter().all(stays) {
        return false;
    }
    if member.is_some_and(|member| !group.can_spare(member.raft_id)) {
        warn!(
            node = node_id,
            "a manager stays one for now: without it there would be no quorum"
        );
        return false;
    }
    // The last one stays, whatever is asked for: a swarm without managers is none.
    if cluster.managers.len() > 1 {
        let mut cluster = Cluster::clone(&cluster);
        cluster.managers.remove(node_id);
        draft.put(cluster);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Proposal, RaftMember, State, Timestamp};

    fn group(members: &[u64], reachable: &[u64]) -> QuorumView {
        let member = |id: &u64| Member {
            raft_id: *id,
            node_id: format!("n{id}"),
            address: String::new(),
            votes: true,
        };
        QuorumView {
            members: members.iter().map(member).collect(),
            reachable: reachable.iter().copied().collect(),
        }
    }

    fn draft(managers: &[u64], nodes: &[(u64, NodeRole, NodeRole)]) -> Draft {
        let member = |id: &u64| {
            let raft_id = *id;
            let member = RaftMember {
                raft_id,
                ..RaftMember::default()
            };
            (format!("n{id}"), member)
        };
        let cluster = Cluster {
            id: "c".into(),
            managers: managers.iter().map(member).collect(),
            ..Cluster::default()
        };
        let node = |(id, role, wanted): &(u64, NodeRole, NodeRole)| {
            let mut node = Node {
                id: format!("n{id}"),
                role: *role,
                ..Node::default()
            };
            node.spec.role = *wanted;
            Action::Create(node.into())
        };
        let at = Timestamp::default();
        let mut actions: Vec<_> = nodes.iter().map(node).collect();
        actions.push(Action::Create(cluster.into()));
        let mut state = State::default();
        state.apply(1, &Proposal { at, actions }).unwrap();
        Draft::new(state, at)
    }

    #[test]
    fn a_member_can_be_spared_while_a_quorum_answers() {
        for (members, reachable, gone, spared) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], 3, true),
            (&[1, 2, 3], &[1, 2], 3, true),
            (&[1, 2, 3], &[1, 2], 2, false),
            (&[1, 2], &[1, 2], 2, true),
            (&[1, 2, 3, 4], &[1, 2, 3], 3, true),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], 3, false),
        ] {
            let can = group(members, reachable).can_spare(gone);
            assert_eq!(can, spared, "{gone} of {members:?}, {reachable:?} answer");
        }
        // Of three of which one is away, a fourth that only learns yet makes none that can be spared.
        let mut learning = group(&[1, 2, 3, 4], &[1, 2, 4]);
        learning.members[3].votes = false;
        assert!(!learning.can_spare(2));
        assert!(learning.can_spare(3) && learning.can_spare(4));
        let three = group(&[1, 2, 3], &[1, 2, 3]);
        let spared = ["n3", "n4"].map(|node| three.can_spare_node(node));
        assert_eq!(spared, [Some(true), None]);
    }

    #[test]
    fn a_manager_to_be_is_one_at_once() {
        let mut draft = draft(&[1], &[(2, NodeRole::Worker, NodeRole::Manager)]);
        assert_eq!(tend(&mut draft, &group(&[1], &[1])), None);
        assert_eq!(draft.node("n2").unwrap().role, NodeRole::Manager);
    }

    /// Each could be spared, both could not: the fourth is away.
    #[test]
    fn workers_to_be_leave_the_group_one_by_one() {
        let demoted = |id| (id, NodeRole::Manager, NodeRole::Worker);
        let mut draft = draft(&[1, 2, 3, 4], &[demoted(1), demoted(2)]);
        let members = |draft: &Draft| draft.cluster().unwrap().managers.len();
        let before = group(&[1, 2, 3, 4], &[1, 2, 3]);
        for _ in 0..2 {
            assert!(tend(&mut draft, &before).is_some());
            assert_eq!(members(&draft), 3);
        }
        // It is gone, and now the others are needed.
        assert!(tend(&mut draft, &group(&[2, 3, 4], &[2, 3])).is_some());
        assert_eq!(members(&draft), 3);
    }

    #[test]
    fn a_worker_that_has_a_seat_nevertheless_leaves_the_group() {
        let mut draft = draft(&[1, 2], &[(2, NodeRole::Worker, NodeRole::Worker)]);
        let both = group(&[1, 2], &[1, 2]);
        assert!(tend(&mut draft, &both).is_some());
        assert!(!draft.cluster().unwrap().managers.contains_key("n2"));
        assert_eq!(tend(&mut draft, &group(&[1], &[1])), None);
    }

    #[test]
    fn a_worker_to_be_leaves_the_group_first() {
        let nodes = [(2, NodeRole::Manager, NodeRole::Worker)];
        let role = |draft: &Draft| draft.node("n2").unwrap().role;
        let mut unsafe_now = draft(&[1, 2, 3], &nodes);
        assert!(tend(&mut unsafe_now, &group(&[1, 2, 3], &[1, 2])).is_some());
        assert!(unsafe_now.cluster().unwrap().managers.contains_key("n2"));

        let mut draft = draft(&[1, 2, 3], &nodes);
        let before = group(&[1, 2, 3], &[1, 2, 3]);
        assert!(tend(&mut draft, &before).is_some());
        assert!(!draft.cluster().unwrap().managers.contains_key("n2"));
        assert!(tend(&mut draft, &before).is_some());
        assert_eq!(role(&draft), NodeRole::Manager);
        assert_eq!(tend(&mut draft, &group(&[1, 3], &[1, 3])), None);
        assert_eq!(role(&draft), NodeRole::Worker);
    }
}
