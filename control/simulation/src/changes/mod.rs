//! Changes of a cluster as its users make them: each is what the API would propose for a request that it
//! takes, drawn from what is there.

mod cluster;
mod networks;
pub(crate) mod nodes;
mod payloads;
mod services;

use crate::executor::Random;
use rand::Rng as _;
use skein_control::manager::QuorumView;
use skein_model::{Action, Kind, Nanos, State, Timestamp};

/// What it is, and what the store is asked for, in one transaction.
type Change = (String, Action);
/// What it is, and what the store is asked for, one transaction after the other.
pub type Drawn = (String, Vec<Vec<Action>>);

/// A change of the cluster that the API would take; `None` where what was drawn is refused.
pub fn draw(state: &State, group: &QuorumView, now: Timestamp) -> Option<Drawn> {
    let change = match Random.random_range(0..100) {
        0..25 => services::create(state, now),
        25..54 => services::update(state, now),
        54..59 => services::roll_back(state, now),
        59..66 => services::remove(state),
        66..72 => networks::create(state),
        72..76 => networks::remove(state),
        76..80 => payloads::create(),
        80..83 => payloads::remove(state),
        83..85 => cluster::change(state),
        85..87 => nodes::label(state),
        87..92 => nodes::change_availability(state),
        92..98 => return nodes::change_role(state, group),
        _ => return nodes::remove(state, group, now),
    };
    let (what, action) = change?;
    Some((what, vec![vec![action]]))
}

/// A name of so few that they come into each other's way, and its number.
fn named(kind: &str, of: u16) -> (String, u16) {
    let number = Random.random_range(0..of);
    (format!("{kind}{number}"), number)
}

fn millis(least: i64, most: i64) -> Nanos {
    Random.random_range(least..=most) * 1_000_000
}

fn removal(kind: Kind, id: &str) -> Action {
    Action::Remove {
        kind,
        id: id.to_owned(),
        version: None,
    }
}
