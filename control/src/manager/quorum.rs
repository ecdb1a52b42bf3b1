//! Whether the managers keep a quorum that answers.

use crate::raft::Member;
use std::collections::BTreeSet;

/// The Raft group as the leader sees it.
#[derive(Clone, Debug, Default)]
pub struct QuorumView {
    /// All members.
    pub members: Vec<Member>,
    /// Those that answered lately, the leader included; by Raft ID.
    pub reachable: BTreeSet<u64>,
}

impl QuorumView {
    /// Of its members, and which of them answer.
    pub fn of(members: Vec<Member>, is_reachable: impl Fn(u64) -> bool) -> Self {
        let ids = members.iter().map(|member| member.raft_id);
        let reachable = ids.filter(|id| is_reachable(*id)).collect();
        Self { members, reachable }
    }

    /// Whether a quorum answers once the node's member is gone; `None` if it is no member.
    pub fn can_spare_node(&self, node_id: &str) -> Option<bool> {
        let mut members = self.members.iter();
        let member = members.find(|member| member.node_id == node_id)?;
        Some(self.can_spare(member.raft_id))
    }

    /// Whether a quorum answers once this member is gone. Who does not vote yet is no part of any.
    pub fn can_spare(&self, raft_id: u64) -> bool {
        let voters = self.members.iter().filter(|member| member.votes);
        let others: Vec<u64> = voters
            .map(|member| member.raft_id)
            .filter(|id| *id != raft_id)
            .collect();
        let left = others
            .iter()
            .filter(|id| self.reachable.contains(id))
            .count();
        left > others.len() / 2
    }
}
