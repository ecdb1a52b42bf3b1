//! The maps, by the names of `skein_abi::names`, and the [`Tables`] that decisions see of them.

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_INNER_MAP, BPF_NOEXIST, bpf_sock_tuple,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap,
        PerfEventArray, RingBuf, lpm_trie,
    },
    helpers::{bpf_ktime_get_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::btf_map,
};
use core::{cell::Cell, ffi::c_void};
use skein_abi::{
    Addr, TCP, UDP, config::Config, flow::*, ingress::*, limits::*, overlay::*, segment::*,
    sight::*, verdict::Counter,
};
use skein_packet::{Live, Tables};

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static LOCAL_ADDRS: HashMap<Addr, u32, { LOCAL_ADDRS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static DEVICES: HashMap<u32, u32, { DEVICES_MAX as usize }> = HashMap::new();
#[btf_map]
pub static MEMBERS: HashMap<Addr, u32, { MEMBER_ADDRESSES_MAX as usize }> = HashMap::new();
#[btf_map]
pub static PUBLISHED: HashMap<PublishedKey, Published, { PUBLISHED_MAX as usize }> = HashMap::new();
#[btf_map]
pub static BOUND: HashMap<BoundKey, u32, { BOUND_MAX as usize }> = HashMap::new();
#[btf_map]
pub static SOURCES: LpmTrie<Source, u32, { SOURCES_MAX as usize }> = LpmTrie::new();
type NodeTable = Array<Addr, 1, { BPF_F_INNER_MAP as usize }>;
#[btf_map]
pub static NODE_TABLES: ArrayOfMaps<NodeTable, { SERVICES_MAX as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static OLD_TABLES: ArrayOfMaps<NodeTable, { SERVICES_MAX as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static LOCAL_BACKENDS: HashMap<u32, LocalBackends, { SERVICES_MAX as usize }> = HashMap::new();
#[btf_map]
pub static ENDPOINTS: Array<Endpoint, { ENDPOINTS_MAX as usize }> = Array::new();
#[btf_map]
pub static VETHS: HashMap<u32, u32, { ENDPOINTS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static INTERNAL: HashMap<Addr, u32, { ENDPOINTS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static NETWORKS: HashMap<u32, Network, { NETWORKS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static SUBNETS: HashMap<SubnetKey, Subnet, { SUBNETS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static OVERLAY: HashMap<OverlayKey, Location, { OVERLAY_ADDRS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static VIPS: HashMap<OverlayKey, Vip, { VIPS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static VIP_BACKENDS: HashMap<VipSlot, Addr, { VIP_BACKENDS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static AFFINITY: LruHashMap<Tuple, Affinity, { AFFINITY_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static AFFINITY_SYN: LruHashMap<Tuple, Affinity, { AFFINITY_SYN_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub static CONNTRACK: LruHashMap<CtKey, Ct, { CONNTRACK_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static CONNTRACK_SYN: LruHashMap<CtKey, Ct, { CONNTRACK_SYN_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static NAT: LruHashMap<NatKey, Nat, { NAT_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub static SOCKETS: LruHashMap<SocketKey, Tuple, { SOCKETS_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static PEERS: HashMap<Addr, Peer, { NODES_MAX as usize }> = HashMap::new();
#[btf_map]
pub static SENDERS: HashMap<Sender, Addr, { SENDERS_MAX as usize }> = HashMap::new();
#[btf_map]
pub static LEASES: Array<Lease, { NODES_MAX as usize }> = Array::new();
#[btf_map]
pub static HEARD: Array<Heard, { NODES_MAX as usize }> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static WATCH: Array<Watch, 1> = Array::new();
#[btf_map]
/// Of [`Record`]s.
pub static RECORDS: RingBuf<(), { RECORDS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static LOST: PerCpuArray<u64, { LOST_KINDS as usize }> = PerCpuArray::new();
#[btf_map]
pub static CAPTURED: PerfEventArray = PerfEventArray::new();
#[btf_map]
pub static METERS: PerCpuArray<Meter, { METERS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub static METER_DROPS: PerCpuHashMap<MeterDrop, u64, { METER_DROPS_MAX as usize }> =
    PerCpuHashMap::new();
/// Of each CPU: how much of its time records have taken, by kind ([`skein_packet::spend`]).
#[btf_map]
pub static BUDGETS: PerCpuArray<u64, { LOST_ROOM as usize }> = PerCpuArray::new();
/// Neighbour -> when a packet to it last went by the kernel's stack, ns.
///
/// Whoever only looks neighbours up never makes the kernel ask whether they are still there: one that
/// changes its MAC address, or goes, would be sent to for ever. So one packet a second to each goes by
/// the stack.
#[btf_map]
static CONFIRMED: LruHashMap<Addr, u64, { NEIGHBOURS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static NEW_FLOWS: PerCpuArray<Window, 1> = PerCpuArray::new();
/// When any CPU last did not remember a flow, to half a second. Not by CPU: replies come on another
/// one than their requests.
#[btf_map]
static FLOODED: Array<u64, 1> = Array::new();

/// One packet's layout and decisions: kernel programs have too little stack for them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    pub layout: crate::parse::Layout,
    pub way: crate::act::Way,
    pub work: skein_packet::Work,
    pub seen: crate::tell::Seen,
    /// What stands in front of a captured frame.
    pub captured: Record,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's scratch. A program has it to itself until it ends: nothing of Skein's runs nested.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: per CPU, one user at a time (see above).
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// New flows that one CPU has remembered in the current second.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    started: u64,
    flows: u64,
}

const SECOND: u64 = 1_000_000_000;
/// So long after the last flow that was not remembered, a flood is over: replies had the time to come.
const FLOOD_OVER: u64 = 2 * SECOND;
/// State of a listening TCP socket (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;
/// The network namespace of the program's device.
const THIS_NETNS: u64 = u64::MAX;

/// A copy of a map value.
macro_rules! look_up {
    ($map:ident, $key:expr) => {
        // SAFETY: the value is copied at once; a concurrent writer at worst mixes two versions of
        // it, which the readers of these maps bear.
        unsafe { $map.get($key).copied() }
    };
}

/// An entry in place.
macro_rules! live {
    ($map:ident, $key:expr) => {
        // SAFETY: the kernel frees no entry before the program ends, and makes no Rust reference.
        $map.get_ptr_mut($key)
            .map(|entry| unsafe { Live::new(entry) })
    };
}

/// The kernel's maps as decisions see them, for one packet.
pub struct Maps {
    /// The context of the program, for helpers that look up sockets.
    ctx: *mut c_void,
    config: &'static Config,
    counts: Counts,
    /// [`Counts::Later`]: the counter, as a number.
    counted: Cell<u32>,
}

/// When packets are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// When it is decided what becomes of them.
    Now,
    /// When that is done: until then another hook may decide the same again. Of several counters the
    /// last counts; what a hook carries out that counts like this has one.
    Later,
}

impl Maps {
    /// `None` until the dataplane has written its settings.
    #[inline(always)]
    pub fn open(ctx: *mut c_void) -> Option<Self> {
        Self::counting(ctx, Counts::Now)
    }

    /// The same for a hook with another one behind it: nothing is counted before [`Self::commit`].
    #[inline(always)]
    pub fn open_in_front(ctx: *mut c_void) -> Option<Self> {
        Self::counting(ctx, Counts::Later)
    }

    #[inline(always)]
    fn counting(ctx: *mut c_void, counts: Counts) -> Option<Self> {
        Some(Self {
            ctx,
            config: CONFIG.get(0)?,
            counts,
            counted: Cell::new(u32::MAX),
        })
    }

    /// Counts what was decided.
    #[inline(always)]
    pub fn commit(&self) {
        self.count_now(self.counted.get());
    }

    /// Counts a packet that is dropped, and keeps the reason.
    #[inline(always)]
    pub fn refuse(&self, reason: u32) {
        self.count_now(reason);
        self.counted.set(reason);
    }

    /// What was counted last.
    #[inline(always)]
    pub fn counted(&self) -> u32 {
        self.counted.get()
    }

    /// Counts a packet at once.
    #[inline(always)]
    pub fn count_now(&self, counter: u32) {
        if let Some(slot) = COUNTERS.get_ptr_mut(counter) {
            // SAFETY: per CPU, and programs are not preempted by themselves.
            unsafe { *slot += 1 };
        }
    }

    /// The flags of a device with the uplink program; 0 for others.
    #[inline(always)]
    pub fn device(&self, ifindex: u32) -> u32 {
        look_up!(DEVICES, &ifindex).unwrap_or(0)
    }

    /// Whether the next packet to a neighbour is to go by the kernel's stack: see [`CONFIRMED`].
    #[inline(always)]
    pub fn must_confirm(&self, neighbour: Addr) -> bool {
        let now = self.now();
        let Some(confirmed) = CONFIRMED.get_ptr_mut(&neighbour) else {
            // If there is no room, the stack has this packet, too.
            let _ = CONFIRMED.insert(&neighbour, &now, u64::from(BPF_ANY));
            return true;
        };
        // SAFETY: a live value. Another CPU may write it at the same time: then both confirm.
        unsafe {
            if now.wrapping_sub(*confirmed) < SECOND {
                return false;
            }
            *confirmed = now;
        }
        true
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing, always allowed.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn config(&self) -> &Config {
        self.config
    }

    #[inline(always)]
    fn is_local(&self, address: Addr) -> bool {
        LOCAL_ADDRS.get_ptr(&address).is_some()
    }

    #[inline(always)]
    fn member(&self, address: Addr) -> Option<u32> {
        look_up!(MEMBERS, &address)
    }

    #[inline(always)]
    fn peer(&self, member: Addr) -> Option<Peer> {
        look_up!(PEERS, &member)
    }

    #[inline(always)]
    fn sender(&self, sender: &Sender) -> Option<Addr> {
        look_up!(SENDERS, sender)
    }

    #[inline(always)]
    fn lease(&self, peer: u32) -> Option<Lease> {
        LEASES.get(peer).copied()
    }

    #[inline(always)]
    fn heard(&self, peer: u32) -> Option<Live<Heard>> {
        // SAFETY: entries of an array are never freed; nobody makes a Rust reference.
        let entry = HEARD.get_ptr_mut(peer);
        entry.map(|entry| unsafe { Live::new(entry) })
    }

    #[inline(always)]
    fn published(&self, key: PublishedKey) -> Option<Published> {
        look_up!(PUBLISHED, &key)
    }

    #[inline(always)]
    fn is_bound(&self, key: BoundKey) -> bool {
        BOUND.get_ptr(&key).is_some()
    }

    #[inline(always)]
    fn is_source(&self, source: Source) -> bool {
        let whole = lpm_trie::Key::new(Source::prefix_bits(32), source);
        SOURCES.get(&whole).is_some()
    }

    #[inline(always)]
    fn table_node(&self, service: u32, slot: u32, previous: bool) -> Option<Addr> {
        let node = match previous {
            false => NODE_TABLES.get_value(service, &slot).copied(),
            true => OLD_TABLES.get_value(service, &slot).copied(),
        };
        node.filter(|node| *node != 0)
    }

    #[inline(always)]
    fn local_backend(&self, service: u32, hash: u32, draining: bool) -> Option<u32> {
        let backends = LOCAL_BACKENDS.get_ptr(&service)?;
        // SAFETY: a live value; the index is below the array's length.
        unsafe {
            let (len, list) = match draining {
                false => ((*backends).ready_len, &raw const (*backends).ready),
                true => ((*backends).draining_len, &raw const (*backends).draining),
            };
            if len == 0 || len as usize > LOCAL_BACKENDS_MAX {
                return None;
            }
            // The mask shows the verifier the bound. Read as volatile, or the compiler, which knows
            // that `len` bounds it already, takes the mask away.
            let nth = (hash % len) as usize;
            let nth = (&raw const nth).read_volatile() & (LOCAL_BACKENDS_MAX - 1);
            Some(*list.cast::<u32>().add(nth))
        }
    }

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<Endpoint> {
        ENDPOINTS
            .get(index)
            .copied()
            .filter(|endpoint| endpoint.ifindex != 0)
    }

    #[inline(always)]
    fn internal(&self, address: Addr) -> Option<u32> {
        look_up!(INTERNAL, &address)
    }

    #[inline(always)]
    fn network(&self, vni: u32) -> Option<Network> {
        look_up!(NETWORKS, &vni)
    }

    #[inline(always)]
    fn subnet(&self, key: SubnetKey) -> Option<Subnet> {
        look_up!(SUBNETS, &key)
    }

    #[inline(always)]
    fn location(&self, key: OverlayKey) -> Option<Location> {
        look_up!(OVERLAY, &key)
    }

    #[inline(always)]
    fn vip(&self, key: OverlayKey) -> Option<Vip> {
        look_up!(VIPS, &key)
    }

    #[inline(always)]
    fn vip_backend(&self, slot: VipSlot) -> Option<Addr> {
        look_up!(VIP_BACKENDS, &slot)
    }

    #[inline(always)]
    fn affinity(&self, tuple: &Tuple) -> Option<Live<Affinity>> {
        live!(AFFINITY, tuple).or_else(|| live!(AFFINITY_SYN, tuple))
    }

    #[inline(always)]
    fn insert_affinity(&self, tuple: &Tuple, affinity: &Affinity, opening: bool) {
        let any = u64::from(BPF_ANY);
        // Without the entry the hash decides, which names the same node until the tables change.
        if !opening {
            let _ = AFFINITY.insert(tuple, affinity, any);
            let _ = AFFINITY_SYN.remove(tuple);
        } else if self.admit() {
            let _ = AFFINITY.remove(tuple);
            let _ = AFFINITY_SYN.insert(tuple, affinity, any);
        }
    }

    #[inline(always)]
    fn is_flooded(&self) -> bool {
        let Some(last) = FLOODED.get_ptr(0) else {
            return false;
        };
        // SAFETY: a whole word.
        let last = unsafe { last.read_volatile() };
        // A flow that was not remembered in the flood's last second still gets its reply.
        last != 0 && self.now().wrapping_sub(last) <= FLOOD_OVER
    }

    #[inline(always)]
    fn conntrack(&self, key: &CtKey) -> Option<Live<Ct>> {
        live!(CONNTRACK, key).or_else(|| live!(CONNTRACK_SYN, key))
    }

    #[inline(always)]
    fn insert_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool {
        let any = u64::from(BPF_ANY);
        match opening {
            false => {
                let inserted = CONNTRACK.insert(key, ct, any).is_ok();
                // Most flows are not there, and the entry in the other table is found first.
                let _ = CONNTRACK_SYN.remove(key);
                inserted
            }
            true => {
                // Of an ended flow, if there is one: it would be found before the new one.
                let _ = CONNTRACK.remove(key);
                CONNTRACK_SYN.insert(key, ct, any).is_ok()
            }
        }
    }

    #[inline(always)]
    fn claim_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool {
        let if_none = u64::from(BPF_NOEXIST);
        // One key is claimed in both tables at once only by packets that open a flow and packets in the
        // middle of one, which a client never sends at the same time.
        match opening {
            false => CONNTRACK.insert(key, ct, if_none).is_ok(),
            true => CONNTRACK_SYN.insert(key, ct, if_none).is_ok(),
        }
    }

    #[inline(always)]
    fn remove_conntrack(&self, key: &CtKey) {
        // One of them has it.
        let _ = CONNTRACK.remove(key);
        let _ = CONNTRACK_SYN.remove(key);
    }

    #[inline(always)]
    fn nat(&self, key: &NatKey) -> Option<Live<Nat>> {
        live!(NAT, key)
    }

    #[inline(always)]
    fn insert_nat(&self, key: &NatKey, nat: &Nat) -> bool {
        NAT.insert(key, nat, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        look_up!(FRAGMENTS, key)
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        // Without room for it the later fragments are dropped, and counted.
        let _ = FRAGMENTS.insert(key, fragment, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn host_has(&self, tuple: &Tuple) -> bool {
        if tuple.proto != TCP && tuple.proto != UDP {
            return false;
        }
        // SAFETY: plain data, all zero is a value of it.
        let mut sought: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        sought.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: tuple.src,
            daddr: tuple.dst,
            sport: tuple.sport,
            dport: tuple.dport,
        };
        let len = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
        // SAFETY: the context is this program's; the tuple lives through the call; what is found is
        // released on every path.
        unsafe {
            let found = match tuple.proto {
                TCP => bpf_skc_lookup_tcp(self.ctx, &raw mut sought, len, THIS_NETNS, 0),
                _ => bpf_sk_lookup_udp(self.ctx, &raw mut sought, len, THIS_NETNS, 0),
            };
            if found.is_null() {
                return false;
            }
            let has = match tuple.proto {
                TCP => (*found).state != TCP_LISTEN,
                // A connected socket has this flow; an unconnected one is refused its port by the
                // dataplane, if it is a published one.
                _ => (*found).dst_port != 0,
            };
            bpf_sk_release(found.cast());
            has
        }
    }

    #[inline(always)]
    fn count_index(&self, counter: u32) {
        match self.counts {
            Counts::Now => self.count_now(counter),
            Counts::Later => self.counted.set(counter),
        }
    }
}

impl Maps {
    /// Whether one more new flow is to be remembered: in a flood the hash alone decides, which
    /// names the same node anyway.
    #[inline(always)]
    fn admit(&self) -> bool {
        let Some(window) = NEW_FLOWS.get_ptr_mut(0) else {
            return true;
        };
        let now = self.now();
        // SAFETY: per CPU.
        unsafe {
            if now.wrapping_sub((*window).started) > SECOND {
                *window = Window {
                    started: now,
                    flows: 0,
                };
            }
            (*window).flows += 1;
            if (*window).flows <= u64::from(self.config.flood_rate) {
                return true;
            }
        }
        self.note_flood(now);
        false
    }

    #[inline(always)]
    fn note_flood(&self, now: u64) {
        let Some(last) = FLOODED.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: whole words; whichever CPU writes last, it is about now. Seldom, so that CPUs do not
        // contend for the line.
        unsafe {
            if now.wrapping_sub(last.read_volatile()) > SECOND / 2 {
                last.write_volatile(now);
            }
        }
    }
}
