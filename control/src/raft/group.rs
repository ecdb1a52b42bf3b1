//! Who is to be a manager: `Cluster.managers` in the store. The group itself follows (see
//! [`super::membership`]).

use super::{
    ProposeError, Raft,
    platform::{self, Platform},
};
use skein_model::{Cluster, Draft, Kind, Node, NodeRole, NodeState, RaftMember, Rejection, State};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// How long the group may take to let a member go.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
const REMOVAL_POLL: Duration = Duration::from_millis(50);

/// The managers by node ID.
type Seats = BTreeMap<String, RaftMember>;

/// Makes a node a manager, or notes where one is reached from now on, and the managers that there are then. Its Raft
/// ID. A node that is a manager already keeps its ID.
fn seat(draft: &mut Draft, node_id: &str, address: &str) -> Result<(u64, Seats), ProposeError> {
    let mut node = node(draft, node_id)?;
    if node.spec.role != NodeRole::Manager {
        return Err(ProposeError::Refused(format!(
            "node {node_id} is to be a worker: promote it before it joins the managers"
        )));
    }
    let mut cluster = cluster(draft)?;
    let next = cluster.next_raft_id;
    let member = cluster.managers.entry(node_id.to_owned());
    let member = member.or_insert_with(|| RaftMember {
        raft_id: next,
        addr: String::new(),
    });
    if member.addr != address {
        // The node's session may have begun before.
        if let Ok(own) = address.parse::<SocketAddr>() {
            node.status.addr = own.ip().to_string();
        }
        address.clone_into(&mut member.addr);
    }
    let raft_id = member.raft_id;
    cluster.next_raft_id = next.max(raft_id + 1);
    let managers = cluster.managers.clone();
    // Not if it is demoted meanwhile: nobody would take the seat of a worker away again.
    draft.rest_on((Kind::Cluster, &cluster.id), (Kind::Node, node_id));
    draft.put(cluster);
    draft.put(node);
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

impl<P: Platform> Raft<P> {
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

    /// Makes the node `node_id` a manager that is reached at `address`. Its Raft ID, and all managers. A node that
    /// is one already keeps its ID, and is reached there from now on. Only the leader can.
    ///
    /// # Errors
    /// It is to be a worker, is no node of the swarm, or there is no quorum.
    pub async fn add_manager(
        &self,
        node_id: &str,
        address: &str,
    ) -> Result<(u64, Seats), ProposeError> {
        let mut is_new = false;
        let (raft_id, managers) = self
            .change(|draft| {
                let known = draft.cluster().map(|cluster| &cluster.managers);
                is_new = !known.is_some_and(|managers| managers.contains_key(node_id));
                seat(draft, node_id, address)
            })
            .await?;
        if is_new {
            warn_if_even(managers.len());
        }
        Ok((raft_id, managers))
    }

    /// Lets the manager `node_id` go from the group: it is a worker that is down, until it is removed. Waits until
    /// the group has let it go too: only then is it a worker, as one that is gives up its vote at once, which the
    /// change of the group may need. Only the leader can.
    ///
    /// # Errors
    /// It is the last one, or there is no quorum.
    pub async fn remove_manager(&self, node_id: &str) -> Result<(), ProposeError> {
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
        if let Some(raft_id) = self.change(make).await? {
            self.await_removal(node_id, raft_id).await?;
        }
        self.change(|draft| {
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

    async fn await_removal(&self, node_id: &str, raft_id: u64) -> Result<(), ProposeError> {
        let gone = async {
            while self
                .members()
                .iter()
                .any(|member| member.raft_id == raft_id)
            {
                platform::sleep::<P>(REMOVAL_POLL).await;
            }
        };
        let gone = platform::timeout::<P, _>(REMOVAL_TIMEOUT, gone).await;
        gone.ok_or_else(|| {
            ProposeError::Unavailable(format!(
                "node {node_id} is no manager any more, but the Raft group did not let it go within \
                 {REMOVAL_TIMEOUT:?}: a quorum of managers is needed"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Action, Proposal, Timestamp};

    /// A cluster with the manager `one`, member 1, and the node `two`, which is to be what is said.
    fn state(two: NodeRole) -> State {
        let member = RaftMember {
            raft_id: 1,
            addr: "10.0.0.1:2377".into(),
        };
        let cluster = Cluster {
            id: "c".into(),
            next_raft_id: 2,
            managers: [("one".to_owned(), member)].into(),
            ..Cluster::default()
        };
        let node = |id: &str, role| {
            let mut node = Node {
                id: id.into(),
                ..Node::default()
            };
            node.spec.role = role;
            node
        };
        let actions = vec![
            Action::Create(cluster.into()),
            Action::Create(node("one", NodeRole::Manager).into()),
            Action::Create(node("two", two).into()),
        ];
        let at = Timestamp::from_unix_nanos(1);
        let mut state = State::default();
        state.apply(1, &Proposal { at, actions }).unwrap();
        state
    }

    fn seated(
        mut state: State,
        node_id: &str,
        address: &str,
    ) -> Result<(u64, State), ProposeError> {
        let mut draft = Draft::new(state.clone(), Timestamp::from_unix_nanos(2));
        let (raft_id, _) = seat(&mut draft, node_id, address)?;
        let at = Timestamp::from_unix_nanos(2);
        for actions in draft.into_proposals() {
            let index = state.index() + 1;
            state.apply(index, &Proposal { at, actions }).unwrap();
        }
        Ok((raft_id, state))
    }

    #[test]
    fn a_manager_that_is_reached_elsewhere_keeps_its_id_and_the_store_says_where() {
        let new = seated(state(NodeRole::Manager), "two", "10.0.0.2:2377").unwrap();
        assert_eq!(new.0, 2);
        let (raft_id, state) = seated(new.1, "two", "10.0.9.2:2400").unwrap();
        assert_eq!(raft_id, 2);
        let cluster = state.cluster().unwrap();
        assert_eq!(cluster.managers["two"].addr, "10.0.9.2:2400");
        assert_eq!(cluster.managers["one"].addr, "10.0.0.1:2377");
        assert_eq!(cluster.next_raft_id, 3);
        assert_eq!(state.node("two").unwrap().status.addr, "10.0.9.2");
        let unchanged = seated(state.clone(), "two", "10.0.9.2:2400").unwrap().1;
        assert_eq!(unchanged.index(), state.index());
    }

    #[test]
    fn a_node_that_is_demoted_meanwhile_gets_no_seat() {
        seated(state(NodeRole::Worker), "two", "10.0.0.2:2377").unwrap_err();
        let mut state = state(NodeRole::Manager);
        let at = Timestamp::from_unix_nanos(2);
        let mut draft = Draft::new(state.clone(), at);
        seat(&mut draft, "two", "10.0.0.2:2377").unwrap();
        let mut demoted = Node::clone(state.node("two").unwrap());
        demoted.spec.role = NodeRole::Worker;
        let actions = vec![Action::Update(demoted.into())];
        state.apply(2, &Proposal { at, actions }).unwrap();
        let seated = draft.into_proposals().into_iter().enumerate();
        for (n, actions) in seated {
            let index = state.index() + 1 + n as u64;
            state.apply(index, &Proposal { at, actions }).unwrap_err();
        }
        assert!(!state.cluster().unwrap().managers.contains_key("two"));
    }
}
