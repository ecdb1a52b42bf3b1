//! The way of a host to the managers.

use crate::{
    executor::{self, Random},
    member::Managers,
    membership::Membership,
    network::{Host, Network},
    platform::Simulated,
};
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use rand::Rng as _;
use skein_control::{
    manager::Manager,
    rpc::{LEADER_METADATA, authorize},
};
use std::{sync::Arc, time::Duration};
use tonic::Status;

/// Clones share what is known of the leader.
#[derive(Clone)]
pub struct Route {
    host: Host,
    network: Network,
    managers: Managers,
    membership: Membership,
    leader: Arc<Mutex<Option<Host>>>,
}

impl Route {
    /// That of a host.
    pub fn new(host: Host, network: Network, managers: Managers, membership: Membership) -> Self {
        Self {
            host,
            network,
            managers,
            membership,
            leader: Arc::default(),
        }
    }

    /// Whom to ask: the leader, or any manager that is known.
    ///
    /// # Errors
    /// None is.
    pub fn target(&self) -> Result<Host, Status> {
        if let Some(leader) = *self.leader.lock() {
            return Ok(leader);
        }
        let known = self
            .membership
            .get()
            .map_or_else(Vec::new, |kept| kept.managers);
        let hosts = known.iter().filter_map(|m| crate::host_at(&m.address));
        let hosts: Vec<Host> = hosts.collect();
        match hosts.len() {
            0 => Err(Status::unavailable("no manager is known")),
            count => Ok(hosts[Random.random_range(0..count)]),
        }
    }

    /// Learns from a call that failed.
    pub fn redirect(&self, status: &Status) {
        let named = status.metadata().get(LEADER_METADATA);
        let named = named.and_then(|address| address.to_str().ok());
        *self.leader.lock() = named.and_then(crate::host_at);
    }

    /// Calls `path` of a manager, with the certificate that the host has. The call may come there twice.
    ///
    /// # Errors
    /// No answer, or what the manager says.
    pub async fn call<A: Send + 'static>(
        &self,
        to: Host,
        path: &'static str,
        deadline: Duration,
        call: impl Fn(Manager<Simulated>) -> BoxFuture<'static, Result<A, Status>>
        + Send
        + Sync
        + 'static,
    ) -> Result<A, Status> {
        let (managers, caller) = (self.managers.clone(), self.membership.identity());
        let handle = move || {
            let asked = managers.get(to).map(|manager| {
                let standing = |node_id: &str| manager.raft().standing(node_id);
                authorize(path, caller.as_ref(), &standing).map(|()| call(manager))
            });
            async move {
                let refused = || Status::unavailable("this node is no manager");
                asked.ok_or_else(refused)??.await
            }
            .boxed()
        };
        let answer = self.network.call(self.host, to, handle);
        let answer = executor::timeout(deadline, answer).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("no answer in time"))?;
        answer.map_err(|reason| Status::unavailable(format!("{reason:?}")))?
    }
}
