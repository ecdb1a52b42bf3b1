//! Nodes: whether they take tasks, the label that services are placed by, whether they are managers, and that they go.

use super::{Change, Drawn};
use crate::executor::Random;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_control::manager::QuorumView;
use skein_model::{Action, Availability, Draft, Node, NodeRole, NodeState, State, Timestamp};
use skein_orchestration::{remove_node, validate};

/// Nodes that take tasks at least.
const ACTIVE_MIN: usize = 2;
/// How likely a node is removed that may run.
const FORCE: f64 = 0.3;
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

/// Promotes a worker, or demotes a manager: so that there are three, as a rule.
pub(super) fn change_role(state: &State, group: &QuorumView) -> Option<Drawn> {
    let node = state.nodes().choose(&mut Random)?;
    let managers = state.nodes();
    let managers = managers.filter(|node| node.spec.role == NodeRole::Manager);
    let (count, turn) = (managers.count(), Random.random_range(1..=5));
    match node.spec.role {
        NodeRole::Worker if count <= turn => {
            let mut node = Node::clone(node);
            node.spec.role = NodeRole::Manager;
            let what = format!("promote {}", node.id);
            Some((what, vec![vec![Action::Update(node.into())]]))
        }
        NodeRole::Manager if count >= turn => demote(state, group, node),
        _ => None,
    }
}

/// Demotes a manager.
pub(crate) fn demote(state: &State, group: &QuorumView, node: &Node) -> Option<Drawn> {
    validate::check_demotion(state, group.can_spare_node(&node.id)).ok()?;
    let mut actions = validate::demotion_rests_on(state, &node.id);
    let mut node = node.clone();
    node.spec.role = NodeRole::Worker;
    let what = format!("demote {}", node.id);
    actions.push(Action::Update(node.into()));
    Some((what, vec![actions]))
}

/// Removes a node: one that is away as a rule, and one that runs by force.
pub(super) fn remove(state: &State, group: &QuorumView, now: Timestamp) -> Option<Drawn> {
    let force = Random.random_bool(FORCE);
    let is_here = |node: &&std::sync::Arc<Node>| node.status.state == NodeState::Ready;
    let node = state.nodes().filter(|node| force || !is_here(node));
    remove_one(state, group, node.choose(&mut Random)?, force, now)
}

/// Removes this node.
pub(crate) fn remove_one(
    state: &State,
    group: &QuorumView,
    node: &Node,
    force: bool,
    now: Timestamp,
) -> Option<Drawn> {
    let has_voice = group.can_spare_node(&node.id).is_some();
    validate::check_node_removal(state, node, has_voice, force).ok()?;
    let what = format!("remove {}", node.id);
    let mut draft = Draft::new(state.clone(), now);
    remove_node(&mut draft, &node.id);
    Some((what, draft.into_proposals()))
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
