//! Which managers there are, and which one leads.

use super::{Credentials, LEADER_METADATA, RemoteManager, RpcError, is_awaiting_ca};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Response, Status, transport::Channel};

/// Before whoever leads is asked again: an election takes some times as long.
const ASK_PAUSE: Duration = Duration::from_millis(200);

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
    /// While this node is a manager itself.
    own: Option<Own>,
}

/// The node's own place among the managers.
struct Own {
    /// As the others know it.
    advertised: String,
    /// As the node reaches itself.
    listening: String,
}

impl Routes {
    /// Where to call the manager of this address.
    fn place<'a>(&'a self, address: &'a str) -> &'a str {
        match &self.own {
            Some(own) if own.advertised == address => &own.listening,
            _ => address,
        }
    }
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
        let channel = self.inner.credentials.channel(routes.place(&address))?;
        routes.channels.insert(address, channel.clone());
        Ok(channel)
    }

    /// This node is a manager: it calls itself where it listens, as what it advertises may be an
    /// address that others alone reach it by (NAT).
    pub fn set_own(&self, advertised: String, listening: SocketAddr) {
        self.inner.routes.lock().own = Some(Own {
            advertised,
            listening: reachable(listening).to_string(),
        });
    }

    /// It is one no more.
    pub fn clear_own(&self) {
        self.inner.routes.lock().own = None;
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
        if is_awaiting_ca(status) {
            return;
        }
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

    /// Asks the leader, and whoever leads next where another try [may](super::may_pass) come to something.
    ///
    /// # Errors
    /// What no other try changes; or, once the time is over, the last answer.
    pub async fn ask_leader<T, F>(
        &self,
        within: Duration,
        mut ask: impl FnMut(Channel) -> F + Send,
    ) -> Result<T, Status>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let mut last =
            Status::deadline_exceeded(format!("no manager has answered within {within:?}"));
        let asking = async {
            loop {
                let status = match self.leader().await {
                    Err(error) => Status::unavailable(error.to_string()),
                    Ok(channel) => match ask(channel).await {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) => status,
                    },
                };
                if !super::may_pass(&status) {
                    return Err(status);
                }
                self.redirect(&status);
                last = status;
                sleep(ASK_PAUSE).await;
            }
        };
        match timeout(within, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(last),
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

/// Where the machine itself reaches what listens there.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_reaches_itself_where_it_listens() {
        let mut routes = Routes::default();
        assert_eq!(routes.place("203.0.113.1:2377"), "203.0.113.1:2377");
        routes.own = Some(Own {
            advertised: "203.0.113.1:2377".to_owned(),
            listening: reachable("0.0.0.0:2377".parse().unwrap()).to_string(),
        });
        assert_eq!(routes.place("203.0.113.1:2377"), "127.0.0.1:2377");
        assert_eq!(routes.place("203.0.113.2:2377"), "203.0.113.2:2377");
        let one = "198.51.100.1:2400".parse().unwrap();
        assert_eq!(reachable(one), one);
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
    }
}
