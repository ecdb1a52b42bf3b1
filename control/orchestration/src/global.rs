//! Keeps one task of a global service on every node that is to have it.

use crate::{
    node_failure,
    scheduler::{self, Constraint},
    settled::Scope,
    slot::{self, SlotKey},
    task,
};
use rand::Rng;
use skein_model::{Availability, Draft, Service, ServiceMode, State, TaskState};
use std::sync::Arc;

/// Whether the service may have a task on the node: those that are there stay.
pub(crate) fn may_stay(state: &State, service: &Service, node_id: &str) -> bool {
    let Some(node) = state.node(node_id) else {
        return false;
    };
    let constraints = scheduler::constraints_of(&service.spec.task_template);
    !node_failure::must_leave(state, node_id)
        && constraints.is_ok_and(|all| Constraint::all_match(&all, node))
}

/// Whether the node is to get a task of the service if it has none.
pub(crate) fn wants_task(state: &State, service: &Service, node_id: &str) -> bool {
    let active = |node: &skein_model::Node| node.spec.availability == Availability::Active;
    state.node(node_id).is_some_and(|node| active(node)) && may_stay(state, service, node_id)
}

/// Adds tasks on nodes that lack them, and shuts down those on nodes that no longer qualify.
pub(crate) fn run(draft: &mut Draft, scope: &Scope, rng: &mut impl Rng) {
    let services: Vec<Arc<Service>> = scope.services(draft).cloned().collect();
    for service in services {
        if !matches!(service.spec.mode, ServiceMode::Global {}) {
            continue;
        }
        let places = slot::places(draft, &service.id);
        for (place, tasks) in &places {
            let SlotKey::Node(node) = place else { continue };
            if may_stay(draft, &service, node) {
                continue;
            }
            for task in tasks.iter().filter(|task| slot::is_live(task)) {
                task::want(draft, task, TaskState::Shutdown);
            }
        }
        let nodes: Vec<String> = draft.nodes().map(|node| node.id.clone()).collect();
        for node in nodes {
            let place = SlotKey::Node(node.clone());
            let tasks = places.get(&place);
            let occupied = tasks.is_some_and(|tasks| slot::is_occupied(&service, tasks));
            if !occupied && wants_task(draft, &service, &node) {
                // Held back until a predecessor that still stops has gone.
                let now = draft.now();
                draft.put(task::new(&service, &place, TaskState::Ready, now, rng));
            }
        }
    }
}
