//! What runs on a node while it is a member: agent, renewal of its certificate, and on a manager the
//! server, the Raft member and the manager, which come and go with the role.

use super::{
    Node, NodeError, RemoteManager,
    known_managers::{follow_leader, keep_managers},
    locking,
    persist::{Kept, Saved},
    renewal, role_loop,
    seat::{Seat, clone_listener},
};
use crate::{
    agent::{self, Agent, Orders, attachments::Attachments, engine::Engine, reports::Reports},
    api,
    identity::{CaService, ExternalCas, Identity},
    manager::Manager,
    raft::RaftService,
    rpc::{self, Credentials, Managers},
};
use parking_lot::RwLock;
use skein_model::{NodeRole, State};
use skein_proto::node::{
    api_server::ApiServer, attachments_server::AttachmentsServer, ca_server::CaServer,
    dispatcher_server::DispatcherServer, logs_server::LogsServer,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

/// How long what runs may take to end, until it is left behind.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A member at work. Clones are handles of the same.
#[derive(Clone)]
pub(super) struct Runtime {
    pub credentials: Credentials,
    pub managers: Managers,
    pub kept: Kept,
    /// The places of this node's own containers on networks of the swarm.
    pub attachments: Attachments,
    /// By the node's certificate.
    pub external_cas: ExternalCas,
    /// Asks for a new certificate now.
    pub renew: Arc<Notify>,
    /// What the agent hears of the node's membership.
    orders: watch::Sender<Orders>,
    joined_at: Arc<AtomicU64>,
    /// Where the overlay's packets come to.
    data_path: watch::Sender<String>,
    manager: Arc<RwLock<Option<Part>>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// What runs on a manager alone.
#[derive(Clone)]
struct Part {
    manager: Manager,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Runtime {
    /// Starts what every member has; on a manager, also what it has on the seat it has taken.
    ///
    /// # Errors
    /// Something of it cannot be had. Nothing runs any more then, and port and log are free.
    pub async fn start(
        node: &Node,
        credentials: Credentials,
        kept: Kept,
        seat: Option<Seat>,
    ) -> Result<Self, NodeError> {
        // First: nothing else has to be ended where it fails.
        let engine = match engine_of(node) {
            Ok(engine) => engine,
            Err(error) => {
                if let Some(seat) = seat {
                    seat.give_up().await;
                }
                return Err(error);
            }
        };
        let managers = Managers::new(credentials.clone(), kept.saved().managers);
        let data_path = data_path(&kept.saved());
        let runtime = Self {
            external_cas: ExternalCas::new(credentials.clone()),
            credentials,
            attachments: Attachments::new(engine.clone(), managers.clone(), Reports::default()),
            managers,
            kept,
            renew: Arc::default(),
            orders: watch::Sender::default(),
            joined_at: Arc::default(),
            data_path: watch::Sender::new(data_path),
            manager: Arc::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        if let Some(seat) = seat {
            runtime.start_manager(node, seat).await?;
        }
        runtime.start_common(node, engine);
        Ok(runtime)
    }

    /// Whether the managers say that the node is no member any more.
    pub fn is_removed(&self) -> bool {
        self.orders.borrow().removed
    }

    /// What the agent hears, as it comes.
    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// The state of the store in which the node last joined the Raft group; 0: not since it runs.
    pub fn joined_at(&self) -> u64 {
        self.joined_at.load(Ordering::Acquire)
    }

    /// The manager; `None` on a worker, and while one is being prepared.
    pub fn manager(&self) -> Option<Manager> {
        self.manager
            .read()
            .as_ref()
            .map(|part| part.manager.clone())
    }

    /// The node is a manager from now on.
    ///
    /// # Errors
    /// The port cannot be served; the seat is given up then.
    pub async fn start_manager(&self, node: &Node, seat: Seat) -> Result<(), NodeError> {
        let accepting = match clone_listener(&seat.listener) {
            Ok(accepting) => accepting,
            Err(error) => {
                seat.give_up().await;
                return Err(error);
            }
        };
        let Seat {
            raft,
            slot,
            listener,
            joined_at,
        } = seat;
        // One that is started again from its log has the place that it had.
        self.joined_at.fetch_max(joined_at, Ordering::AcqRel);
        let (credentials, managers) = (&self.credentials, &self.managers);
        let mut known = managers.known();
        let own = self.own_place();
        managers.set_own(own.address.clone(), self.kept.saved().listen);
        if !known.contains(&own) {
            known.push(own);
            managers.update(known);
        }
        let shutdown = self.shutdown.child_token();
        let manager = Manager::start(raft.clone(), shutdown.child_token());
        let routes = Routes::new(RaftService::server(slot.clone(), managers.clone()))
            .add_service(CaServer::new(CaService::new(
                slot,
                self.external_cas.clone(),
            )))
            .add_service(DispatcherServer::new(manager.dispatcher()))
            .add_service(AttachmentsServer::new(manager.attachments()))
            .add_service(LogsServer::new(manager.logs()))
            .add_service(ApiServer::new(api::forwarded(Arc::new(node.clone()))));
        let standings = {
            let raft = raft.clone();
            Arc::new(move |node_id: &str| raft.standing(node_id))
        };
        let tasks = TaskTracker::new();
        let serving = rpc::serve(
            accepting,
            credentials.clone(),
            routes,
            standings,
            shutdown.child_token(),
        );
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the server for nodes and managers failed");
            }
            drop(listener);
        });
        tasks.spawn(follow_leader(
            raft.clone(),
            managers.clone(),
            shutdown.child_token(),
        ));
        tasks.spawn(locking::run(
            raft,
            self.kept.clone(),
            self.renew.clone(),
            shutdown.child_token(),
        ));
        *self.manager.write() = Some(Part {
            manager,
            shutdown,
            tasks,
        });
        Ok(())
    }

    /// Completes, with the reason, once the Raft member has ended by itself; never without one.
    pub async fn manager_failure(&self) -> String {
        match self.manager() {
            Some(manager) => manager.raft().failure().await,
            None => std::future::pending().await,
        }
    }

    /// The node is no manager from now on.
    pub async fn stop_manager(&self) {
        self.transfer_leadership().await;
        self.end_manager().await;
    }

    /// Has another manager lead before this one ends, if it leads. While this one is reached still: the next leader
    /// is known to it once it writes here.
    async fn transfer_leadership(&self) {
        let Some(manager) = self.manager() else {
            return;
        };
        let raft = manager.raft();
        let leads = raft.leadership().borrow().is_self;
        if leads
            && raft.members().len() > 1
            && let Err(error) = raft.transfer_leadership().await
        {
            tracing::info!(%error, "this manager ends without having handed the lead over");
        }
    }

    /// Ends the manager. Whoever is not waited for has begun it, and another ends it.
    async fn end_manager(&self) {
        let Some(part) = self.manager.read().clone() else {
            return;
        };
        self.managers.clear_own();
        part.shutdown.cancel();
        part.tasks.close();
        let stopped = tokio::time::timeout(STOP_TIMEOUT, async {
            part.tasks.wait().await;
            // Now: no node can register any more, and the group is still there.
            part.manager.disconnect_nodes().await;
            part.manager.raft().stop().await;
        });
        if stopped.await.is_err() {
            tracing::warn!("the manager's parts did not end within {STOP_TIMEOUT:?}");
        }
        *self.manager.write() = None;
    }

    /// Where the others are to reach this node's manager.
    pub fn address(&self) -> Option<String> {
        let saved = self.kept.saved();
        saved.advertise.map(|address| address.to_string())
    }

    /// Where they reach it by what its own store says.
    pub fn stored_address(&self) -> Option<String> {
        let manager = self.manager()?;
        let raft = manager.raft();
        self.address_in(&raft.state(), raft.id())
    }

    fn address_in(&self, state: &State, raft_id: u64) -> Option<String> {
        let node_id = self.credentials.identity().node_id;
        let member = state.cluster()?.managers.get(&node_id)?;
        (member.raft_id == raft_id).then(|| member.addr.clone())
    }

    /// Completes once the manager's own store says the same of its address as the node, or not: as `is_same` asks
    /// for. Never without a manager.
    pub async fn await_address(&self, is_same: bool) {
        if let Some(manager) = self.manager() {
            let (mut states, raft_id) = (manager.raft().watch(), manager.raft().id());
            let holds = |state: &State| {
                let both = self.address().zip(self.address_in(state, raft_id));
                both.is_some_and(|(own, stored)| (own == stored) == is_same)
            };
            if states.wait_for(holds).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// The address that is advertised has changed.
    pub fn announce_address(&self) {
        self.data_path.send_if_modified(|known| {
            let now = data_path(&self.kept.saved());
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    fn own_place(&self) -> RemoteManager {
        let saved = self.kept.saved();
        RemoteManager {
            node_id: self.credentials.identity().node_id,
            address: saved.advertise.unwrap_or(saved.listen).to_string(),
        }
    }

    fn start_common(&self, node: &Node, engine: Engine) {
        let (folder, config) = (node.folder(), node.config());
        let agent = agent::Config {
            engine,
            attachments: self.attachments.clone(),
            dataplane_socket: config.dataplane.clone(),
            state_dir: folder.agent(),
            node_id: self.credentials.identity().node_id,
            data_path_addr: self.data_path.subscribe(),
            managers: self.managers.clone(),
            orders: self.orders.clone(),
        };
        let agent = Agent::spawn(agent, self.shutdown.child_token());
        self.tasks.spawn(async move {
            if let Err(error) = agent.await {
                tracing::error!(%error, "the agent failed");
            }
        });
        self.tasks.spawn(renewal::run(
            renewal::Renewal {
                credentials: self.credentials.clone(),
                managers: self.managers.clone(),
                kept: self.kept.clone(),
                orders: self.orders.subscribe(),
                forced: self.renew.clone(),
            },
            self.shutdown.child_token(),
        ));
        self.tasks.spawn(keep_managers(
            self.kept.clone(),
            self.managers.clone(),
            self.shutdown.child_token(),
        ));
        self.tasks.spawn(role_loop::run(
            node.clone(),
            self.clone(),
            self.shutdown.child_token(),
        ));
    }

    /// Ends all of it.
    pub async fn stop(&self) {
        self.transfer_leadership().await;
        self.shutdown.cancel();
        self.tasks.close();
        let stopped = tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait());
        if stopped.await.is_err() {
            tracing::warn!("the node's parts did not end within {STOP_TIMEOUT:?}");
        }
        self.end_manager().await;
    }
}

/// Where the overlay's packets come to; "": where the managers see the node call from.
fn data_path(saved: &Saved) -> String {
    let address = saved.data_path.or(saved.advertise.map(|own| own.ip()));
    address.map_or_else(String::new, |address| address.to_string())
}

/// TLS material of an identity.
pub(super) fn credentials(identity: Identity) -> Result<Credentials, NodeError> {
    Credentials::new(identity).map_err(|error| NodeError::internal(error.to_string()))
}

/// The role that a certificate gives.
pub(super) fn is_manager(identity: &Identity) -> bool {
    identity.role == NodeRole::Manager
}

/// A client of the node's engine, which need not be up.
fn engine_of(node: &Node) -> Result<Engine, NodeError> {
    let config = node.config();
    let engine = Engine::at(&config.engine).map_err(|error| {
        let socket = config.engine.display();
        NodeError::internal(format!("could not use the engine at {socket}: {error}"))
    })?;
    Ok(engine.preferring_present_images(config.prefers_present_images))
}
