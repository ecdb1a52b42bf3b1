//! Which managers there are, and which one leads.

use super::{Credentials, LEADER_METADATA, RemoteManager, RpcError};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

/// The managers that this node knows, and the way to the one that leads. Clones share it.
#[derive(Clone)]
pub struct Managers {
    inner: Arc<Inner>,
}

struct Inner {
    credentials: Credentials,
    routes: Mutex<Routes>,
    known: watch::Sender<Vec<RemoteManager>>,
}

#[derive(Default)]
struct Routes {
    /// The address that a manager named as the leader's.
    leader: Option<String>,
    /// Which of the known ones to ask while no leader is known.
    turn: usize,
    /// Of the credentials that the channels were made with.
    generation: u64,
    channels: HashMap<String, Channel>,
}

impl Managers {
    /// The managers known at first; calls are made with `credentials`.
    pub fn new(credentials: Credentials, known: Vec<RemoteManager>) -> Self {
        Self {
            inner: Arc::new(Inner {
                credentials,
                routes: Mutex::default(),
                known: watch::Sender::new(known),
            }),
        }
    }

    /// A channel (mTLS, with this node's certificate) to the leader, or to a manager that may know
    /// it. The connection is made by the first call; give failures to [`redirect`](Self::redirect),
    /// and ask again.
    ///
    /// # Errors
    /// No manager is known.
    pub async fn leader(&self) -> Result<Channel, RpcError> {
        let mut routes = self.inner.routes.lock();
        let generation = *self.inner.credentials.generation().borrow();
        if routes.generation != generation {
            // A connection speaks for ever with the certificate that it was made with.
            routes.generation = generation;
            routes.channels.clear();
        }
        let address = {
            let known = self.inner.known.borrow();
            let next = || known.get(routes.turn.checked_rem(known.len())?);
            match &routes.leader {
                Some(leader) => leader.clone(),
                None => next().ok_or(RpcError::NoManager)?.address.clone(),
            }
        };
        if let Some(channel) = routes.channels.get(&address) {
            return Ok(channel.clone());
        }
        let channel = self.inner.credentials.channel(&address)?;
        routes.channels.insert(address, channel.clone());
        Ok(channel)
    }

    /// What calls are made with.
    pub fn credentials(&self) -> &Credentials {
        &self.inner.credentials
    }

    /// Takes over the list that a manager sent. An empty one is not believed.
    pub fn update(&self, managers: Vec<RemoteManager>) {
        if managers.is_empty() {
            return;
        }
        let mut routes = self.inner.routes.lock();
        let leader = routes.leader.take();
        routes.leader = leader.filter(|leader| managers.iter().any(|m| m.address == *leader));
        routes
            .channels
            .retain(|address, _| managers.iter().any(|m| m.address == *address));
        self.inner.known.send_if_modified(|known| {
            let changed = *known != managers;
            *known = managers;
            changed
        });
    }

    /// Learns from a failed call: follows its [`LEADER_METADATA`], or turns to the next manager when
    /// the one asked does not answer.
    pub fn redirect(&self, status: &Status) {
        let named = status.metadata().get(LEADER_METADATA);
        let mut routes = self.inner.routes.lock();
        if let Some(leader) = named.and_then(|leader| leader.to_str().ok()) {
            routes.leader = Some(leader.to_owned());
        } else if matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        ) {
            routes.leader = None;
            routes.turn = routes.turn.wrapping_add(1);
        }
    }

    /// Takes a word on who leads from a source that knows; `None`: nobody does at the moment.
    pub fn point_to(&self, leader: Option<String>) {
        self.inner.routes.lock().leader = leader;
    }

    /// Those known now.
    pub fn known(&self) -> Vec<RemoteManager> {
        self.inner.known.borrow().clone()
    }

    /// Changes when [`update`](Self::update) brings news.
    pub fn watch(&self) -> watch::Receiver<Vec<RemoteManager>> {
        self.inner.known.subscribe()
    }
}
