//! One node: the maps of the kernel as plain collections, with room for few flows.

use super::flows::Flows;
use crate::{Live, Tables};
use skein_abi::{
    Addr,
    config::{Config, Timeouts},
    flow::*,
    ingress::*,
    overlay::*,
    port,
    segment::*,
    verdict::Counter,
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    vec::Vec,
};

use super::{
    cluster::{SEGMENT, mac_of, node_addr},
    packets::ip,
};

/// Room for flows in each table of a node.
pub const FLOWS_MAX: usize = 4096;
/// Room for flows that only opened.
pub const OPENING_MAX: usize = 16;
/// The same, of conntrack entries: two per flow.
pub const CT_OPENING_MAX: usize = 256;
/// Ports that translated sources have.
pub const NAT_PORTS: (u16, u16) = (61_000, 61_999);
/// What published ports are reached by from a node itself.
pub const LOCAL_ADDR: Addr = ip(100, 65, 0, 2);
pub const DNS_ADDR: Addr = ip(100, 65, 0, 1);
pub const VXLAN_PORT: u16 = 4789;
/// Clocks start late enough for entries of any age.
const START: u64 = 1 << 50;

pub struct Node {
    pub config: Config,
    pub locals: HashSet<Addr>,
    pub members: BTreeMap<Addr, u32>,
    pub peers: BTreeMap<Addr, Peer>,
    pub senders: BTreeMap<Sender, Addr>,
    /// By peer.
    pub leases: BTreeMap<u32, Lease>,
    pub heard: Flows<u32, Heard>,
    pub published: BTreeMap<PublishedKey, Published>,
    pub bound: HashSet<BoundKey>,
    /// With the length of the address's prefix.
    pub sources: Vec<(Source, u8)>,
    /// By service and whether it is the previous one.
    pub tables: BTreeMap<(u32, bool), Vec<Addr>>,
    pub ready: BTreeMap<u32, Vec<u32>>,
    pub draining: BTreeMap<u32, Vec<u32>>,
    pub endpoints: Vec<Option<Endpoint>>,
    pub networks: BTreeMap<u32, Network>,
    pub subnets: BTreeMap<SubnetKey, Subnet>,
    pub locations: BTreeMap<OverlayKey, Location>,
    pub vips: BTreeMap<OverlayKey, Vip>,
    pub vip_backends: BTreeMap<VipSlot, Addr>,
    /// Connections of the host's own sockets, as their packets arrive.
    pub sockets: HashSet<Tuple>,
    pub affinity: Flows<Tuple, Affinity>,
    pub affinity_opening: Flows<Tuple, Affinity>,
    /// New flows are no more remembered, as above the flood rate.
    pub is_flooded: bool,
    pub conntrack: Flows<CtKey, Ct>,
    pub conntrack_opening: Flows<CtKey, Ct>,
    /// What another CPU takes just before the next claim.
    pub faster_cpu: Cell<Option<(CtKey, Ct)>>,
    pub nat: Flows<NatKey, Nat>,
    pub fragments: RefCell<BTreeMap<(u32, Addr, Addr, u16), Fragment>>,
    /// The largest packet that goes out to clients, bytes.
    pub out_mtu: u16,
    pub clock: Cell<u64>,
    counters: RefCell<BTreeMap<u32, u64>>,
}

impl Node {
    pub fn new(address: Addr) -> Self {
        Self {
            config: Config {
                node_addr: address,
                local_addr: LOCAL_ADDR,
                dns_addr: DNS_ADDR,
                nat_port_min: NAT_PORTS.0,
                nat_port_max: NAT_PORTS.1,
                vxlan_port: port(VXLAN_PORT),
                timeouts: Timeouts::default(),
                ..Config::default()
            },
            locals: HashSet::from([address]),
            members: BTreeMap::new(),
            peers: BTreeMap::new(),
            senders: BTreeMap::new(),
            leases: BTreeMap::new(),
            heard: Flows::with_room_for(FLOWS_MAX),
            published: BTreeMap::new(),
            bound: HashSet::new(),
            sources: Vec::new(),
            tables: BTreeMap::new(),
            ready: BTreeMap::new(),
            draining: BTreeMap::new(),
            endpoints: Vec::new(),
            networks: BTreeMap::new(),
            subnets: BTreeMap::new(),
            locations: BTreeMap::new(),
            vips: BTreeMap::new(),
            vip_backends: BTreeMap::new(),
            sockets: HashSet::new(),
            affinity: Flows::with_room_for(FLOWS_MAX),
            affinity_opening: Flows::with_room_for(OPENING_MAX),
            is_flooded: false,
            conntrack: Flows::with_room_for(FLOWS_MAX),
            conntrack_opening: Flows::with_room_for(CT_OPENING_MAX),
            faster_cpu: Cell::default(),
            nat: Flows::with_room_for(FLOWS_MAX),
            fragments: RefCell::default(),
            out_mtu: u16::MAX,
            clock: Cell::new(START),
            counters: RefCell::default(),
        }
    }

    /// How many packets were counted so.
    pub fn counted(&self, counter: Counter) -> u64 {
        let counters = self.counters.borrow();
        counters.get(&(counter as u32)).copied().unwrap_or(0)
    }

    /// Knows another node, of this one's segment, by a MAC address.
    pub fn meet(&mut self, own: usize, other: usize, mac: [u8; 6]) {
        let (index, member) = (other as u32, node_addr(other));
        let peer = Peer {
            mac,
            own_mac: mac_of(own),
            ifindex: SEGMENT,
            index,
            mtu: 1_500,
            flags: PEER_ANSWERED,
        };
        self.peers.insert(member, peer);
        let sender = Sender {
            ifindex: SEGMENT,
            to: mac_of(own),
            from: mac,
        };
        self.senders.insert(sender, member);
        self.heard.insert(&index, &Heard::default());
    }

    /// Gives its services a return mode: one of the flags of [`Published`], or 0.
    pub fn set_mode(&mut self, mode: u16) {
        for published in self.published.values_mut() {
            published.flags = published.flags & PUBLISHED_TAKEN | mode;
        }
    }

    /// Puts a node table, or the previous one, in place.
    pub fn set_table(&mut self, service: u32, previous: bool, nodes: Vec<Addr>) {
        for published in self.published.values_mut() {
            if published.service == service {
                let slots = nodes.len() as u32;
                match previous {
                    false => published.slots = slots,
                    true => published.old_slots = slots,
                }
            }
        }
        self.tables.insert((service, previous), nodes);
    }
}

impl Tables for Node {
    fn now(&self) -> u64 {
        self.clock.get()
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn is_local(&self, address: Addr) -> bool {
        self.locals.contains(&address)
    }

    fn member(&self, address: Addr) -> Option<u32> {
        self.members.get(&address).copied()
    }

    fn peer(&self, member: Addr) -> Option<Peer> {
        self.peers.get(&member).copied()
    }

    fn sender(&self, sender: &Sender) -> Option<Addr> {
        self.senders.get(sender).copied()
    }

    fn lease(&self, peer: u32) -> Option<Lease> {
        self.leases.get(&peer).copied()
    }

    fn heard(&self, peer: u32) -> Option<Live<Heard>> {
        self.heard.get(&peer)
    }

    fn published(&self, key: PublishedKey) -> Option<Published> {
        self.published.get(&key).copied()
    }

    fn is_bound(&self, key: BoundKey) -> bool {
        self.bound.contains(&key)
    }

    fn is_source(&self, source: Source) -> bool {
        self.sources.iter().any(|(range, len)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*len)).unwrap_or(0);
            let differs = u32::from_be(range.addr ^ source.addr) & mask;
            range.service == source.service && differs == 0
        })
    }

    fn table_node(&self, service: u32, slot: u32, previous: bool) -> Option<Addr> {
        let table = self.tables.get(&(service, previous))?;
        table.get(slot as usize).copied().filter(|node| *node != 0)
    }

    fn local_backend(&self, service: u32, hash: u32, draining: bool) -> Option<u32> {
        let tasks = match draining {
            false => self.ready.get(&service)?,
            true => self.draining.get(&service)?,
        };
        let nth = hash.checked_rem(tasks.len() as u32)?;
        tasks.get(nth as usize).copied()
    }

    fn endpoint(&self, index: u32) -> Option<Endpoint> {
        *self.endpoints.get(index as usize)?
    }

    fn internal(&self, address: Addr) -> Option<u32> {
        let has = |endpoint: &Option<Endpoint>| endpoint.is_some_and(|e| e.internal == address);
        self.endpoints.iter().position(has).map(|n| n as u32)
    }

    fn network(&self, vni: u32) -> Option<Network> {
        self.networks.get(&vni).copied()
    }

    fn subnet(&self, key: SubnetKey) -> Option<Subnet> {
        self.subnets.get(&key).copied()
    }

    fn location(&self, key: OverlayKey) -> Option<Location> {
        self.locations.get(&key).copied()
    }

    fn vip(&self, key: OverlayKey) -> Option<Vip> {
        self.vips.get(&key).copied()
    }

    fn vip_backend(&self, slot: VipSlot) -> Option<Addr> {
        self.vip_backends.get(&slot).copied()
    }

    fn affinity(&self, tuple: &Tuple) -> Option<Live<Affinity>> {
        let known = self.affinity.get(tuple);
        known.or_else(|| self.affinity_opening.get(tuple))
    }

    fn insert_affinity(&self, tuple: &Tuple, affinity: &Affinity, opening: bool) {
        if !opening {
            self.affinity.insert(tuple, affinity);
            self.affinity_opening.remove(tuple);
        } else if !self.is_flooded {
            self.affinity.remove(tuple);
            self.affinity_opening.insert(tuple, affinity);
        }
    }

    fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    fn conntrack(&self, key: &CtKey) -> Option<Live<Ct>> {
        let known = self.conntrack.get(key);
        known.or_else(|| self.conntrack_opening.get(key))
    }

    fn insert_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool {
        let (to, from) = match opening {
            false => (&self.conntrack, &self.conntrack_opening),
            true => (&self.conntrack_opening, &self.conntrack),
        };
        from.remove(key);
        to.insert(key, ct);
        true
    }

    fn claim_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool {
        if let Some((key, ct)) = self.faster_cpu.take() {
            self.insert_conntrack(&key, &ct, opening);
        }
        self.conntrack(key).is_none() && self.insert_conntrack(key, ct, opening)
    }

    fn remove_conntrack(&self, key: &CtKey) {
        self.conntrack.remove(key);
        self.conntrack_opening.remove(key);
    }

    fn nat(&self, key: &NatKey) -> Option<Live<Nat>> {
        self.nat.get(key)
    }

    fn insert_nat(&self, key: &NatKey, nat: &Nat) -> bool {
        self.nat.insert(key, nat);
        true
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        let fragments = self.fragments.borrow();
        fragments
            .get(&(key.place, key.src, key.dst, key.id))
            .copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        let mut fragments = self.fragments.borrow_mut();
        fragments.insert((key.place, key.src, key.dst, key.id), *fragment);
    }

    fn host_has(&self, tuple: &Tuple) -> bool {
        self.sockets.contains(tuple)
    }

    fn count_index(&self, counter: u32) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }
}
