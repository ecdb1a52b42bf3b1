//! What the engine says of a task's container.

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum};
use skein_model::{ContainerStatus, PortConfig, PortStatus, PublishMode};

use super::plan::port_key;

/// The container of a task as last seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Container {
    /// The engine did not answer: nothing is known, nothing may be concluded.
    Unknown,
    /// The engine has none of this name.
    Missing,
    /// Made, never started.
    Created {
        /// What is reported of it.
        status: ContainerStatus,
    },
    /// Its process runs (or is paused by a user).
    Running {
        /// What is reported of it.
        status: ContainerStatus,
        /// What its health check says.
        health: Health,
        /// Ports that the engine published for it.
        ports: PortStatus,
    },
    /// Its process ended.
    Exited {
        /// What is reported of it, the exit code above all.
        status: ContainerStatus,
        /// What the engine adds to it; mostly "".
        error: String,
    },
}

/// What a container's health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    None,
    /// No verdict yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// The check failed as often as it may.
    Unhealthy,
}

impl Container {
    /// What a task's status says of the container.
    pub fn status(&self) -> Option<&ContainerStatus> {
        match self {
            Self::Unknown | Self::Missing => None,
            Self::Created { status }
            | Self::Running { status, .. }
            | Self::Exited { status, .. } => Some(status),
        }
    }
}

/// Reads the engine's answer. `ports` are those of the task; of those in host mode that the dataplane serves,
/// with the number that they have on this node.
pub fn observe(inspect: &ContainerInspectResponse, ports: &[PortConfig]) -> Container {
    let state = inspect.state.clone().unwrap_or_default();
    let status = ContainerStatus {
        container_id: inspect.id.clone().unwrap_or_default(),
        pid: state.pid.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or_default(),
        ..ContainerStatus::default()
    };
    // A start that failed leaves a container in state `created`, with an exit code.
    let started = state
        .started_at
        .as_deref()
        .is_some_and(|at| !at.is_empty() && !at.starts_with("0001-"));
    let running = state.running.unwrap_or(false)
        || matches!(
            state.status,
            Some(
                ContainerStateStatusEnum::RUNNING
                    | ContainerStateStatusEnum::PAUSED
                    | ContainerStateStatusEnum::RESTARTING
            )
        );
    if running {
        let health = match state.health.and_then(|health| health.status) {
            None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => Health::None,
            Some(HealthStatusEnum::STARTING) => Health::Starting,
            Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        };
        return Container::Running {
            status,
            health,
            ports: port_status(inspect, ports),
        };
    }
    if started {
        Container::Exited {
            status,
            error: state.error.unwrap_or_default(),
        }
    } else {
        Container::Created { status }
    }
}

/// The task's host-mode ports with what they are published as.
fn port_status(inspect: &ContainerInspectResponse, ports: &[PortConfig]) -> PortStatus {
    let bound = inspect
        .network_settings
        .as_ref()
        .and_then(|settings| settings.ports.as_ref());
    let published = |port: &PortConfig| {
        if port.is_of_node() {
            return Some(port.published_port).filter(|published| *published != 0);
        }
        bound?
            .get(&port_key(port))?
            .as_ref()?
            .iter()
            .filter_map(|binding| binding.host_port.as_deref()?.parse::<u16>().ok())
            .find(|published| port.published_port == 0 || *published == port.published_port)
    };
    PortStatus {
        ports: ports
            .iter()
            .filter(|port| port.publish_mode == PublishMode::Host)
            .filter_map(|port| {
                Some(PortConfig {
                    published_port: published(port)?,
                    ..port.clone()
                })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_model::PortProtocol;

    fn read(state: serde_json::Value) -> Container {
        let inspect = serde_json::from_value(json!({ "Id": "c1", "State": state })).unwrap();
        observe(&inspect, &[])
    }

    #[test]
    fn states() {
        assert!(matches!(
            read(json!({"Status": "created", "ExitCode": 127, "StartedAt": "0001-01-01T00:00:00Z"})),
            Container::Created { status } if status.container_id == "c1"
        ));
        for (health, expected) in [
            (json!(null), Health::None),
            (json!({"Status": "none"}), Health::None),
            (json!({"Status": "starting"}), Health::Starting),
            (json!({"Status": "healthy"}), Health::Healthy),
            (json!({"Status": "unhealthy"}), Health::Unhealthy),
        ] {
            let seen = read(json!({
                "Status": "running", "Running": true, "Pid": 7, "Health": health,
                "StartedAt": "2026-01-01T00:00:00Z",
            }));
            assert!(
                matches!(&seen, Container::Running { status, health, .. }
                    if status.pid == 7 && *health == expected),
                "{seen:?}"
            );
        }
        let seen = read(json!({
            "Status": "exited", "Running": false, "ExitCode": 137, "Error": "boom",
            "StartedAt": "2026-01-01T00:00:00Z",
        }));
        assert!(matches!(seen, Container::Exited { status, error }
            if status.exit_code == 137 && error == "boom"));
        let paused = read(json!({
            "Status": "paused", "Running": true, "StartedAt": "2026-01-01T00:00:00Z",
        }));
        assert!(matches!(paused, Container::Running { .. }));
    }

    #[test]
    fn host_ports_show_what_was_chosen() {
        let inspect = serde_json::from_value(json!({
            "Id": "c1",
            "State": {"Status": "running", "Running": true},
            "NetworkSettings": {"Ports": {
                "80/sctp": [{"HostIp": "0.0.0.0", "HostPort": "49153"}],
                "53/sctp": null,
            }},
        }))
        .unwrap();
        let host = |target, published, protocol| PortConfig {
            target_port: target,
            published_port: published,
            protocol,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        };
        let ports = [
            host(80, 0, PortProtocol::Sctp),
            host(53, 0, PortProtocol::Sctp),
            host(80, 8080, PortProtocol::Tcp),
            host(81, 0, PortProtocol::Tcp),
            PortConfig {
                target_port: 80,
                ..PortConfig::default()
            },
        ];
        let Container::Running { ports, .. } = observe(&inspect, &ports) else {
            panic!("it runs");
        };
        let published: Vec<_> = ports.ports.iter().map(|port| port.published_port).collect();
        assert_eq!(
            published,
            [49_153, 8080],
            "what has no number yet is not told"
        );
    }
}
