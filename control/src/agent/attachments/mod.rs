//! Places on overlays for containers of this node that are no task's: `docker run --network`.
//!
//! The managers give a place (a task of the runtime `attachment`, with an address) to the API, which has
//! the engine make the container with that address. From then on the engine is the only memory: places
//! and containers are matched by network and address, after events and every so often.
//!
//! - [`places`]: what is known, and what follows from a look.

mod places;

use super::{
    engine::{Engine, EngineError, TwinSpec},
    reports::Reports,
};
use crate::{
    clock,
    rpc::{Managers, may_pass},
};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt as _;
use parking_lot::Mutex;
use places::{Action, Places};
use skein_model::{Task, new_id};
use skein_proto::node::{
    AttachRequest, AttachResponse, DetachRequest, attachments_client::AttachmentsClient,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tonic::{Code, Status};

/// How long the managers may take to give a place: Swarm's time.
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);
/// How long they may take to be told that it is not needed; the next look tells them again.
const DETACH_DEADLINE: Duration = Duration::from_secs(5);
/// Between tries to reach them, and an engine that is away.
const RETRY: Duration = Duration::from_millis(250);
/// What happens on the engine within this time is looked at together.
const SETTLE: Duration = Duration::from_millis(100);
/// Between looks when nothing happens: events may get lost.
const PERIOD: Duration = Duration::from_secs(20);
/// What changes a place.
const EVENTS: [&str; 7] = [
    "create",
    "start",
    "die",
    "destroy",
    "rename",
    "connect",
    "disconnect",
];

/// A place on a network, as the API asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The network: ID, name, or prefix of the ID.
    pub network: String,
    /// The address that the container is to have; `None`: any.
    pub address: Option<Ipv4Addr>,
    /// Further names of the container on the network.
    pub aliases: Vec<String>,
}

/// A place that the managers gave. Whoever asked for it must [`settle`](Attachments::settle) or
/// [`give_up`](Attachments::give_up) it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The task that stands for the place.
    pub task_id: String,
    /// ID of the network of the swarm.
    pub network_id: String,
    /// The engine's own ID of the network.
    pub twin: String,
    /// For the container, and nobody else in the cluster.
    pub address: Ipv4Addr,
}

/// Why there is no place on a network.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The managers refused.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Managers(Status),
    /// No manager answered in time.
    #[error("no manager of the swarm has answered: {0}")]
    Late(String),
    /// The engine does not make the network.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The places of the node. Clones share them.
#[derive(Clone)]
pub struct Attachments {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    managers: Managers,
    reports: Reports,
    places: Mutex<Places>,
    /// A look may bring news.
    news: Notify,
}

impl Attachments {
    /// Nothing is known yet. Statuses go to `reports`.
    pub fn new(engine: Engine, managers: Managers, reports: Reports) -> Self {
        Self {
            inner: Arc::new(Inner {
                engine,
                managers,
                reports,
                places: Mutex::default(),
                news: Notify::new(),
            }),
        }
    }

    /// Where the statuses of this node's tasks go.
    pub fn reports(&self) -> &Reports {
        &self.inner.reports
    }

    /// Asks the managers for a place, and makes the network on the engine.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is left of the place then.
    pub async fn attach(&self, wish: &Wish) -> Result<Attached, Refusal> {
        if let Some(address) = wish.address {
            self.give_back(address).await;
        }
        let answer = self.ask(wish).await?;
        let address = answer.address.parse::<Ipv4Addr>().ok();
        let Some((network, address)) = answer.network.zip(address) else {
            self.give_up(&answer.task_id).await;
            let unusable = "the network was removed while a place on it was made";
            return Err(Refusal::Managers(Status::not_found(unusable)));
        };
        self.inner
            .places
            .lock()
            .claim(&answer.task_id, &network.id, address, wish.aliases.clone());
        let spec = TwinSpec::from(&network);
        match self.inner.engine.ensure_twin(&spec).await {
            Ok(twin) => Ok(Attached {
                task_id: answer.task_id,
                network_id: network.id,
                twin,
                address,
            }),
            Err(error) => {
                self.give_up(&answer.task_id).await;
                Err(error.into())
            }
        }
    }

    /// Gives back the places of an address whose containers are gone. The next look would; but who has just
    /// taken a container off a network may put another there at once.
    async fn give_back(&self, address: Ipv4Addr) {
        // Before the look: a container that is made meanwhile is none of these.
        let made = self.inner.places.lock().made_at(address);
        if made.is_empty() {
            return;
        }
        let vacant = match self.inner.engine.guests().await {
            Ok(guests) => self.inner.places.lock().vacant(made, &guests),
            // Whether the address is free is the managers' to say.
            Err(error) => {
                tracing::debug!(%address, "cannot tell whether an address is still in use: {error}");
                return;
            }
        };
        for task_id in vacant {
            self.give_up(&task_id).await;
        }
    }

    async fn ask(&self, wish: &Wish) -> Result<AttachResponse, Refusal> {
        let task_id = new_id(&mut rand::rng());
        let request = AttachRequest {
            task_id: task_id.clone(),
            network: wish.network.clone(),
            address: wish.address.map_or_else(String::new, |a| a.to_string()),
            aliases: wish.aliases.clone(),
        };
        let ask = |channel| {
            let request = request.clone();
            async { AttachmentsClient::new(channel).attach(request).await }
        };
        let asked = self.inner.managers.ask_leader(ATTACH_DEADLINE, ask).await;
        match asked {
            Err(status) if may_pass(&status) => {
                // One of the tries may have come to something, unheard.
                self.give_up(&task_id).await;
                Err(Refusal::Late(status.message().to_owned()))
            }
            asked => asked.map_err(Refusal::Managers),
        }
    }

    /// The container with the place was made.
    pub fn settle(&self, task_id: &str) {
        self.inner.places.lock().settle(task_id);
        self.look_soon();
    }

    /// No container was made for the place.
    pub async fn give_up(&self, task_id: &str) {
        self.inner.places.lock().unclaim(task_id);
        if let Err(status) = self.detach(task_id).await {
            tracing::warn!(
                task = task_id,
                "a place on a network that is not needed stays for a while: {}",
                status.message()
            );
        }
    }

    async fn detach(&self, task_id: &str) -> Result<(), Status> {
        let ask = |channel| {
            let task_id = task_id.to_owned();
            async {
                AttachmentsClient::new(channel)
                    .detach(DetachRequest { task_id })
                    .await
            }
        };
        let detached = self.inner.managers.ask_leader(DETACH_DEADLINE, ask).await;
        detached.map(drop)
    }

    /// Gives up all places: the node leaves the swarm. What fails is left to the managers, which take
    /// the places away with the node.
    pub async fn leave(&self) {
        let ids = self.inner.places.lock().ids();
        let leaving = futures::future::join_all(ids.iter().map(|id| self.detach(id)));
        if leaving.await.iter().any(Result::is_err) {
            tracing::warn!(
                "the managers were not told which containers leave the swarm's networks"
            );
        }
    }

    /// A container may have come to a network, or left it.
    pub fn look_soon(&self) {
        self.inner.news.notify_one();
    }

    /// Takes what the managers want. `complete`: what is not in `tasks` is no more.
    pub fn assign(&self, complete: bool, tasks: Vec<Task>, removed: &[String]) {
        self.inner.places.lock().assign(complete, tasks, removed);
        self.look_soon();
    }

    /// A leader that may have missed something hears of every place again.
    pub fn report_all(&self) {
        for (id, status) in self.inner.places.lock().statuses() {
            self.inner.reports.push(&id, status);
        }
    }

    /// The networks that there are places on.
    pub fn needed_networks(&self) -> BTreeSet<String> {
        self.inner.places.lock().networks()
    }

    /// Keeps the managers informed for ever.
    pub async fn run(&self) {
        tokio::join!(self.follow(), self.look_on());
    }

    async fn look_on(&self) {
        let mut due = Instant::now() + PERIOD;
        loop {
            // An error: nothing has happened, and it is due.
            let _ = timeout_at(due, self.inner.news.notified()).await;
            sleep(SETTLE).await;
            // Most engines have no such container, and much that happens.
            if Instant::now() < due && self.inner.places.lock().ids().is_empty() {
                continue;
            }
            due = Instant::now() + PERIOD;
            if let Err(error) = self.look().await {
                tracing::debug!("cannot look at the containers on the swarm's networks: {error}");
            }
        }
    }

    async fn look(&self) -> Result<(), EngineError> {
        let guests = self.inner.engine.guests().await?;
        let actions = self
            .inner
            .places
            .lock()
            .look(&guests, Instant::now(), clock::now());
        for action in actions {
            match action {
                Action::Report(id, status) => {
                    tracing::debug!(task = id, state = %status.state, "{}", status.message);
                    self.inner.reports.push(&id, status);
                }
                Action::Adopt(guest) => {
                    let wish = Wish {
                        network: guest.network_id.clone(),
                        address: guest.address,
                        aliases: self.inner.engine.aliases(&guest).await?,
                    };
                    let (container, network) = (&guest.name, &guest.network_id);
                    match self.attach(&wish).await {
                        Ok(attached) => {
                            tracing::info!(container, network, "gave a container its place again");
                            self.settle(&attached.task_id);
                        }
                        Err(Refusal::Managers(status)) if is_final(&status) => {
                            tracing::warn!(
                                container,
                                network,
                                "taking a container off a network of the swarm: its address is not \
                                 its own any more: {}",
                                status.message()
                            );
                            self.inner
                                .engine
                                .disconnect(&guest.container, &guest.twin)
                                .await?;
                        }
                        // Nobody knows: the next look asks again.
                        Err(error) => tracing::debug!(container, network, "{error}"),
                    }
                }
            }
        }
        Ok(())
    }

    async fn follow(&self) {
        loop {
            // What is missed meanwhile is found by looking.
            if let Err(error) = self.follow_once().await {
                tracing::debug!("cannot follow the engine's events: {error}");
            }
            sleep(RETRY).await;
        }
    }

    async fn follow_once(&self) -> Result<(), EngineError> {
        let docker = self.inner.engine.streams().await?;
        let filters = HashMap::from([
            (
                "type".to_owned(),
                vec!["container".to_owned(), "network".to_owned()],
            ),
            ("event".to_owned(), EVENTS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = docker.events(Some(options));
        self.look_soon();
        while let Some(Ok(_)) = events.next().await {
            self.look_soon();
        }
        Ok(())
    }
}

/// The managers know the network, or its absence, and do not give the address.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound | Code::PermissionDenied | Code::InvalidArgument
    )
}
