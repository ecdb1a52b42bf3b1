//! From the wanted network state to the names of each network. Pure.

use crate::desired::{Desired, subnets};
use skein_dns::{Endpoint, Network, Service, Zone};
use skein_proto::network as proto;
use std::{collections::HashMap, net::Ipv4Addr};

/// The names of all networks but the ingress network, on which nobody has a name. What has an
/// address that cannot be read has no name: the kernel's side reports it.
pub fn of(desired: &Desired) -> Zone {
    let networks = desired.networks.values().filter(|network| !network.ingress);
    let mut networks: HashMap<&str, Network> = networks
        .map(|network| (network.id.as_str(), network_of(network)))
        .collect();
    for service in desired.services.values() {
        for place in &service.networks {
            if let Some(network) = networks.get_mut(place.network_id.as_str()) {
                network.services.push(service_of(service, place));
            }
        }
    }
    for endpoint in desired.endpoints.values() {
        if endpoint.state() == proto::EndpointState::Ready
            && let Some(network) = networks.get_mut(endpoint.network_id.as_str())
            && let Ok(address) = endpoint.address.parse()
        {
            network.endpoints.push(endpoint_of(endpoint, address));
        }
    }
    Zone::new(networks.into_values())
}

fn network_of(network: &proto::Network) -> Network {
    Network {
        id: network.id.clone(),
        name: network.name.clone(),
        subnets: subnets(network).map(|subnet| subnet.net).collect(),
        services: Vec::new(),
        endpoints: Vec::new(),
    }
}

fn service_of(service: &proto::Service, place: &proto::ServiceNetwork) -> Service {
    Service {
        id: service.id.clone(),
        name: service.name.clone(),
        vip: place.vip.parse().ok(),
        aliases: place.aliases.clone(),
    }
}

fn endpoint_of(endpoint: &proto::Endpoint, address: Ipv4Addr) -> Endpoint {
    Endpoint {
        service_id: endpoint.service_id.clone(),
        address,
        names: endpoint.names.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::EndpointState::{Draining, Ready, Starting};

    fn network(id: &str, ingress: bool) -> (String, proto::Network) {
        let network = proto::Network {
            id: id.into(),
            name: format!("net-{id}"),
            ingress,
            ..Default::default()
        };
        (id.into(), network)
    }

    fn endpoint(network: &str, address: &str, state: proto::EndpointState) -> proto::Endpoint {
        proto::Endpoint {
            id: format!("{address}.{network}"),
            service_id: "s1".into(),
            network_id: network.into(),
            address: address.into(),
            state: state.into(),
            names: vec![format!("task-{address}")],
            ..Default::default()
        }
    }

    fn place(network: &str, vip: &str) -> proto::ServiceNetwork {
        proto::ServiceNetwork {
            network_id: network.into(),
            vip: vip.into(),
            aliases: vec!["alias".into()],
        }
    }

    fn zone() -> Zone {
        let mut desired = Desired {
            networks: [
                network("in", true),
                network("a", false),
                network("b", false),
            ]
            .into(),
            ..Desired::default()
        };
        let service = proto::Service {
            id: "s1".into(),
            name: "web".into(),
            networks: vec![
                place("in", "10.9.0.2"),
                place("a", "10.0.1.2"),
                place("b", ""),
            ],
            ..proto::Service::default()
        };
        desired.services.insert("s1".into(), service);
        for endpoint in [
            endpoint("in", "10.9.0.3", Ready),
            endpoint("a", "10.0.1.3", Ready),
            endpoint("a", "10.0.1.4", Starting),
            endpoint("a", "10.0.1.5", Draining),
            endpoint("a", "rubbish", Ready),
            endpoint("b", "10.0.1.6", Ready),
            endpoint("gone", "10.0.1.7", Ready),
        ] {
            desired.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        of(&desired)
    }

    /// What a container on this network gets.
    fn ask(network: &str, name: &str) -> String {
        use hickory_proto::rr::RecordType;
        let networks = [network.to_owned()];
        match zone().answer(&networks, name, RecordType::A) {
            skein_dns::zone::Answer::Addresses(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                addresses.join(" ")
            }
            answer => format!("{answer:?}"),
        }
    }

    #[test]
    fn ready_tasks_are_named_on_each_network_but_ingress() {
        assert_eq!(ask("a", "web"), "10.0.1.2");
        assert_eq!(ask("a", "alias"), "10.0.1.2");
        assert_eq!(ask("a", "tasks.web"), "10.0.1.3");
        assert_eq!(ask("a", "web.net-a"), "10.0.1.2");
        assert_eq!(ask("a", "task-10.0.1.3"), "10.0.1.3");
        assert_eq!(ask("a", "task-10.0.1.4"), "Foreign");
        assert_eq!(ask("b", "web"), "10.0.1.6", "it has no VIP there");
        assert_eq!(ask("in", "web"), "Foreign");
    }
}
