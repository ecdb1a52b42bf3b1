//! Why a task cannot run on a node, in Swarm's order and words.

use super::{
    Constraint, constraints_of,
    room::{Claimant, HostPort, Room, host_ports, is_outdated},
    stock::reserved,
};
use skein_model::{
    Availability, EngineDescription, MountKind, NodeState, OVERLAY, Platform, Reservations, State,
    Task, TaskState,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a task asks of its node.
pub(super) struct Demand<'a> {
    claimant: Claimant<'a>,
    reserved: Option<&'a Reservations>,
    volume_drivers: Vec<&'a str>,
    network_drivers: Vec<String>,
    /// One of its networks is encrypted.
    encrypted: bool,
    log_driver: Option<&'a str>,
    /// `None`: they cannot be parsed, so that no node satisfies them.
    constraints: Option<Vec<Constraint>>,
    platforms: &'a [Platform],
    host_ports: BTreeSet<HostPort>,
    max_replicas: u64,
    /// It mounts a volume of the cluster.
    cluster_volumes: bool,
}

/// Drivers of networks that Skein serves itself, or that every engine has.
const BUILT_IN_NETWORKS: [&str; 3] = [OVERLAY, "bridge", "host"];

impl<'a> Demand<'a> {
    pub(super) fn of(state: &State, task: &'a Task) -> Self {
        let placement = task.spec.placement.as_ref();
        let volumes = task.spec.container_spec.mounts.iter();
        let drivers = volumes
            .filter(|mount| mount.kind == MountKind::Volume)
            .filter_map(|mount| mount.volume_options.as_ref()?.driver_config.as_ref());
        let log_driver = task.spec.log_driver.as_ref();
        let host_ports = host_ports(task);
        Self {
            claimant: Claimant {
                service_id: &task.service_id,
                held_back: task.desired_state == TaskState::Ready,
                outdated: !host_ports.is_empty() && is_outdated(state, task),
            },
            reserved: reserved(task),
            volume_drivers: drivers
                .map(|driver| driver.name.as_str())
                .filter(|name| !matches!(*name, "" | "local"))
                .collect(),
            network_drivers: task
                .networks_attachments
                .iter()
                .filter_map(|attachment| state.network(&attachment.network_id))
                .map(|network| network.spec.driver.clone())
                .filter(|driver| !BUILT_IN_NETWORKS.contains(&driver.as_str()))
                .collect(),
            encrypted: task.networks_attachments.iter().any(|attachment| {
                let network = state.network(&attachment.network_id);
                network.is_some_and(|network| network.spec.is_encrypted())
            }),
            log_driver: log_driver
                .map(|driver| driver.name.as_str())
                .filter(|name| !matches!(*name, "" | "none")),
            constraints: constraints_of(&task.spec).ok(),
            platforms: placement.map_or(&[], |placement| &placement.platforms),
            host_ports,
            max_replicas: placement.map_or(0, |placement| placement.max_replicas),
            cluster_volumes: task
                .spec
                .container_spec
                .mounts
                .iter()
                .any(|mount| mount.kind == MountKind::Cluster),
        }
    }

    /// Whether the task asks for ports of its node by number.
    pub(super) fn has_host_ports(&self) -> bool {
        !self.host_ports.is_empty()
    }

    /// Whether it matters how many tasks of the service a node has.
    pub(super) fn counts_service(&self) -> bool {
        self.max_replicas != 0
    }

    /// Whether the node passes one filter. It has `of_service` tasks of the service.
    fn passes(&self, filter: Filter, room: &Room, of_service: u64) -> bool {
        let node = &room.node;
        match filter {
            Filter::Ready => {
                node.status.state == NodeState::Ready
                    && node.spec.availability == Availability::Active
            }
            Filter::Resources => room.stock.has(self.reserved),
            Filter::Plugins => self.has_plugins(&node.description.engine),
            Filter::Encryption => !self.encrypted || node.tunnel.is_some(),
            Filter::Constraints => {
                let all = self.constraints.as_deref();
                all.is_some_and(|all| Constraint::all_match(all, node))
            }
            Filter::Platform => {
                let platform = &node.description.platform;
                self.platforms.is_empty() || self.platforms.iter().any(|p| is_platform(p, platform))
            }
            Filter::HostPorts => {
                let mut ports = self.host_ports.iter();
                !ports.any(|port| room.is_taken(port, &self.claimant))
            }
            Filter::MaxReplicas => self.max_replicas == 0 || of_service < self.max_replicas,
            // No node has a plugin for them.
            Filter::Volumes => !self.cluster_volumes,
        }
    }

    /// The first of these filters that the node does not pass.
    fn refused_by(&self, filters: &[Filter], room: &Room, of_service: u64) -> Option<Filter> {
        let mut filters = filters.iter().copied();
        filters.find(|filter| !self.passes(*filter, room, of_service))
    }

    fn has_plugins(&self, engine: &EngineDescription) -> bool {
        let has = |kind: &str, wanted: &str| {
            engine.plugins.iter().any(|plugin| {
                let name = plugin.name.strip_suffix(":latest").unwrap_or(&plugin.name);
                plugin.kind == kind && (name == wanted || plugin.name == wanted)
            })
        };
        // Engines that name no log plugin at all are old ones, not ones without.
        let names_logs = engine.plugins.iter().any(|plugin| plugin.kind == "Log");
        self.volume_drivers.iter().all(|name| has("Volume", name))
            && self.network_drivers.iter().all(|name| has("Network", name))
            && self
                .log_driver
                .is_none_or(|name| !names_logs || has("Log", name))
    }
}

/// Whether an image for one platform runs on another. What is left empty matches anything.
fn is_platform(wanted: &Platform, actual: &Platform) -> bool {
    fn normal(architecture: &str) -> &str {
        match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
    let arch = wanted.architecture.is_empty()
        || normal(&wanted.architecture) == normal(&actual.architecture);
    arch && (wanted.os.is_empty() || wanted.os == actual.os)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Filter {
    Ready,
    Resources,
    Plugins,
    Encryption,
    Constraints,
    Platform,
    HostPorts,
    MaxReplicas,
    Volumes,
}

/// All of them, in the order in which they are asked.
const FILTERS: [Filter; 9] = [
    Filter::Ready,
    Filter::Resources,
    Filter::Plugins,
    Filter::Encryption,
    Filter::Constraints,
    Filter::Platform,
    Filter::HostPorts,
    Filter::MaxReplicas,
    Filter::Volumes,
];
/// Those that a node which passed before may not pass any more: it only fills up.
const FILLING: [Filter; 3] = [Filter::Resources, Filter::HostPorts, Filter::MaxReplicas];

impl Filter {
    fn explain(self, nodes: u64) -> String {
        let on = |what: &str| match nodes {
            1 => format!("{what} on 1 node"),
            _ => format!("{what} on {nodes} nodes"),
        };
        match self {
            Self::Ready if nodes == 1 => "1 node not available for new tasks".into(),
            Self::Ready => format!("{nodes} nodes not available for new tasks"),
            Self::Resources => on("insufficient resources"),
            Self::Plugins => on("missing plugin"),
            // Not Swarm's: a node of it takes them, and sends in the clear what it cannot encrypt.
            Self::Encryption => on("no key for encrypted networks"),
            Self::Constraints => on("scheduling constraints not satisfied"),
            Self::Platform => on("unsupported platform"),
            Self::HostPorts => on("host-mode port already in use"),
            Self::MaxReplicas => "max replicas per node limit exceed".into(),
            Self::Volumes => on("cannot fulfill requested CSI volume mounts"),
        }
    }
}

/// How many nodes refused a task, by the filter that they failed first.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<Filter, u64>);

impl Refusals {
    /// Whether the task can run on the node; if not, it is noted why.
    pub(super) fn admits(&mut self, demand: &Demand<'_>, room: &Room, of_service: u64) -> bool {
        self.note(demand.refused_by(&FILTERS, room, of_service))
    }

    /// The same for a node that was admitted before.
    pub(super) fn still_admits(
        &mut self,
        demand: &Demand<'_>,
        room: &Room,
        of_service: u64,
    ) -> bool {
        self.note(demand.refused_by(&FILLING, room, of_service))
    }

    fn note(&mut self, refusal: Option<Filter>) -> bool {
        if let Some(filter) = refusal {
            *self.0.entry(filter).or_default() += 1;
        }
        refusal.is_none()
    }

    /// Whether a node that suits the task otherwise refused it because others have its ports.
    pub(super) fn are_of_host_ports(&self) -> bool {
        self.0.contains_key(&Filter::HostPorts)
    }

    /// The reasons, those of most nodes first.
    pub(super) fn reasons(&self) -> String {
        let mut counted: Vec<_> = self.0.iter().collect();
        counted.sort_by_key(|(_, nodes)| std::cmp::Reverse(**nodes));
        let reasons: Vec<_> = counted
            .into_iter()
            .map(|(filter, nodes)| filter.explain(*nodes))
            .collect();
        reasons.join("; ")
    }

    /// What the user reads of a task that has no node.
    pub(super) fn explain(&self) -> String {
        if self.0.is_empty() {
            return "no suitable node".into();
        }
        format!("no suitable node ({})", self.reasons())
    }
}
