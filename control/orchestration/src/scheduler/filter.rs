//! Why a task cannot run on a node, in Swarm's order and words.

use super::{
    Constraint, constraints_of,
    room::{Room, host_ports, reserved},
};
use skein_model::{
    Availability, EngineDescription, MountKind, NodeState, Platform, PortProtocol, Task,
};
use std::collections::BTreeMap;

/// What a task asks of its node.
pub(super) struct Demand<'a> {
    service_id: &'a str,
    nano_cpus: i64,
    memory_bytes: i64,
    volume_drivers: Vec<&'a str>,
    log_driver: Option<&'a str>,
    /// `None`: they cannot be parsed, so that no node satisfies them.
    constraints: Option<Vec<Constraint>>,
    platforms: &'a [Platform],
    host_ports: Vec<(PortProtocol, u16)>,
    max_replicas: u64,
}

impl<'a> Demand<'a> {
    pub(super) fn of(task: &'a Task) -> Self {
        let (nano_cpus, memory_bytes) = reserved(task);
        let placement = task.spec.placement.as_ref();
        let volumes = task.spec.container_spec.mounts.iter();
        let drivers = volumes
            .filter(|mount| mount.kind == MountKind::Volume)
            .filter_map(|mount| mount.volume_options.as_ref()?.driver_config.as_ref());
        let log_driver = task.spec.log_driver.as_ref();
        Self {
            service_id: &task.service_id,
            nano_cpus,
            memory_bytes,
            volume_drivers: drivers
                .map(|driver| driver.name.as_str())
                .filter(|name| !matches!(*name, "" | "local"))
                .collect(),
            log_driver: log_driver
                .map(|driver| driver.name.as_str())
                .filter(|name| !matches!(*name, "" | "none")),
            constraints: constraints_of(&task.spec).ok(),
            platforms: placement.map_or(&[], |placement| &placement.platforms),
            host_ports: host_ports(task).collect(),
            max_replicas: placement.map_or(0, |placement| placement.max_replicas),
        }
    }

    /// The first filter that the node does not pass.
    fn refused_by(&self, room: &Room) -> Option<Filter> {
        let node = &room.node;
        let engine = &node.description.engine;
        let ready =
            node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
        let constraints = self.constraints.as_ref();
        let checks = [
            (ready, Filter::Ready),
            (
                self.nano_cpus <= room.nano_cpus.max(0)
                    && self.memory_bytes <= room.memory_bytes.max(0),
                Filter::Resources,
            ),
            (self.has_plugins(engine), Filter::Plugins),
            (
                constraints.is_some_and(|all| all.iter().all(|c| c.matches(node))),
                Filter::Constraints,
            ),
            (
                self.platforms.is_empty()
                    || self
                        .platforms
                        .iter()
                        .any(|wanted| is_platform(wanted, &node.description.platform)),
                Filter::Platform,
            ),
            (
                !self
                    .host_ports
                    .iter()
                    .any(|port| room.host_ports.contains(port)),
                Filter::HostPorts,
            ),
            (
                self.max_replicas == 0 || room.tasks_of(self.service_id) < self.max_replicas,
                Filter::MaxReplicas,
            ),
        ];
        checks
            .into_iter()
            .find_map(|(passes, filter)| (!passes).then_some(filter))
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
    Constraints,
    Platform,
    HostPorts,
    MaxReplicas,
}

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
            Self::Constraints => on("scheduling constraints not satisfied"),
            Self::Platform => on("unsupported platform"),
            Self::HostPorts => on("host-mode port already in use"),
            Self::MaxReplicas => "max replicas per node limit exceed".into(),
        }
    }
}

/// How many nodes refused a task, by the filter that they failed first.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<Filter, u64>);

impl Refusals {
    /// Whether the task can run on the node; if not, it is noted why.
    pub(super) fn admits(&mut self, demand: &Demand<'_>, room: &Room) -> bool {
        match demand.refused_by(room) {
            None => true,
            Some(filter) => {
                *self.0.entry(filter).or_default() += 1;
                false
            }
        }
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
