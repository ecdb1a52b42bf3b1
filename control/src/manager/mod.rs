//! What a node does when it is a manager: decides while it leads, serves the agents, brokers logs.

mod attachments;
mod certificates;
mod dispatcher;
mod drivers;
mod events;
mod heartbeats;
mod kernels;
mod leader;
mod logs;
mod networks;
mod problems;
mod quorum;
mod reports;
mod roles;
mod sessions;
mod store;
mod streams;

pub use drivers::{DriverError, Plugins};
pub use events::{Events, Message as EventMessage};
pub use kernels::Progress;
pub use logs::{LogOptions, LogRecord, LogSelector, LogsError, READERS_MAX as LOG_READERS_MAX};
pub use quorum::QuorumView;

use crate::raft::{
    Raft,
    platform::{self, Daemon, Platform},
};
use drivers::Drivers;
use heartbeats::Pulse;
use kernels::Kernels;
use networks::Networks;
use problems::Problems;
use reports::Reports;
use sessions::Sessions;
use skein_proto::node::{
    attachments_server::Attachments, dispatcher_server::Dispatcher, logs_server::Logs,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long a leader that stops takes to say so in the store: a round of consensus on a loaded machine, well
/// within the time that a daemon has to end.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The manager of this node. Clones are handles of the same.
#[derive(Clone)]
pub struct Manager<P: Platform = Daemon> {
    parts: Parts<Raft<P>>,
}

/// A manager over any store.
#[derive(Clone)]
struct Parts<S: Store> {
    store: S,
    pulse: Arc<Pulse<S::Platform>>,
    sessions: Sessions,
    reports: Reports,
    problems: Problems,
    kernels: Kernels,
    networks: Networks,
    drivers: Arc<dyn Drivers>,
    broker: logs::Broker,
    events: Events,
}

impl<S: Store> Parts<S> {
    fn start(store: S, drivers: Arc<dyn Drivers>, shutdown: CancellationToken) -> Self {
        let kernels = Kernels::default();
        let parts = Self {
            drivers,
            pulse: Arc::new(Pulse::new()),
            sessions: Sessions::default(),
            problems: Problems::default(),
            networks: Networks::new(kernels.clone()),
            kernels,
            reports: Reports::start(store.clone(), shutdown.clone()),
            broker: logs::Broker::default(),
            events: Events::start(store.clone(), shutdown.clone()),
            store,
        };
        platform::spawn::<S::Platform>(leader::run(
            parts.store.clone(),
            parts.pulse.clone(),
            parts.sessions.clone(),
            parts.problems.clone(),
            parts.kernels.clone(),
            parts.networks.clone(),
            shutdown,
        ));
        parts
    }

    async fn disconnect_nodes(&self) {
        if !self.store.leadership().borrow().is_self {
            return;
        }
        let noting = store::commit(&self.store, |draft| {
            skein_orchestration::heartbeats::disconnect(draft);
            Ok(())
        });
        match platform::timeout::<S::Platform, _>(DISCONNECT_TIMEOUT, noting).await {
            Some(Ok(())) => {}
            // The next leader finds out by itself.
            Some(Err(status)) => {
                debug!(
                    "could not note that the nodes are without a manager: {}",
                    status.message()
                );
            }
            None => debug!("no quorum takes note of the nodes being without a manager"),
        }
    }

    fn dispatcher(&self) -> dispatcher::DispatcherService<S> {
        dispatcher::DispatcherService {
            store: self.store.clone(),
            pulse: self.pulse.clone(),
            sessions: self.sessions.clone(),
            reports: self.reports.clone(),
            problems: self.problems.clone(),
            kernels: self.kernels.clone(),
            networks: self.networks.clone(),
            drivers: self.drivers.clone(),
        }
    }

    fn attachments(&self) -> attachments::AttachmentsService<S> {
        attachments::AttachmentsService {
            store: self.store.clone(),
        }
    }

    fn logs(&self) -> logs::LogsService<S> {
        logs::LogsService {
            store: self.store.clone(),
            sessions: self.sessions.clone(),
            broker: self.broker.clone(),
        }
    }
}

impl<P: Platform> Manager<P> {
    /// Starts the manager over its place in the Raft group. It decides only while it leads, and ends
    /// with `shutdown`.
    pub fn start(raft: Raft<P>, shutdown: CancellationToken) -> Self {
        Self {
            parts: Parts::start(raft, Arc::new(Plugins::default()), shutdown),
        }
    }

    /// The replicated store.
    pub fn raft(&self) -> &Raft<P> {
        &self.parts.store
    }

    /// Notes in the store that the nodes are without a manager, if this one leads: it is about to stop, and
    /// serves them no more. What fails is left to the next leader.
    pub async fn disconnect_nodes(&self) {
        self.parts.disconnect_nodes().await;
    }

    /// The gRPC service for agents. Requests carry a [`crate::rpc::PeerIdentity`].
    pub fn dispatcher(&self) -> impl Dispatcher + use<P> {
        self.parts.dispatcher()
    }

    /// The gRPC service for containers that are no task's. Requests carry a
    /// [`crate::rpc::PeerIdentity`].
    pub fn attachments(&self) -> impl Attachments + use<P> {
        self.parts.attachments()
    }

    /// The gRPC service for the agents' logs. Requests carry a [`crate::rpc::PeerIdentity`].
    pub fn logs(&self) -> impl Logs + use<P> {
        self.parts.logs()
    }

    /// What keeps nodes from serving a service, in one line; "" if nothing does, or if this manager
    /// does not lead.
    pub fn problems_of_service(&self, service_id: &str) -> String {
        let state = self.raft().state();
        self.parts.problems.of_service(&state, service_id)
    }

    /// How far the kernel of each node is that this manager hears of: none, if it does not lead.
    pub fn kernels(&self) -> BTreeMap<String, Progress> {
        let mut kernels = self.parts.kernels.progress();
        for (node_id, progress) in &mut kernels {
            progress.problem = self.parts.problems.of_node(node_id);
        }
        kernels
    }

    /// What happens to the swarm's objects.
    pub fn events(&self) -> Events {
        self.parts.events.clone()
    }

    /// Logs of tasks, as their nodes have them. The records end when all was sent; followed ones
    /// when the receiver is dropped, or another manager leads.
    ///
    /// # Errors
    /// This manager does not lead, or too many readers are at work.
    pub async fn service_logs(
        &self,
        selector: LogSelector,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<LogRecord>, LogsError> {
        self.parts.broker.read(&self.parts.store, selector, options)
    }
}

#[cfg(test)]
mod tests;
