//! Whether the ports that a service asks for are another's.

use skein_model::{EndpointSpec, PortConfig, PublishMode, Service, State};
use std::collections::BTreeMap;

/// A published port that another service has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port '{port}' is already in use by service '{service}' ({id}) as {role} port")]
pub struct PortConflict {
    port: u16,
    service: String,
    id: String,
    role: &'static str,
}

/// Whether a service may publish what `spec` asks for: no other service has one of the ports, asked
/// for or given. `service_id` is the service itself, if it exists already.
///
/// Two services may both publish a port in host mode: the scheduler keeps them on separate nodes.
///
/// # Errors
/// The first conflict, in the order of the ports of `spec`.
pub fn check_ports(
    state: &State,
    service_id: Option<&str>,
    spec: &EndpointSpec,
) -> Result<(), PortConflict> {
    check_against(state, service_id, spec, |other| {
        ports_of(other)
            .chain(chosen_by_nodes(state, other))
            .collect()
    })
}

/// The same, but for what others only ask for: of two services that ask for the same at once, one must
/// get it.
pub(super) fn check_given(
    state: &State,
    service_id: &str,
    spec: &EndpointSpec,
) -> Result<(), PortConflict> {
    check_against(state, Some(service_id), spec, |other| {
        let chosen = chosen_by_nodes(state, other);
        other.endpoint.ports.iter().chain(chosen).collect()
    })
}

/// The ports in host mode of a service's tasks whose numbers their nodes have chosen.
fn chosen_by_nodes<'a>(
    state: &'a State,
    service: &'a Service,
) -> impl Iterator<Item = &'a PortConfig> {
    let tasks = state.tasks_of_service(&service.id);
    let live = tasks.filter(|task| !task.status.state.is_terminal());
    live.flat_map(|task| {
        let told = task.status.port_status.ports.iter();
        told.filter(|port| !task.ports.contains(port))
    })
}

fn check_against<'a>(
    state: &'a State,
    service_id: Option<&str>,
    spec: &EndpointSpec,
    ports_of: impl Fn(&'a Service) -> Vec<&'a PortConfig>,
) -> Result<(), PortConflict> {
    if spec.ports.iter().all(|port| port.published_port == 0) {
        return Ok(());
    }
    let others = state
        .services()
        .filter(|other| service_id != Some(other.id.as_str()));
    let mut taken = BTreeMap::new();
    for other in others {
        let ports = ports_of(other).into_iter();
        for port in ports.filter(|port| port.published_port != 0) {
            let holder = taken
                .entry((port.protocol, port.published_port))
                .or_insert((port.publish_mode, other));
            // A port in ingress mode excludes more than one in host mode.
            if port.publish_mode == PublishMode::Ingress {
                *holder = (port.publish_mode, other);
            }
        }
    }
    for port in spec.ports.iter().filter(|port| port.published_port != 0) {
        let Some((mode, other)) = taken.get(&(port.protocol, port.published_port)) else {
            continue;
        };
        let role = match (port.publish_mode, mode) {
            (PublishMode::Host, PublishMode::Host) => continue,
            (_, PublishMode::Ingress) => "an ingress",
            (PublishMode::Ingress, PublishMode::Host) => "a host-published",
        };
        return Err(PortConflict {
            port: port.published_port,
            service: other.spec.name.clone(),
            id: other.id.clone(),
            role,
        });
    }
    Ok(())
}

/// The ports that a service asks for and those that it was given.
pub(super) fn ports_of(service: &Service) -> impl Iterator<Item = &PortConfig> {
    let asked = service.spec.endpoint_spec.iter().flat_map(|e| &e.ports);
    asked.chain(&service.endpoint.ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, port, published as spec};

    #[test]
    fn conflicts_are_worded_as_swarm_does() {
        let mut fixture = Fixture::default();
        fixture.service("web", |s| {
            s.spec.endpoint_spec = Some(spec(&[
                port(80, 80, PublishMode::Ingress),
                port(81, 81, PublishMode::Host),
            ]));
        });
        let state = &fixture.state;
        let check = |published, mode| {
            check_ports(state, None, &spec(&[port(published, 1, mode)])).map_err(|e| e.to_string())
        };
        let ingress = "port '80' is already in use by service 'web' (web) as an ingress port";
        assert_eq!(check(80, PublishMode::Ingress).unwrap_err(), ingress);
        assert_eq!(check(80, PublishMode::Host).unwrap_err(), ingress);
        assert_eq!(
            check(81, PublishMode::Ingress).unwrap_err(),
            "port '81' is already in use by service 'web' (web) as a host-published port"
        );
        check(81, PublishMode::Host).unwrap();
        check(82, PublishMode::Ingress).unwrap();
        check_ports(
            state,
            Some("web"),
            &spec(&[port(80, 1, PublishMode::Ingress)]),
        )
        .unwrap();
    }

    #[test]
    fn what_a_node_chose_for_a_task_is_published_by_no_other_service() {
        let mut fixture = Fixture::default();
        fixture.service("web", |_| {});
        let check = |fixture: &Fixture, mode| {
            let asked = spec(&[port(40_000, 1, mode)]);
            let given = check_given(&fixture.state, "new", &asked);
            assert_eq!(check_ports(&fixture.state, None, &asked), given);
            given.map_err(|conflict| conflict.to_string())
        };
        for (state, taken) in [
            (skein_model::TaskState::Running, true),
            (skein_model::TaskState::Failed, false),
        ] {
            fixture.task("t", |task| {
                task.service_id = "web".into();
                task.ports = vec![port(0, 80, PublishMode::Host)];
                task.status.state = state;
                task.status.port_status.ports = vec![port(40_000, 80, PublishMode::Host)];
            });
            let refusal =
                "port '40000' is already in use by service 'web' (web) as a host-published port";
            let expected = if taken { Err(refusal.into()) } else { Ok(()) };
            assert_eq!(check(&fixture, PublishMode::Ingress), expected);
            assert_eq!(
                check(&fixture, PublishMode::Host),
                Ok(()),
                "on another node"
            );
        }
    }
}
