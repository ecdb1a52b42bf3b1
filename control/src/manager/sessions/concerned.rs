//! Whom a change of the store concerns: most are of a few tasks, and a thousand nodes need not look at them.

use crate::{
    manager::certificates::{self, Wanted},
    raft::Member,
};
use skein_model::State;
use std::{collections::BTreeSet, sync::Arc};

/// The nodes to which there may be something to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Concerned {
    All,
    /// By ID.
    Nodes(BTreeSet<String>),
}

/// What all that sessions say is made of, as it was last.
#[derive(Default)]
pub(super) struct Watcher {
    /// `None`: nothing yet.
    seen: Option<(State, Vec<Member>)>,
    wanted: Wanted,
}

impl Watcher {
    /// Whom it concerns that things are like this now. At first all: they may have begun with an older
    /// state.
    pub(super) fn next(&mut self, state: State, members: Vec<Member>) -> Concerned {
        let concerned = match &self.seen {
            Some((before, same)) if *same == members && is_same_for_all(before, &state) => {
                Concerned::Nodes(changed(before, &state, &mut self.wanted))
            }
            _ => Concerned::All,
        };
        self.seen = Some((state, members));
        concerned
    }
}

/// Whether what does not belong to one node is the same.
fn is_same_for_all(before: &State, now: &State) -> bool {
    let cluster = |state: &State| state.cluster().map(Arc::as_ptr);
    cluster(before) == cluster(now) && before.payloads().is_same(&now.payloads())
}

fn changed(before: &State, now: &State, wanted: &mut Wanted) -> BTreeSet<String> {
    let ids = now.changed_node_ids(before).into_iter();
    let mut ids: BTreeSet<String> = ids.map(str::to_owned).collect();
    // Whose turn it is to renew a certificate depends on how far the others are.
    if let Some(cluster) = now.cluster()
        && now.changed_nodes(before).next().is_some()
    {
        let issuer = wanted.of(cluster);
        let waiting = now.nodes().filter(|node| certificates::waits(node, issuer));
        ids.extend(waiting.map(|node| node.id.clone()));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{create_root, tls_info};
    use skein_model::{
        Cluster, Draft, Node, NodeState, Object, Proposal, Secret, Service, Task, Timestamp,
    };

    fn put(state: &State, object: impl Into<Object>) -> State {
        let at = Timestamp::from_unix_nanos(1);
        let mut draft = Draft::new(state.clone(), at);
        draft.put(object);
        let mut state = state.clone();
        for actions in draft.into_proposals() {
            state
                .apply(state.index() + 1, &Proposal { at, actions })
                .unwrap();
        }
        state
    }

    fn nodes(ids: &[&str]) -> Concerned {
        Concerned::Nodes(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    fn task(node: &str) -> Task {
        Task {
            id: "t".into(),
            node_id: node.into(),
            ..Task::default()
        }
    }

    #[test]
    fn a_change_of_a_node_or_of_its_tasks_is_its_own() {
        let mut watcher = Watcher::default();
        let mut next = |state: &State| watcher.next(state.clone(), Vec::new());
        let state = State::default();
        assert_eq!(next(&state), Concerned::All);
        assert_eq!(next(&state), nodes(&[]));
        let a = Node {
            id: "a".into(),
            ..Node::default()
        };
        let state = put(&state, a);
        assert_eq!(next(&state), nodes(&["a"]));
        let state = put(&state, task("a"));
        assert_eq!(next(&state), nodes(&["a"]));
        let state = put(&state, task("b"));
        assert_eq!(next(&state), nodes(&["a", "b"]), "it had it, and has it");
        let service = Service {
            id: "s".into(),
            ..Service::default()
        };
        let state = put(&state, service);
        assert_eq!(next(&state), nodes(&[]));
    }

    #[test]
    fn what_is_no_nodes_own_concerns_all() {
        let mut watcher = Watcher::default();
        let state = State::default();
        watcher.next(state.clone(), Vec::new());
        let cluster = Cluster {
            id: "c".into(),
            ..Cluster::default()
        };
        let secret = Secret {
            id: "s".into(),
            ..Secret::default()
        };
        let state = put(&state, cluster);
        assert_eq!(watcher.next(state.clone(), Vec::new()), Concerned::All);
        let state = put(&state, secret);
        assert_eq!(watcher.next(state.clone(), Vec::new()), Concerned::All);
        let member = Member {
            raft_id: 1,
            node_id: "a".into(),
            address: "198.18.0.1:2377".into(),
            votes: true,
        };
        assert_eq!(watcher.next(state, vec![member]), Concerned::All);
    }

    #[test]
    fn whose_certificate_waits_looks_at_every_change_of_a_node() {
        let root = create_root(Timestamp::from_unix_nanos(1)).unwrap();
        let issuer = tls_info(&root.cert_pem).unwrap();
        let cluster = Cluster {
            id: "c".into(),
            root_ca: root,
            ..Cluster::default()
        };
        let node = |id: &str, converted| {
            let mut node = Node {
                id: id.into(),
                ..Node::default()
            };
            node.status.state = NodeState::Ready;
            if converted {
                node.description.tls_info = issuer.clone();
            }
            node
        };
        let state = put(&State::default(), cluster);
        let state = put(&put(&state, node("a", false)), node("b", false));
        let state = put(&state, node("c", true));
        let mut watcher = Watcher::default();
        watcher.next(state.clone(), Vec::new());
        let converted = node("b", true);
        let meta = state.node("b").unwrap().meta.clone();
        let state = put(&state, Node { meta, ..converted });
        assert_eq!(watcher.next(state.clone(), Vec::new()), nodes(&["a", "b"]));
        let state = put(&state, task("c"));
        assert_eq!(watcher.next(state, Vec::new()), nodes(&["c"]));
    }
}
