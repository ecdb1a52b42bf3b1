//! The kernel's maps as decisions see them, read from outside and not written: what decisions want to
//! remember is kept aside. It is what a program that runs on the same packet writes, and is taken away again
//! after that.

use crate::kernel::{monotonic, open_map as open};
use anyhow::Context as _;
use aya::{
    Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use skein_abi::{Addr, TCP, config::Config, flow::*, ingress::*, names::*, overlay::*, segment::*};
use skein_packet::{Live, Tables};
use skein_sockets::{Namespace, is_tcp_connected};
use std::{
    any::Any,
    cell::{RefCell, UnsafeCell},
    net::SocketAddrV4,
    path::Path,
    rc::Rc,
};

/// What a decision looked up, and found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// A published port.
    Published(PublishedKey, Published),
    /// Whether the port is bound to the address that was called.
    Bound(bool),
    /// Whether the service takes the client.
    Taken(bool),
    /// The node in one slot of a service's table, or of its previous one.
    Node {
        service: u32,
        slot: u32,
        node: Addr,
        previous: bool,
    },
    /// A task of this node.
    Local {
        service: u32,
        endpoint: u32,
        draining: bool,
    },
    /// No task of this node.
    NoLocal { service: u32 },
    /// A VIP.
    Vip(OverlayKey, Vip),
    /// The backend picked for it.
    Backend(Addr),
    /// Where an address of an overlay is.
    Location(OverlayKey, Location),
    /// The node that the flow was sent to before.
    Affinity(Affinity),
    /// The entry of one direction of a flow.
    Flow(CtKey, Ct),
    /// A source that is translated already.
    Translated(Tuple),
    /// A socket of the host has the connection.
    Socket,
}

/// See the module. For one packet.
pub struct Pinned {
    config: Config,
    now: u64,
    locals: HashMap<MapData, Addr, u32>,
    members: HashMap<MapData, Addr, u32>,
    peers: HashMap<MapData, Addr, Peer>,
    senders: HashMap<MapData, Sender, Addr>,
    leases: Array<MapData, Lease>,
    heard: Array<MapData, Heard>,
    published: HashMap<MapData, PublishedKey, Published>,
    bound: HashMap<MapData, BoundKey, u32>,
    sources: LpmTrie<MapData, Source, u32>,
    /// The current ones, and the previous.
    node_tables: [ArrayOfMaps<MapData, Array<MapData, Addr>>; 2],
    local_backends: HashMap<MapData, u32, LocalBackends>,
    endpoints: Array<MapData, Endpoint>,
    internal: HashMap<MapData, Addr, u32>,
    networks: HashMap<MapData, u32, Network>,
    subnets: HashMap<MapData, SubnetKey, Subnet>,
    overlay: HashMap<MapData, OverlayKey, Location>,
    vips: HashMap<MapData, OverlayKey, Vip>,
    vip_backends: HashMap<MapData, VipSlot, Addr>,
    /// Of flows that are established, then of those that only opened.
    affinity: [HashMap<MapData, Tuple, Affinity>; 2],
    conntrack: [HashMap<MapData, CtKey, Ct>; 2],
    nat: HashMap<MapData, NatKey, Nat>,
    /// Copies of entries, for decisions to write into.
    copies: RefCell<Vec<Rc<dyn Any>>>,
    findings: RefCell<Vec<Finding>>,
    remembered: RefCell<Vec<Entry>>,
}

/// What a decision remembers of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Affinity(Tuple),
    Flow(CtKey),
    Translation(NatKey),
}

/// What decisions remember, where programs that ran on the same packet have written it.
pub struct Remembered {
    affinity: [HashMap<MapData, Tuple, Affinity>; 2],
    conntrack: [HashMap<MapData, CtKey, Ct>; 2],
    nat: HashMap<MapData, NatKey, Nat>,
    entries: Vec<Entry>,
}

impl Remembered {
    /// Takes it away: only where there was none before, see [`Pinned::knows_flow`].
    pub fn forget(mut self) {
        for entry in self.entries {
            // An entry is in one of two maps, or in none: programs that came to something else made none. So
            // that it is not there is no failure.
            match entry {
                Entry::Affinity(tuple) => {
                    for map in &mut self.affinity {
                        let _ = map.remove(&tuple);
                    }
                }
                Entry::Flow(key) => {
                    for map in &mut self.conntrack {
                        let _ = map.remove(&key);
                    }
                }
                Entry::Translation(key) => {
                    let _ = self.nat.remove(&key);
                }
            }
        }
    }
}

impl Pinned {
    /// Opens the maps that the programs have pinned.
    ///
    /// # Errors
    /// One is not there, or not ours.
    pub fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let config: Array<MapData, Config> = open(bpffs, MAP_CONFIG)?;
        Ok(Self {
            config: config
                .get(&0, 0)
                .context("cannot read the node's settings")?,
            now: monotonic(),
            locals: open(bpffs, MAP_LOCAL_ADDRS)?,
            members: open(bpffs, MAP_MEMBERS)?,
            peers: open(bpffs, MAP_PEERS)?,
            senders: open(bpffs, MAP_SENDERS)?,
            leases: open(bpffs, MAP_LEASES)?,
            heard: open(bpffs, MAP_HEARD)?,
            published: open(bpffs, MAP_PUBLISHED)?,
            bound: open(bpffs, MAP_BOUND)?,
            sources: open(bpffs, MAP_SOURCES)?,
            node_tables: [open(bpffs, MAP_NODE_TABLES)?, open(bpffs, MAP_OLD_TABLES)?],
            local_backends: open(bpffs, MAP_LOCAL_BACKENDS)?,
            endpoints: open(bpffs, MAP_ENDPOINTS)?,
            internal: open(bpffs, MAP_INTERNAL)?,
            networks: open(bpffs, MAP_NETWORKS)?,
            subnets: open(bpffs, MAP_SUBNETS)?,
            overlay: open(bpffs, MAP_OVERLAY)?,
            vips: open(bpffs, MAP_VIPS)?,
            vip_backends: open(bpffs, MAP_VIP_BACKENDS)?,
            affinity: [open(bpffs, MAP_AFFINITY)?, open(bpffs, MAP_AFFINITY_SYN)?],
            conntrack: [open(bpffs, MAP_CONNTRACK)?, open(bpffs, MAP_CONNTRACK_SYN)?],
            nat: open(bpffs, MAP_NAT)?,
            copies: RefCell::default(),
            findings: RefCell::default(),
            remembered: RefCell::default(),
        })
    }

    /// What was found on the way, in order, each once; and what was to be remembered.
    pub fn finish(self) -> (Vec<Finding>, Remembered) {
        let remembered = Remembered {
            affinity: self.affinity,
            conntrack: self.conntrack,
            nat: self.nat,
            entries: self.remembered.into_inner(),
        };
        (self.findings.into_inner(), remembered)
    }

    /// Whether the maps have entries of the flow, be they old: who runs programs on the packet touches them.
    pub fn knows_flow(&self) -> bool {
        let findings = self.findings.borrow();
        let is_entry = |finding: &Finding| {
            matches!(
                finding,
                Finding::Affinity(_) | Finding::Flow(..) | Finding::Translated(_) | Finding::Socket
            )
        };
        findings.iter().any(is_entry)
    }

    /// The device that has an address of this node.
    pub fn device_of(&self, address: Addr) -> Option<u32> {
        look_up(&self.locals, &address)
    }

    fn remember(&self, what: Entry) {
        self.remembered.borrow_mut().push(what);
    }

    fn found(&self, finding: Finding) {
        let mut findings = self.findings.borrow_mut();
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// A copy of an entry that lives as long as this.
    fn live<V: 'static>(&self, entry: V) -> Live<V> {
        let copy = Rc::new(UnsafeCell::new(entry));
        let at = copy.get();
        self.copies.borrow_mut().push(copy);
        // SAFETY: the copy is dropped with `self`, which outlives the decisions that are made over it, and
        // nobody holds a reference into it.
        unsafe { Live::new(at) }
    }
}

/// What cannot be read is taken for absent, as the programs would.
fn look_up<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: &K) -> Option<V> {
    map.get(key, 0).ok()
}

impl Tables for Pinned {
    fn now(&self) -> u64 {
        self.now
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn is_local(&self, address: Addr) -> bool {
        look_up(&self.locals, &address).is_some()
    }

    fn member(&self, address: Addr) -> Option<u32> {
        look_up(&self.members, &address)
    }

    fn peer(&self, member: Addr) -> Option<Peer> {
        look_up(&self.peers, &member)
    }

    fn sender(&self, sender: &Sender) -> Option<Addr> {
        look_up(&self.senders, sender)
    }

    fn lease(&self, peer: u32) -> Option<Lease> {
        self.leases.get(&peer, 0).ok()
    }

    fn heard(&self, peer: u32) -> Option<Live<Heard>> {
        Some(self.live(self.heard.get(&peer, 0).ok()?))
    }

    fn published(&self, key: PublishedKey) -> Option<Published> {
        let published = look_up(&self.published, &key)?;
        self.found(Finding::Published(key, published));
        Some(published)
    }

    fn is_bound(&self, key: BoundKey) -> bool {
        let is_bound = look_up(&self.bound, &key).is_some();
        self.found(Finding::Bound(is_bound));
        is_bound
    }

    fn is_source(&self, source: Source) -> bool {
        let whole = Key::new(Source::prefix_bits(32), source);
        let is_taken = self.sources.get(&whole, 0).is_ok();
        self.found(Finding::Taken(is_taken));
        is_taken
    }

    fn table_node(&self, service: u32, slot: u32, previous: bool) -> Option<Addr> {
        let table = self.node_tables[usize::from(previous)]
            .get(&service, 0)
            .ok()?;
        let node = table.get(&slot, 0).ok().filter(|node| *node != 0)?;
        self.found(Finding::Node {
            service,
            slot,
            node,
            previous,
        });
        Some(node)
    }

    fn local_backend(&self, service: u32, hash: u32, draining: bool) -> Option<u32> {
        let backends = look_up(&self.local_backends, &service).unwrap_or_default();
        let (len, list) = match draining {
            false => (backends.ready_len, backends.ready),
            true => (backends.draining_len, backends.draining),
        };
        let nth = hash.checked_rem(len);
        let endpoint = nth.and_then(|nth| list.get(nth as usize).copied());
        self.found(match endpoint {
            Some(endpoint) => Finding::Local {
                service,
                endpoint,
                draining,
            },
            None => Finding::NoLocal { service },
        });
        endpoint
    }

    fn endpoint(&self, index: u32) -> Option<Endpoint> {
        let endpoint = self.endpoints.get(&index, 0).ok();
        endpoint.filter(|endpoint| endpoint.ifindex != 0)
    }

    fn internal(&self, address: Addr) -> Option<u32> {
        look_up(&self.internal, &address)
    }

    fn network(&self, vni: u32) -> Option<Network> {
        look_up(&self.networks, &vni)
    }

    fn subnet(&self, key: SubnetKey) -> Option<Subnet> {
        look_up(&self.subnets, &key)
    }

    fn location(&self, key: OverlayKey) -> Option<Location> {
        let location = look_up(&self.overlay, &key)?;
        self.found(Finding::Location(key, location));
        Some(location)
    }

    fn vip(&self, key: OverlayKey) -> Option<Vip> {
        let vip = look_up(&self.vips, &key)?;
        self.found(Finding::Vip(key, vip));
        Some(vip)
    }

    fn vip_backend(&self, slot: VipSlot) -> Option<Addr> {
        let backend = look_up(&self.vip_backends, &slot)?;
        self.found(Finding::Backend(backend));
        Some(backend)
    }

    fn affinity(&self, tuple: &Tuple) -> Option<Live<Affinity>> {
        let known = self.affinity.iter().find_map(|map| look_up(map, tuple))?;
        self.found(Finding::Affinity(known));
        Some(self.live(known))
    }

    fn insert_affinity(&self, tuple: &Tuple, _: &Affinity, _: bool) {
        self.remember(Entry::Affinity(*tuple));
    }

    fn is_flooded(&self) -> bool {
        // The programs' own map of it is not pinned.
        false
    }

    fn conntrack(&self, key: &CtKey) -> Option<Live<Ct>> {
        let known = self.conntrack.iter().find_map(|map| look_up(map, key))?;
        self.found(Finding::Flow(*key, known));
        Some(self.live(known))
    }

    fn insert_conntrack(&self, key: &CtKey, _: &Ct, _: bool) -> bool {
        self.remember(Entry::Flow(*key));
        true
    }

    fn claim_conntrack(&self, key: &CtKey, _: &Ct, _: bool) -> bool {
        let is_free = self.conntrack.iter().all(|map| look_up(map, key).is_none());
        if is_free {
            self.remember(Entry::Flow(*key));
        }
        is_free
    }

    fn remove_conntrack(&self, _: &CtKey) {}

    fn nat(&self, key: &NatKey) -> Option<Live<Nat>> {
        let known = look_up(&self.nat, key)?;
        self.found(Finding::Translated(known.to));
        Some(self.live(known))
    }

    fn insert_nat(&self, key: &NatKey, _: &Nat) -> bool {
        self.remember(Entry::Translation(*key));
        true
    }

    fn fragment(&self, _: &FragmentKey) -> Option<Fragment> {
        // Traced packets are whole.
        None
    }

    fn insert_fragment(&self, _: &FragmentKey, _: &Fragment) {}

    fn host_has(&self, tuple: &Tuple) -> bool {
        let has = is_connected(tuple);
        if has {
            self.found(Finding::Socket);
        }
        has
    }

    fn count_index(&self, _: u32) {}
}

/// Whether a TCP socket of the host has a connection.
fn is_connected(tuple: &Tuple) -> bool {
    let end = |address, port| SocketAddrV4::new(skein_abi::from_addr(address), u16::from_be(port));
    let local = end(tuple.dst, tuple.dport);
    let remote = end(tuple.src, tuple.sport);
    tuple.proto == TCP && is_tcp_connected(Namespace::Own, local.into(), remote.into())
}
