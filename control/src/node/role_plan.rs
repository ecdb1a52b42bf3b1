//! What a node does about its role: which of its parts is to begin or to end next. Pure: the node itself does it
//! (see [`super::role_loop`]), and so do the nodes of a simulated cluster.

use crate::agent::RaftSeat;
use skein_model::NodeRole;

/// What a node knows of its role.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The role that its certificate gives it.
    pub certified: NodeRole,
    /// Its place among the managers, as the leader last said.
    pub place: RaftSeat,
    /// The ID of its member of the Raft group, on disk.
    pub raft_id: Option<u64>,
    /// The state of the store in which it got that; 0: before this run.
    pub joined_at: u64,
    /// There is a Raft log on disk.
    pub has_log: bool,
    /// Its manager runs.
    pub runs: bool,
    /// Where the others are to reach its manager; `None`: it does not know.
    pub address: Option<&'a str>,
    /// Where the others reach its manager by what its own store says; `None`: that says nothing of it, or of another
    /// member in its place.
    pub stored_address: Option<&'a str>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as it is to be.
    Rest,
    /// Start the member of this ID from its log, and the manager.
    Take(u64),
    /// Ask to be let into the group; then start the member of the ID that comes of it.
    Join,
    /// End the manager, and forget the ID first and the log then: under an ID there is never an empty log once it has
    /// had one.
    GiveUp,
    /// Tell the leader where the manager is reached.
    Readdress,
}

impl Situation<'_> {
    /// The next step.
    pub fn next(&self) -> Step {
        if self.certified != NodeRole::Manager {
            let has_seat = self.runs || self.raft_id.is_some() || self.has_log;
            return if has_seat { Step::GiveUp } else { Step::Rest };
        }
        // What is left of a seat that was given up is not the new one's.
        let is_left_over = self.raft_id.is_none() && (self.has_log || self.runs);
        if is_left_over || self.has_lost_its_seat() {
            return Step::GiveUp;
        }
        match self.raft_id {
            Some(id) if !self.runs => Step::Take(id),
            None => Step::Join,
            Some(_) if self.is_reached_elsewhere() => Step::Readdress,
            Some(_) => Step::Rest,
        }
    }

    /// Whether the group has let this node's member go, though the node is to be a manager: it was demoted, and
    /// promoted again before it had another certificate. What was said of earlier members is past.
    fn has_lost_its_seat(&self) -> bool {
        let place = &self.place;
        let is_another = self.raft_id.is_some_and(|own| own != place.raft_id);
        place.is_manager && is_another && !place.is_member && place.index > self.joined_at
    }

    fn is_reached_elsewhere(&self) -> bool {
        let both = self.address.zip(self.stored_address);
        both.is_some_and(|(own, stored)| own != stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NodeRole::{Manager, Worker};

    /// A manager at work, which the leader has not said anything of yet.
    fn manager() -> Situation<'static> {
        Situation {
            certified: Manager,
            place: RaftSeat::default(),
            raft_id: Some(7),
            joined_at: 0,
            has_log: true,
            runs: true,
            address: Some("198.18.0.1:2377"),
            stored_address: Some("198.18.0.1:2377"),
        }
    }

    fn next(change: impl FnOnce(&mut Situation<'static>)) -> Step {
        let mut situation = manager();
        change(&mut situation);
        situation.next()
    }

    #[test]
    fn a_manager_takes_its_seat_up_again_and_a_new_one_asks_for_one() {
        assert_eq!(manager().next(), Step::Rest);
        assert_eq!(next(|now| now.runs = false), Step::Take(7));
        // It was given the ID, and ended before it had a log.
        let just_joined = next(|now| (now.runs, now.has_log) = (false, false));
        assert_eq!(just_joined, Step::Take(7));
        let new = next(|now| (now.runs, now.has_log, now.raft_id) = (false, false, None));
        assert_eq!(new, Step::Join);
    }

    #[test]
    fn a_worker_keeps_nothing_of_a_seat() {
        for (runs, raft_id, has_log) in [
            (true, Some(7), true),
            (false, Some(7), false),
            (false, None, true),
        ] {
            let step = next(|now| {
                (now.certified, now.runs) = (Worker, runs);
                (now.raft_id, now.has_log) = (raft_id, has_log);
            });
            assert_eq!(step, Step::GiveUp);
        }
        let worker = next(|now| {
            (now.certified, now.runs) = (Worker, false);
            (now.raft_id, now.has_log) = (None, false);
        });
        assert_eq!(worker, Step::Rest);
    }

    /// As after a crash between the two.
    #[test]
    fn no_new_seat_begins_on_the_log_of_an_old_one() {
        let step = next(|now| (now.runs, now.raft_id) = (false, None));
        assert_eq!(step, Step::GiveUp);
    }

    #[test]
    fn a_manager_that_is_reached_elsewhere_says_so() {
        let moved = |now: &mut Situation<'static>| now.address = Some("198.18.0.9:2377");
        assert_eq!(next(moved), Step::Readdress);
        // Not before it has its seat, nor where the store does not say where it is.
        let starts = next(|now| {
            moved(now);
            now.runs = false;
        });
        assert_eq!(starts, Step::Take(7));
        let unheard = next(|now| {
            moved(now);
            now.stored_address = None;
        });
        assert_eq!(unheard, Step::Rest);
        assert_eq!(next(|now| now.address = None), Step::Rest);
    }

    #[test]
    fn a_seat_is_lost_when_the_group_has_let_it_go_and_the_node_is_wanted() {
        let place = RaftSeat {
            is_manager: true,
            raft_id: 0,
            is_member: false,
            index: 90,
        };
        let told = |place: RaftSeat, joined_at| {
            next(|now| (now.place, now.joined_at) = (place, joined_at))
        };
        assert_eq!(told(place, 0), Step::GiveUp, "let go and wanted");
        let again = RaftSeat {
            raft_id: 8,
            ..place
        };
        assert_eq!(told(again, 80), Step::GiveUp, "wanted under another ID");
        let about_to_be = RaftSeat {
            raft_id: 7,
            ..place
        };
        let voter = RaftSeat {
            is_member: true,
            ..place
        };
        let demoted = RaftSeat {
            is_manager: false,
            ..place
        };
        for (place, joined_at, why) in [
            (about_to_be, 0, "about to be one"),
            (voter, 0, "the group needs its vote"),
            (demoted, 0, "it is to be a worker"),
            (place, 90, "it was told so before it joined"),
            (RaftSeat::default(), 0, "nothing was said yet"),
        ] {
            assert_eq!(told(place, joined_at), Step::Rest, "{why}");
        }
    }
}
