//! The membership of this machine in a swarm: init, join, leave, resume.

mod address;
mod api_adapter;
mod bootstrap;
mod certificate_request;
mod cleanup;
mod error;
mod force_new_cluster;
mod init;
mod interfaces;
mod join;
mod known_managers;
mod leave;
mod lifecycle;
mod locking;
mod persist;
mod renewal;
mod request;
mod role_loop;
pub mod role_plan;
mod runtime;
mod seat;
mod unlocking;

pub use crate::rpc::RemoteManager;
pub use certificate_request::obtain as obtain_identity;
pub use error::{NodeError, NodeErrorKind};
pub use request::{InitRequest, JoinRequest, SwarmSpec};

use crate::{agent::attachments::Attachments, identity::Identity, manager::Manager, rpc::Managers};
use parking_lot::RwLock;
use persist::Folder;
use runtime::Runtime;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// What a node needs of its machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the node keeps what must outlive a restart.
    pub state_dir: PathBuf,
    /// The container engine's socket.
    pub engine: PathBuf,
    /// Whether tasks start with the images that the engine has, without asking a registry for newer ones.
    pub prefers_present_images: bool,
    /// The dataplane's socket.
    pub dataplane: PathBuf,
    /// What a node advertises that is asked for nothing else: an IP address or the name of an interface; "": what
    /// the machine has.
    pub default_advertise_addr: String,
}

/// `Swarm.LocalNodeState` of `GET /info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalState {
    /// Not part of a swarm.
    #[default]
    Inactive,
    /// Joining, or starting.
    Pending,
    /// A member.
    Active,
    /// A member that could not start; see [`Membership::error`].
    Error,
    /// A manager whose keys are sealed until it is given the unlock key.
    Locked,
}

/// This node's place in a swarm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// See [`LocalState`].
    pub state: LocalState,
    /// "" while inactive.
    pub node_id: String,
    /// The IP address it advertises.
    pub node_addr: String,
    /// Whether it holds a manager's certificate.
    pub is_manager: bool,
    /// "" while inactive.
    pub cluster_id: String,
    /// Why it is in [`LocalState::Error`], or stays in [`LocalState::Pending`]; or that it was removed.
    pub error: String,
}

/// What is said on a node that was removed by force while it was away. Its containers are left as they are.
const REMOVED: &str = "this node was removed from the swarm: its published ports lead nowhere any more, and its \
                       containers belong to nobody; leave with \"docker swarm leave --force\", and join again";

/// This machine's membership. Clones are handles of the same.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    folder: Folder,
    place: RwLock<MembershipState>,
    /// Held by whoever changes the membership.
    changing: Mutex<()>,
}

/// Where the membership stands, and what runs for it.
#[derive(Default)]
struct MembershipState {
    membership: Membership,
    runtime: Option<Arc<Runtime>>,
    /// Ends what tries to start or to join in the background.
    attempt: CancellationToken,
}

impl Node {
    /// Where the membership stands.
    pub fn membership(&self) -> Membership {
        let place = self.inner.place.read();
        let mut membership = place.membership.clone();
        if let Some(runtime) = &place.runtime {
            membership.is_manager = runtime::is_manager(&runtime.credentials.identity());
            if let Some(advertised) = runtime.kept.saved().advertise {
                membership.node_addr = advertised.ip().to_string();
            }
            if membership.error.is_empty() && runtime.is_removed() {
                REMOVED.clone_into(&mut membership.error);
            }
        }
        membership
    }

    /// The manager that runs on this node; `None` on workers, and while one is being prepared.
    pub fn manager(&self) -> Option<Manager> {
        self.runtime()?.manager()
    }

    /// The managers that this node knows; workers know them too.
    pub fn managers(&self) -> Vec<RemoteManager> {
        let runtime = self.runtime();
        runtime.map_or_else(Vec::new, |runtime| runtime.managers.known())
    }

    /// A channel (mTLS) to the manager that leads.
    ///
    /// # Errors
    /// None is known.
    pub async fn leader_channel(&self) -> Result<Channel, NodeError> {
        let managers = self.leader_route()?;
        let channel = managers.leader().await;
        channel.map_err(|error| NodeError::unavailable(error.to_string()))
    }

    /// The way to the leader, which learns from failed calls.
    ///
    /// # Errors
    /// Not a member.
    pub fn leader_route(&self) -> Result<Managers, NodeError> {
        let runtime = self.runtime().ok_or_else(NodeError::not_member)?;
        Ok(runtime.managers.clone())
    }

    /// The places of this node's own containers on networks of the swarm; `None` if it is no member.
    pub fn attachments(&self) -> Option<Attachments> {
        Some(self.runtime()?.attachments.clone())
    }

    /// The node's certificate, with the root that vouches for it.
    pub fn identity(&self) -> Option<Identity> {
        Some(self.runtime()?.credentials.identity())
    }

    /// The configuration it was started with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    fn folder(&self) -> &Folder {
        &self.inner.folder
    }

    fn runtime(&self) -> Option<Arc<Runtime>> {
        self.inner.place.read().runtime.clone()
    }
}
