//! Who is to be a manager: `Cluster.managers` in the store. The group itself follows (see
//! [`super::membership`]).

use super::{ProposeError, Raft};
use skein_model::{Cluster, Draft, Node, NodeRole, NodeState, RaftMember, Rejection, State};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the group may take to let a member go.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
const REMOVAL_POLL: Duration = Duration::from_millis(50);

type Managers = BTreeMap<String, RaftMember>;

/// Makes a node a manager. Its Raft ID, and all managers. A node that is one already keeps its ID.
pub(super) async fn add(
    raft: &Raft,
    node_id: &str,
    address: &str,
) -> Result<(u64, Managers), ProposeError> {
    let mut is_new = false;
    let make = |draft: &mut Draft| {
        let node = node(draft, node_id)?;
        if node.spec.role != NodeRole::Manager {
            return Err(ProposeError::Refused(format!(
                "node {node_id} is to be a worker: promote it before it joins the managers"
            )));
        }
        let mut cluster = cluster(draft)?;
        is_new = !cluster.managers.contains_key(node_id);
        let next = cluster.next_raft_id;
        let member = cluster.managers.entry(node_id.to_owned());
        let member = member.or_insert_with(|| RaftMember {
            raft_id: next,
            addr: String::new(),
        });
        member.addr = address.to_owned();
        let raft_id = member.raft_id;
        cluster.next_raft_id = next.max(raft_id + 1);
        let managers = cluster.managers.clone();
        draft.put(cluster);
        Ok((raft_id, managers))
    };
    let (raft_id, managers) = raft.change(make).await?;
    if is_new {
        warn_if_even(managers.len());
    }
    Ok((raft_id, managers))
}

/// Says so where there is an even number of managers.
pub(crate) fn warn_if_even(managers: usize) {
    if managers.is_multiple_of(2) {
        tracing::warn!(
            managers,
            "an even number of managers tolerates no more failures than one manager fewer: add or \
             demote one"
        );
    }
}

/// Lets a manager go: it is a worker that is down, until it is removed. Waits until the group has
/// let it go too: only then is it a worker, as one that is gives up its vote at once, which the change
/// of the group may need.
pub(super) async fn remove(raft: &Raft, node_id: &str) -> Result<(), ProposeError> {
    let make = |draft: &mut Draft| {
        let mut cluster = cluster(draft)?;
        let member = cluster.managers.remove(node_id);
        if member.is_some() {
            if cluster.managers.is_empty() {
                return Err(ProposeError::Unavailable(
                    "attempting to demote the last manager of the swarm".into(),
                ));
            }
            draft.put(cluster);
        }
        if let Ok(mut node) = node(draft, node_id) {
            node.spec.role = NodeRole::Worker;
            draft.put(node);
        }
        Ok(member.map(|member| member.raft_id))
    };
    if let Some(raft_id) = raft.change(make).await? {
        await_removal(raft, node_id, raft_id).await?;
    }
    raft.change(|draft| {
        if let Ok(mut node) = node(draft, node_id) {
            (node.role, node.spec.role) = (NodeRole::Worker, NodeRole::Worker);
            node.status.state = NodeState::Down;
            node.status.message = "the node left the swarm".into();
            draft.put(node);
        }
        Ok(())
    })
    .await
}

async fn await_removal(raft: &Raft, node_id: &str, raft_id: u64) -> Result<(), ProposeError> {
    let gone = async {
        while raft
            .members()
            .iter()
            .any(|member| member.raft_id == raft_id)
        {
            tokio::time::sleep(REMOVAL_POLL).await;
        }
    };
    timeout(REMOVAL_TIMEOUT, gone).await.map_err(|_| {
        ProposeError::Unavailable(format!(
            "node {node_id} is no manager any more, but the Raft group did not let it go within \
             {REMOVAL_TIMEOUT:?}: a quorum of managers is needed"
        ))
    })
}

fn cluster(state: &State) -> Result<Cluster, ProposeError> {
    let cluster = state.cluster().map(|cluster| Cluster::clone(cluster));
    cluster.ok_or_else(|| ProposeError::Unavailable("the swarm is not initialised yet".into()))
}

fn node(state: &State, node_id: &str) -> Result<Node, ProposeError> {
    let missing = || Rejection::NotFound {
        kind: skein_model::Kind::Node,
        id: node_id.to_owned(),
    };
    let node: Option<&Arc<Node>> = state.node(node_id);
    Ok(Node::clone(node.ok_or_else(missing)?))
}

impl Raft {
    /// Makes a change that rests on what was committed before; see [`super::change`].
    ///
    /// # Errors
    /// What `make` refuses, and [`ProposeError`].
    pub async fn change<T, E: From<ProposeError>>(
        &self,
        make: impl FnMut(&mut Draft) -> Result<T, E>,
    ) -> Result<T, E> {
        let propose = |actions| self.propose(actions);
        super::change(|| self.linearizable(), || self.now(), propose, make).await
    }

    /// Lets the manager `node_id` go from the group. Only the leader can.
    ///
    /// # Errors
    /// It is the last one, or there is no quorum.
    pub async fn remove_manager(&self, node_id: &str) -> Result<(), ProposeError> {
        remove(self, node_id).await
    }
}
