//! Nodes: whether they take tasks, and the label that services are placed by.

use super::Change;
use crate::executor::Random;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_model::{Action, Availability, Node, State};

/// Nodes that take tasks at least.
const ACTIVE_MIN: usize = 2;
/// The label that nodes have, and its values.
pub(super) const ZONE: &str = "zone";
pub(super) const ZONES: [&str; 2] = ["east", "west"];

pub(super) fn change_availability(state: &State) -> Option<Change> {
    let mut node = Node::clone(state.nodes().choose(&mut Random)?);
    let others = state.nodes().filter(|other| other.id != node.id);
    let active = others.filter(|other| other.spec.availability == Availability::Active);
    let others_suffice = active.count() >= ACTIVE_MIN;
    node.spec.availability = match Random.random_range(0..6) {
        0 if others_suffice => Availability::Drain,
        1 if others_suffice => Availability::Pause,
        _ => Availability::Active,
    };
    let what = format!("let {} be {}", node.id, node.spec.availability.name());
    Some((what, Action::Update(node.into())))
}

/// Puts a node into a zone, or out of any.
pub(super) fn label(state: &State) -> Option<Change> {
    let mut node = Node::clone(state.nodes().choose(&mut Random)?);
    let zone = ZONES.into_iter().choose(&mut Random)?;
    let what = if Random.random_bool(0.8) {
        let labels = &mut node.spec.labels;
        labels.insert(ZONE.to_owned(), zone.to_owned());
        format!("put {} into {zone}", node.id)
    } else {
        node.spec.labels.remove(ZONE);
        format!("put {} into no zone", node.id)
    };
    Some((what, Action::Update(node.into())))
}
