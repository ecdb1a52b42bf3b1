//! What the maps must hold, from the state that the managers want and what is attached here. Pure.

mod binds;

pub use binds::HostAddress;

use super::tunnel;
use crate::desired::{Desired, Subnet};
use ipnet::Ipv4Net;
use skein_abi::{
    Addr, ICMP, SCTP, TCP, UDP, addr,
    ingress::{
        BoundKey, LocalBackends, MEMBER_SECURE, MEMBER_UP, PUBLISHED_AFFINE, PUBLISHED_BOUND,
        PUBLISHED_DSR, PUBLISHED_LIMITED, PUBLISHED_SNAT, PublishedKey,
    },
    limits::{LOCAL_BACKENDS_MAX, SUBNETS_OF_NETWORK_MAX},
    overlay::{
        self, Location, NETWORK_ENCRYPTED, NETWORK_INTERNAL, NO_KEY, Network, OverlayKey, SubnetKey,
    },
};
use skein_proto::network::{
    Endpoint, EndpointState, Kind, Offer, Problem, ReturnMode, Service, Transport,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What a published port leads to: a service, by its ID, or the tasks on this node that have the port in
/// host mode. The packet path knows no difference: it has a table of nodes and the tasks of this one.
pub type Group = String;

/// Between the ID of a service and what else is in the name of a [`Group`]. No ID has it.
const GROUP_SEPARATOR: char = '/';

/// The ID of the service that a group is of.
pub fn service_of(group: &str) -> &str {
    group.split(GROUP_SEPARATOR).next().unwrap_or(group)
}

/// The contents of the maps. Groups are by name here; the kernel side gives them indices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The data path address of this node; 0 if it is not a member.
    pub node_addr: Addr,
    /// UDP port of the overlay, host byte order; 0 if the node is not a member.
    pub vxlan_port: u16,
    /// Data path addresses of all members, and their flags.
    pub members: BTreeMap<Addr, u32>,
    /// By VNI.
    pub networks: BTreeMap<u32, Network>,
    /// What addresses they have.
    pub subnets: BTreeMap<SubnetKey, overlay::Subnet>,
    /// Where each address of each overlay is.
    pub overlay: BTreeMap<OverlayKey, Location>,
    /// Published ports.
    pub published: BTreeMap<PublishedKey, Leads>,
    /// The addresses that ports are bound to.
    pub bound: BTreeSet<BoundKey>,
    /// The clients of groups that take no others.
    pub sources: BTreeMap<Group, BTreeSet<Ipv4Net>>,
    /// How many ready tasks of a group each node has.
    pub nodes: BTreeMap<Group, Vec<(Addr, u32)>>,
    /// The tasks of a group on this node.
    pub local: BTreeMap<Group, LocalBackends>,
    /// Backends of each VIP.
    pub vips: BTreeMap<OverlayKey, Vec<Addr>>,
    /// What could not be planned.
    pub problems: Vec<Problem>,
}

/// What a published port leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leads {
    /// Who answers.
    pub group: Group,
    /// The port that they listen on, host byte order.
    pub target: u16,
    /// Of the flags of [`skein_abi::ingress::Published`] all but that it is taken.
    pub flags: u16,
}

/// Where attached endpoints are: (network ID, address) -> index.
pub type Places = BTreeMap<(String, Ipv4Addr), u32>;

/// What is so on this node, whatever the managers want.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Attached endpoints.
    pub endpoints: Places,
    /// Nodes that do not answer: no new flow is sent to them.
    pub suspects: BTreeSet<String>,
    /// What ports may be bound to.
    pub addresses: BTreeSet<HostAddress>,
    /// The tunnels are there, by which encrypted overlays go: without them nothing is to be sent to an address in
    /// one.
    pub secured: bool,
}

/// Plans the maps.
pub fn plan(desired: &Desired, local: &Local) -> Plan {
    let mut plan = Plan::default();
    let Some(settings) = &desired.settings else {
        return plan;
    };
    plan.vxlan_port = u16::try_from(settings.vxlan_port).unwrap_or_default();
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for node in desired.nodes.values() {
        let Some(address) = address(&mut plan, Kind::Node, &node.id, &node.address) else {
            continue;
        };
        let own = node.id == settings.node_id;
        let up = own || node.up && !local.suspects.contains(&node.id);
        plan.members.insert(address, if up { MEMBER_UP } else { 0 });
        let secure = tunnel::address_of(node).filter(|_| local.secured);
        let secure = secure.map(addr);
        plan.members
            .extend(secure.map(|secure| (secure, MEMBER_SECURE)));
        let node_of = Node {
            address,
            secure,
            own,
            up,
        };
        nodes.insert(&node.id, node_of);
        if own {
            plan.node_addr = address;
        }
    }
    let networks = plan_networks(&mut plan, desired);
    for ((network, address), index) in &local.endpoints {
        if let Some(vni) = networks.get(network.as_str()) {
            let location = Location {
                node: 0,
                endpoint: *index,
            };
            let addr = addr(*address);
            plan.overlay
                .insert(OverlayKey { vni: *vni, addr }, location);
        }
    }
    let endpoints = Endpoints::gather(&mut plan, desired, local, &nodes, &networks);
    plan_services(&mut plan, desired, local, &networks, &endpoints);
    plan
}

struct Node {
    address: Addr,
    /// In the tunnels, if it can be reached by them.
    secure: Option<Addr>,
    own: bool,
    up: bool,
}

fn address(plan: &mut Plan, kind: Kind, id: &str, text: &str) -> Option<Addr> {
    // A node has no address until it has registered: nothing to complain of.
    if text.is_empty() {
        return None;
    }
    match text.parse::<Ipv4Addr>() {
        Ok(address) => Some(addr(address)),
        Err(error) => {
            let message = format!("address {text:?} is not an IPv4 address: {error}");
            plan.problem(kind, id, message);
            None
        }
    }
}

impl Plan {
    fn problem(&mut self, kind: Kind, id: &str, message: String) {
        self.problems.push(Problem {
            kind: kind.into(),
            id: id.to_owned(),
            message,
        });
    }
}

/// VNIs by network ID.
fn plan_networks<'a>(plan: &mut Plan, desired: &'a Desired) -> BTreeMap<&'a str, u32> {
    let mut vnis = BTreeMap::new();
    for network in desired.networks.values() {
        let subnets: Result<Vec<_>, _> = network.subnets.iter().map(Subnet::try_from).collect();
        let subnets = match subnets {
            Ok(subnets) if subnets.len() <= SUBNETS_OF_NETWORK_MAX as usize => subnets,
            Ok(subnets) => {
                let message = format!(
                    "it has {} subnets, and this node takes at most {SUBNETS_OF_NETWORK_MAX}: is the \
                     manager newer than this node?",
                    subnets.len()
                );
                plan.problem(Kind::Network, &network.id, message);
                continue;
            }
            Err(message) => {
                plan.problem(Kind::Network, &network.id, message);
                continue;
            }
        };
        let vni = network.vni;
        for (nth, subnet) in (0..).zip(&subnets) {
            let entry = overlay::Subnet {
                net: addr(subnet.net.network()),
                mask: addr(subnet.net.netmask()),
                gateway: addr(subnet.gateway),
            };
            plan.subnets.insert(SubnetKey { vni, nth }, entry);
        }
        let entry = Network {
            subnets: subnets.len() as u32,
            flags: flag(network.internal, NETWORK_INTERNAL)
                | flag(network.encrypted, NETWORK_ENCRYPTED),
        };
        plan.networks.insert(vni, entry);
        vnis.insert(network.id.as_str(), network.vni);
    }
    vnis
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

/// The endpoints of each service on each network, in the order of their addresses: the same on every
/// node.
#[derive(Default)]
struct Endpoints<'a> {
    by_service: BTreeMap<(&'a str, &'a str), Vec<Placed>>,
    /// Those on this node that have ports of it, by service and port.
    by_host_port: BTreeMap<(&'a str, Port), Vec<Placed>>,
}

/// A published port: transport, number, and the port of the tasks.
type Port = (Transport, u32, u32);

#[derive(Clone, Copy)]
struct Placed {
    address: Addr,
    state: EndpointState,
    node: Addr,
    node_up: bool,
    /// Its index, if it is attached here.
    local: Option<u32>,
}

impl<'a> Endpoints<'a> {
    fn gather(
        plan: &mut Plan,
        desired: &'a Desired,
        local: &Local,
        nodes: &BTreeMap<&str, Node>,
        networks: &BTreeMap<&str, u32>,
    ) -> Self {
        let mut gathered = Self::default();
        for endpoint in desired.endpoints.values() {
            let placed = networks.get(endpoint.network_id.as_str()).and_then(|vni| {
                let node = nodes.get(endpoint.node_id.as_str())?;
                gathered.place(plan, endpoint, *vni, node, local)
            });
            if let Some(placed) = placed {
                let service = endpoint.service_id.as_str();
                let on_network = (service, endpoint.network_id.as_str());
                let of_service = gathered.by_service.entry(on_network).or_default();
                of_service.push(placed);
                let on_this_node = nodes
                    .get(endpoint.node_id.as_str())
                    .is_some_and(|node| node.own);
                for port in endpoint.host_ports.iter().filter(|_| on_this_node) {
                    let port = (port.transport(), port.published, port.target);
                    let sharing = gathered.by_host_port.entry((service, port)).or_default();
                    sharing.push(placed);
                }
            }
        }
        let lists = gathered.by_service.values_mut();
        for placed in lists.chain(gathered.by_host_port.values_mut()) {
            placed.sort_by_key(|placed| u32::from_be(placed.address));
        }
        gathered
    }

    fn place(
        &self,
        plan: &mut Plan,
        endpoint: &Endpoint,
        vni: u32,
        node: &Node,
        local: &Local,
    ) -> Option<Placed> {
        let address = address(plan, Kind::Endpoint, &endpoint.id, &endpoint.address)?;
        let at = (endpoint.network_id.clone(), skein_abi::from_addr(address));
        let index = local.endpoints.get(&at).copied().filter(|_| node.own);
        if !node.own {
            let network = plan.networks.get(&vni);
            let is_encrypted = network.is_some_and(|of| of.flags & NETWORK_ENCRYPTED != 0);
            let (to, endpoint) = match (is_encrypted, node.secure) {
                (false, _) => (node.address, 0),
                (true, Some(secure)) => (secure, 0),
                (true, None) => (node.address, NO_KEY),
            };
            let location = Location { node: to, endpoint };
            let key = OverlayKey { vni, addr: address };
            plan.overlay.insert(key, location);
        }
        Some(Placed {
            address,
            state: endpoint.state(),
            node: node.address,
            node_up: node.up,
            local: index,
        })
    }

    fn of(&self, service: &'a str, network: &'a str) -> &[Placed] {
        let found = self.by_service.get(&(service, network));
        found.map_or(&[], Vec::as_slice)
    }
}

fn plan_services<'a>(
    plan: &mut Plan,
    desired: &'a Desired,
    local: &Local,
    networks: &BTreeMap<&str, u32>,
    endpoints: &Endpoints<'a>,
) {
    let Some(settings) = &desired.settings else {
        return;
    };
    let ingress = settings.ingress_network_id.as_str();
    let terms = |service: &'a Service| Terms {
        mode: match service.return_mode() {
            ReturnMode::Unspecified => settings.return_mode(),
            of_service => of_service,
        },
        offer: service.offer.as_ref(),
        addresses: &local.addresses,
    };
    for service in desired.services.values() {
        for network in &service.networks {
            let Some(vni) = networks.get(network.network_id.as_str()) else {
                continue;
            };
            let Some(vip) = address(plan, Kind::Service, &service.id, &network.vip) else {
                continue;
            };
            let backends = endpoints.of(&service.id, &network.network_id);
            let ready = backends.iter().filter(|backend| backend.takes_flows());
            let key = OverlayKey {
                vni: *vni,
                addr: vip,
            };
            plan.vips
                .insert(key, ready.map(|backend| backend.address).collect());
        }
    }
    // Whose a port is that several have: a service's that has it on all nodes, then a task's of this node, and
    // only then one's that is no more.
    let (removed, present): (Vec<_>, Vec<_>) = desired
        .services
        .values()
        .partition(|service| service.removed);
    for service in present {
        plan.publish_all(service, &terms(service), endpoints.of(&service.id, ingress));
    }
    for ((service, port), backends) in &endpoints.by_host_port {
        // Another target is another group: so the kernel takes it and those who listen on it in one write.
        let (transport, published, target) = port;
        let name = transport.as_str_name();
        let group = format!("{service}{GROUP_SEPARATOR}{name} {published} to {target}");
        let of_service = desired.services.get(*service);
        let terms = Terms {
            // It leads nowhere but to this node, and so has one way back: what the client called it by.
            mode: ReturnMode::Symmetric,
            offer: of_service.and_then(|service| service.offer.as_ref()),
            addresses: &local.addresses,
        };
        plan.publish(&group, *port, &terms);
        plan.balance(&group, backends);
    }
    for service in removed {
        plan.publish_all(service, &terms(service), endpoints.of(&service.id, ingress));
    }
}

/// How and to whom ports are published.
struct Terms<'a> {
    mode: ReturnMode,
    /// `None`: to everybody, by all addresses.
    offer: Option<&'a Offer>,
    /// What they may be bound to here.
    addresses: &'a BTreeSet<HostAddress>,
}

impl Plan {
    /// A service's ports on all nodes.
    fn publish_all(&mut self, service: &Service, terms: &Terms<'_>, backends: &[Placed]) {
        if service.ports.is_empty() {
            return;
        }
        for port in &service.ports {
            let port = (port.transport(), port.published, port.target);
            self.publish(&service.id, port, terms);
        }
        self.balance(&service.id, backends);
    }

    /// Whose it is already, it stays.
    fn publish(&mut self, group: &str, (transport, published, target): Port, terms: &Terms<'_>) {
        let key = match published_key(transport, published) {
            Ok(key) => key,
            Err(message) => return self.problem(Kind::Service, service_of(group), message),
        };
        if self.published.contains_key(&key) {
            return;
        }
        let mut flags = match terms.mode {
            ReturnMode::Unspecified | ReturnMode::Symmetric => 0,
            ReturnMode::Dsr => PUBLISHED_DSR,
            ReturnMode::Snat => PUBLISHED_SNAT,
        };
        if let Some(offer) = terms.offer {
            if offer.client_affinity {
                flags |= PUBLISHED_AFFINE;
            }
            if !offer.sources.is_empty() {
                flags |= PUBLISHED_LIMITED;
                // What this node cannot read lets nobody in.
                let ranges = offer.sources.iter().filter_map(|range| range.parse().ok());
                self.sources.insert(group.to_owned(), ranges.collect());
            }
            if let Some(to) = binds::of_port(offer, published) {
                flags |= PUBLISHED_BOUND;
                let addresses = binds::addresses(to, terms.addresses).into_iter();
                self.bound.extend(addresses.map(|address| BoundKey {
                    addr: addr(address),
                    port: key,
                }));
            }
        }
        let leads = Leads {
            group: group.to_owned(),
            target: u16::try_from(target).unwrap_or_default(),
            flags,
        };
        self.published.insert(key, leads);
    }

    /// Those that answer at a group's ports.
    fn balance(&mut self, group: &str, backends: &[Placed]) {
        let mut weights: BTreeMap<Addr, u32> = BTreeMap::new();
        for backend in backends.iter().filter(|backend| backend.takes_flows()) {
            *weights.entry(backend.node).or_default() += 1;
        }
        let weights = weights.into_iter().collect();
        self.nodes.insert(group.to_owned(), weights);
        let local = local_backends(self, service_of(group), backends);
        self.local.insert(group.to_owned(), local);
    }
}

impl Placed {
    fn takes_flows(&self) -> bool {
        self.state == EndpointState::Ready && self.node_up
    }
}

fn published_key(transport: Transport, port: u32) -> Result<PublishedKey, String> {
    let proto = match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
        Transport::Sctp => SCTP,
        Transport::Unspecified => {
            return Err(format!(
                "published port {port}: this node does not know its protocol: is the manager newer than the node?"
            ));
        }
    };
    debug_assert!(proto != ICMP);
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(PublishedKey {
            port: skein_abi::port(port),
            proto,
            pad: 0,
        }),
        _ => Err(format!("published port {port} is not from 1 to 65535")),
    }
}

fn local_backends(plan: &mut Plan, service: &str, backends: &[Placed]) -> LocalBackends {
    let mut local = LocalBackends::default();
    let mut too_many = false;
    for (index, state) in backends
        .iter()
        .filter_map(|backend| Some((backend.local?, backend.state)))
    {
        let (list, len) = match state {
            EndpointState::Ready => (&mut local.ready, &mut local.ready_len),
            EndpointState::Draining => (&mut local.draining, &mut local.draining_len),
            EndpointState::Starting | EndpointState::Unspecified => continue,
        };
        match list.get_mut(*len as usize) {
            Some(slot) => {
                *slot = index;
                *len += 1;
            }
            None => too_many = true,
        }
    }
    if too_many {
        let message = format!(
            "more than {LOCAL_BACKENDS_MAX} tasks of the service on this node: those above take no published traffic; spread them over more nodes"
        );
        plan.problem(Kind::Service, service, message);
    }
    local
}

#[cfg(test)]
mod tests;
