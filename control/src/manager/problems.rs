//! What the nodes could not make of their network, as they last said: for those who look at a service.
//!
//! Not in the store: each node says it anew to each leader.

use super::sessions::Session;
use parking_lot::RwLock;
use skein_model::State;
use skein_proto::network::{Kind, Problem};
use std::{collections::BTreeMap, sync::Arc};

/// Problems of one node that are remembered; whoever has more looks into the node's log.
const PROBLEMS_MAX: usize = 1024;
/// Nodes whose problems are named in one line; the rest is counted.
const NAMED_MAX: usize = 3;

/// The problems that nodes have now. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Problems {
    by_node: Arc<RwLock<BTreeMap<String, Vec<Problem>>>>,
}

impl Problems {
    /// A node says what it has. Returns what it had not before.
    pub(super) fn report(&self, session: &Session, mut problems: Vec<Problem>) -> Vec<Problem> {
        problems.truncate(PROBLEMS_MAX);
        let node_id = &session.node_id;
        let mut by_node = self.by_node.write();
        // One that has ended has nothing more to say.
        if session.ended.is_cancelled() {
            return Vec::new();
        }
        let before = if problems.is_empty() {
            by_node.remove(node_id)
        } else {
            by_node.insert(node_id.clone(), problems.clone())
        };
        let before = before.unwrap_or_default();
        problems.retain(|problem| !before.contains(problem));
        problems
    }

    /// A node was removed; its session has ended.
    pub(super) fn forget_node(&self, node_id: &str) {
        self.by_node.write().remove(node_id);
    }

    /// This manager leads no more: the nodes say it to another.
    pub(super) fn forget(&self) {
        self.by_node.write().clear();
    }

    /// What a node has of its own, whatever it serves; "" if nothing.
    pub(super) fn of_node(&self, node_id: &str) -> String {
        let by_node = self.by_node.read();
        let mut problems = by_node.get(node_id).into_iter().flatten();
        let own = problems.find(|problem| problem.kind() == Kind::Settings);
        own.map_or_else(String::new, |problem| problem.message.clone())
    }

    /// In one line, what keeps nodes from serving a service; "" if nothing does.
    pub(super) fn of_service(&self, state: &State, service_id: &str) -> String {
        let by_node = self.by_node.read();
        let mut lines: Vec<_> = by_node
            .iter()
            .filter_map(|(node_id, problems)| Some((state.node(node_id)?, problems)))
            .flat_map(|(node, problems)| {
                let own = |problem: &&Problem| {
                    problem.kind() == Kind::Service && problem.id == service_id
                };
                let host = &node.description.hostname;
                let line = move |problem: &Problem| format!("{host}: {}", problem.message);
                problems.iter().filter(own).map(line)
            })
            .collect();
        lines.sort();
        let more = lines.len().saturating_sub(NAMED_MAX);
        lines.truncate(NAMED_MAX);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Node, Proposal, Timestamp};

    fn problem(id: &str, message: &str) -> Problem {
        Problem {
            kind: Kind::Service.into(),
            id: id.into(),
            message: message.into(),
        }
    }

    fn session(node_id: &str) -> Session {
        Session::new(node_id, "s".to_owned())
    }

    fn state(nodes: &[&str]) -> State {
        let mut state = State::default();
        let node = |id: &&str| {
            let mut node = Node {
                id: (*id).to_owned(),
                ..Node::default()
            };
            node.description.hostname = format!("host-{id}");
            Action::Create(node.into())
        };
        let actions = nodes.iter().map(node).collect();
        let at = Timestamp::from_unix_nanos(1);
        state.apply(1, &Proposal { at, actions }).unwrap();
        state
    }

    #[test]
    fn only_what_is_new_is_returned_and_only_what_is_there_is_shown() {
        let (problems, state) = (Problems::default(), state(&["a"]));
        let taken = problem("web", "port 80 is taken");
        let said = vec![taken];
        assert_eq!(problems.report(&session("a"), said.clone()), said);
        assert_eq!(problems.report(&session("a"), said.clone()), []);
        problems.report(&session("removed"), said);
        let shown = problems.of_service(&state, "web");
        assert_eq!(shown, "host-a: port 80 is taken");
        assert_eq!(problems.of_service(&state, "other"), "");
        problems.report(&session("a"), vec![]);
        assert_eq!(problems.of_service(&state, "web"), "");
        // One that was removed, and whose last word comes late.
        let last = session("a");
        let taken = vec![problem("web", "port 80 is taken")];
        problems.report(&last, taken.clone());
        last.ended.cancel();
        problems.forget_node("a");
        assert_eq!(problems.report(&last, taken), []);
        assert_eq!(problems.of_service(&state, "web"), "");
    }

    #[test]
    fn what_is_of_a_node_itself_is_told_from_what_is_of_services() {
        let problems = Problems::default();
        let own = Problem {
            kind: Kind::Settings.into(),
            ..problem("settings", "no answer")
        };
        problems.report(&session("a"), vec![problem("web", "x"), own]);
        assert_eq!(problems.of_node("a"), "no answer");
        problems.report(&session("a"), vec![problem("web", "x")]);
        assert_eq!(problems.of_node("a"), "");
        assert_eq!(problems.of_node("b"), "");
    }

    #[test]
    fn the_line_does_not_grow_with_the_cluster() {
        let nodes = ["a", "b", "c", "d", "e"];
        let (problems, state) = (Problems::default(), state(&nodes));
        for node in nodes {
            problems.report(&session(node), vec![problem("web", "x")]);
        }
        let shown = problems.of_service(&state, "web");
        assert_eq!(shown, "host-a: x; host-b: x; host-c: x; and 2 more");
        problems.forget();
        assert_eq!(problems.of_service(&state, "web"), "");
    }
}
