//! What hosts keep of their membership: it outlives their daemons.

use crate::network::Host;
use parking_lot::Mutex;
use skein_control::rpc::{PeerIdentity, RemoteManager};
use skein_model::{NodeRole, State};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// What a member has on its disk beside its Raft log.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The node that it is.
    pub node_id: String,
    /// The role that its certificate gives it.
    pub certified: NodeRole,
    /// The ID of its member of the Raft group.
    pub raft_id: Option<u64>,
    /// The managers that it was told of.
    pub managers: Vec<RemoteManager>,
}

/// The membership of one host. Clones share it.
#[derive(Clone)]
pub struct Membership(Arc<watch::Sender<Option<Kept>>>);

impl Membership {
    /// Of a host that is no member, or one.
    pub fn new(kept: Option<Kept>) -> Self {
        Self(Arc::new(watch::Sender::new(kept)))
    }

    /// `None`: it is no member.
    pub fn get(&self) -> Option<Kept> {
        self.0.borrow().clone()
    }

    /// It joins, or leaves.
    pub fn set(&self, kept: Option<Kept>) {
        self.0.send_replace(kept);
    }

    /// Changes what a member keeps; one that has left keeps nothing.
    pub fn change(&self, change: impl FnOnce(&mut Kept)) {
        self.0.send_if_modified(|kept| {
            let Some(now) = kept else { return false };
            let before = now.clone();
            change(now);
            *now != before
        });
    }

    /// Takes over the list of managers that a manager sent. An empty one is not believed.
    pub fn hear_of(&self, managers: Vec<RemoteManager>) {
        if !managers.is_empty() {
            self.change(|kept| kept.managers = managers);
        }
    }

    /// Changes with it.
    pub fn watch(&self) -> watch::Receiver<Option<Kept>> {
        self.0.subscribe()
    }

    /// As whom it calls others.
    pub fn identity(&self) -> Option<PeerIdentity> {
        let kept = self.0.borrow();
        let kept = kept.as_ref()?;
        Some(PeerIdentity {
            node_id: kept.node_id.clone(),
            role: kept.certified,
        })
    }
}

/// The memberships of all hosts. Clones share them.
#[derive(Clone, Default)]
pub struct Memberships(Arc<Mutex<BTreeMap<Host, Membership>>>);

impl Memberships {
    /// There is another host.
    pub fn add(&self, host: Host, membership: Membership) {
        self.0.lock().insert(host, membership);
    }

    /// That of a host.
    pub fn get(&self, host: Host) -> Option<Membership> {
        self.0.lock().get(&host).cloned()
    }

    /// The hosts that are members, and what each keeps.
    pub fn members(&self) -> Vec<(Host, Kept)> {
        let memberships = self.0.lock();
        let members = memberships.iter();
        members
            .filter_map(|(host, membership)| Some((*host, membership.get()?)))
            .collect()
    }

    /// The hosts that users take for managers.
    pub fn managers(&self) -> Vec<Host> {
        let mut members = self.members();
        members.retain(|(_, kept)| kept.certified == NodeRole::Manager);
        members.into_iter().map(|(host, _)| host).collect()
    }
}

/// The managers, as the store has them.
pub fn managers_of(state: &State) -> Vec<RemoteManager> {
    let managers = state.cluster().map(|cluster| &cluster.managers);
    let managers = managers.into_iter().flatten();
    managers
        .map(|(node_id, member)| RemoteManager {
            node_id: node_id.clone(),
            address: member.addr.clone(),
        })
        .collect()
}
