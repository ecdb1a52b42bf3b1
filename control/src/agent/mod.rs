//! The agent: runs the node's tasks on its container engine.
//!
//! - [`container`], [`task::machine`]: what to do, as values.
//! - [`engine`]: the engine's API.
//! - [`task`]: a supervisor for each task; [`store`] remembers them.
//! - [`dependencies`]: the tasks' secrets and configs; [`files`]: where containers see them.
//! - [`session`]: in touch with the leader; [`network`] is what it tells of the network, which
//!   [`dataplane`] hands on.
//! - [`attachments`]: containers that are no task's, on networks of the swarm.
//! - [`events`]: what happens on the engine. [`logs`]: what the tasks write.
//!
//! Tasks go on whoever is away: managers, engine, or the agent itself.

pub mod attachments;
pub mod container;
pub mod dataplane;
pub mod dependencies;
pub mod engine;
pub mod events;
pub mod files;
pub mod logs;
pub mod network;
pub mod reports;
pub mod session;
pub mod store;
pub mod task;

use crate::rpc::Managers;
use skein_model::NodeRole;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long an agent that ends waits for steps under way to be left.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Between tries to open the agent's store.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// What an agent needs of its node.
#[derive(Clone)]
pub struct Config {
    /// The container engine; it need not be up.
    pub engine: engine::Engine,
    /// The places of containers that are no task's.
    pub attachments: attachments::Attachments,
    /// The dataplane's socket; it need not be there.
    pub dataplane_socket: PathBuf,
    /// A directory of the agent's own; made if need be.
    pub state_dir: PathBuf,
    /// Whose tasks it runs.
    pub node_id: String,
    /// IPv4 address of the data path, which may change; "" to let the managers take the one that they see.
    pub data_path_addr: watch::Receiver<String>,
    /// The managers, and the way to the leader.
    pub managers: Managers,
    /// Where to put what the managers say of the node's membership.
    pub orders: watch::Sender<Orders>,
}

/// What the managers say of a node's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The role that its certificate is to have; `None` until the managers were heard.
    pub role: Option<NodeRole>,
    /// The root certificate to trust, PEM; "" if the managers say nothing of it.
    pub root_pem: String,
    /// Public key (base64) of who is to have issued its certificate.
    pub issuer_key: String,
    /// Whether it is the node's turn to renew a certificate of another issuer.
    pub renew: bool,
    /// Whether they say that it is no member any more: it was removed by force while it was away.
    pub removed: bool,
    /// Its place among the managers.
    pub place: RaftSeat,
}

/// A node's place among the managers, in a state of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftSeat {
    /// It is a manager, and is to be one.
    pub is_manager: bool,
    /// The ID that its member of the Raft group has or is to have; 0: it has none.
    pub raft_id: u64,
    /// The group has such a member.
    pub is_member: bool,
    /// Which state; 0: the managers have not said anything yet.
    pub index: u64,
}

/// Runs the tasks that the managers give a node.
pub struct Agent;

impl Agent {
    /// Runs an agent until `shutdown`; its tasks go on then, and another agent with the same state
    /// takes them up.
    pub fn spawn(config: Config, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(run(config, shutdown))
    }
}

async fn run(config: Config, shutdown: CancellationToken) {
    let Some((store, records)) = shutdown.run_until_cancelled(open_store(&config)).await else {
        return;
    };
    let environment = task::Environment {
        engine: config.engine,
        store,
        reports: config.attachments.reports().clone(),
        networks: network::NetworkState::default(),
        dependencies: dependencies::Dependencies::default(),
        files: files::Files::of(&config.node_id),
        host_ports: task::HostPorts::default(),
        description: Arc::default(),
    };
    let tasks = task::Tasks::resume(environment.clone(), records, shutdown.clone());
    let session = session::Session {
        managers: config.managers,
        environment: environment.clone(),
        tasks: tasks.clone(),
        attachments: config.attachments.clone(),
        data_path_addr: config.data_path_addr,
        orders: config.orders,
    };
    let work = async {
        tokio::join!(
            events::follow(&environment, &tasks),
            events::clear_up(&environment, &tasks, &config.attachments, &config.node_id),
            config.attachments.run(),
            dataplane::relay(&environment.networks, &config.dataplane_socket),
            session.run(),
        )
    };
    shutdown.run_until_cancelled(work).await;
    if timeout(END_PATIENCE, tasks.ended()).await.is_err() {
        tracing::warn!("steps of tasks are still under way; the next agent finds how they ended");
    }
}

/// Without its store an agent might start what runs already, so it waits for it: another agent of
/// this node may just be ending.
async fn open_store(
    config: &Config,
) -> (
    store::Store,
    std::collections::BTreeMap<String, store::Record>,
) {
    loop {
        match store::Store::open(&config.state_dir, &config.node_id).await {
            Ok(opened) => return opened,
            Err(error) => tracing::error!("the node runs no tasks: {error:#}"),
        }
        sleep(STORE_RETRY).await;
    }
}
