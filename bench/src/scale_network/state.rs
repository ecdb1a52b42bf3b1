//! The network state of a node: as many services, tasks and overlays as wanted. Pure.

use skein_proto::network::{
    Endpoint, EndpointState, Network, NetworkUpdate, Node, Object, PublishedPort, Service,
    ServiceNetwork, Settings, Subnet, Transport, object::Object as Content,
};
use std::net::Ipv4Addr;

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// As the report calls it.
    pub name: &'static str,
    /// Services; each publishes a port and is on one overlay.
    pub services: u32,
    /// Overlays, among which the services are dealt out.
    pub networks: u32,
}

/// Tasks of each service. Each has a place on the ingress network, and one on the service's overlay.
pub const TASKS: u32 = 5;
/// Identifiers of networks: the ingress network has the first, then the overlays.
const VNI: u32 = 4_096;
/// The network of what is published, and its subnet.
pub const INGRESS: &str = "ingress";
pub const INGRESS_SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 128, 0, 0), 10);
/// Of the overlays, a /24 after the other.
const OVERLAYS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// Service 0 publishes this port, each next one the one after.
pub const FIRST_PORT: u16 = 20_000;
/// On which all tasks listen.
pub const TARGET: u16 = 8_080;
/// The nodes beside the own one, on which all tasks are but those of [`Own`]. Nobody is there: what is sent to them
/// ends on the wire.
const OTHERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 18, 0, 101),
    Ipv4Addr::new(198, 18, 0, 102),
];

/// What is on the node itself: a service whose one task is there.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// The node's address.
    pub node: Ipv4Addr,
    /// Its published port.
    pub port: u16,
}

/// The address of the own service's task on the ingress network, and on the first overlay that of a container of no
/// service.
pub const OWN_TASK: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 2);
pub const OWN_CALLER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 250);

/// Name and ID of an overlay.
pub fn overlay(nth: u32) -> String {
    format!("net-{nth}")
}

/// Subnet and gateway of an overlay.
pub fn overlay_subnet(nth: u32) -> (String, String) {
    let base = OVERLAYS.to_bits() + (nth << 8);
    let [net, gateway] = [base, base + 1].map(Ipv4Addr::from_bits);
    (format!("{net}/24"), gateway.to_string())
}

/// The address of a service on its overlay.
pub fn vip(service: u32, size: Size) -> Ipv4Addr {
    on_overlay(service, size, 0)
}

/// The places on an overlay are dealt out to its services: one for the service, and one for each task.
fn on_overlay(service: u32, size: Size, nth: u32) -> Ipv4Addr {
    let (overlay, turn) = (service % size.networks, service / size.networks);
    Ipv4Addr::from_bits(OVERLAYS.to_bits() + (overlay << 8) + 2 + turn * (TASKS + 1) + nth)
}

fn on_ingress(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(OWN_TASK.to_bits() + 1 + nth)
}

/// All of it, as one update.
pub fn complete(size: Size, own: Own, version: u64) -> NetworkUpdate {
    let mut upsert = vec![Content::Settings(Settings {
        node_id: "own".into(),
        vxlan_port: 4_789,
        ingress_network_id: INGRESS.into(),
        ..Settings::default()
    })];
    let nodes = [("own".to_owned(), own.node)].into_iter();
    let others = (0..)
        .zip(OTHERS)
        .map(|(nth, address)| (other(nth), address));
    for (id, address) in nodes.chain(others) {
        upsert.push(Content::Node(Node {
            hostname: id.clone(),
            id,
            address: address.to_string(),
            up: true,
            ..Node::default()
        }));
    }
    let (net, length) = INGRESS_SUBNET;
    let gateway = Ipv4Addr::from_bits(net.to_bits() + 1).to_string();
    let ingress = network(INGRESS, VNI, format!("{net}/{length}"), gateway);
    upsert.push(Content::Network(Network {
        ingress: true,
        ..ingress
    }));
    for nth in 0..size.networks {
        let (subnet, gateway) = overlay_subnet(nth);
        let of = network(&overlay(nth), VNI + 1 + nth, subnet, gateway);
        upsert.push(Content::Network(of));
    }
    for nth in 0..size.services {
        upsert.extend(service(nth, size));
    }
    upsert.push(Content::Service(Service {
        id: "own".into(),
        name: "own".into(),
        ports: vec![port(own.port)],
        ..Service::default()
    }));
    upsert.push(Content::Endpoint(endpoint(
        "own", 0, INGRESS, "own", OWN_TASK,
    )));
    upsert.push(Content::Endpoint(endpoint(
        "",
        0,
        &overlay(0),
        "own",
        OWN_CALLER,
    )));
    update(version, true, upsert)
}

/// One service and its tasks.
pub fn service(nth: u32, size: Size) -> impl Iterator<Item = Content> {
    let id = service_id(nth);
    let of = overlay(nth % size.networks);
    let service = Service {
        id: id.clone(),
        name: id.clone(),
        networks: vec![ServiceNetwork {
            network_id: of.clone(),
            vip: vip(nth, size).to_string(),
            aliases: Vec::new(),
        }],
        ports: vec![port(port_of(nth))],
        ..Service::default()
    };
    let tasks = (0..TASKS).flat_map(move |task| {
        let node = other((nth + task) as usize % OTHERS.len());
        let published = on_ingress(nth * TASKS + task);
        let named = on_overlay(nth, size, 1 + task);
        [(INGRESS, published), (&of, named)].map(|(network, address)| {
            Content::Endpoint(endpoint(&id, task, network, &node, address))
        })
    });
    std::iter::once(Content::Service(service)).chain(tasks)
}

/// A service with one task less, and with all of them again: what scaling it is to other nodes.
pub fn scaled(nth: u32, size: Size, down: bool, version: u64) -> NetworkUpdate {
    let of_last = service(nth, size).filter_map(|object| match object {
        Content::Endpoint(mut endpoint)
            if endpoint.task_id.ends_with(&format!("-{}", TASKS - 1)) =>
        {
            if down {
                endpoint.state = EndpointState::Draining.into();
            }
            Some(Content::Endpoint(endpoint))
        }
        _ => None,
    });
    update(version, false, of_last.collect())
}

/// The published port of a service.
pub fn port_of(service: u32) -> u16 {
    FIRST_PORT + service as u16
}

fn update(version: u64, complete: bool, upsert: Vec<Content>) -> NetworkUpdate {
    let object = |content| Object {
        object: Some(content),
    };
    NetworkUpdate {
        version,
        complete,
        upsert: upsert.into_iter().map(object).collect(),
        remove: Vec::new(),
    }
}

fn service_id(nth: u32) -> String {
    // As long as the managers' IDs.
    format!("service{nth:018}")
}

fn other(nth: usize) -> String {
    format!("other-{nth}")
}

fn port(published: u16) -> PublishedPort {
    PublishedPort {
        transport: Transport::Tcp.into(),
        published: published.into(),
        target: TARGET.into(),
    }
}

fn network(id: &str, vni: u32, subnet: String, gateway: String) -> Network {
    Network {
        id: id.into(),
        name: id.into(),
        vni,
        subnets: vec![Subnet { subnet, gateway }],
        ..Network::default()
    }
}

fn endpoint(service: &str, task: u32, network: &str, node: &str, address: Ipv4Addr) -> Endpoint {
    let task_id = format!("{service}-{task}");
    Endpoint {
        id: format!("{task_id}.{network}"),
        service_id: service.into(),
        network_id: network.into(),
        node_id: node.into(),
        address: address.to_string(),
        state: EndpointState::Ready.into(),
        names: vec![task_id.clone()],
        task_id,
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_dataplane::desired::Desired;
    use std::collections::BTreeSet;

    const SIZE: Size = Size {
        name: "",
        services: 2_000,
        networks: 500,
    };
    const OWN: Own = Own {
        node: Ipv4Addr::new(198, 18, 0, 1),
        port: 30_080,
    };

    #[test]
    fn every_task_has_places_of_its_own() {
        let desired = Desired::default().after(&complete(SIZE, OWN, 1)).unwrap();
        assert_eq!(desired.services.len(), 2_001);
        assert_eq!(desired.networks.len(), 501);
        assert_eq!(desired.endpoints.len(), 20_002);
        let places = desired.endpoints.values();
        let places: BTreeSet<_> = places.map(|of| (&of.network_id, &of.address)).collect();
        assert_eq!(places.len(), 20_002);
        // Scaling is of one task's places.
        let down = desired.after(&scaled(7, SIZE, true, 2)).unwrap();
        let drains = |of: &&Endpoint| of.state() == EndpointState::Draining;
        assert_eq!(down.endpoints.values().filter(drains).count(), 2);
        let up = down.after(&scaled(7, SIZE, false, 3)).unwrap();
        assert_eq!(up.endpoints, desired.endpoints);
    }
}
