//! What the API needs of this node and, where it is a manager, of the replicated store.

use crate::{
    agent::attachments::Attachments,
    manager::{Events, LogOptions, LogRecord, LogSelector, LogsError, Manager, Progress},
    node::{InitRequest, JoinRequest, Membership, NodeError, RemoteManager},
    raft::{Leadership, Member as RaftMember, ProposeError},
};
use futures::future::BoxFuture;
use skein_model::{Action, Applied, State};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

/// This machine as a member, or not, of a swarm: [`crate::node::Node`], or one in memory.
pub trait Member: Send + Sync + 'static {
    /// See [`crate::node::Node::membership`].
    fn membership(&self) -> Membership;
    /// See [`crate::node::Node::init`].
    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<String, NodeError>>;
    /// See [`crate::node::Node::join`].
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<(), NodeError>>;
    /// See [`crate::node::Node::leave`].
    fn leave(&self, force: bool) -> BoxFuture<'_, Result<(), NodeError>>;
    /// See [`crate::node::Node::unlock`].
    fn unlock(&self, key: String) -> BoxFuture<'_, Result<(), NodeError>>;
    /// See [`crate::node::Node::managers`].
    fn managers(&self) -> Vec<RemoteManager>;
    /// The store, where this node is a manager that is up.
    fn store(&self) -> Option<Arc<dyn Store>>;
    /// See [`crate::node::Node::attachments`].
    fn attachments(&self) -> Option<Attachments>;
    /// See [`crate::node::Node::leader_channel`].
    fn leader_channel(&self) -> BoxFuture<'_, Result<Channel, NodeError>>;
}

/// The replicated store, and what else the leader has: [`Manager`], or one in memory.
pub trait Store: Send + Sync + 'static {
    /// See [`crate::raft::Raft::state`].
    fn state(&self) -> State;
    /// See [`crate::raft::Raft::watch`].
    fn watch(&self) -> watch::Receiver<State>;
    /// See [`crate::raft::Raft::linearizable`].
    fn linearizable(&self) -> BoxFuture<'_, Result<State, ProposeError>>;
    /// See [`crate::raft::Raft::propose`].
    fn propose(&self, actions: Vec<Action>) -> BoxFuture<'_, Result<Applied, ProposeError>>;
    /// See [`crate::raft::Raft::leadership`].
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// See [`crate::raft::Raft::members`].
    fn members(&self) -> Vec<RaftMember>;
    /// See [`crate::raft::Raft::reachable`].
    fn reachable(&self, raft_id: u64) -> bool;
    /// See [`Manager::problems_of_service`].
    fn problems_of_service(&self, service_id: &str) -> String;
    /// See [`Manager::kernels`].
    fn kernels(&self) -> BTreeMap<String, Progress>;
    /// See [`Manager::events`].
    fn events(&self) -> Events;
    /// See [`Manager::service_logs`].
    fn logs(
        &self,
        selector: LogSelector,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogRecord>, LogsError>>;
}

impl Store for Manager {
    fn state(&self) -> State {
        self.raft().state()
    }

    fn watch(&self) -> watch::Receiver<State> {
        self.raft().watch()
    }

    fn linearizable(&self) -> BoxFuture<'_, Result<State, ProposeError>> {
        Box::pin(self.raft().linearizable())
    }

    fn propose(&self, actions: Vec<Action>) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(self.raft().propose(actions))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft().leadership()
    }

    fn members(&self) -> Vec<RaftMember> {
        self.raft().members()
    }

    fn reachable(&self, raft_id: u64) -> bool {
        self.raft().reachable(raft_id)
    }

    fn problems_of_service(&self, service_id: &str) -> String {
        self.problems_of_service(service_id)
    }

    fn kernels(&self) -> BTreeMap<String, Progress> {
        self.kernels()
    }

    fn events(&self) -> Events {
        self.events()
    }

    fn logs(
        &self,
        selector: LogSelector,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogRecord>, LogsError>> {
        Box::pin(self.service_logs(selector, options))
    }
}
