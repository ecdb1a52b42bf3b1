//! The cluster does not lose its quorum by its own doing: of those whose majority decides, a majority has its log,
//! whoever was promoted, demoted or let go. Who is down comes back with it; who has given it up does not.

use super::Invariant;
use crate::history::Seen;
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Quorum {
    /// The members that have written down that they are such, and not that they are none any more.
    seats: BTreeSet<u64>,
    /// Whose majorities it takes.
    voters: Vec<BTreeSet<u64>>,
}

impl Quorum {
    fn check(&self) -> Result<(), String> {
        for voters in &self.voters {
            let with_log = voters.intersection(&self.seats).count();
            if with_log * 2 <= voters.len() {
                return Err(format!(
                    "of the voters {voters:?}, only {with_log} have their logs: {:?} have one",
                    self.seats
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for Quorum {
    fn name(&self) -> &'static str {
        "a quorum of the managers keeps its logs"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Grouped { voters, .. } => self.voters = voters.to_vec(),
            Seen::SeatTaken { raft_id, .. } => drop(self.seats.insert(*raft_id)),
            Seen::SeatGivenUp { raft_id } => drop(self.seats.remove(raft_id)),
            _ => return Ok(()),
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(invariant: &mut Quorum, voters: &[&[u64]]) -> Result<(), String> {
        let set = |ids: &&[u64]| ids.iter().copied().collect();
        let voters: Vec<BTreeSet<u64>> = voters.iter().map(set).collect();
        invariant.see(&Seen::Grouped {
            voters: &voters,
            members: &Default::default(),
        })
    }

    #[test]
    fn a_majority_without_logs_is_noticed_in_each_of_the_sets() {
        let mut invariant = Quorum::default();
        for raft_id in 1..=3 {
            let node_id = "n";
            invariant
                .see(&Seen::SeatTaken { node_id, raft_id })
                .unwrap();
        }
        grouped(&mut invariant, &[&[1, 2, 3]]).unwrap();
        let given_up = |raft_id| Seen::SeatGivenUp { raft_id };
        invariant.see(&given_up(3)).unwrap();
        grouped(&mut invariant, &[&[1, 2, 3], &[1, 3]]).unwrap_err();
        grouped(&mut invariant, &[&[1, 2, 3], &[1, 2]]).unwrap();
        invariant.see(&given_up(2)).unwrap_err();
    }
}
