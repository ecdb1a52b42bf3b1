//! Tasks and their states.

use crate::{
    EndpointSpec, GenericResource, Meta, NetworkSpec, PortConfig, Runtime, ServiceMode, TaskSpec,
    Timestamp, Version, is_default,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One container to be, being, or having been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Task {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: Meta,
    pub labels: BTreeMap<String, String>,
    pub spec: TaskSpec,
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    /// 1 to the number of replicas, of a job 0 to one less than its completions; 0 (left out) for
    /// tasks bound to a node.
    #[serde(skip_serializing_if = "is_default")]
    pub slot: u64,
    /// "" until the scheduler has placed the task.
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    pub status: TaskStatus,
    pub desired_state: TaskState,
    /// Of a task that is no longer wanted: no node sends it new flows any more, or none that can be
    /// waited for, so that it may be told to stop. Never taken back.
    #[serde(rename = "X-Skein-Drained", skip_serializing_if = "is_default")]
    pub drained: bool,
    #[serde(rename = "NetworksAttachments", skip_serializing_if = "Vec::is_empty")]
    pub networks_attachments: Vec<TaskNetwork>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
    /// Of a task of a job: the run that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_iteration: Option<Version>,
    /// `spec_version` of the service when the task was made.
    #[serde(
        rename = "X-Skein-SpecVersion",
        skip_serializing_if = "Option::is_none"
    )]
    pub spec_version: Option<Version>,
    /// Name and labels of the service when the task was made: what the agent labels the container
    /// with and names it after.
    #[serde(
        rename = "X-Skein-ServiceName",
        skip_serializing_if = "String::is_empty"
    )]
    pub service_name: String,
    #[serde(
        rename = "X-Skein-ServiceLabels",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub service_labels: BTreeMap<String, String>,
    /// The endpoint of the service when the task was made.
    #[serde(rename = "X-Skein-Endpoint", skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
    /// The ports of the service, published ones filled in, when the task was allocated.
    #[serde(rename = "X-Skein-Ports", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
    /// Mode of the service when the task was made.
    #[serde(rename = "X-Skein-Mode")]
    pub mode: ServiceMode,
    /// `X-Registry-Auth` for pulling the image.
    #[serde(
        rename = "X-Skein-RegistryAuth",
        skip_serializing_if = "String::is_empty"
    )]
    pub registry_auth: String,
    /// A task that is held back (desired READY) is not started before this moment: the end of its
    /// restart delay.
    #[serde(
        rename = "X-Skein-NotBefore",
        skip_serializing_if = "Timestamp::is_zero"
    )]
    pub not_before: Timestamp,
}

impl Task {
    /// Whether it is to run, or to go on to where that leads: nobody has asked for its end.
    pub fn is_wanted(&self) -> bool {
        self.desired_state <= TaskState::Complete
    }

    /// Whether it is a place on a network and no container of the cluster's: see [`Runtime`].
    pub fn is_attachment(&self) -> bool {
        self.spec.runtime == Runtime::Attachment
    }

    /// Whether its addresses are its own still, also before it is placed: nothing else may have them.
    pub fn holds_addresses(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Whether it has a place on a network, by the network's full ID.
    pub fn is_on(&self, network_id: &str) -> bool {
        let mut networks = self.networks_attachments.iter();
        networks.any(|attachment| attachment.network_id == network_id)
    }

    /// `<service>.<slot>.<task ID>`, or with the node's ID in place of the slot where there is none;
    /// also the name of the container.
    pub fn name(&self) -> String {
        let place: &dyn std::fmt::Display = if self.slot == 0 {
            &self.node_id
        } else {
            &self.slot
        };
        format!("{}.{}.{}", self.service_name, place, self.id)
    }

    /// The ports that the mesh publishes for it on its node alone. One whose number its node has not chosen
    /// yet, or not told of, has published port 0.
    pub fn host_ports(&self) -> Vec<PortConfig> {
        let told = self.status.port_status.ports.iter();
        let mut chosen: Vec<&PortConfig> = told.filter(|told| !self.ports.contains(told)).collect();
        let ports = self.ports.iter().filter(|port| port.is_of_node());
        let resolved = ports.map(|port| {
            let answers = |chosen: &&PortConfig| {
                let asked = PortConfig {
                    published_port: 0,
                    ..PortConfig::clone(chosen)
                };
                asked == *port
            };
            let found = chosen.iter().position(answers);
            found.map_or(port, |found| chosen.remove(found)).clone()
        });
        resolved.collect()
    }
}

/// A task's place on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TaskNetwork {
    /// The network; the API shows the whole of it.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The task's address with the prefix length of the network; `None` on networks whose addresses
    /// the node gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Net>,
    /// The network, if its addresses are the node's to give; `None` for overlays. The allocator fills it
    /// in, as agents are told of overlays only.
    #[serde(rename = "X-Skein-Local", skip_serializing_if = "Option::is_none")]
    pub local_network: Option<Box<NetworkSpec>>,
    /// Further names of the task on this network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What the network's driver is told of the task's place.
    #[serde(
        rename = "X-Skein-DriverOpts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub driver_opts: BTreeMap<String, String>,
}

/// States in order: an observed state never goes back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Created by an orchestrator.
    #[default]
    New = 0,
    /// Has its addresses and ports; waits for a node.
    Pending = 64,
    /// Has a node.
    Assigned = 192,
    /// The node's agent knows it.
    Accepted = 256,
    /// Image, networks and container are being made.
    Preparing = 320,
    /// Could start; waits until it is wanted running.
    Ready = 384,
    /// Starts; or runs and is not healthy for the first time yet.
    Starting = 448,
    /// Runs, and is healthy if it has a health check.
    Running = 512,
    /// Ended by itself, exit code 0.
    Complete = 576,
    /// Ended because it was told to.
    Shutdown = 640,
    /// Ended by itself, exit code not 0, or did not become healthy.
    Failed = 704,
    /// Could not start.
    Rejected = 768,
    /// Only as a desired state: end, and leave no trace.
    Remove = 800,
    /// Its node is gone.
    Orphaned = 832,
}

impl TaskState {
    /// Every one, in order.
    pub const ALL: &[Self] = &[
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// Whether a task in this state will never run (again).
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        })
    }
}

/// Where a task is, as last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct TaskStatus {
    /// By the clock of whoever set the state.
    pub timestamp: Timestamp,
    pub state: TaskState,
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus>,
    pub port_status: PortStatus,
    /// When the leader stored this status: restart windows are counted by one clock.
    #[serde(
        rename = "X-Skein-AppliedAt",
        skip_serializing_if = "Timestamp::is_zero"
    )]
    pub applied_at: Timestamp,
    /// When the leader stored that the task runs; zero until then. Stays when the task has ended, so
    /// that one which ended early can be told from one that ran for long.
    #[serde(
        rename = "X-Skein-RunningSince",
        skip_serializing_if = "Timestamp::is_zero"
    )]
    pub running_since: Timestamp,
    /// Why the task is to be replaced though it may run still.
    #[serde(rename = "X-Skein-GivenUp", skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// Why a task is replaced that has not ended: until its successor has its traffic, its connections live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GivenUp {
    /// Its health check has failed. Its node waits for it to be ended.
    Unhealthy,
    /// Its node is no longer what the task was placed for.
    Misplaced,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct ContainerStatus {
    #[serde(rename = "ContainerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    #[serde(rename = "PID", skip_serializing_if = "is_default")]
    pub pid: i64,
    pub exit_code: i64,
    /// Of an attachment: what its container is called on the network. Empty while it does not run.
    #[serde(rename = "X-Skein-Names", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// Ports published in host mode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct PortStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortProtocol, PublishMode};

    #[test]
    fn a_port_that_its_node_chose_is_told_from_those_asked_for_by_number() {
        let port = |published_port, protocol| PortConfig {
            target_port: 80,
            published_port,
            protocol,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        };
        let tcp = |published| port(published, PortProtocol::Tcp);
        let mut task = Task {
            ports: vec![
                tcp(0),
                tcp(8080),
                tcp(0),
                port(0, PortProtocol::Udp),
                port(9, PortProtocol::Sctp),
                PortConfig::default(),
            ],
            ..Task::default()
        };
        let published = |task: &Task| -> Vec<u16> {
            let ports = task.host_ports();
            ports.iter().map(|port| port.published_port).collect()
        };
        assert_eq!(published(&task), [0, 8080, 0, 0]);
        task.status.port_status.ports = vec![tcp(40_001), tcp(8080), tcp(40_002)];
        assert_eq!(published(&task), [40_001, 8080, 40_002, 0]);
    }
}
