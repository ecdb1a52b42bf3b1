//! `/skein/status`: what Docker has no word for, of all nodes at once.
//!
//! On this socket, as whoever may drive the swarm may see it, from every manager; other managers pass it
//! on to the leader as they do all else.

use super::{Leader, error::ApiError, json, word};
use crate::manager::Progress;
use axum::{extract::State, response::Response};
use skein_model::{Node, State as Model};
use skein_proto::inspect::{ClusterNode, ClusterStatus};
use std::collections::BTreeMap;

pub async fn status(State(leader): State<Leader>) -> Result<Response, ApiError> {
    let state = leader.read().await?;
    let status = cluster(&state, &leader.store.kernels());
    Ok(json::ok(&json::shown(&status)?))
}

fn cluster(state: &Model, kernels: &BTreeMap<String, Progress>) -> ClusterStatus {
    let nodes = state.nodes().map(|node| {
        let progress = kernels.get(&node.id).cloned().unwrap_or_default();
        shown(node, progress)
    });
    let mut nodes: Vec<ClusterNode> = nodes.collect();
    nodes.sort_by(|a, b| (&a.hostname, &a.id).cmp(&(&b.hostname, &b.id)));
    ClusterStatus {
        version: state.index(),
        nodes,
    }
}

fn shown(node: &Node, progress: Progress) -> ClusterNode {
    ClusterNode {
        id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        address: node.data_path_addr.clone(),
        state: word(node.status.state),
        availability: word(node.spec.availability),
        role: word(node.role),
        told_version: progress.told,
        kernel_version: progress.programmed,
        behind: progress.programmed < progress.told,
        problem: progress.problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, NodeState, Object, Proposal, Timestamp};

    #[test]
    fn a_node_is_behind_until_its_kernel_has_what_it_was_told() {
        let mut state = Model::default();
        for (index, (id, name)) in (1..).zip([("a", "n2"), ("b", "n1"), ("c", "n3")]) {
            let mut node = Node {
                id: id.to_owned(),
                ..Node::default()
            };
            node.description.hostname = name.to_owned();
            node.status.state = NodeState::Ready;
            let actions = vec![Action::Create(Object::from(node))];
            let at = Timestamp::from_unix_nanos(1);
            state.apply(index, &Proposal { at, actions }).unwrap();
        }
        let progress = |told, programmed| Progress {
            told,
            programmed,
            problem: format!("of {programmed}"),
        };
        let kernels = [("a", progress(7, 7)), ("b", progress(9, 7))];
        let kernels = kernels.map(|(id, progress)| (id.to_owned(), progress));
        let status = cluster(&state, &kernels.into());
        let nodes: Vec<_> = status
            .nodes
            .iter()
            .map(|node| (node.hostname.as_str(), node.behind))
            .collect();
        // The third has no session: nothing is known of it, its state says that.
        assert_eq!(nodes, [("n1", true), ("n2", false), ("n3", false)]);
        let first = &status.nodes[0];
        assert_eq!(
            (first.state.as_str(), first.role.as_str()),
            ("ready", "worker")
        );
        assert_eq!(first.availability, "active");
        assert_eq!((&*first.problem, &*status.nodes[2].problem), ("of 7", ""));
        assert_eq!(status.version, 3);
    }
}
