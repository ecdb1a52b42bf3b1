//! Nodes: when one may become a worker, and when it may go.

use super::{SpecError, SpecErrorKind};
use skein_model::{Action, Kind, Node, NodeRole, NodeState, State};
use std::sync::Arc;

/// Checks that a manager may become a worker. `can_spare` says whether the managers keep a quorum without
/// it, which only Raft knows; `None`: it is no member.
///
/// # Errors
/// It may not.
pub fn check_demotion(state: &State, can_spare: Option<bool>) -> Result<(), SpecError> {
    let managers = state
        .nodes()
        .filter(|node| node.spec.role == NodeRole::Manager);
    if managers.count() == 1 {
        return Err(SpecError::with(
            SpecErrorKind::Precondition,
            "attempting to demote the last manager of the swarm",
        ));
    }
    match can_spare {
        Some(true) => Ok(()),
        Some(false) => Err(SpecError::with(
            SpecErrorKind::Precondition,
            "can't remove member from the raft: this would result in a loss of quorum",
        )),
        None => Err(SpecError::with(
            SpecErrorKind::NotFound,
            "can't find manager in raft memberlist",
        )),
    }
}

/// What a demotion of a node rests on: that those which are to be managers beside it still are when it is made. Two that
/// are made at once would each rest on the other's.
pub fn demotion_rests_on(state: &State, node_id: &str) -> Vec<Action> {
    let others = state
        .nodes()
        .filter(|node| node.spec.role == NodeRole::Manager && node.id != node_id);
    let expect = |node: &Arc<Node>| Action::Expect {
        kind: Kind::Node,
        id: node.id.clone(),
        version: node.meta.version,
    };
    others.map(expect).collect()
}

/// Checks that a node may be removed: one that is up only by `force`, and none whose place in the Raft group is wanted,
/// or there still (`has_voice`, which only Raft knows): the others would not hear it any more, and miss it in their quorum.
///
/// # Errors
/// It may not.
pub fn check_node_removal(
    state: &State,
    node: &Node,
    has_voice: bool,
    force: bool,
) -> Result<(), SpecError> {
    let refuse = |message| Err(SpecError::with(SpecErrorKind::Precondition, message));
    let id = &node.id;
    let is_member = state
        .cluster()
        .is_some_and(|cluster| cluster.managers.contains_key(id));
    if is_member || has_voice {
        return refuse(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to \
             worker before removal"
        ));
    }
    if node.status.state == NodeState::Ready && !force {
        return refuse(format!("node {id} is not down and can't be removed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{Cluster, RaftMember};

    fn answer(result: Result<(), SpecError>) -> Option<(SpecErrorKind, String)> {
        result.err().map(|error| (error.kind, error.message))
    }

    #[test]
    fn a_manager_is_demoted_only_while_others_hold_the_quorum() {
        let mut fixture = Fixture::default();
        fixture.node("n1", |node| node.spec.role = NodeRole::Manager);
        let last = "attempting to demote the last manager of the swarm".to_owned();
        let refused = Some((SpecErrorKind::Precondition, last));
        assert_eq!(answer(check_demotion(&fixture.state, Some(false))), refused);
        fixture.node("n2", |node| node.spec.role = NodeRole::Manager);
        for (can_spare, kind, message) in [
            (
                None,
                SpecErrorKind::NotFound,
                "can't find manager in raft memberlist",
            ),
            (
                Some(false),
                SpecErrorKind::Precondition,
                "can't remove member from the raft: this would result in a loss of quorum",
            ),
        ] {
            let refused = Some((kind, message.to_owned()));
            assert_eq!(answer(check_demotion(&fixture.state, can_spare)), refused);
        }
        assert_eq!(check_demotion(&fixture.state, Some(true)), Ok(()));
    }

    #[test]
    fn a_node_goes_that_is_down_or_by_force_and_is_no_manager() {
        let mut fixture = Fixture::default();
        fixture.node("n", |_| {});
        let check = |fixture: &Fixture, force| {
            let node = fixture.state.node("n").unwrap();
            answer(check_node_removal(&fixture.state, node, false, force))
        };
        let refused = |message: &str| Some((SpecErrorKind::Precondition, message.to_owned()));
        let up = refused("node n is not down and can't be removed");
        assert_eq!(check(&fixture, false), up);
        assert_eq!(check(&fixture, true), None);
        fixture.node("n", |node| node.status.state = NodeState::Down);
        assert_eq!(check(&fixture, false), None);
        let manager = refused(
            "node n is a cluster manager and is a member of the raft cluster. It must be demoted to \
             worker before removal",
        );
        // It was demoted, and the group is still to let it go.
        let node = fixture.state.node("n").unwrap();
        let early = check_node_removal(&fixture.state, node, true, true);
        assert_eq!(answer(early), manager);
        let mut cluster = Cluster::clone(fixture.state.cluster().unwrap());
        cluster.managers.insert("n".into(), RaftMember::default());
        fixture.put(cluster);
        assert_eq!(check(&fixture, true), manager);
    }
}
