//! What the user asks of a service: `ServiceSpec` and all below it, as in the Docker Engine API.

use crate::{Platform, is_default};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// A length of time in nanoseconds, as Go has it on the wire.
pub type Nanos = i64;

/// What a service is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ServiceSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub task_template: TaskSpec,
    pub mode: ServiceMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
}

impl ServiceSpec {
    /// Whether its tasks have places on the ingress network.
    pub fn needs_ingress(&self) -> bool {
        let endpoint = self.endpoint_spec.as_ref();
        endpoint.is_some_and(EndpointSpec::needs_ingress)
    }
}

/// How many tasks a service has, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub enum ServiceMode {
    #[serde(rename_all = "PascalCase")]
    Replicated {
        #[serde(default = "one")]
        replicas: u64,
    },
    Global {},
    #[serde(rename_all = "PascalCase")]
    ReplicatedJob {
        #[serde(default = "one")]
        max_concurrent: u64,
        #[serde(default = "one")]
        total_completions: u64,
    },
    GlobalJob {},
}

fn one() -> u64 {
    1
}

impl ServiceMode {
    /// Whether its tasks are to end by themselves.
    pub fn is_job(&self) -> bool {
        matches!(self, Self::ReplicatedJob { .. } | Self::GlobalJob {})
    }

    /// Whether its tasks are bound to nodes: at most one on each.
    pub fn is_global(&self) -> bool {
        matches!(self, Self::Global {} | Self::GlobalJob {})
    }
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// What each task of a service is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct TaskSpec {
    pub container_spec: ContainerSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver>,
    pub force_update: u64,
    /// What its tasks are.
    pub runtime: Runtime,
}

/// What a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A container that the cluster runs. The only one that services may ask for.
    #[default]
    Container,
    /// The place of a container of the user's own on one network: its node made it, and its node ends
    /// it.
    Attachment,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ContainerSpec {
    pub image: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Privileges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(rename = "TTY", skip_serializing_if = "is_default")]
    pub tty: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub open_stdin: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<Nanos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretReference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<ConfigReference>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub isolation: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_drop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: i64,
}

/// Kept as given; what of it applies is the engine's to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Privileges {
    pub credential_spec: Option<serde_json::Value>,
    #[serde(rename = "SELinuxContext")]
    pub selinux_context: Option<SelinuxContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    #[serde(rename = "AppArmor", skip_serializing_if = "Option::is_none")]
    pub app_armor: Option<AppArmor>,
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_privileges: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct SelinuxContext {
    pub disable: bool,
    pub user: String,
    pub role: String,
    #[serde(rename = "Type")]
    pub kind: String,
    pub level: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Seccomp {
    /// `default`, `unconfined` or `custom`
    pub mode: String,
    /// Base64 of the profile.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct AppArmor {
    /// `default` or `disabled`
    pub mode: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: MountKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consistency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum MountKind {
    #[default]
    Bind,
    Volume,
    Tmpfs,
    Npipe,
    Cluster,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct BindOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    #[serde(skip_serializing_if = "is_default")]
    pub non_recursive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct VolumeOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<Driver>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct TmpfsOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub size_bytes: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub mode: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Vec<String>>,
}

/// A named driver with options: of logs, volumes, …
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Driver {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Healthcheck {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub interval: Nanos,
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Nanos,
    #[serde(skip_serializing_if = "is_default")]
    pub start_period: Nanos,
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval: Nanos,
    #[serde(skip_serializing_if = "is_default")]
    pub retries: i64,
}

impl Healthcheck {
    /// Whether there is a check to wait for: `NONE` turns off even the image's own.
    pub fn is_none(&self) -> bool {
        self.test.first().is_some_and(|kind| kind == "NONE")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct DnsConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct SecretReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<ReferenceFile>,
    #[serde(rename = "SecretID")]
    pub secret_id: String,
    pub secret_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ConfigReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<ReferenceFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<serde_json::Value>,
    #[serde(rename = "ConfigID")]
    pub config_id: String,
    pub config_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ReferenceFile {
    pub name: String,
    #[serde(rename = "UID")]
    pub uid: String,
    #[serde(rename = "GID")]
    pub gid: String,
    pub mode: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ResourceRequirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Reservations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Limits {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_default")]
    pub nano_cpus: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub memory_bytes: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub pids: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Reservations {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_default")]
    pub nano_cpus: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub memory_bytes: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
}

/// One of the two is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct GenericResource {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrete_resource_spec: Option<DiscreteResource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_resource_spec: Option<NamedResource>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct DiscreteResource {
    pub kind: String,
    pub value: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NamedResource {
    pub kind: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// `None`: 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Nanos>,
    /// 0: without limit.
    pub max_attempts: u64,
    /// `None` and 0: the whole life of the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Placement {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<PlacementPreference>,
    #[serde(skip_serializing_if = "is_default")]
    pub max_replicas: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct PlacementPreference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadOver>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct SpreadOver {
    pub spread_descriptor: String,
}

/// A network that every task of the service joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NetworkAttachmentConfig {
    /// In the store always the ID of a network.
    pub target: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    /// The address that an attachment asks for; services cannot.
    #[serde(rename = "X-Skein-Address", skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct UpdateConfig {
    /// 0: all at once.
    pub parallelism: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Nanos,
    pub failure_action: FailureAction,
    /// `None`: 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Nanos>,
    pub max_failure_ratio: f64,
    pub order: UpdateOrder,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct EndpointSpec {
    pub mode: ResolutionMode,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
}

impl EndpointSpec {
    /// Whether any port is published on every node.
    pub fn publishes_ingress(&self) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|port| port.publish_mode == PublishMode::Ingress)
    }

    /// Whether tasks need places on the ingress network: what comes to a published port reaches them
    /// there, whether it is published on every node or on theirs.
    pub fn needs_ingress(&self) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|port| port.publish_mode == PublishMode::Ingress || port.is_of_node())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ResolutionMode {
    #[default]
    Vip,
    Dnsrr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct PortConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub protocol: PortProtocol,
    pub target_port: u16,
    /// 0: chosen by the allocator; in host mode, by each task's node.
    #[serde(skip_serializing_if = "is_default")]
    pub published_port: u16,
    pub publish_mode: PublishMode,
}

impl PortConfig {
    /// Whether the routing mesh publishes the port on the task's node alone: in host mode.
    pub fn is_of_node(&self) -> bool {
        self.publish_mode == PublishMode::Host && !self.is_of_engine()
    }

    /// Whether the engine publishes the port, as that of one container: in host mode, of a protocol whose
    /// listeners no node looks for.
    pub fn is_of_engine(&self) -> bool {
        self.publish_mode == PublishMode::Host && self.protocol == PortProtocol::Sctp
    }
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum PortProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl PortProtocol {
    /// As Docker spells it: `80/tcp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a published port answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node of the cluster.
    #[default]
    Ingress,
    /// On the nodes that run a task.
    Host,
}
