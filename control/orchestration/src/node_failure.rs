//! Which nodes are gone, and what becomes of the tasks that nobody will report on again.

use crate::Wake;
use skein_model::{Availability, Draft, Node, NodeState, State, Task, TaskState, Timestamp};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often nodes tell that they live: Swarm's period.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);
/// Nobody can tell more often than this whether a node lives.
const HEARTBEAT_PERIOD_MIN: Duration = Duration::from_millis(100);

/// How often nodes of this cluster tell that they live.
pub fn heartbeat_period(state: &State) -> Duration {
    let asked = state.cluster().map(|c| c.spec.dispatcher.heartbeat_period);
    match asked.and_then(|nanos| u64::try_from(nanos).ok()) {
        None | Some(0) => HEARTBEAT_PERIOD,
        Some(nanos) => Duration::from_nanos(nanos).max(HEARTBEAT_PERIOD_MIN),
    }
}

/// Heartbeats that may be missed before a node is down.
const GRACE: u32 = 3;
/// The same after a change of leader: nodes must find the new one first.
const GRACE_UNKNOWN: u32 = 6;
/// From when on the tasks of a node that stays down are given up: Swarm's time.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Whether nothing runs there as far as anybody can tell: the node is down, or was removed.
pub(crate) fn is_gone(state: &State, node_id: &str) -> bool {
    state
        .node(node_id)
        .is_none_or(|node| node.status.state == NodeState::Down)
}

/// Whether tasks must leave the node.
pub(crate) fn must_leave(state: &State, node_id: &str) -> bool {
    is_gone(state, node_id)
        || state
            .node(node_id)
            .is_some_and(|node| node.spec.availability == Availability::Drain)
}

/// The heartbeats that this leader has heard. Times are of a clock that never jumps, from any start.
#[derive(Debug)]
pub struct Heartbeats {
    leader_since: Duration,
    heard: BTreeMap<String, Duration>,
}

impl Heartbeats {
    /// Those of a leader that begins now.
    pub fn new(now: Duration) -> Self {
        Self {
            leader_since: now,
            heard: BTreeMap::new(),
        }
    }

    /// A node lives.
    pub fn heard(&mut self, node_id: &str, now: Duration) {
        match self.heard.get_mut(node_id) {
            Some(last) => *last = now,
            None => drop(self.heard.insert(node_id.to_owned(), now)),
        }
    }

    /// Marks nodes that are not heard of; returns when to look again, by the same clock.
    pub fn run(&mut self, draft: &mut Draft, now: Duration) -> Option<Duration> {
        self.heard.retain(|id, _| draft.node(id).is_some());
        let period = heartbeat_period(draft);
        let nodes: Vec<Arc<Node>> = draft
            .nodes()
            .filter(|node| node.status.state != NodeState::Down)
            .cloned()
            .collect();
        let mut again: Option<Duration> = None;
        for node in nodes {
            let known = self.heard.get(&node.id);
            let (deadline, message) = match known {
                Some(last) => (*last + period * GRACE, "heartbeat failure"),
                None => (
                    self.leader_since + period * GRACE_UNKNOWN,
                    "heartbeat failure for node in \"unknown\" state",
                ),
            };
            let (state, message) = if now >= deadline {
                (NodeState::Down, message)
            } else {
                again = Some(again.map_or(deadline, |earlier| earlier.min(deadline)));
                if known.is_some() || node.status.state == NodeState::Unknown {
                    continue;
                }
                (
                    NodeState::Unknown,
                    "Node moved to \"unknown\" state due to leadership change in cluster",
                )
            };
            let mut node = (*node).clone();
            node.status.state = state;
            node.status.message = message.into();
            draft.put(node);
        }
        again
    }
}

/// Gives up the tasks of nodes that were removed, or are down for a day.
pub(crate) fn orphan(draft: &mut Draft, wake: &mut Wake) {
    let now = draft.now();
    let tasks: Vec<(Arc<Task>, bool)> = draft
        .tasks()
        .filter(|task| !task.node_id.is_empty() && !task.status.state.is_terminal())
        .filter_map(|task| match draft.node(&task.node_id) {
            None => Some((task.clone(), true)),
            Some(node) if node.status.state == NodeState::Down => {
                // Later changes of the node by users only make this later.
                let due = node.meta.updated_at + ORPHAN_AFTER;
                if now < due {
                    wake.at(due);
                    return None;
                }
                Some((task.clone(), false))
            }
            Some(_) => None,
        })
        .collect();
    for (task, removed) in tasks {
        let mut task = (*task).clone();
        give_up(&mut task, now);
        if removed {
            task.status.message = "Task belonged to a node that has been deleted".into();
        }
        draft.put(task);
    }
}

fn give_up(task: &mut Task, now: Timestamp) {
    task.status.state = TaskState::Orphaned;
    task.status.timestamp = now;
    task.status.applied_at = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    const SECOND: Duration = Duration::from_secs(1);

    fn beat(fixture: &mut Fixture, beats: &mut Heartbeats, now: Duration) -> Option<Duration> {
        let mut draft = fixture.draft();
        let again = beats.run(&mut draft, now);
        fixture.commit(draft);
        again
    }

    fn status(fixture: &Fixture, node: &str) -> (NodeState, String) {
        let status = &fixture.state.node(node).unwrap().status;
        (status.state, status.message.clone())
    }

    #[test]
    fn a_node_is_down_after_three_missed_heartbeats() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        let mut beats = Heartbeats::new(SECOND);
        beats.heard("a", SECOND * 2);
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 3),
            Some(SECOND * 17)
        );
        beats.heard("a", SECOND * 7);
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 17),
            Some(SECOND * 22)
        );
        assert_eq!(status(&fixture, "a").0, NodeState::Ready);
        assert_eq!(beat(&mut fixture, &mut beats, SECOND * 22), None);
        assert_eq!(
            status(&fixture, "a"),
            (NodeState::Down, "heartbeat failure".into())
        );
    }

    #[test]
    fn a_new_leader_gives_nodes_twice_the_time() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        let mut beats = Heartbeats::new(SECOND * 100);
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 100),
            Some(SECOND * 130)
        );
        let (state, message) = status(&fixture, "a");
        assert_eq!(state, NodeState::Unknown);
        assert!(message.contains("leadership change"), "{message}");
        beat(&mut fixture, &mut beats, SECOND * 130);
        let (state, message) = status(&fixture, "a");
        assert_eq!(state, NodeState::Down);
        assert_eq!(message, "heartbeat failure for node in \"unknown\" state");
    }

    #[test]
    fn tasks_of_lost_nodes_are_given_up_in_the_end() {
        let mut fixture = Fixture::default();
        fixture.node("a", |node| node.status.state = NodeState::Down);
        for (id, node) in [("on-down", "a"), ("on-removed", "b"), ("waiting", "")] {
            fixture.task(id, |task| {
                task.node_id = node.into();
                task.status.state = TaskState::Running;
            });
        }
        let orphaned = |fixture: &mut Fixture| {
            let mut wake = Wake::default();
            let mut draft = fixture.draft();
            orphan(&mut draft, &mut wake);
            fixture.commit(draft);
            let mut ids = Vec::new();
            for task in fixture.state.tasks() {
                if task.status.state == TaskState::Orphaned {
                    ids.push(task.id.clone());
                }
            }
            (ids, wake.earliest())
        };
        let due = fixture.now + ORPHAN_AFTER;
        let (ids, wake) = orphaned(&mut fixture);
        assert_eq!((ids, wake), (vec!["on-removed".into()], Some(due)));
        fixture.now = due;
        assert_eq!(orphaned(&mut fixture).0, ["on-down", "on-removed"]);
    }
}
