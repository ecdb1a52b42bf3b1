//! Users of the cluster: they change it as the API does, and remember what they were told.

use crate::{
    engine::JOB_IMAGE,
    executor::{self, Random},
    history::{History, Seen},
    member::Managers,
    network::{Host, Network},
    platform::Simulated,
};
use futures::FutureExt as _;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_control::{manager::Manager, raft::ProposeError};
use skein_model::{
    Action, Applied, Availability, Cluster, Config, EndpointSpec, FailureAction, Kind,
    Network as Overlay, Node, Object, PayloadSpec, PortConfig, PublishMode, RestartPolicy, Secret,
    SecretReference, ServiceMode, ServiceSpec, State, UpdateConfig, UpdateOrder, new_id,
};
use skein_orchestration::{revision, validate};
use std::time::Duration;

/// How long a client waits for an answer: as long as the API's own proposals take at most, and a bit.
const PATIENCE: Duration = Duration::from_secs(12);
/// How many managers a client asks one after the other.
const ATTEMPTS: u32 = 4;
/// Between two changes.
const THINK_MS: (u64, u64) = (50, 1_500);
/// Names that services, networks and so on have: so few that they come into each other's way.
const SERVICES: u16 = 5;
const NETWORKS: u16 = 3;
const PAYLOADS: u16 = 3;
/// Replicas and completions asked for at most.
const REPLICAS_MAX: u64 = 4;
/// Nodes that take tasks at least.
const ACTIVE_MIN: usize = 2;
/// Ports that several services ask for.
const CONTENDED_PORTS: [u16; 2] = [80, 443];
/// From here on, each name of a service has its own port on nodes.
const HOST_PORTS: u16 = 9000;

/// Raft settings that are asked for: the least and the most that a log has, and more than members keep.
const SNAPSHOT_INTERVAL: (u64, u64) = (5, 80);
const SLOW_FOLLOWERS_MAX: u64 = 20;

/// A client on a host of its own.
#[derive(Clone)]
pub struct Client {
    /// Where it is.
    pub host: Host,
    /// What carries its messages.
    pub network: Network,
    /// Whom they reach.
    pub managers: Managers,
    /// Where managers are.
    pub known: Vec<Host>,
    /// Sees what it was told.
    pub history: History,
}

/// What a manager answered.
struct Answer {
    /// Of what it read.
    index: u64,
    /// What was asked for.
    what: String,
    /// `None` if it asked for nothing, or for what is refused.
    applied: Option<Applied>,
}

impl Client {
    /// Changes the cluster again and again.
    pub async fn run(self) {
        loop {
            let think = Random.random_range(THINK_MS.0..=THINK_MS.1);
            executor::sleep(Duration::from_millis(think)).await;
            self.change_something().await;
        }
    }

    async fn change_something(&self) {
        let mut target = self.known.iter().copied().choose(&mut Random);
        for _ in 0..ATTEMPTS {
            let Some(to) = target else { return };
            let acknowledged = self.history.greatest_acknowledged();
            let managers = self.managers.clone();
            let handle = move || {
                let manager = managers.get(to);
                async move { Some(answer(manager?).await) }.boxed()
            };
            let answer = self.network.call(self.host, to, handle);
            target = match executor::timeout(PATIENCE, answer).await {
                Ok(Ok(Some(Ok(answer)))) => {
                    self.take(answer, acknowledged);
                    return;
                }
                Ok(Ok(Some(Err(ProposeError::NotLeader { leader })))) => {
                    leader.and_then(|leader| crate::host_at(&leader.address))
                }
                // What was asked for may be done or not.
                Ok(Ok(Some(Err(_)))) | Err(_) => return,
                Ok(Ok(None) | Err(_)) => self.known.iter().copied().choose(&mut Random),
            };
        }
    }

    fn take(&self, answer: Answer, acknowledged: u64) {
        let (index, what) = (answer.index, answer.what);
        self.history.see(&Seen::Read {
            acknowledged,
            index,
        });
        let Some(applied) = answer.applied else {
            self.history.tell("refused", what.to_string());
            return;
        };
        let index = applied.index;
        self.history
            .tell("acknowledged", format!("{what} at index {index}"));
        self.history.acknowledged(index, &applied.events);
    }
}

/// What the manager's API does with a request.
async fn answer(manager: Manager<Simulated>) -> Result<Answer, ProposeError> {
    let raft = manager.raft();
    let state = raft.linearizable().await?;
    let index = state.index();
    let Some((what, action)) = draw(&state, raft.now()) else {
        let (what, applied) = ("nothing".to_owned(), None);
        return Ok(Answer {
            index,
            what,
            applied,
        });
    };
    let applied = match raft.propose(vec![action]).await {
        Ok(applied) => Some(applied),
        Err(ProposeError::Rejected(_)) => None,
        Err(error) => return Err(error),
    };
    Ok(Answer {
        index,
        what,
        applied,
    })
}

type Change = (String, Action);

/// A change of the cluster that the API would take.
fn draw(state: &State, now: skein_model::Timestamp) -> Option<Change> {
    match Random.random_range(0..100) {
        0..25 => create_service(state, now),
        25..55 => update_service(state, now),
        55..60 => roll_back(state, now),
        60..68 => remove_service(state),
        68..74 => create_network(state),
        74..78 => remove_network(state),
        78..83 => create_payload(),
        83..86 => remove_payload(state),
        86..88 => change_cluster(state),
        _ => change_node(state),
    }
}

fn named(kind: &str, of: u16) -> (String, u16) {
    let number = Random.random_range(0..of);
    (format!("{kind}{number}"), number)
}

fn create_service(state: &State, now: skein_model::Timestamp) -> Option<Change> {
    let (name, number) = named("service", SERVICES);
    let mut spec = ServiceSpec {
        name: name.clone(),
        ..ServiceSpec::default()
    };
    spec.mode = match Random.random_range(0..10) {
        0..5 => ServiceMode::Replicated {
            replicas: Random.random_range(0..=REPLICAS_MAX),
        },
        5..7 => ServiceMode::Global {},
        7..9 => ServiceMode::ReplicatedJob {
            max_concurrent: Random.random_range(1..=2),
            total_completions: Random.random_range(1..=REPLICAS_MAX),
        },
        _ => ServiceMode::GlobalJob {},
    };
    let template = &mut spec.task_template;
    template.container_spec.image = match spec.mode.is_job() {
        true => format!("{JOB_IMAGE}:1"),
        false => "web:1".to_owned(),
    };
    template.restart_policy = Some(RestartPolicy {
        delay: Some(millis(50, 2_000)),
        ..RestartPolicy::default()
    });
    if spec.mode.is_job() {
        // What is complete is not to be done again.
        let policy = template.restart_policy.as_mut()?;
        policy.condition = skein_model::RestartCondition::OnFailure;
    }
    for network in state.networks().filter(|network| !network.spec.ingress) {
        if Random.random_bool(0.4) {
            let target = network.id.clone();
            template
                .networks
                .push(skein_model::NetworkAttachmentConfig {
                    target,
                    ..Default::default()
                });
        }
    }
    if let Some(secret) = state.secrets().next()
        && Random.random_bool(0.3)
    {
        template.container_spec.secrets.push(SecretReference {
            file: Some(skein_model::ReferenceFile {
                name: "secret".into(),
                uid: "0".into(),
                gid: "0".into(),
                mode: 0o444,
            }),
            secret_id: secret.id.clone(),
            secret_name: secret.spec.name.clone(),
        });
    }
    if !spec.mode.is_job() {
        spec.endpoint_spec = Some(EndpointSpec {
            ports: ports(&spec.mode, number),
            ..EndpointSpec::default()
        });
        (spec.update_config, spec.rollback_config) = (Some(update_config()), Some(update_config()));
    }
    validate::resolve_networks(state, &mut spec).ok()?;
    validate::check_service(state, None, &spec).ok()?;
    let service = revision::created(state, new_id(&mut Random), spec, now);
    let what = format!("create {name} as {:?}", service.spec.mode);
    Some((what, Action::Create(service.into())))
}

fn ports(mode: &ServiceMode, number: u16) -> Vec<PortConfig> {
    let port = |published_port, publish_mode| PortConfig {
        target_port: 8080,
        published_port,
        publish_mode,
        ..PortConfig::default()
    };
    match Random.random_range(0..10) {
        0..3 => vec![port(0, PublishMode::Ingress)],
        3..5 => {
            let contended = CONTENDED_PORTS.into_iter().choose(&mut Random);
            vec![port(contended.unwrap_or_default(), PublishMode::Ingress)]
        }
        5..7 if mode.is_global() => vec![port(HOST_PORTS + number, PublishMode::Host)],
        _ => Vec::new(),
    }
}

fn update_config() -> UpdateConfig {
    UpdateConfig {
        parallelism: Random.random_range(0..=2),
        delay: millis(0, 500),
        failure_action: match Random.random_range(0..4) {
            0 => FailureAction::Pause,
            1 => FailureAction::Rollback,
            _ => FailureAction::Continue,
        },
        monitor: Some(millis(100, 2_000)),
        max_failure_ratio: 0.0,
        order: match Random.random_bool(0.5) {
            true => UpdateOrder::StartFirst,
            false => UpdateOrder::StopFirst,
        },
    }
}

fn millis(least: i64, most: i64) -> skein_model::Nanos {
    Random.random_range(least..=most) * 1_000_000
}

fn update_service(state: &State, now: skein_model::Timestamp) -> Option<Change> {
    let current = state.services().choose(&mut Random)?;
    let mut spec = current.spec.clone();
    let what = match &mut spec.mode {
        ServiceMode::Replicated { replicas } if Random.random_bool(0.5) => {
            *replicas = Random.random_range(0..=REPLICAS_MAX);
            format!("scale {} to {replicas}", current.spec.name)
        }
        _ => {
            let image = &mut spec.task_template.container_spec.image;
            let name = image.split(':').next()?.to_owned();
            *image = format!("{name}:{}", Random.random_range(1..=3));
            let what = format!("update {} to {image}", current.spec.name);
            if Random.random_bool(0.3) {
                spec.task_template.force_update += 1;
            }
            what
        }
    };
    validate::check_service(state, Some(current), &spec).ok()?;
    validate::check_service_update(&current.spec, &spec).ok()?;
    let service = revision::updated(state, current, spec, now);
    Some((what, Action::Update(service.into())))
}

fn roll_back(state: &State, now: skein_model::Timestamp) -> Option<Change> {
    let current = state.services().choose(&mut Random)?;
    let service = revision::rolled_back(state, current, now)?;
    validate::check_service(state, Some(current), &service.spec).ok()?;
    let what = format!("roll back {}", service.spec.name);
    Some((what, Action::Update(service.into())))
}

fn removal(kind: Kind, id: &str) -> Action {
    Action::Remove {
        kind,
        id: id.to_owned(),
        version: None,
    }
}

fn remove_service(state: &State) -> Option<Change> {
    let service = state.services().choose(&mut Random)?;
    let what = format!("remove {}", service.spec.name);
    Some((what, removal(Kind::Service, &service.id)))
}

fn create_network(state: &State) -> Option<Change> {
    let (name, _) = named("network", NETWORKS);
    let mut network = Overlay {
        id: new_id(&mut Random),
        ..Overlay::default()
    };
    network.spec.name = name.clone();
    network.spec.driver = "overlay".into();
    validate::check_network(state, &network.spec).ok()?;
    Some((format!("create {name}"), Action::Create(network.into())))
}

fn remove_network(state: &State) -> Option<Change> {
    let networks = state.networks().filter(|network| !network.spec.ingress);
    let network = networks.choose(&mut Random)?;
    let what = format!("remove {}", network.spec.name);
    Some((what, removal(Kind::Network, &network.id)))
}

fn create_payload() -> Option<Change> {
    let (id, (name, _)) = (new_id(&mut Random), named("payload", PAYLOADS));
    let spec = PayloadSpec {
        name: name.clone(),
        data: serde_json::from_str("\"c2tlaW4=\"").ok()?,
        ..PayloadSpec::default()
    };
    let meta = Default::default();
    let object: Object = match Random.random_bool(0.5) {
        true => Secret { id, meta, spec }.into(),
        false => Config { id, meta, spec }.into(),
    };
    let what = format!("create {} {name}", object.kind());
    Some((what, Action::Create(object)))
}

fn remove_payload(state: &State) -> Option<Change> {
    let secret = state.secrets().choose(&mut Random)?;
    let what = format!("remove secret {}", secret.spec.name);
    Some((what, removal(Kind::Secret, &secret.id)))
}

fn change_cluster(state: &State) -> Option<Change> {
    let mut cluster = Cluster::clone(state.cluster()?);
    let raft = &mut cluster.spec.raft;
    raft.snapshot_interval = Random.random_range(SNAPSHOT_INTERVAL.0..=SNAPSHOT_INTERVAL.1);
    raft.log_entries_for_slow_followers = Random.random_range(0..=SLOW_FOLLOWERS_MAX);
    let what = format!(
        "make a snapshot every {} entries, keep {} behind it",
        raft.snapshot_interval, raft.log_entries_for_slow_followers
    );
    Some((what, Action::Update(cluster.into())))
}

fn change_node(state: &State) -> Option<Change> {
    let mut node = Node::clone(state.nodes().choose(&mut Random)?);
    let others = state.nodes().filter(|other| other.id != node.id);
    let active = others.filter(|other| other.spec.availability == Availability::Active);
    let others_suffice = active.count() >= ACTIVE_MIN;
    node.spec.availability = match Random.random_range(0..6) {
        0 if others_suffice => Availability::Drain,
        1 if others_suffice => Availability::Pause,
        _ => Availability::Active,
    };
    let what = format!("let {} be {}", node.id, node.spec.availability.name());
    Some((what, Action::Update(node.into())))
}
