//! What the API needs of this node and, where it is a manager, of the replicated store.

use crate::{
    agent::attachments::Attachments,
    identity::ExternalCas,
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

/// The replicated store, and what else the leader has: [`Seated`], or one in memory.
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
    /// Asks the swarm's external CAs.
    fn external_cas(&self) -> ExternalCas;
    /// See [`Manager::service_logs`].
    fn logs(
        &self,
        selector: LogSelector,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogRecord>, LogsError>>;
}

/// The manager of this node, with what it needs of the node.
pub struct Seated {
    /// The manager.
    pub manager: Manager,
    /// By this node's certificate.
    pub external_cas: ExternalCas,
}

impl Store for Seated {
    fn state(&self) -> State {
        self.manager.raft().state()
    }

    fn watch(&self) -> watch::Receiver<State> {
        self.manager.raft().watch()
    }

    fn linearizable(&self) -> BoxFuture<'_, Result<State, ProposeError>> {
        Box::pin(self.manager.raft().linearizable())
    }

    fn propose(&self, actions: Vec<Action>) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(self.manager.raft().propose(actions))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.manager.raft().leadership()
    }

    fn members(&self) -> Vec<RaftMember> {
        self.manager.raft().members()
    }

    fn reachable(&self, raft_id: u64) -> bool {
        self.manager.raft().reachable(raft_id)
    }

    fn problems_of_service(&self, service_id: &str) -> String {
        self.manager.problems_of_service(service_id)
    }

    fn kernels(&self) -> BTreeMap<String, Progress> {
        self.manager.kernels()
    }

    fn events(&self) -> Events {
        self.manager.events()
    }

    fn external_cas(&self) -> ExternalCas {
        self.external_cas.clone()
    }

    fn logs(
        &self,
        selector: LogSelector,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogRecord>, LogsError>> {
        Box::pin(self.manager.service_logs(selector, options))
    }
}
