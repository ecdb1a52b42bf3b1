//! The API's neighbours, in memory: a store, and a node that is a manager.

use super::{
    Local,
    cluster::Cluster,
    leader_table,
    node_handle::{Member, Store},
    node_table,
    proxy::Engine,
};
use crate::{
    agent::attachments::Attachments,
    clock, identity,
    manager::{Events, LogOptions, LogRecord, LogSelector, LogsError, Progress},
    node::{InitRequest, JoinRequest, LocalState, Membership, NodeError, RemoteManager},
    raft::{self, Leadership, ProposeError},
    testing,
};
use axum::Router;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use skein_model::{Action, Applied, Proposal, Rejection, State, Timestamp};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

/// What others do once something is about to be proposed.
type Meanwhile = Box<dyn FnOnce(&mut State) + Send>;

/// A store that applies what is proposed at once.
#[derive(Default)]
pub struct Memory {
    state: watch::Sender<State>,
    leadership: watch::Sender<Leadership>,
    meanwhile: Mutex<Option<Meanwhile>>,
    members: Mutex<Vec<raft::Member>>,
    /// For how many proposals more this manager leads, if that has an end.
    left: Mutex<Option<usize>>,
}

impl Memory {
    /// Applies actions as one change.
    pub fn apply(&self, actions: Vec<Action>) -> Result<Applied, Rejection> {
        let mut applied = None;
        self.state.send_modify(|state| {
            if let Some(meanwhile) = self.meanwhile.lock().take() {
                meanwhile(state);
            }
            let index = state.index() + 1;
            let at = Timestamp::from_unix_nanos(index.into());
            applied = Some(state.apply(index, &Proposal { at, actions }));
        });
        applied.expect("it was applied, or rejected")
    }

    /// Has others do something once the next change is about to be made.
    pub fn meanwhile(&self, meanwhile: impl FnOnce(&mut State) + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(meanwhile));
    }

    /// Whether others have done what they were to do [meanwhile](Self::meanwhile).
    pub fn is_over(&self) -> bool {
        self.meanwhile.lock().is_none()
    }

    /// Nodes whose members of the Raft group vote.
    pub fn has_voters(&self, node_ids: &[&str]) {
        let member = |(at, id): (usize, &&str)| raft::Member {
            raft_id: at as u64 + 1,
            node_id: (*id).to_owned(),
            address: String::new(),
            votes: true,
        };
        *self.members.lock() = node_ids.iter().enumerate().map(member).collect();
    }

    /// After that many proposals another manager leads.
    pub fn lead_for(&self, proposals: usize) {
        *self.left.lock() = Some(proposals);
        self.leadership.send_modify(|now| now.is_self = true);
    }

    /// Whether this manager leads; `proposals` are those to be made now.
    fn check_leading(&self, proposals: usize) -> Result<(), ProposeError> {
        let Some(left) = &mut *self.left.lock() else {
            return Ok(());
        };
        let not_leader = ProposeError::NotLeader { leader: None };
        // Who leads for no more proposals does not lead.
        *left = match *left {
            0 => return Err(not_leader),
            left => left - proposals,
        };
        Ok(())
    }
}

impl Store for Memory {
    fn state(&self) -> State {
        self.state.borrow().clone()
    }
    fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
    fn linearizable(&self) -> BoxFuture<'_, Result<State, ProposeError>> {
        Box::pin(async {
            self.check_leading(0)?;
            Ok(self.state())
        })
    }
    fn propose(&self, actions: Vec<Action>) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(async {
            self.check_leading(1)?;
            Ok(self.apply(actions)?)
        })
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
    fn members(&self) -> Vec<raft::Member> {
        self.members.lock().clone()
    }
    fn reachable(&self, _: u64) -> bool {
        true
    }
    fn problems_of_service(&self, _: &str) -> String {
        String::new()
    }
    fn kernels(&self) -> BTreeMap<String, Progress> {
        BTreeMap::new()
    }
    fn events(&self) -> Events {
        Events::default()
    }
    fn external_cas(&self) -> identity::ExternalCas {
        let root = identity::create_root(clock::now()).unwrap();
        identity::ExternalCas::new(testing::credentials(&root))
    }
    fn logs(
        &self,
        _: LogSelector,
        _: LogOptions,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogRecord>, LogsError>> {
        Box::pin(async { Ok(mpsc::channel(1).1) })
    }
}

/// A manager that knows no leader.
struct Lonely(Arc<Memory>);

impl Member for Lonely {
    fn membership(&self) -> Membership {
        Membership {
            state: LocalState::Active,
            is_manager: true,
            ..Membership::default()
        }
    }
    fn init(&self, _: InitRequest) -> BoxFuture<'_, Result<String, NodeError>> {
        unreachable!("no test inits")
    }
    fn join(&self, _: JoinRequest) -> BoxFuture<'_, Result<(), NodeError>> {
        unreachable!("no test joins")
    }
    fn leave(&self, _: bool) -> BoxFuture<'_, Result<(), NodeError>> {
        unreachable!("no test leaves")
    }
    fn unlock(&self, _: String) -> BoxFuture<'_, Result<(), NodeError>> {
        unreachable!("no test unlocks")
    }
    fn managers(&self) -> Vec<RemoteManager> {
        Vec::new()
    }
    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.0.clone())
    }
    fn attachments(&self) -> Option<Attachments> {
        None
    }
    fn leader_channel(&self) -> BoxFuture<'_, Result<Channel, NodeError>> {
        unreachable!("there is no leader")
    }
}

/// What a manager answers that knows no leader.
pub fn lonely(store: Arc<Memory>, engine: &Path) -> Router {
    lonely_with(store, engine, leader_table)
}

/// What a manager answers with that store and engine, and `table` where it leads.
pub fn lonely_with(
    store: Arc<Memory>,
    engine: &Path,
    table: fn(Arc<dyn Store>) -> Router,
) -> Router {
    let member: Arc<dyn Member> = Arc::new(Lonely(store));
    node_table(Local {
        engine: Engine::new(engine.to_owned()),
        cluster: Cluster::new(member.clone(), table),
        member,
    })
}
