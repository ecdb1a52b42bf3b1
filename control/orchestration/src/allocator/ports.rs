//! Published ports that are chosen for services which ask for any.

use super::port_conflicts::ports_of;
use skein_model::{EndpointSpec, PortConfig, PortProtocol, PublishMode, State};
use std::collections::BTreeSet;

/// Ports that are given to services which ask for any: Swarm's range, below the ports that Linux
/// uses for outgoing connections.
pub const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// The published ports of all services but one.
pub(super) struct TakenPorts {
    taken: BTreeSet<(PortProtocol, u16)>,
}

impl TakenPorts {
    /// What all services but `service_id` have, or ask for by number.
    pub(super) fn except(state: &State, service_id: &str) -> Self {
        let taken = state
            .services()
            .filter(|service| service.id != service_id)
            .flat_map(|service| ports_of(service))
            .filter(|port| port.published_port != 0)
            .map(|port| (port.protocol, port.published_port))
            .collect();
        Self { taken }
    }

    /// The ports of `spec` with every published one filled in. A port that was chosen before stays
    /// as long as its name, protocol and target do.
    pub(super) fn fill(
        mut self,
        spec: &EndpointSpec,
        before: &[PortConfig],
    ) -> Result<Vec<PortConfig>, String> {
        let asked = spec.ports.iter().filter(|port| port.published_port != 0);
        self.taken
            .extend(asked.map(|port| (port.protocol, port.published_port)));
        let mut sticky: Vec<_> = before.iter().filter(|port| chosen(port)).collect();
        let mut ports = spec.ports.clone();
        for port in ports
            .iter_mut()
            .filter(|port| port.published_port == 0 && port.publish_mode == PublishMode::Ingress)
        {
            let same = sticky.iter().position(|old| {
                (&old.name, old.protocol, old.target_port)
                    == (&port.name, port.protocol, port.target_port)
                    && !self.taken.contains(&(old.protocol, old.published_port))
            });
            port.published_port = match same {
                Some(position) => sticky.swap_remove(position).published_port,
                None => self.lowest_free(port.protocol, &sticky)?,
            };
            self.taken.insert((port.protocol, port.published_port));
        }
        Ok(ports)
    }

    /// The lowest dynamic port that nobody has, and none that the service may still keep.
    fn lowest_free(&self, protocol: PortProtocol, sticky: &[&PortConfig]) -> Result<u16, String> {
        DYNAMIC_PORTS
            .filter(|port| !self.taken.contains(&(protocol, *port)))
            .find(|port| {
                !sticky
                    .iter()
                    .any(|old| (old.protocol, old.published_port) == (protocol, *port))
            })
            .ok_or_else(|| {
                let (first, last) = (DYNAMIC_PORTS.start(), DYNAMIC_PORTS.end());
                format!(
                    "no free {} port between {first} and {last}: publish a port by its number, or \
                     remove a service that has one of these",
                    protocol.name(),
                )
            })
    }
}

fn chosen(port: &PortConfig) -> bool {
    port.publish_mode == PublishMode::Ingress && DYNAMIC_PORTS.contains(&port.published_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{port, published as spec};

    #[test]
    fn chosen_ports_stay_and_never_collide() {
        let asked = spec(&[
            port(0, 80, PublishMode::Ingress),
            port(30_000, 81, PublishMode::Ingress),
            port(0, 82, PublishMode::Host),
        ]);
        let free = || TakenPorts {
            taken: BTreeSet::from([(PortProtocol::Tcp, 30_001)]),
        };
        let first = free().fill(&asked, &[]).unwrap();
        let published: Vec<_> = first.iter().map(|port| port.published_port).collect();
        assert_eq!(published, [30_002, 30_000, 0]);
        let more = spec(&[
            port(0, 90, PublishMode::Ingress),
            port(0, 80, PublishMode::Ingress),
        ]);
        let second = free().fill(&more, &first).unwrap();
        let published: Vec<_> = second.iter().map(|port| port.published_port).collect();
        assert_eq!(published, [30_003, 30_002]);
    }

    #[test]
    fn exhaustion_says_what_to_do() {
        let taken = DYNAMIC_PORTS
            .map(|port| (PortProtocol::Tcp, port))
            .collect();
        let error = TakenPorts { taken }
            .fill(&spec(&[port(0, 80, PublishMode::Ingress)]), &[])
            .unwrap_err();
        assert!(
            error.starts_with("no free tcp port between 30000 and 32767"),
            "{error}"
        );
    }
}
