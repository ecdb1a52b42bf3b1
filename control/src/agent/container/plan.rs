//! From a task to what the engine is asked to create.

use super::{LABEL_NODE_ID, LABEL_TASK, LABEL_TASK_ID, mounts};
use base64::Engine as _;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigIsolationEnum, HostConfigLogConfig, Mount, NetworkConnectRequest, NetworkingConfig,
    PortBinding, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
};
use skein_model::{
    ContainerSpec, GenericResource, Healthcheck, NodeDescription, PortConfig, Privileges,
    PublishMode, Task,
};
use skein_orchestration::template::{Context, FieldError, expand_container};
use skein_proto::plugin::OWN_OPTIONS;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// A task's place on a network of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or ID of the network on the engine.
    pub network: String,
    /// What it is there, and who gives the address.
    pub place: Place,
    /// What the network's driver is told of it.
    pub driver_opts: BTreeMap<String, String>,
}

/// What a task's network is on the engine, and who gives the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A twin with addresses of the managers, and this one.
    Overlay(Ipv4Addr),
    /// A twin with addresses of the engine's.
    Local {
        /// What the engine itself answers for the task, to its other containers on the network.
        names: Vec<String>,
    },
    /// One that every engine has.
    Predefined,
}

impl Endpoint {
    fn is_on_overlay(&self) -> bool {
        matches!(self.place, Place::Overlay(_))
    }
}

/// What has to be asked of the engine to have a task's container, in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the container.
    pub name: String,
    /// Host directories that must exist: the engine is never to make them up.
    pub bind_sources: Vec<PathBuf>,
    /// Volumes with a driver of their own, made first.
    pub volumes: Vec<VolumeCreateRequest>,
    /// The container, on the first of its networks.
    pub body: ContainerCreateBody,
    /// Its other networks (name or ID, request), to be connected before it starts: engines before
    /// API 1.44 take only one at creation.
    pub connect: Vec<(String, NetworkConnectRequest)>,
}

/// Why a task cannot be a container on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SpecError {
    #[error("dockerexec: image required")]
    NoImage,
    #[error(transparent)]
    Template(#[from] FieldError),
    #[error("invalid mount target, must be an absolute path: {0}")]
    RelativeTarget(String),
    #[error("invalid bind mount source, must be an absolute path: {0}")]
    RelativeBindSource(String),
    #[error("invalid volume mount source, must not be an absolute path: {0}")]
    AbsoluteVolumeSource(String),
    #[error("invalid tmpfs source, source must be empty")]
    TmpfsSource,
    #[error("invalid mount type: {0} is not available on this node")]
    MountKind(String),
    #[error("invalid MountPropagation: {0:?}")]
    Propagation(String),
    #[error("invalid isolation: {0:?}")]
    Isolation(String),
    #[error("invalid seccomp profile: not base64 of UTF-8 text")]
    SeccompProfile,
    #[error(
        "{0} cannot be given to a container by this version of Skein: remove them from the service"
    )]
    Unavailable(&'static str),
    #[error(
        "SCTP ports in host mode cannot be published by a task on overlay networks or with other \
         ports: publish them by a service of their own without networks"
    )]
    EnginePortsOnOverlay,
    #[error("host-mode ports cannot be published by a task on the host's network")]
    HostPortsOnHost,
}

impl Plan {
    /// Adds mounts that are no part of the spec.
    pub fn mount(&mut self, mounts: Vec<Mount>) {
        if !mounts.is_empty() {
            let host = self.body.host_config.get_or_insert_default();
            host.mounts.get_or_insert_default().extend(mounts);
        }
    }
}

/// What the engine has to make for `task` on the node so described.
///
/// `dns` are the addresses of the resolver that knows the names of the cluster; they apply if the
/// task is on an overlay.
pub fn plan(
    task: &Task,
    node: &NodeDescription,
    endpoints: &[Endpoint],
    dns: &[IpAddr],
) -> Result<Plan, SpecError> {
    if task.spec.container_spec.image.is_empty() {
        return Err(SpecError::NoImage);
    }
    let spec = &expand_container(&task.spec.container_spec, &Context::new(task, node))?;
    let mounts = mounts::mounts(&spec.mounts)?;
    let mut env = spec.env.clone();
    env.extend(resource_env(&task.generic_resources));

    let (exposed_ports, port_bindings) = engine_ports(task, endpoints)?;
    let host_config = host_config(task, endpoints, dns)?;
    let body = ContainerCreateBody {
        hostname: text(&spec.hostname),
        user: text(&spec.user),
        exposed_ports,
        tty: spec.tty.then_some(true),
        open_stdin: spec.open_stdin.then_some(true),
        env: list(env),
        // With a command, the arguments follow it; without, they follow the image's entry point.
        entrypoint: list(spec.command.clone()),
        cmd: list(spec.args.clone()),
        healthcheck: spec.healthcheck.as_ref().map(health_config),
        image: text(&spec.image),
        working_dir: text(&spec.dir),
        labels: Some(labels(task).into_iter().collect()),
        stop_signal: text(&spec.stop_signal),
        host_config: Some(HostConfig {
            mounts: list(mounts.mounts),
            port_bindings,
            ..host_config
        }),
        networking_config: endpoints
            .first()
            .filter(|first| first.place != Place::Predefined || !first.driver_opts.is_empty())
            .map(|first| NetworkingConfig {
                endpoints_config: Some(HashMap::from([(first.network.clone(), settings(first))])),
            }),
        ..ContainerCreateBody::default()
    };
    Ok(Plan {
        name: task.name(),
        bind_sources: mounts.bind_sources,
        volumes: mounts.volumes,
        body,
        connect: endpoints
            .iter()
            .skip(1)
            .map(|endpoint| {
                (
                    endpoint.network.clone(),
                    NetworkConnectRequest {
                        container: task.name(),
                        endpoint_config: Some(settings(endpoint)),
                    },
                )
            })
            .collect(),
    })
}

/// Labels of the container: the spec's, then the task's, then the system's, which always win.
pub fn labels(task: &Task) -> BTreeMap<String, String> {
    let mut labels = task.spec.container_spec.labels.clone();
    labels.extend(task.labels.clone());
    for (key, value) in [
        (LABEL_TASK, String::new()),
        (LABEL_TASK_ID, task.id.clone()),
        ("com.docker.swarm.task.name", task.name()),
        (LABEL_NODE_ID, task.node_id.clone()),
        ("com.docker.swarm.service.id", task.service_id.clone()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    labels
}

fn host_config(
    task: &Task,
    endpoints: &[Endpoint],
    dns: &[IpAddr],
) -> Result<HostConfig, SpecError> {
    let spec = &task.spec.container_spec;
    let resources = task.spec.resources.clone().unwrap_or_default();
    let limits = resources.limits.unwrap_or_default();
    let (dns, dns_options, dns_search) = resolver(spec, endpoints, dns);
    Ok(HostConfig {
        memory: number(limits.memory_bytes),
        // -1 is "without limit", not an amount.
        memory_swap: resources.swap_bytes.map(|swap| match swap {
            -1 => -1,
            swap => limits.memory_bytes.saturating_add(swap),
        }),
        memory_swappiness: resources.memory_swappiness,
        nano_cpus: number(limits.nano_cpus),
        pids_limit: number(limits.pids),
        init: spec.init,
        ulimits: list(
            spec.ulimits
                .iter()
                .map(|limit| ResourcesUlimits {
                    name: Some(limit.name.clone()),
                    soft: Some(limit.soft),
                    hard: Some(limit.hard),
                })
                .collect(),
        ),
        log_config: task
            .spec
            .log_driver
            .as_ref()
            .map(|driver| HostConfigLogConfig {
                typ: text(&driver.name),
                config: Some(driver.options.clone().into_iter().collect()),
            }),
        network_mode: endpoints.first().map(|first| first.network.clone()),
        // The cluster restarts tasks, by making new ones.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        cap_add: list(spec.capability_add.clone()),
        cap_drop: list(spec.capability_drop.clone()),
        dns,
        dns_options,
        dns_search,
        extra_hosts: list(
            spec.hosts
                .iter()
                .filter_map(|entry| extra_host(entry))
                .collect(),
        ),
        group_add: list(spec.groups.clone()),
        oom_score_adj: number(spec.oom_score_adj),
        readonly_rootfs: spec.read_only.then_some(true),
        security_opt: list(match &spec.privileges {
            Some(privileges) => security_options(privileges)?,
            None => Vec::new(),
        }),
        sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.clone().into_iter().collect()),
        isolation: isolation(&spec.isolation)?,
        ..HostConfig::default()
    })
}

type Resolver = (
    Option<Vec<String>>,
    Option<Vec<String>>,
    Option<Vec<String>>,
);

/// Servers, options and search domains. The cluster's resolver comes first on overlays: it answers
/// for the cluster's names and forwards the others.
///
/// No option is added: the engine asks for names without a dot as they are by itself, but if it is
/// told to (`ndots`), its own resolver answers all of them itself, with nothing.
fn resolver(spec: &ContainerSpec, endpoints: &[Endpoint], dns: &[IpAddr]) -> Resolver {
    let own = spec.dns_config.clone().unwrap_or_default();
    let mut servers = Vec::new();
    if endpoints.iter().any(Endpoint::is_on_overlay) {
        servers.extend(dns.iter().map(IpAddr::to_string));
    }
    servers.extend(own.nameservers);
    (list(servers), list(own.options), list(own.search))
}

/// `IP name [aliases]` to the engine's `name:IP`; only the first name counts.
fn extra_host(entry: &str) -> Option<String> {
    let mut fields = entry.split_whitespace();
    let (address, name) = (fields.next()?, fields.next()?);
    Some(format!("{name}:{address}"))
}

fn security_options(privileges: &Privileges) -> Result<Vec<String>, SpecError> {
    let mut options = Vec::new();
    // The engine says whether its system has them.
    if let Some(credentials) = &privileges.credential_spec {
        for (key, scheme) in [
            ("Config", "config"),
            ("File", "file"),
            ("Registry", "registry"),
        ] {
            let value = credentials.get(key).and_then(|value| value.as_str());
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                options.push(format!("credentialspec={scheme}://{value}"));
            }
        }
    }
    if let Some(selinux) = &privileges.selinux_context {
        if selinux.disable {
            options.push("label=disable".to_owned());
        }
        for (key, value) in [
            ("user", &selinux.user),
            ("role", &selinux.role),
            ("type", &selinux.kind),
            ("level", &selinux.level),
        ] {
            if !value.is_empty() {
                options.push(format!("label={key}:{value}"));
            }
        }
    }
    if let Some(seccomp) = &privileges.seccomp {
        match seccomp.mode.as_str() {
            "unconfined" => options.push("seccomp=unconfined".to_owned()),
            "custom" => {
                let profile = base64::engine::general_purpose::STANDARD
                    .decode(&seccomp.profile)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or(SpecError::SeccompProfile)?;
                options.push(format!("seccomp={profile}"));
            }
            _ => {}
        }
    }
    if privileges
        .app_armor
        .as_ref()
        .is_some_and(|app_armor| app_armor.mode == "disabled")
    {
        options.push("apparmor=unconfined".to_owned());
    }
    if privileges.no_new_privileges {
        options.push("no-new-privileges=true".to_owned());
    }
    Ok(options)
}

fn isolation(name: &str) -> Result<Option<HostConfigIsolationEnum>, SpecError> {
    match name {
        "" => Ok(None),
        "default" => Ok(Some(HostConfigIsolationEnum::DEFAULT)),
        "process" => Ok(Some(HostConfigIsolationEnum::PROCESS)),
        "hyperv" => Ok(Some(HostConfigIsolationEnum::HYPERV)),
        other => Err(SpecError::Isolation(other.to_owned())),
    }
}

fn health_config(check: &Healthcheck) -> HealthConfig {
    HealthConfig {
        test: list(check.test.clone()),
        interval: number(check.interval),
        timeout: number(check.timeout),
        retries: number(check.retries),
        start_period: number(check.start_period),
        start_interval: number(check.start_interval),
    }
}

type Ports = (
    Option<Vec<String>>,
    Option<HashMap<String, Option<Vec<PortBinding>>>>,
);

/// Ports that the engine itself publishes on this node: what comes to the others is the dataplane's.
fn engine_ports(task: &Task, endpoints: &[Endpoint]) -> Result<Ports, SpecError> {
    let on_host = |port: &&PortConfig| port.publish_mode == PublishMode::Host;
    let mut in_host_mode = task.ports.iter().filter(on_host).peekable();
    let on_host_network = endpoints.iter().any(|endpoint| endpoint.network == "host");
    if on_host_network && in_host_mode.peek().is_some() {
        return Err(SpecError::HostPortsOnHost);
    }
    let of_engine: Vec<_> = in_host_mode.filter(|port| port.is_of_engine()).collect();
    if of_engine.is_empty() {
        return Ok((None, None));
    }
    if endpoints.iter().any(Endpoint::is_on_overlay) {
        return Err(SpecError::EnginePortsOnOverlay);
    }
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in of_engine {
        bindings
            .entry(port_key(port))
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: None,
                // "" lets the engine choose.
                host_port: Some(match port.published_port {
                    0 => String::new(),
                    published => published.to_string(),
                }),
            });
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    exposed.sort();
    Ok((Some(exposed), Some(bindings)))
}

/// The engine's name of a container port: `80/tcp`.
pub(super) fn port_key(port: &PortConfig) -> String {
    format!("{}/{}", port.target_port, port.protocol.name())
}

/// What the scheduler gave of the node's generic resources, as `DOCKER_RESOURCE_<KIND>=<values>`.
fn resource_env(resources: &[GenericResource]) -> Vec<String> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in resources {
        if let Some(named) = &resource.named_resource_spec {
            values
                .entry(named.kind.to_uppercase())
                .or_default()
                .push(named.value.clone());
        }
        if let Some(discrete) = &resource.discrete_resource_spec {
            values
                .entry(discrete.kind.to_uppercase())
                .or_default()
                .push(discrete.value.to_string());
        }
    }
    values
        .into_iter()
        .map(|(kind, values)| format!("DOCKER_RESOURCE_{kind}={}", values.join(",")))
        .collect()
}

fn settings(endpoint: &Endpoint) -> EndpointSettings {
    // Engines go by the network's name from here on, unless told its ID here, too; and one of that
    // name that was removed from the swarm may still have tasks that end.
    let network_id = Some(endpoint.network.clone());
    // Those of Skein's driver are its own to say.
    let options = endpoint
        .driver_opts
        .iter()
        .filter(|(name, _)| !name.starts_with(OWN_OPTIONS));
    let options: HashMap<_, _> = options
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let driver_opts = (!options.is_empty()).then_some(options);
    match &endpoint.place {
        // No aliases: names of services are answered by the cluster's resolver alone.
        Place::Overlay(address) => EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            network_id,
            driver_opts,
            ..EndpointSettings::default()
        },
        Place::Local { names } => EndpointSettings {
            aliases: list(names.clone()),
            network_id,
            driver_opts,
            ..EndpointSettings::default()
        },
        Place::Predefined => EndpointSettings {
            driver_opts,
            ..EndpointSettings::default()
        },
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn number(value: i64) -> Option<i64> {
    (value != 0).then_some(value)
}

fn list<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests;
