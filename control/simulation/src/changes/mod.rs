//! Changes of a cluster as its users make them: each is what the API would propose for a request that it
//! takes, drawn from what is there.

mod cluster;
mod networks;
mod nodes;
mod payloads;
mod services;

use crate::executor::Random;
use rand::Rng as _;
use skein_model::{Action, Kind, Nanos, State, Timestamp};

/// What it is, and what the store is asked for.
type Change = (String, Action);

/// A change of the cluster that the API would take; `None` where what was drawn is refused.
pub fn draw(state: &State, now: Timestamp) -> Option<Change> {
    match Random.random_range(0..100) {
        0..25 => services::create(state, now),
        25..55 => services::update(state, now),
        55..60 => services::roll_back(state, now),
        60..68 => services::remove(state),
        68..74 => networks::create(state),
        74..78 => networks::remove(state),
        78..83 => payloads::create(),
        83..86 => payloads::remove(state),
        86..89 => cluster::change(state),
        89..92 => nodes::label(state),
        _ => nodes::change_availability(state),
    }
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
