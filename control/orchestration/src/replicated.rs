//! Keeps as many slots filled as a replicated service has replicas.

use crate::{
    settled::Scope,
    slot::{self, SlotKey, Tasks},
    task,
};
use rand::Rng;
use skein_model::{Draft, Service, ServiceMode, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Adds tasks where slots are empty, and takes slots away that are too many.
pub(crate) fn run(draft: &mut Draft, scope: &Scope, rng: &mut impl Rng) {
    let services: Vec<Arc<Service>> = scope.services(draft).cloned().collect();
    for service in services {
        if let ServiceMode::Replicated { replicas } = service.spec.mode {
            reconcile(draft, &service, replicas, rng);
        }
    }
}

fn reconcile(draft: &mut Draft, service: &Service, replicas: u64, rng: &mut impl Rng) {
    let (occupied, empty): (BTreeMap<_, _>, BTreeMap<_, _>) = slot::places(draft, &service.id)
        .into_iter()
        .partition(|(_, tasks)| slot::is_occupied(service, tasks));
    let count = occupied.len() as u64;
    let surplus = if count > replicas {
        victims(&occupied, replicas)
    } else {
        Vec::new()
    };
    // Slots beyond the replicas whose tasks have all ended are no history of anything.
    let beyond = empty
        .into_iter()
        .filter(|(place, _)| matches!(place, SlotKey::Slot(slot) if *slot > replicas))
        .map(|(_, tasks)| tasks);
    for task in surplus.into_iter().chain(beyond).flatten() {
        task::want(draft, &task, TaskState::Remove);
    }
    let taken: BTreeSet<_> = occupied.into_keys().collect();
    let free = (1..)
        .map(SlotKey::Slot)
        .filter(|place| !taken.contains(place));
    let missing = usize::try_from(replicas.saturating_sub(count)).unwrap_or(usize::MAX);
    for place in free.take(missing) {
        let now = draft.now();
        draft.put(task::new(service, &place, TaskState::Running, now, rng));
    }
}

/// The tasks of the slots to give up, so that `replicas` stay. Slots that run stay before those that
/// do not, then those with fewer of the service's slots on their node, then the lower ones; slots
/// that are on no node, or on the way from one to another, go first.
fn victims(slots: &BTreeMap<SlotKey, Tasks>, replicas: u64) -> Vec<Tasks> {
    let runs = |tasks: &Tasks| {
        tasks
            .iter()
            .any(|task| slot::is_live(task) && task.status.state == TaskState::Running)
    };
    let mut ordered: Vec<_> = slots.iter().collect();
    ordered.sort_by_key(|(place, tasks)| (!runs(tasks), (*place).clone()));
    let mut on_node: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ranked: Vec<(u64, &Tasks)> = ordered
        .into_iter()
        .map(|(_, tasks)| {
            let rank = single_node(tasks).map_or(u64::MAX, |node| {
                let count = on_node.entry(node).or_default();
                *count += 1;
                *count
            });
            (rank, tasks)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .skip(usize::try_from(replicas).unwrap_or(usize::MAX))
        .map(|(_, tasks)| tasks.clone())
        .collect()
}

/// The node of all wanted tasks of a slot, if it is one.
fn single_node(tasks: &Tasks) -> Option<&str> {
    let mut live = tasks.iter().filter(|task| slot::is_live(task));
    let node = live.next()?.node_id.as_str();
    (!node.is_empty() && live.all(|task| task.node_id == node)).then_some(node)
}
