//! A store of one member, in memory.

use super::*;
use crate::raft::{Leadership, Member, ProposeError};
use skein_model::{Action, Applied, Object, Proposal, State, Timestamp};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{sync::watch, task::JoinHandle};

/// What the store's Raft would take for a commit.
const COMMIT_TIME: Duration = Duration::from_millis(3);

#[derive(Clone)]
pub struct Memory {
    state: Arc<watch::Sender<State>>,
    leadership: Arc<watch::Sender<Leadership>>,
    /// The other member does not answer.
    cut_off: Arc<AtomicBool>,
    start: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::default())),
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            cut_off: Arc::default(),
            start: Instant::now(),
        }
    }
}

fn other() -> Member {
    Member {
        raft_id: 2,
        node_id: "other".into(),
        address: "198.18.0.9:2377".into(),
        votes: true,
    }
}

impl Memory {
    pub fn lead(&self, leads: bool) {
        self.leadership.send_modify(|now| {
            now.term += 1;
            now.is_self = leads;
            now.leader = (!leads).then(other);
        });
    }

    pub fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
    }

    pub fn led_by(&self, node_id: &str) {
        self.leadership.send_modify(|now| {
            now.term += 1;
            now.is_self = false;
            now.leader = Some(Member {
                node_id: node_id.to_owned(),
                ..other()
            });
        });
    }

    fn apply(&self, actions: Vec<Action>) -> Result<Applied, ProposeError> {
        let mut result = None;
        self.state.send_modify(|state| {
            let at = self.now();
            let index = state.index() + 1;
            result = Some(state.apply(index, &Proposal { at, actions }));
        });
        Ok(result.unwrap()?)
    }

    pub fn create(&self, object: impl Into<Object>) {
        self.apply(vec![Action::Create(object.into())]).unwrap();
    }

    pub fn update(&self, change: impl FnOnce(&State) -> Object) {
        let object = change(&self.state.borrow());
        self.apply(vec![Action::Update(object)]).unwrap();
    }

    pub fn remove(&self, kind: Kind, id: &str) {
        let id = id.to_owned();
        let version = None;
        self.apply(vec![Action::Remove { kind, id, version }])
            .unwrap();
    }

    /// Gives every task, node and service a new version, again and again.
    pub fn disturb(&self, every: Duration) -> JoinHandle<()> {
        let store = self.clone();
        tokio::spawn(async move {
            loop {
                sleep(every).await;
                let state = store.state();
                let nodes = state.nodes().cloned().map(Object::Node);
                let tasks = state.tasks().cloned().map(Object::Task);
                let all = nodes.chain(tasks).map(Action::Update).collect();
                store.apply(all).unwrap();
            }
        })
    }
}

impl Store for Memory {
    type Platform = crate::raft::platform::Daemon;
    fn state(&self) -> State {
        self.state.borrow().clone()
    }
    fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
    async fn settled(&self) -> Result<State, ProposeError> {
        self.linearizable().await
    }

    async fn linearizable(&self) -> Result<State, ProposeError> {
        Ok(Store::state(self))
    }
    async fn propose(&self, actions: Vec<Action>) -> Result<Applied, ProposeError> {
        sleep(COMMIT_TIME).await;
        if !self.leadership.borrow().is_self {
            return Err(ProposeError::NotLeader {
                leader: Some(other()),
            });
        }
        self.apply(actions)
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
    fn members(&self) -> Vec<Member> {
        vec![other()]
    }
    fn reachable(&self, _raft_id: u64) -> bool {
        !self.cut_off.load(Ordering::Relaxed)
    }
    /// Goes with the paused clock of the tests.
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_nanos(1_800_000_000_000_000_000) + self.start.elapsed()
    }
}
