//! What the leader tells nodes of their certificates, and when a change of the root is done.

use crate::identity::{finish_rotation, is_converted, wanted_issuer};
use skein_model::{Cluster, Draft, Node, NodeState, State, Timestamp, TlsInfo};
use tracing::info;

/// Nodes that renew their certificates at the same time while the root changes: Swarm's number. Each
/// renewal is a signature by the leader and a new session.
const BATCH: usize = 30;

/// Who is to have issued certificates: parsed once for each root.
#[derive(Default)]
pub(super) struct Wanted {
    of: (String, String),
    issuer: TlsInfo,
}

impl Wanted {
    /// The issuer that the cluster wants now.
    pub(super) fn of(&mut self, cluster: &Cluster) -> &TlsInfo {
        let next = cluster.root_rotation.as_ref();
        let next = next.map_or("", |rotation| rotation.root.cert_pem.as_str());
        let root = cluster.root_ca.cert_pem.as_str();
        if (self.of.0.as_str(), self.of.1.as_str()) != (root, next) {
            self.of = (root.to_owned(), next.to_owned());
            self.issuer = wanted_issuer(cluster).unwrap_or_default();
        }
        &self.issuer
    }
}

/// Whether it may become a node's turn to renew its certificate though nothing of the node changes.
pub(super) fn waits(node: &Node, wanted: &TlsInfo) -> bool {
    node.status.state == NodeState::Ready && !is_converted(node, wanted)
}

/// Whether it is the node's turn to renew its certificate, as another issuer is wanted.
pub(super) fn is_turn(state: &State, node_id: &str, wanted: &TlsInfo) -> bool {
    let waits = |node: &Node| waits(node, wanted);
    if wanted.cert_issuer_public_key.is_empty() || !state.node(node_id).is_some_and(|n| waits(n)) {
        return false;
    }
    let waiting = state.nodes().filter(|node| waits(node));
    waiting.take(BATCH).any(|node| node.id == node_id)
}

/// Ends a change of the root that all nodes have made, and forgets removed nodes whose certificates
/// have expired. When to look again.
pub(super) fn tend(draft: &mut Draft, wanted: &mut Wanted) -> Option<Timestamp> {
    let cluster = draft.cluster()?.clone();
    let done = cluster.root_rotation.is_some() && {
        let wanted = wanted.of(&cluster);
        draft.nodes().all(|node| is_converted(node, wanted))
    };
    let now = draft.now();
    let expired = cluster.removed_nodes.values().any(|until| *until <= now);
    if done || expired {
        let mut cluster = Cluster::clone(&cluster);
        cluster.removed_nodes.retain(|_, until| *until > now);
        if done {
            finish_rotation(&mut cluster);
            info!(
                "all nodes have certificates of the new root, which now takes the old one's place"
            );
        }
        draft.put(cluster);
    }
    let left = cluster.removed_nodes.values().filter(|until| **until > now);
    left.min().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{apply_alone, create_root, tls_info};
    use skein_model::{Action, CaConfig, Proposal};
    use std::time::Duration;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_nanos(1_800_000_000_000_000_000) + Duration::from_secs(secs)
    }

    #[test]
    fn the_root_changes_once_every_node_has_changed_over() {
        let mut cluster = Cluster {
            id: "c".into(),
            root_ca: create_root(at(0)).unwrap(),
            ..Cluster::default()
        };
        let force = CaConfig {
            force_rotate: 1,
            ..CaConfig::default()
        };
        let old = tls_info(&cluster.root_ca.cert_pem).unwrap();
        apply_alone(&mut cluster, force, at(0)).unwrap();
        cluster.removed_nodes.insert("gone".into(), at(100));
        let new = wanted_issuer(&cluster).unwrap();
        let nodes = (0..BATCH + 2).map(|n| {
            let mut node = Node {
                id: format!("n{n:02}"),
                ..Node::default()
            };
            node.status.state = NodeState::Ready;
            node.description.tls_info = old.clone();
            Action::Create(node.into())
        });
        let mut actions: Vec<_> = nodes.collect();
        actions.push(Action::Create(cluster.into()));
        let mut state = State::default();
        let at_start = Proposal { at: at(0), actions };
        state.apply(1, &at_start).unwrap();
        assert!(is_turn(&state, "n00", &new) && !is_turn(&state, "n00", &old));
        assert!(!is_turn(&state, &format!("n{BATCH}"), &new));

        let mut wanted = Wanted::default();
        let mut draft = Draft::new(state, at(10));
        assert_eq!(tend(&mut draft, &mut wanted), Some(at(100)));
        assert!(draft.cluster().unwrap().root_rotation.is_some());
        for node in draft.nodes().cloned().collect::<Vec<_>>() {
            let mut node = Node::clone(&node);
            node.description.tls_info = new.clone();
            draft.put(node);
        }
        tend(&mut draft, &mut wanted);
        let cluster = draft.cluster().unwrap();
        assert!(cluster.root_rotation.is_none() && cluster.removed_nodes.contains_key("gone"));
        assert_ne!(cluster.root_ca.cert_pem, old.trust_root);
        let state = draft.state().clone();
        assert!(!is_turn(&state, "n00", wanted.of(state.cluster().unwrap())));
        let mut draft = Draft::new(state, at(100));
        assert_eq!(tend(&mut draft, &mut wanted), None);
        assert!(draft.cluster().unwrap().removed_nodes.is_empty());
    }
}
