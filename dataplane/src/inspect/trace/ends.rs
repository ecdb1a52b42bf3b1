//! Whom a trace is from and to, by the names that people have for them. Pure.

use super::Place;
use crate::kernel::Look;
use anyhow::{Context as _, bail, ensure};
use skein_abi::{
    TCP, UDP, addr,
    addresses::{DNS_ADDRESS, LOCAL_ADDRESS},
    flow::Tuple,
    port,
};
use skein_proto::{
    inspect::TraceRequest,
    network::{Endpoint, Service},
};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// The port that a traced packet has if none is asked for: the first that Linux gives by itself.
const SOURCE_PORT: u16 = 32_768;

/// A packet, and where it is seen first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where.
    pub place: Place,
    /// From whom to whom.
    pub tuple: Tuple,
}

/// What a request means on this node.
///
/// # Errors
/// It names what is not here, or means several things.
pub fn of(look: &Look, request: &TraceRequest) -> anyhow::Result<Ends> {
    let settings = look.desired.settings.as_ref();
    let own = settings.and_then(|settings| look.desired.nodes.get(&settings.node_id));
    let own = own.context("this node is no member of a swarm: nothing is carried here")?;
    let own: Ipv4Addr = own
        .address
        .parse()
        .context("this node has no address yet")?;
    let proto = match request.protocol.as_str() {
        "tcp" => TCP,
        "udp" => UDP,
        other => bail!("protocol {other:?} has no ports: tcp or udp"),
    };
    let asked = u16::try_from(request.source_port).context("ports are below 65536")?;
    let sport = port(if asked == 0 { SOURCE_PORT } else { asked });
    let (name, dport) = request
        .destination
        .rsplit_once(':')
        .context("the destination is SERVICE:PORT or ADDRESS:PORT")?;
    let dport: u16 = dport.parse().with_context(|| format!("port {dport:?}"))?;
    let sender = sender(look, &request.source, own)?;
    let entry = match request.forwarded_by.as_str() {
        "" => None,
        node => Some(member(look, node)?),
    };
    // Several networks: the one by which the task reaches the service.
    let sender = match (sender, name.parse::<Ipv4Addr>()) {
        (Sender::Task(endpoints), Err(_)) => {
            Sender::Task(vec![by_vip(look, service(look, name)?, &endpoints)?])
        }
        (sender, _) => sender,
    };
    let place = match (entry, &sender) {
        (None, Sender::Client(_)) => Place::Uplink,
        (None, Sender::Host) => Place::Host,
        (None, Sender::Task(endpoints)) => Place::Veth(endpoints[0].0),
        (Some(entry), Sender::Client(_)) => Place::Tunnel(addr(entry)),
        _ => bail!("only what clients send is forwarded by other nodes: give a client's address"),
    };
    let src = match &sender {
        Sender::Client(address) => addr(*address),
        Sender::Host => addr(DNS_ADDRESS),
        Sender::Task(endpoints) => addr(endpoints[0].1.address.parse()?),
    };
    let dst = match (name.parse::<Ipv4Addr>(), &sender) {
        // As the host's sockets have it when it comes to a hook.
        (Ok(address), Sender::Host) if address == own || address.is_loopback() => LOCAL_ADDRESS,
        (Ok(address), _) => address,
        (Err(_), Sender::Task(endpoints)) => vip(service(look, name)?, endpoints[0].1)
            .with_context(|| format!("service {name} has no VIP"))?,
        (Err(_), sender) => {
            let service = service(look, name)?;
            let publishes = |published: u32| published == u32::from(dport);
            ensure!(
                service.ports.iter().any(|port| publishes(port.published)),
                "service {name} does not publish port {dport}: name a published port, or trace from one of the tasks on its networks"
            );
            match sender {
                Sender::Host => LOCAL_ADDRESS,
                _ => entry.unwrap_or(own),
            }
        }
    };
    let tuple = Tuple {
        src,
        dst: addr(dst),
        sport,
        dport: port(dport),
        proto,
        pad: [0; 3],
    };
    Ok(Ends { place, tuple })
}

enum Sender<'a> {
    Client(Ipv4Addr),
    Host,
    /// Its endpoints and their indices, at least one; the ingress network's last.
    Task(Vec<(u32, &'a Endpoint)>),
}

fn sender<'a>(look: &'a Look, source: &str, own: Ipv4Addr) -> anyhow::Result<Sender<'a>> {
    if let Ok(address) = source.parse::<Ipv4Addr>() {
        return Ok(match address == own || address.is_loopback() {
            true => Sender::Host,
            false => Sender::Client(address),
        });
    }
    let is_named = |endpoint: &Endpoint| {
        endpoint.task_id.starts_with(source) || endpoint.names.iter().any(|name| name == source)
    };
    let of_ingress = |network: &str| {
        let network = look.desired.networks.get(network);
        network.is_some_and(|network| network.ingress)
    };
    let endpoints = look.desired.endpoints.values();
    let endpoints = endpoints.filter(|endpoint| is_named(endpoint));
    let local = endpoints.filter_map(|endpoint| {
        let at = |(_, place): &(&u32, &(String, Ipv4Addr))| {
            place.0 == endpoint.network_id && place.1.to_string() == endpoint.address
        };
        let (index, _) = look.endpoints.iter().find(at)?;
        Some((*index, endpoint))
    });
    let mut local: Vec<(u32, &Endpoint)> = local.collect();
    let tasks: BTreeSet<&str> = local
        .iter()
        .map(|(_, found)| found.task_id.as_str())
        .collect();
    match tasks.len() {
        0 => bail!(
            "no task {source:?} runs on this node: give a client's address, or trace on the task's node"
        ),
        1 => {}
        _ => bail!("{source:?} names several tasks: {tasks:?}"),
    }
    // What a task calls by name it reaches by the networks that have names.
    local.sort_by_key(|(_, endpoint)| of_ingress(&endpoint.network_id));
    Ok(Sender::Task(local))
}

/// The endpoint on whose network a service has a VIP.
fn by_vip<'a>(
    look: &Look,
    service: &Service,
    endpoints: &[(u32, &'a Endpoint)],
) -> anyhow::Result<(u32, &'a Endpoint)> {
    let mut found = endpoints
        .iter()
        .filter(|(_, endpoint)| vip(service, endpoint).is_some());
    let on = || {
        let networks = endpoints.iter().map(|(_, endpoint)| {
            let network = look.desired.networks.get(&endpoint.network_id);
            network.map_or(endpoint.network_id.as_str(), |network| &network.name)
        });
        networks.collect::<Vec<_>>().join(", ")
    };
    let none = || {
        format!(
            "service {} has no VIP where the task is: {}",
            service.name,
            on()
        )
    };
    found.next().copied().with_context(none)
}

fn member(look: &Look, node: &str) -> anyhow::Result<Ipv4Addr> {
    let mut nodes = look.desired.nodes.values();
    let found = nodes
        .find(|found| [&found.hostname, &found.id, &found.address].contains(&&node.to_owned()));
    let found = found.with_context(|| format!("no node of the swarm is {node:?}"))?;
    let address = found.address.parse();
    address.with_context(|| format!("node {node} has no address yet"))
}

fn service<'a>(look: &'a Look, name: &str) -> anyhow::Result<&'a Service> {
    let mut services = look.desired.services.values();
    let found = services.find(|service| service.name == name || service.id == name);
    found.with_context(|| format!("this node knows no service {name:?}"))
}

fn vip(service: &Service, from: &Endpoint) -> Option<Ipv4Addr> {
    let mut networks = service.networks.iter();
    let on = networks.find(|on| on.network_id == from.network_id)?;
    on.vip.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::status::tests::{BACKEND, look};
    use skein_abi::{Addr, from_addr};

    fn request(source: &str, destination: &str) -> TraceRequest {
        TraceRequest {
            source: source.to_owned(),
            destination: destination.to_owned(),
            protocol: "tcp".to_owned(),
            ..TraceRequest::default()
        }
    }

    #[test]
    fn whoever_calls_is_seen_where_he_calls() {
        let look = look();
        let ends = |source, destination| of(&look, &request(source, destination)).unwrap();
        let client = ends("203.0.113.9", "198.18.0.2:8080");
        assert_eq!(client.place, Place::Uplink);
        assert_eq!(from_addr(client.tuple.src), Ipv4Addr::new(203, 0, 113, 9));
        assert_eq!(u16::from_be(client.tuple.sport), SOURCE_PORT);
        let task = ends("t", "web:80");
        assert_eq!(task.place, Place::Veth(7));
        assert_eq!(task.tuple.src, addr(BACKEND.into()));
        assert_eq!(from_addr(task.tuple.dst), Ipv4Addr::new(10, 0, 1, 2));
        let host = ends("127.0.0.1", "127.0.0.1:8080");
        assert_eq!(host.place, Place::Host);
        assert_eq!(from_addr(host.tuple.dst), LOCAL_ADDRESS);
        let forwarded = TraceRequest {
            forwarded_by: "host-a".to_owned(),
            ..request("203.0.113.9", "198.18.0.1:8080")
        };
        let forwarded = of(&look, &forwarded).unwrap();
        let node: Addr = addr([198, 18, 0, 1].into());
        assert_eq!(
            (forwarded.place, forwarded.tuple.dst),
            (Place::Tunnel(node), node)
        );
    }

    #[test]
    fn what_is_not_here_is_said() {
        let look = look();
        for (source, destination, said) in [
            ("203.0.113.9", "198.18.0.2", "ADDRESS:PORT"),
            ("203.0.113.9", "web:99", "does not publish"),
            ("203.0.113.9", "api:80", "no service"),
            ("stranger", "web:80", "no task"),
        ] {
            let error = of(&look, &request(source, destination)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
