//! What is known of the node's places on overlays, and what follows from a look at the engine. No I/O.

use crate::agent::engine::Guest;
use skein_model::{ContainerStatus, Task, TaskState, TaskStatus, Timestamp, short_id};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};
use tokio::time::Instant;

/// How long a place may be without a container that this agent never saw on it, and a container
/// without a place: whoever made one of them may just be at the other.
const GRACE: Duration = Duration::from_secs(30);
/// A place on a network, for one container.
struct Place {
    network_id: String,
    address: Ipv4Addr,
    aliases: Vec<String>,
    /// As the managers were last told.
    status: TaskStatus,
    /// The managers have told of it.
    assigned: bool,
    /// Its container is being made by this process.
    claimed: bool,
    /// This process has made its container.
    made: bool,
    /// A look has found its container.
    seen: bool,
    missing_since: Option<Instant>,
}

/// What to do after a look.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Tell the managers of a task's status.
    Report(String, TaskStatus),
    /// A container has an address that the managers gave to nobody here: ask them for it.
    Adopt(Guest),
}

/// The places of the node, by task.
#[derive(Default)]
pub(super) struct Places {
    places: BTreeMap<String, Place>,
    /// The managers have said which there are.
    complete: bool,
    /// Containers without a place: ID and network.
    strays: BTreeMap<(String, String), Instant>,
}

impl Places {
    /// Takes what the managers want. `complete`: what is not in `tasks` is no more.
    pub(super) fn assign(&mut self, complete: bool, tasks: Vec<Task>, removed: &[String]) {
        if complete {
            let named: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
            self.places
                .retain(|id, place| place.claimed || named.contains(id.as_str()));
            self.complete = true;
        }
        for task in tasks {
            let Some(attachment) = task.networks_attachments.into_iter().next() else {
                continue;
            };
            let Some(address) = attachment.address else {
                continue;
            };
            let place = self.places.entry(task.id).or_insert_with(|| Place {
                network_id: attachment.network_id,
                address: address.addr(),
                aliases: attachment.aliases,
                status: task.status,
                assigned: true,
                claimed: false,
                made: false,
                seen: false,
                missing_since: None,
            });
            place.assigned = true;
        }
        for id in removed {
            self.places.remove(id);
        }
    }

    /// A place was given for a container that is to be made now.
    pub(super) fn claim(
        &mut self,
        task_id: &str,
        network_id: &str,
        address: Ipv4Addr,
        aliases: Vec<String>,
    ) {
        // The managers may have told of it by now.
        let place = self.places.entry(task_id.to_owned());
        let place = place.or_insert_with(|| Place {
            network_id: network_id.to_owned(),
            address,
            aliases,
            status: TaskStatus::default(),
            assigned: false,
            claimed: false,
            made: false,
            seen: false,
            missing_since: None,
        });
        place.claimed = true;
    }

    /// The container was made.
    pub(super) fn settle(&mut self, task_id: &str) {
        if let Some(place) = self.places.get_mut(task_id) {
            place.claimed = false;
            place.made = true;
        }
    }

    /// No container was made.
    pub(super) fn unclaim(&mut self, task_id: &str) {
        if let Some(place) = self.places.get_mut(task_id) {
            place.claimed = false;
        }
    }

    /// Places of an address whose containers have been made. If no look finds one from now on, it is gone.
    pub(super) fn made_at(&self, address: Ipv4Addr) -> Vec<String> {
        let is_made = |place: &Place| (place.made || place.seen) && !place.claimed;
        let made = self.places.iter();
        let made = made.filter(|(_, place)| place.address == address && is_made(place));
        made.map(|(id, _)| id.clone()).collect()
    }

    /// Those of some places that no container is on.
    pub(super) fn vacant(&self, of: Vec<String>, guests: &[Guest]) -> Vec<String> {
        let mut vacant = of;
        vacant.retain(|id| {
            let place = self.places.get(id);
            place.is_some_and(|place| !guests.iter().any(|guest| is_on(guest, place)))
        });
        vacant
    }

    /// Task IDs of all.
    pub(super) fn ids(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    /// The statuses that were last told: of places that a container is or was on, or that nobody came for.
    pub(super) fn statuses(&self) -> Vec<(String, TaskStatus)> {
        let is_told = |place: &Place| place.seen || place.status.state.is_terminal();
        let told = self.places.iter().filter(|(_, place)| is_told(place));
        told.map(|(id, place)| (id.clone(), place.status.clone()))
            .collect()
    }

    /// The networks that there are places on.
    pub(super) fn networks(&self) -> BTreeSet<String> {
        let places = self.places.values();
        places.map(|place| place.network_id.clone()).collect()
    }

    /// Compares the places with the containers that there are.
    pub(super) fn look(&mut self, guests: &[Guest], at: Instant, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut gone = Vec::new();
        for (id, place) in &mut self.places {
            let guest = guests.iter().find(|guest| is_on(guest, place));
            let status = match guest {
                Some(guest) => {
                    place.seen = true;
                    place.missing_since = None;
                    status_of(place, guest, now)
                }
                None if place.claimed => continue,
                None => {
                    let since = *place.missing_since.get_or_insert(at);
                    if !place.seen && at < since + GRACE {
                        continue;
                    }
                    if !place.assigned {
                        gone.push(id.clone());
                    }
                    ended(now)
                }
            };
            if differs(&place.status, &status) {
                place.status = status.clone();
                actions.push(Action::Report(id.clone(), status));
            }
        }
        for id in gone {
            self.places.remove(&id);
        }
        if self.complete {
            actions.extend(self.adopt(guests, at));
        }
        actions
    }

    fn adopt(&mut self, guests: &[Guest], at: Instant) -> Vec<Action> {
        let has_place = |guest: &&Guest| {
            let mut places = self.places.values();
            places.any(|place| is_on(guest, place))
        };
        let strays: Vec<&Guest> = guests
            .iter()
            .filter(|guest| guest.address.is_some() && !has_place(guest))
            .collect();
        let key = |guest: &Guest| (guest.container.clone(), guest.network_id.clone());
        let still: BTreeSet<_> = strays.iter().map(|guest| key(guest)).collect();
        self.strays.retain(|stray, _| still.contains(stray));
        strays
            .into_iter()
            .filter(|guest| at >= *self.strays.entry(key(guest)).or_insert(at) + GRACE)
            .map(|guest| Action::Adopt(guest.clone()))
            .collect()
    }
}

/// Whether the place is the container's.
fn is_on(guest: &Guest, place: &Place) -> bool {
    guest.network_id == place.network_id && guest.address == Some(place.address)
}

fn status_of(place: &Place, guest: &Guest, now: Timestamp) -> TaskStatus {
    // An observed state never goes back: that the container is stopped is told by its having no name.
    let (state, message) = match guest.running {
        true => (TaskState::Running, "started"),
        false if place.status.state == TaskState::Running => (TaskState::Running, "stopped"),
        false => (TaskState::Ready, "prepared"),
    };
    let mut names = Vec::new();
    if guest.running {
        names.push(guest.name.clone());
        names.extend(short_id(&guest.container).map(str::to_owned));
        names.extend(place.aliases.iter().cloned());
        let mut seen = BTreeSet::new();
        names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    }
    TaskStatus {
        timestamp: now,
        state,
        message: message.to_owned(),
        container_status: Some(ContainerStatus {
            container_id: guest.container.clone(),
            names,
            ..ContainerStatus::default()
        }),
        ..TaskStatus::default()
    }
}

fn ended(now: Timestamp) -> TaskStatus {
    TaskStatus {
        timestamp: now,
        state: TaskState::Shutdown,
        message: "the container was removed, or taken off the network".to_owned(),
        ..TaskStatus::default()
    }
}

/// Whether the managers must hear of it.
fn differs(told: &TaskStatus, status: &TaskStatus) -> bool {
    (told.state, &told.container_status) != (status.state, &status.container_status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::TaskNetwork;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);

    fn task(id: &str) -> Task {
        Task {
            id: id.into(),
            networks_attachments: vec![TaskNetwork {
                network_id: "n1".into(),
                address: Some(ipnet::Ipv4Net::new_assert(ADDRESS, 24)),
                aliases: vec!["db".into(), "box".into()],
                ..TaskNetwork::default()
            }],
            ..Task::default()
        }
    }

    fn guest(running: bool) -> Guest {
        Guest {
            container: "0123456789abcdef".into(),
            name: "box".into(),
            running,
            twin: "ffff".into(),
            network_id: "n1".into(),
            address: Some(ADDRESS),
        }
    }

    /// What is reported of task `t`: state and names.
    fn told(actions: &[Action]) -> Option<(TaskState, Vec<String>)> {
        match actions {
            [Action::Report(id, status)] if id == "t" => {
                let container = status.container_status.clone().unwrap_or_default();
                Some((status.state, container.names))
            }
            [] => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_follows_its_container_and_ends_with_it() {
        let (mut places, now) = (Places::default(), Timestamp::default());
        let at = Instant::now();
        places.assign(true, vec![task("t")], &[]);
        let named = ["box", "0123456789ab", "db"].map(String::from).to_vec();
        for (guests, expected) in [
            (vec![guest(false)], Some((TaskState::Ready, vec![]))),
            (vec![guest(false)], None),
            (vec![guest(true)], Some((TaskState::Running, named.clone()))),
            (vec![guest(false)], Some((TaskState::Running, vec![]))),
            (vec![guest(true)], Some((TaskState::Running, named))),
            (vec![], Some((TaskState::Shutdown, vec![]))),
            (vec![], None),
        ] {
            assert_eq!(told(&places.look(&guests, at, now)), expected);
        }
        assert_eq!(places.networks().len(), 1, "the managers still have it");
        places.assign(false, vec![], &["t".into()]);
        assert!(places.networks().is_empty());
    }

    #[test]
    fn a_place_whose_container_never_came_is_given_back() {
        let (mut places, now) = (Places::default(), Timestamp::default());
        let at = Instant::now();
        places.claim("t", "n1", ADDRESS, vec![]);
        places.assign(true, vec![], &[]);
        assert_eq!(
            told(&places.look(&[], at + GRACE * 2, now)),
            None,
            "it is being made"
        );
        places.unclaim("t");
        assert_eq!(told(&places.look(&[], at, now)), None);
        let ended = told(&places.look(&[], at + GRACE, now));
        assert_eq!(ended, Some((TaskState::Shutdown, vec![])));
        assert!(places.ids().is_empty(), "no manager will ever take it away");
    }

    #[test]
    fn an_address_is_free_once_its_container_was_made_and_is_gone() {
        let (mut places, now) = (Places::default(), Timestamp::default());
        places.assign(true, vec![task("t")], &[]);
        assert!(places.made_at(ADDRESS).is_empty(), "it may yet come");
        places.claim("t", "n1", ADDRESS, vec![]);
        places.look(&[guest(true)], Instant::now(), now);
        assert!(places.made_at(ADDRESS).is_empty(), "it is being made");
        places.settle("t");
        let made = places.made_at(ADDRESS);
        assert_eq!(made, ["t"]);
        assert!(places.made_at(Ipv4Addr::new(10, 0, 1, 6)).is_empty());
        assert!(places.vacant(made.clone(), &[guest(false)]).is_empty());
        assert_eq!(places.vacant(made.clone(), &[]), made);
        places.assign(false, vec![], &made);
        assert!(places.vacant(made, &[]).is_empty(), "given back already");
    }

    #[test]
    fn a_container_without_a_place_asks_for_one_after_a_while() {
        let (mut places, now) = (Places::default(), Timestamp::default());
        let at = Instant::now();
        let guests = [guest(true)];
        assert!(places.look(&guests, at, now).is_empty());
        assert!(
            places.look(&guests, at + GRACE, now).is_empty(),
            "no manager was heard"
        );
        places.assign(true, vec![], &[]);
        assert!(places.look(&guests, at, now).is_empty());
        let adopt = [Action::Adopt(guest(true))];
        assert_eq!(places.look(&guests, at + GRACE, now), adopt);
        // It was gone in between.
        places.look(&[], at + GRACE, now);
        assert!(places.look(&guests, at + GRACE, now).is_empty());
    }
}
