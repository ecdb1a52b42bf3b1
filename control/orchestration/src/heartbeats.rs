//! Which nodes are gone, by the heartbeats that were heard.

use skein_model::{Draft, Node, NodeState, State};
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

/// The heartbeats that this leader has heard. Times are of a clock that never jumps, from any start.
#[derive(Debug)]
pub struct Heartbeats {
    leader_since: Duration,
    heard: BTreeMap<String, Heard>,
    /// When the next look is due, by the last one.
    due: Option<Duration>,
    /// No node is down before: see [`Self::excuse`].
    excused_until: Duration,
}

/// The last heartbeat of a node.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Duration,
    /// When it is to send the next one: what it was told with this one. What the cluster has come to ask for since
    /// then, it does not know.
    period: Duration,
}

impl Heartbeats {
    /// Those of a leader that begins now.
    pub fn new(now: Duration) -> Self {
        Self {
            leader_since: now,
            heard: BTreeMap::new(),
            due: None,
            excused_until: Duration::ZERO,
        }
    }

    /// A node lives, and is told to send the next heartbeat after `period`.
    pub fn heard(&mut self, node_id: &str, now: Duration, period: Duration) {
        let heard = Heard { at: now, period };
        match self.heard.get_mut(node_id) {
            Some(last) => *last = heard,
            None => drop(self.heard.insert(node_id.to_owned(), heard)),
        }
    }

    /// Marks nodes that are not heard of; returns when to look again, by the same clock.
    pub fn run(&mut self, draft: &mut Draft, now: Duration) -> Option<Duration> {
        self.heard.retain(|id, _| draft.node(id).is_some());
        let period = heartbeat_period(draft);
        self.excuse(period, now);
        let nodes: Vec<Arc<Node>> = draft
            .nodes()
            .filter(|node| node.status.state != NodeState::Down)
            .cloned()
            .collect();
        let mut again: Option<Duration> = None;
        for node in nodes {
            let known = self.heard.get(&node.id);
            let (deadline, message) = match known {
                Some(last) => (last.at + last.period * GRACE, "heartbeat failure"),
                None => (
                    self.leader_since + period * GRACE_UNKNOWN,
                    "heartbeat failure for node in \"unknown\" state",
                ),
            };
            let deadline = deadline.max(self.excused_until);
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
        self.due = again;
        again
    }

    /// A look that is late by more than a period says that this leader itself did not run: what the nodes
    /// sent meanwhile waits to be read. So all have one period more. Not twice running: a leader that is always
    /// late must find nodes that are gone all the same.
    fn excuse(&mut self, period: Duration, now: Duration) {
        let is_late = self.due.is_some_and(|due| now > due + period);
        if is_late && self.due != Some(self.excused_until) {
            self.excused_until = now + period;
        }
    }
}

/// Notes that the nodes have no manager to talk to: the leader stops, and they must find another. Whoever
/// leads next takes it from there.
pub fn disconnect(draft: &mut Draft) {
    let ready: Vec<Arc<Node>> = draft
        .nodes()
        .filter(|node| node.status.state == NodeState::Ready)
        .cloned()
        .collect();
    for node in ready {
        let mut node = Node::clone(&node);
        node.status.state = NodeState::Disconnected;
        node.status.message = "node is currently trying to find new manager".into();
        draft.put(node);
    }
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
        beats.heard("a", SECOND * 2, HEARTBEAT_PERIOD);
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 3),
            Some(SECOND * 17)
        );
        beats.heard("a", SECOND * 7, HEARTBEAT_PERIOD);
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

    /// It sends its next heartbeat when it was told to, whatever the cluster asks for meanwhile.
    #[test]
    fn a_node_is_judged_by_the_period_that_it_was_given() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        let mut beats = Heartbeats::new(SECOND);
        beats.heard("a", SECOND * 2, SECOND * 60);
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 3),
            Some(SECOND * 182)
        );
        assert_eq!(status(&fixture, "a").0, NodeState::Ready);
        beats.heard("a", SECOND * 62, HEARTBEAT_PERIOD);
        assert_eq!(beat(&mut fixture, &mut beats, SECOND * 77), None);
        assert_eq!(status(&fixture, "a").0, NodeState::Down);
    }

    #[test]
    fn a_leader_that_was_paused_itself_hears_its_nodes_before_it_blames_them() {
        let mut fixture = Fixture::default();
        fixture.node("lives", |_| {});
        fixture.node("gone", |_| {});
        let mut beats = Heartbeats::new(SECOND);
        for node in ["lives", "gone"] {
            beats.heard(node, SECOND * 2, HEARTBEAT_PERIOD);
        }
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 3),
            Some(SECOND * 17)
        );
        // Two minutes later: what was sent meanwhile is read after this look.
        assert_eq!(
            beat(&mut fixture, &mut beats, SECOND * 123),
            Some(SECOND * 128)
        );
        beats.heard("lives", SECOND * 124, HEARTBEAT_PERIOD);
        beat(&mut fixture, &mut beats, SECOND * 128);
        assert_eq!(status(&fixture, "lives").0, NodeState::Ready);
        assert_eq!(status(&fixture, "gone").0, NodeState::Down);
    }

    #[test]
    fn a_leader_that_is_always_late_finds_who_is_gone() {
        let mut fixture = Fixture::default();
        fixture.node("gone", |_| {});
        let mut beats = Heartbeats::new(SECOND);
        beats.heard("gone", SECOND * 2, HEARTBEAT_PERIOD);
        for at in [3, 60, 120] {
            beat(&mut fixture, &mut beats, SECOND * at);
        }
        assert_eq!(status(&fixture, "gone").0, NodeState::Down);
    }

    #[test]
    fn nodes_that_a_leader_leaves_are_the_next_one_s_to_hear_of() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.node("gone", |node| node.status.state = NodeState::Down);
        let mut draft = fixture.draft();
        disconnect(&mut draft);
        fixture.commit(draft);
        let message = "node is currently trying to find new manager".to_owned();
        assert_eq!(status(&fixture, "a"), (NodeState::Disconnected, message));
        assert_eq!(status(&fixture, "gone").0, NodeState::Down);
        beat(&mut fixture, &mut Heartbeats::new(SECOND), SECOND);
        assert_eq!(status(&fixture, "a").0, NodeState::Unknown);
        assert_eq!(status(&fixture, "gone").0, NodeState::Down);
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
}
