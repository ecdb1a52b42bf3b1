//! What handlers on the leader work with: the store, read and changed.

use super::{error::ApiError, node_handle::Store};
use crate::{
    clock,
    raft::{self, ProposeError},
};
use skein_model::{self as model, Action, Applied};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

/// How long the allocator may take, which decides within milliseconds unless the leader changes.
const ALLOCATION_WAIT: Duration = Duration::from_secs(5);

/// What is said where this manager stops leading in the midst of what it was asked.
const HALF_DONE: &str = "this manager stopped leading when part of the request was done: look what is there \
                         before you send it again";

/// What handlers on the leader work with, for one request.
#[derive(Clone)]
pub(super) struct Leader {
    pub(super) store: Arc<dyn Store>,
    /// This request has changed the store.
    changed: Arc<AtomicBool>,
}

impl Leader {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            changed: Arc::default(),
        }
    }

    /// Whether the request has changed the store.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// The state with everything that was committed before the request.
    pub(super) async fn read(&self) -> Result<model::State, ApiError> {
        Ok(self.linearizable().await?)
    }

    /// Makes one change of the store.
    pub(super) async fn write(&self, action: Action) -> Result<(), ApiError> {
        Ok(self.propose(action).await?)
    }

    /// Makes a change that rests on what it reads, from the start again where others were quicker.
    pub(super) async fn change(
        &self,
        make: impl FnMut(&mut model::Draft) -> Result<(), ApiError> + Send,
    ) -> Result<(), ApiError> {
        let propose = |actions| self.submit(actions);
        raft::change(|| self.linearizable(), clock::now, propose, make).await
    }

    /// The state in which the allocator has decided on what was just stored, as `decided` tells; none
    /// where it takes longer than [`ALLOCATION_WAIT`].
    ///
    /// It decides right after a change, but not with it, so who reads what they have just made would
    /// find it without its addresses now and then.
    pub(super) async fn decided(
        &self,
        decided: impl FnMut(&model::State) -> bool,
    ) -> Option<model::State> {
        let mut states = self.store.watch();
        let state = timeout(ALLOCATION_WAIT, states.wait_for(decided)).await;
        state.ok()?.ok().map(|state| state.clone())
    }

    /// Makes one change of the store, for those who have words of their own for what it refuses.
    pub(super) async fn propose(&self, action: Action) -> Result<(), ProposeError> {
        let (bytes, limit) = (action.bytes(), model::PROPOSAL_BYTES_MAX);
        if bytes > limit {
            return Err(model::Rejection::TooLarge { bytes, limit }.into());
        }
        self.submit(vec![action]).await?;
        Ok(())
    }

    /// Makes several changes, or none.
    pub(super) async fn propose_together(&self, actions: Vec<Action>) -> Result<(), ProposeError> {
        self.submit(actions).await?;
        Ok(())
    }

    async fn linearizable(&self) -> Result<model::State, ProposeError> {
        let read = self.store.linearizable().await;
        read.map_err(|error| self.not_to_repeat(error))
    }

    async fn submit(&self, actions: Vec<Action>) -> Result<Applied, ProposeError> {
        let applied = self.store.propose(actions).await;
        let applied = applied.map_err(|error| self.not_to_repeat(error))?;
        self.changed.store(true, Ordering::Relaxed);
        Ok(applied)
    }

    /// A request that this manager cannot go on with goes to the next leader from its start, which must not
    /// do once more what was done: then whoever asked is told instead.
    fn not_to_repeat(&self, error: ProposeError) -> ProposeError {
        match error {
            ProposeError::NotLeader { .. } if self.has_changed() => {
                ProposeError::Unavailable(HALF_DONE.to_owned())
            }
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{cluster::answer, leader_table, testing::Memory};
    use axum::{body::Body, extract::Request};
    use http_body_util::BodyExt as _;
    use model::{Network, Node, NodeState, PROPOSAL_ACTIONS_MAX, Task, TaskState};

    /// A store with these objects, whose manager leads for that many proposals more.
    fn leading_for(proposals: usize, objects: Vec<model::Object>) -> Arc<Memory> {
        let store = Arc::new(Memory::default());
        for object in objects {
            store.apply(vec![Action::Create(object)]).unwrap();
        }
        store.lead_for(proposals);
        store
    }

    /// Status and body of what is answered; `None`: the request goes to the next leader.
    async fn ask(store: &Arc<Memory>, method: &str, path: &str) -> Option<(u16, String)> {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = answer(leader_table(store.clone()), request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, String::from_utf8(body.to_vec()).unwrap()))
    }

    fn networks() -> Vec<model::Object> {
        let network = |name: &str| {
            let mut network = Network {
                id: name.into(),
                ..Network::default()
            };
            network.spec.name = name.into();
            network.into()
        };
        ["a", "b", "c"].map(network).into()
    }

    #[tokio::test]
    async fn what_was_begun_is_not_begun_again_by_the_next_leader() {
        let store = leading_for(1, networks());
        let leader = Leader::new(store.clone());
        let removal = |id: &str| Action::Remove {
            kind: model::Kind::Network,
            id: id.into(),
            version: None,
        };
        leader.write(removal("a")).await.unwrap();
        assert!(leader.has_changed());
        for refused in [
            leader.write(removal("b")).await,
            leader.read().await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.status, 500);
            assert!(error.message.contains(HALF_DONE), "{error}");
            let router = axum::Router::new().fallback(async || error);
            assert!(
                answer(router, Request::new(Body::empty())).await.is_some(),
                "is told, and not sent on"
            );
        }
        // Of another request, nothing is done.
        let leader = Leader::new(store);
        let error = leader.write(removal("b")).await.unwrap_err();
        let router = axum::Router::new().fallback(async || error);
        let sent_on = answer(router, Request::new(Body::empty())).await;
        assert!(sent_on.is_none());
    }

    #[tokio::test]
    async fn a_prune_tells_what_it_has_removed() {
        let store = leading_for(2, networks());
        let (status, body) = ask(&store, "POST", "/networks/prune").await.unwrap();
        assert_eq!(
            (status, body.trim()),
            (200, r#"{"NetworksDeleted":["a","b"]}"#)
        );
        let store = leading_for(0, networks());
        assert_eq!(ask(&store, "POST", "/networks/prune").await, None);
    }

    #[tokio::test]
    async fn a_node_that_is_gone_is_removed_although_its_tasks_are_left() {
        let mut node = Node {
            id: "n".into(),
            ..Node::default()
        };
        node.status.state = NodeState::Down;
        let cluster = model::Cluster {
            id: "c".into(),
            ..model::Cluster::default()
        };
        let mut objects: Vec<model::Object> = vec![cluster.into(), node.into()];
        for index in 0..PROPOSAL_ACTIONS_MAX + 1 {
            let mut task = Task {
                id: format!("t{index}"),
                node_id: "n".into(),
                ..Task::default()
            };
            task.status.state = TaskState::Running;
            objects.push(task.into());
        }
        let store = leading_for(1, objects.clone());
        let (status, _) = ask(&store, "DELETE", "/nodes/n").await.unwrap();
        assert_eq!(status, 200);
        assert!(store.state().node("n").is_none());
        let store = leading_for(0, objects);
        assert_eq!(ask(&store, "DELETE", "/nodes/n").await, None);
    }
}
