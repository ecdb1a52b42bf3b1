//! Services: what is refused, and the defaults of what is left out.

use super::{SpecError, SpecErrorKind, check_name, container, payload};
use crate::{
    allocator::check_ports,
    offer::{BIND_LABEL, offer},
    return_mode::return_mode,
    scheduler::Constraint,
    template::{Context, expand_container},
};
use skein_model::{
    ContainerSpec, DnsConfig, EndpointSpec, ID_LEN, LookupError, NodeDescription, Placement,
    PublishMode, ResolutionMode, ResourceRequirements, RestartPolicy, Service, ServiceMode,
    ServiceSpec, State, Task, TaskSpec, UpdateConfig,
};
use skein_proto::network::Bind;
use std::collections::BTreeSet;

/// Time between the stop signal and SIGKILL unless the spec names one, in nanoseconds.
pub const STOP_GRACE_PERIOD_DEFAULT: i64 = 10_000_000_000;
/// The most tasks of one service at once: as many as the scheduler is measured with. More would be made
/// and held in memory whether or not there are nodes for them.
pub const TASKS_MAX: u64 = 100_000;
/// Time before a task is replaced, in nanoseconds.
pub const RESTART_DELAY_DEFAULT: i64 = 5_000_000_000;
/// Time that an update watches each new task, in nanoseconds.
pub const MONITOR_DEFAULT: i64 = 5_000_000_000;

/// Checks all that can be said of a service that is to be created (`current` is `None`) or updated.
/// Its networks must be IDs already: see [`resolve_networks`]. Whether what it names is there is the
/// store's to say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_service(
    state: &State,
    current: Option<&Service>,
    spec: &ServiceSpec,
) -> Result<(), SpecError> {
    check_name(&spec.name)?;
    return_mode(&spec.labels).map_err(SpecError::invalid)?;
    check_offer(spec)?;
    check_mode(spec)?;
    check_task(&spec.task_template)?;
    payload::check_references(&spec.task_template.container_spec)?;
    if let Some(config) = &spec.update_config {
        check_update_config(config)?;
    }
    if let Some(endpoint) = &spec.endpoint_spec {
        check_endpoint(endpoint)?;
        check_ports_are_free(state, current, endpoint)?;
    }
    check_templates(spec)
}

/// A label of a port that is none of the service's would bind nothing.
fn check_offer(spec: &ServiceSpec) -> Result<(), SpecError> {
    let offer = offer(&spec.labels).map_err(SpecError::invalid)?;
    let ports = spec
        .endpoint_spec
        .iter()
        .flat_map(|endpoint| &endpoint.ports);
    let published: BTreeSet<u32> = ports.map(|port| port.published_port.into()).collect();
    let unknown = |bind: &&Bind| bind.port != 0 && !published.contains(&bind.port);
    match offer.binds.iter().find(unknown) {
        None => Ok(()),
        Some(Bind { port, .. }) => Err(SpecError::invalid(format!(
            "label {BIND_LABEL}.{port}: the service publishes no port {port} by its number"
        ))),
    }
}

fn check_ports_are_free(
    state: &State,
    current: Option<&Service>,
    endpoint: &EndpointSpec,
) -> Result<(), SpecError> {
    let id = current.map(|service| service.id.as_str());
    if current.is_none_or(|current| current.spec.endpoint_spec.as_ref() != Some(endpoint)) {
        check_ports(state, id, endpoint).map_err(|error| SpecError::invalid(error.to_string()))?;
    }
    Ok(())
}

/// Tries the templates with the values of no task in particular.
fn check_templates(service: &ServiceSpec) -> Result<(), SpecError> {
    // Of an ID's length, for those who take a part of one.
    let id = || "x".repeat(ID_LEN);
    let task = Task {
        id: id(),
        service_id: id(),
        node_id: id(),
        slot: 1,
        service_name: service.name.clone(),
        service_labels: service.labels.clone(),
        ..Task::default()
    };
    let node = NodeDescription {
        hostname: "hostname".into(),
        ..NodeDescription::default()
    };
    let context = Context::new(&task, &node);
    expand_container(&service.task_template.container_spec, &context)
        .map(drop)
        .map_err(|error| SpecError::invalid(error.to_string()))
}

/// Checks what an update may not change. [`check_service`] checks the rest.
///
/// # Errors
/// Name or mode differ.
pub fn check_service_update(current: &ServiceSpec, next: &ServiceSpec) -> Result<(), SpecError> {
    use SpecErrorKind::Unimplemented;
    if current.name != next.name {
        return Err(SpecError::with(
            Unimplemented,
            "renaming services is not supported",
        ));
    }
    if std::mem::discriminant(&current.mode) != std::mem::discriminant(&next.mode) {
        return Err(SpecError::with(
            Unimplemented,
            "service mode change is not allowed",
        ));
    }
    Ok(())
}

/// Puts IDs in place of the names (or prefixes) of the networks of a spec.
///
/// # Errors
/// There is no such network, or services cannot be on it.
pub fn resolve_networks(state: &State, spec: &mut ServiceSpec) -> Result<(), SpecError> {
    for attachment in &mut spec.task_template.networks {
        let name = &attachment.target;
        let network = state.find_network(name).map_err(|error| match error {
            // The reference's error has no type here.
            LookupError::NotFound { .. } => {
                SpecError::with(SpecErrorKind::Internal, format!("network {name} not found"))
            }
            LookupError::Ambiguous { .. } => SpecError::invalid(error.to_string()),
        })?;
        if network.spec.ingress {
            return Err(SpecError::invalid(format!(
                "Service cannot be explicitly attached to the ingress network \"{}\"",
                network.spec.name
            )));
        }
        attachment.target = network.id.clone();
        attachment.address = None;
    }
    Ok(())
}

fn check_mode(spec: &ServiceSpec) -> Result<(), SpecError> {
    // As numbers of Go's they would be negative.
    let negative = |number: u64| i64::try_from(number).is_err();
    match spec.mode {
        ServiceMode::Replicated { replicas } if negative(replicas) => Err(SpecError::invalid(
            "Number of replicas must be non-negative",
        )),
        ServiceMode::ReplicatedJob { max_concurrent, .. } if negative(max_concurrent) => Err(
            SpecError::invalid("Maximum concurrent jobs must not be negative"),
        ),
        ServiceMode::ReplicatedJob {
            total_completions, ..
        } if negative(total_completions) => Err(SpecError::invalid(
            "Total completed jobs must not be negative",
        )),
        ServiceMode::Replicated { replicas: tasks }
        | ServiceMode::ReplicatedJob {
            max_concurrent: tasks,
            ..
        } if tasks > TASKS_MAX => Err(SpecError::invalid(format!(
            "{tasks} tasks at once are too many: a service has at most {TASKS_MAX}"
        ))),
        // Each is a task that the store keeps.
        ServiceMode::ReplicatedJob {
            total_completions, ..
        } if total_completions > TASKS_MAX => Err(SpecError::invalid(format!(
            "{total_completions} completions are too many: a job has at most {TASKS_MAX}"
        ))),
        mode if mode.is_job() && spec.update_config.is_some() => {
            Err(SpecError::invalid("Jobs may not have an update config"))
        }
        _ => Ok(()),
    }
}

fn check_task(spec: &TaskSpec) -> Result<(), SpecError> {
    container::check(&spec.container_spec)?;
    if let Some(resources) = &spec.resources {
        container::check_resources(resources)?;
    }
    if let Some(policy) = &spec.restart_policy {
        container::check_restart(policy)?;
    }
    if let Some(placement) = &spec.placement {
        Constraint::parse_all(&placement.constraints).map_err(|error| {
            // A quirk that clients know: the reference's error has no type.
            let message = format!("rpc error: code = Unknown desc = {error}");
            SpecError::with(SpecErrorKind::Internal, message)
        })?;
    }
    let mut networks = BTreeSet::new();
    for attachment in &spec.networks {
        if !networks.insert(attachment.target.as_str()) {
            return Err(SpecError::invalid(format!(
                "network {} is attached twice",
                attachment.target
            )));
        }
    }
    Ok(())
}

fn check_update_config(config: &UpdateConfig) -> Result<(), SpecError> {
    if config.delay < 0 {
        return Err(SpecError::invalid(
            "TaskSpec: update-delay cannot be negative",
        ));
    }
    if config.monitor.is_some_and(|monitor| monitor < 0) {
        return Err(SpecError::invalid(
            "TaskSpec: update-monitor cannot be negative",
        ));
    }
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return Err(SpecError::invalid(
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ));
    }
    Ok(())
}

fn check_endpoint(spec: &EndpointSpec) -> Result<(), SpecError> {
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        if spec.mode == ResolutionMode::Dnsrr && port.publish_mode == PublishMode::Ingress {
            return Err(SpecError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        let taken =
            port.published_port != 0 && !published.insert((port.published_port, port.protocol));
        if taken {
            return Err(SpecError::invalid(
                "EndpointSpec: duplicate published ports provided",
            ));
        }
    }
    Ok(())
}

/// The spec with everything filled in that holds where nothing is said (`insertDefaults`).
pub fn with_defaults(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    let task = &mut spec.task_template;
    let container: &mut ContainerSpec = &mut task.container_spec;
    container
        .stop_grace_period
        .get_or_insert(STOP_GRACE_PERIOD_DEFAULT);
    container.dns_config.get_or_insert_with(DnsConfig::default);
    task.resources
        .get_or_insert_with(ResourceRequirements::default);
    task.placement.get_or_insert_with(Placement::default);
    task.restart_policy
        .get_or_insert_with(RestartPolicy::default)
        .delay
        .get_or_insert(RESTART_DELAY_DEFAULT);
    for config in [&mut spec.update_config, &mut spec.rollback_config] {
        config
            .get_or_insert_with(default_update_config)
            .monitor
            .get_or_insert(MONITOR_DEFAULT);
    }
    spec
}

/// How a service is updated, or rolled back, that says nothing of it: one task after the other. What is
/// left out of a config that it has is zero instead.
pub(crate) fn default_update_config() -> UpdateConfig {
    UpdateConfig {
        parallelism: 1,
        ..UpdateConfig::default()
    }
}
