//! Services: made, scaled, updated, rolled back and removed.

use super::{
    Change, millis, named,
    nodes::{ZONE, ZONES},
    removal,
};
use crate::{agent::NANO_CPUS, engine::JOB_IMAGE, executor::Random};
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_model::{
    Action, EndpointSpec, FailureAction, Kind, Placement, PlacementPreference, PortConfig,
    PublishMode, Reservations, ResourceRequirements, RestartPolicy, SecretReference, ServiceMode,
    ServiceSpec, SpreadOver, State, Timestamp, UpdateConfig, UpdateOrder, new_id,
};
use skein_orchestration::{revision, validate};

/// Names that they have.
const NAMES: u16 = 5;
/// Replicas and completions asked for at most.
const REPLICAS_MAX: u64 = 4;
/// Ports that several services ask for.
const CONTENDED_PORTS: [u16; 2] = [80, 443];
/// From here on, each name of a service has its own port on nodes.
const HOST_PORTS: u16 = 9000;
/// Parts of an update that may fail.
const FAILURE_RATIOS: [f64; 4] = [0.0, 0.0, 0.3, 1.0];
/// A task reserves one of so many parts of a node; 0: nothing.
const RESERVED_PARTS: [i64; 5] = [0, 0, 0, 100, 3];

pub(super) fn create(state: &State, now: Timestamp) -> Option<Change> {
    let (name, number) = named("service", NAMES);
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
    template.placement = placement(&spec.mode);
    template.resources = resources();
    for network in state
        .present_networks()
        .filter(|network| !network.spec.ingress)
    {
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
        max_failure_ratio: FAILURE_RATIOS
            .into_iter()
            .choose(&mut Random)
            .unwrap_or_default(),
        order: match Random.random_bool(0.5) {
            true => UpdateOrder::StartFirst,
            false => UpdateOrder::StopFirst,
        },
    }
}

/// Where its tasks may run, and how they are spread.
fn placement(mode: &ServiceMode) -> Option<Placement> {
    if Random.random_bool(0.6) {
        return None;
    }
    let mut placement = Placement::default();
    if Random.random_bool(0.5) {
        let zone = ZONES.into_iter().choose(&mut Random)?;
        let operator = ["==", "!="].into_iter().choose(&mut Random)?;
        let constraint = format!("node.labels.{ZONE}{operator}{zone}");
        placement.constraints.push(constraint);
    }
    if Random.random_bool(0.3) {
        let spread_descriptor = format!("node.labels.{ZONE}");
        let spread = Some(SpreadOver { spread_descriptor });
        placement.preferences.push(PlacementPreference { spread });
    }
    if !mode.is_global() && Random.random_bool(0.3) {
        placement.max_replicas = Random.random_range(1..=2);
    }
    Some(placement)
}

/// What each of its tasks takes of a node: some so much that a few fill it.
fn resources() -> Option<ResourceRequirements> {
    let parts = RESERVED_PARTS.into_iter().choose(&mut Random)?;
    let reservations = (parts > 0).then(|| Reservations {
        nano_cpus: NANO_CPUS / parts,
        ..Reservations::default()
    });
    Some(ResourceRequirements {
        reservations,
        ..ResourceRequirements::default()
    })
}

pub(super) fn update(state: &State, now: Timestamp) -> Option<Change> {
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
            if Random.random_bool(0.2) {
                spec.task_template.placement = placement(&spec.mode);
                spec.task_template.resources = resources();
            }
            what
        }
    };
    validate::check_service(state, Some(current), &spec).ok()?;
    validate::check_service_update(&current.spec, &spec).ok()?;
    let service = revision::updated(state, current, spec, now);
    Some((what, Action::Update(service.into())))
}

pub(super) fn roll_back(state: &State, now: Timestamp) -> Option<Change> {
    let current = state.services().choose(&mut Random)?;
    let service = revision::rolled_back(state, current, now)?;
    validate::check_service(state, Some(current), &service.spec).ok()?;
    let what = format!("roll back {}", service.spec.name);
    Some((what, Action::Update(service.into())))
}

pub(super) fn remove(state: &State) -> Option<Change> {
    let service = state.services().choose(&mut Random)?;
    let what = format!("remove {}", service.spec.name);
    Some((what, removal(Kind::Service, &service.id)))
}
