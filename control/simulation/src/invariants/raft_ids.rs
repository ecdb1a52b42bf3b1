//! A Raft ID is one node's for ever: no other node ever has it, nor that node again after it has let it go. And who
//! has had a log under an ID never begins under it with an empty one: it would have forgotten how it voted.

use super::Invariant;
use crate::{history::Seen, network::Host};
use skein_model::State;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct RaftIds {
    owners: BTreeMap<u64, String>,
    /// Those that the cluster has let go.
    gone: BTreeSet<u64>,
    /// The member of each host that runs.
    members: BTreeMap<Host, u64>,
    /// Those that have taken part.
    used: BTreeSet<u64>,
}

impl RaftIds {
    fn owns(&mut self, raft_id: u64, node_id: &str) -> Result<(), String> {
        let owner = self.owners.entry(raft_id);
        let owner = owner.or_insert_with(|| node_id.to_owned());
        match owner == node_id {
            true => Ok(()),
            false => Err(format!(
                "Raft ID {raft_id} is node {owner}'s, and now node {node_id}'s"
            )),
        }
    }

    fn changed(&mut self, before: &State, after: &State) -> Result<(), String> {
        let ids = |state: &State| -> BTreeMap<u64, String> {
            let managers = state.cluster().map(|cluster| &cluster.managers);
            let managers = managers.into_iter().flatten();
            managers
                .map(|(node_id, member)| (member.raft_id, node_id.clone()))
                .collect()
        };
        let (before, now) = (ids(before), ids(after));
        let seats = after.cluster().map_or(0, |cluster| cluster.managers.len());
        if now.len() != seats {
            return Err(format!("{seats} managers have {} Raft IDs", now.len()));
        }
        let gone = before.into_keys().filter(|id| !now.contains_key(id));
        self.gone.extend(gone);
        for (raft_id, node_id) in now {
            if self.gone.contains(&raft_id) {
                return Err(format!(
                    "Raft ID {raft_id} had been let go, and is node {node_id}'s again"
                ));
            }
            self.owns(raft_id, &node_id)?;
        }
        Ok(())
    }
}

impl Invariant for RaftIds {
    fn name(&self) -> &'static str {
        "a Raft ID is one member's for ever"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Changed { before, after, .. } => return self.changed(before, after),
            Seen::Grouped { members, .. } => {
                for (raft_id, node_id) in *members {
                    self.owns(*raft_id, node_id)?;
                }
            }
            Seen::SeatTaken { node_id, raft_id } => return self.owns(*raft_id, node_id),
            Seen::MemberStarted {
                host,
                node_id,
                raft_id,
                has_log,
            } => {
                self.owns(*raft_id, node_id)?;
                self.members.insert(*host, *raft_id);
                if !has_log && self.used.contains(raft_id) {
                    return Err(format!(
                        "{host:?} begins as member {raft_id} without the log that this had"
                    ));
                }
            }
            Seen::Applied { host, .. } => self.used.extend(self.members.get(host)),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{changed, next};
    use skein_model::{Cluster, RaftMember};
    use std::time::Duration;

    fn managers(state: &State, managers: &[(&str, u64)]) -> State {
        let member = |(node_id, raft_id): &(&str, u64)| {
            let raft_id = *raft_id;
            let addr = String::new();
            ((*node_id).to_owned(), RaftMember { raft_id, addr })
        };
        let mut cluster = state
            .cluster()
            .map_or_else(Cluster::default, |c| Cluster::clone(c));
        cluster.id = "c".into();
        cluster.managers = managers.iter().map(member).collect();
        next(state, vec![cluster.into()])
    }

    fn see(invariant: &mut RaftIds, before: &State, after: &State) -> Result<(), String> {
        invariant.see(&changed(Duration::ZERO, before, after))
    }

    #[test]
    fn an_id_that_two_nodes_have_or_one_has_again_is_noticed() {
        let mut invariant = RaftIds::default();
        let none = State::default();
        let two = managers(&none, &[("a", 1), ("b", 2)]);
        see(&mut invariant, &none, &two).unwrap();
        let one = managers(&two, &[("a", 1)]);
        see(&mut invariant, &two, &one).unwrap();
        let new = managers(&one, &[("a", 1), ("b", 3)]);
        see(&mut invariant, &one, &new).unwrap();
        let again = managers(&one, &[("a", 1), ("b", 2)]);
        see(&mut invariant, &one, &again).unwrap_err();

        let both = managers(&none, &[("a", 1), ("b", 1)]);
        see(&mut RaftIds::default(), &none, &both).unwrap_err();
        let members = [(1, "b".to_owned())].into();
        let grouped = Seen::Grouped {
            voters: &[],
            members: &members,
        };
        invariant.see(&grouped).unwrap_err();
        let taken = |node_id| Seen::SeatTaken {
            node_id,
            raft_id: 3,
        };
        invariant.see(&taken("b")).unwrap();
        invariant.see(&taken("c")).unwrap_err();
    }

    #[test]
    fn who_has_taken_part_begins_with_a_log() {
        let mut invariant = RaftIds::default();
        let started = |raft_id, has_log| Seen::MemberStarted {
            host: Host(1),
            node_id: "a",
            raft_id,
            has_log,
        };
        let applied = Seen::Applied {
            host: Host(1),
            run: 0,
            index: 1,
            entry: 0,
        };
        invariant.see(&started(1, false)).unwrap();
        invariant.see(&started(1, false)).unwrap();
        invariant.see(&applied).unwrap();
        invariant.see(&started(1, true)).unwrap();
        invariant.see(&started(2, false)).unwrap();
        invariant.see(&started(1, false)).unwrap_err();
    }
}
