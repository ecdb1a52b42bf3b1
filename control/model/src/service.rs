//! Services: their state beside the spec. The spec is in `spec.rs`.

use crate::{EndpointSpec, Meta, PortConfig, ServiceSpec, Timestamp, Version};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A set of equal tasks under one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Service {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: Meta,
    pub spec: ServiceSpec,
    /// The spec before the last update; what a rollback goes back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<ServiceSpec>,
    pub endpoint: ServiceEndpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
    /// Of a job: which run of it this is. `None` for services that are to run for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_status: Option<JobStatus>,
    /// Version of the service when `spec` was last changed by a user or a rollback.
    #[serde(rename = "X-Skein-SpecVersion")]
    pub spec_version: Version,
    /// `X-Registry-Auth` of the last create or update; never shown.
    #[serde(
        rename = "X-Skein-RegistryAuth",
        skip_serializing_if = "String::is_empty"
    )]
    pub registry_auth: String,
    /// The same of the update before: what `previous_spec` came with.
    #[serde(
        rename = "X-Skein-PreviousRegistryAuth",
        skip_serializing_if = "String::is_empty"
    )]
    pub previous_registry_auth: String,
    /// Why the allocator cannot give the service what it needs, for the user's eyes: repeated as
    /// `Status.Err` of its waiting tasks.
    #[serde(
        rename = "X-Skein-AllocationError",
        skip_serializing_if = "String::is_empty"
    )]
    pub allocation_error: String,
    /// The allocator has given the service all that `spec_version` of it needs.
    #[serde(
        rename = "X-Skein-AllocatedVersion",
        skip_serializing_if = "Option::is_none"
    )]
    pub allocated_version: Option<Version>,
}

/// What the allocator gave a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ServiceEndpoint {
    /// The endpoint spec that `ports` and `virtual_ips` were given for.
    pub spec: EndpointSpec,
    /// The ports of the spec, with every published port filled in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
    /// One per network of the service in `vip` mode, the ingress network included.
    #[serde(rename = "VirtualIPs", skip_serializing_if = "Vec::is_empty")]
    pub virtual_ips: Vec<VirtualIp>,
}

/// The address of a service on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct VirtualIp {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// With the prefix length of the network: `10.0.1.5/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<Ipv4Net>,
}

/// Which run of a job is the present one: every update of its service begins another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct JobStatus {
    /// Counts from 0.
    pub job_iteration: Version,
    pub last_execution: Timestamp,
}

impl Service {
    /// The present run of a job; `None` for services that are none.
    pub fn job_iteration(&self) -> Option<Version> {
        let status = self.job_status.as_ref();
        self.spec
            .mode
            .is_job()
            .then(|| status.map_or_else(Version::default, |status| status.job_iteration))
    }
}

/// How far an update or rollback is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct UpdateStatus {
    pub state: UpdateState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum UpdateState {
    #[default]
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}
