//! A node as its programs see it.

use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::{SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunOptions, TestRunResult};
use nix::net::if_::if_nametoindex;
use nix::sched::CloneFlags;
use skein_abi::config::Config;
use skein_abi::ingress::{LocalBackends, MEMBER_UP, Published, PublishedKey};
use skein_abi::limits::FLOOD_RATE;
use skein_abi::names::{
    MAP_CONFIG, MAP_COUNTERS, MAP_ENDPOINTS, MAP_HEARD, MAP_LEASES, MAP_LOCAL_ADDRS,
    MAP_LOCAL_BACKENDS, MAP_LOST, MAP_MEMBERS, MAP_METER_DROPS, MAP_METERS, MAP_NETWORKS,
    MAP_NODE_TABLES, MAP_PEERS, MAP_PUBLISHED, MAP_RECORDS, MAP_SENDERS, MAP_WATCH, PROG_UPLINK,
    PROG_UPLINK_XDP,
};
use skein_abi::overlay::{Endpoint, Network};
use skein_abi::segment::{Heard, Lease, PEER_ANSWERED, Peer, Sender};
use skein_abi::sight::{LOST_KINDS, Meter, MeterDrop, Record, Watch};
use skein_abi::verdict::Counter;
use skein_abi::{Addr, VNI_OVERLAY_MIN, addr};
use skein_dataplane::kernel::verifier;
use std::process::Command;
use std::time::Duration;

pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/skein.bpf.o");

pub const NODE: [u8; 4] = [198, 18, 0, 1];
pub const OTHER: [u8; 4] = [198, 18, 0, 2];
/// A member whose MAC address nobody knows.
pub const UNRESOLVED: [u8; 4] = [198, 18, 0, 3];
pub const CLIENT: [u8; 4] = [198, 18, 0, 250];
pub const STRANGER: [u8; 4] = [198, 18, 0, 251];
/// A client behind the device w0.
pub const FAR_CLIENT: [u8; 4] = [203, 0, 113, 9];
pub const TASK: [u8; 4] = [10, 0, 0, 5];

pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfa];
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const FAR_DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x30];

pub const PORT: u16 = 8080;
pub const VXLAN_PORT: u16 = 4789;
/// Largest packet in VXLAN, as the devices have 1,500.
pub const TUNNEL_MTU: u16 = 1_450;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
/// Index of the other node among those of the segment: any.
pub const PEER: u32 = 5;
/// Number of what counts the published port: any.
pub const METER: u32 = 9;
/// Slots of the node tables: any number will do, all of them name one node.
pub const SLOTS: u32 = 3;
/// A map that is an element of another one may have any size (include/uapi/linux/bpf.h).
pub const BPF_F_INNER_MAP: u32 = 1 << 12;

// Return values of programs (include/uapi/linux/bpf.h, pkt_cls.h).
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;
pub const TC_OK: u32 = 0;
pub const TC_SHOT: u32 = 2;
pub const TC_REDIRECT: u32 = 7;

/// `struct xdp_md`
pub fn xdp_context(len: usize, ifindex: u32) -> Vec<u8> {
    let fields = [0, len as u32, 0, ifindex, 0, 0];
    let bytes = fields.iter().map(|field| field.to_ne_bytes());
    bytes.flatten().collect()
}

/// `struct __sk_buff`
pub fn skb_context(ifindex: u32) -> Vec<u8> {
    const SIZE: usize = 192;
    const IFINDEX: usize = 40;
    let mut context = vec![0; SIZE];
    context[IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

pub struct Bench {
    pub ebpf: Ebpf,
    pub device: u32,
}

impl Bench {
    pub fn new() -> Self {
        // Of this thread, which is this test's own.
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for line in [
            "ip link set lo up",
            "ip link add v0 address 02:00:00:00:00:10 type veth peer name v1",
            "ip link add w0 address 02:00:00:00:00:30 type veth peer name w1",
            "ip link set v0 up",
            "ip link set v1 up",
            "ip link set w0 up",
            "ip link set w1 up",
            "ip address add 198.18.0.1/24 dev v0",
            "ip address add 192.0.2.1/24 dev w0",
            "ip route add 203.0.113.0/24 via 192.0.2.254",
            "ip neigh add 198.18.0.2 lladdr 02:00:00:00:00:22 dev v0 nud permanent",
            "ip neigh add 198.18.0.250 lladdr 02:00:00:00:00:fa dev v0 nud permanent",
            "ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:fe dev w0 nud permanent",
            "sysctl -qw net.ipv4.conf.v0.forwarding=1",
        ] {
            let mut words = line.split(' ');
            let program = words.next().expect("a program");
            let status = Command::new(program).args(words).status();
            assert!(status.expect("a command").success(), "{line}");
        }
        let device = if_nametoindex("v0").expect("just made");
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the object");
        let program: &mut Xdp = ebpf
            .program_mut(PROG_UPLINK_XDP)
            .and_then(|program| program.try_into().ok())
            .expect("the program");
        verifier::load(|| program.load()).expect("the verifier");
        // Only the queues of a device with a program can have received a packet.
        program
            .attach_to_if_index(device, XdpMode::Driver)
            .expect("veth has native XDP");
        let mut bench = Self { ebpf, device };
        bench.configure();
        bench
    }

    pub fn configure(&mut self) {
        self.configure_with(FLOOD_RATE);
    }

    pub fn configure_with(&mut self, flood_rate: u32) {
        let config = Config {
            node_addr: addr(NODE.into()),
            local_peer_ifindex: self.device,
            vxlan_port: VXLAN_PORT.to_be(),
            tunnel_mtu: TUNNEL_MTU,
            flood_rate,
            nat_port_min: 61_000,
            nat_port_max: 65_535,
            ..Config::default()
        };
        let mut map: Array<&mut MapData, Config> = self.map(MAP_CONFIG);
        map.set(0, config, 0).expect("the settings");
        let ifindex = self.device;
        self.put(MAP_LOCAL_ADDRS, addr(NODE.into()), ifindex);
        for member in [NODE, OTHER, UNRESOLVED] {
            self.put(MAP_MEMBERS, addr(member.into()), MEMBER_UP);
        }
        self.publish(OTHER);
    }

    /// Publishes [`PORT`], with a table that names one node.
    pub fn publish(&mut self, node: [u8; 4]) {
        let mut table: Array<MapData, Addr> = Array::create(SLOTS, BPF_F_INNER_MAP).expect("a map");
        for slot in 0..SLOTS {
            table.set(slot, addr(node.into()), 0).expect("a slot");
        }
        let mut tables: ArrayOfMaps<&mut MapData, Array<MapData, Addr>> = self.map(MAP_NODE_TABLES);
        tables.set(0, &table, 0).expect("the table");
        let key = PublishedKey {
            port: PORT.to_be(),
            proto: 6,
            pad: 0,
        };
        let published = Published {
            slots: SLOTS,
            target: 80_u16.to_be(),
            meter: METER,
            ..Published::default()
        };
        self.put(MAP_PUBLISHED, key, published);
    }

    pub fn map<'a, M>(&'a mut self, name: &str) -> M
    where
        M: TryFrom<&'a mut aya::maps::Map>,
        M::Error: std::fmt::Debug,
    {
        let map = self.ebpf.map_mut(name).expect("a map of that name");
        map.try_into().expect("of that type")
    }

    pub fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.map(name);
        map.insert(key, value, 0).expect("room");
    }

    pub fn count(&mut self, counter: Counter) -> u64 {
        let map: PerCpuArray<&mut MapData, u64> = self.map(MAP_COUNTERS);
        let counts = map.get(&(counter as u32), 0).expect("a counter");
        counts.iter().sum()
    }

    /// What the program returns, and the frame after it.
    pub fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &Xdp = self
            .ebpf
            .program(PROG_UPLINK_XDP)
            .and_then(|program| program.try_into().ok())
            .expect("the program");
        run_once(program, &xdp_context(frame.len(), self.device), frame)
    }

    /// What the tc program behind returns, and the frame after it.
    pub fn run_tc(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(PROG_UPLINK)
            .and_then(|program| program.try_into().ok())
            .expect("the program");
        if program.fd().is_err() {
            verifier::load(|| program.load()).expect("the verifier");
        }
        run_once(program, &skb_context(self.device), frame)
    }

    /// What one run of many takes, ns. A run that a signal ends early is begun anew.
    pub fn repeat(&mut self, frame: &[u8], is_xdp: bool, repeat: u32) -> u32 {
        const TRIES: usize = 20;
        let mut tries = (0..TRIES).map(|_| self.try_repeat(frame, is_xdp, repeat));
        let ran = tries.find_map(Result::ok).expect("a run");
        u32::try_from(ran.as_nanos()).expect("short")
    }

    pub fn try_repeat(
        &mut self,
        frame: &[u8],
        is_xdp: bool,
        repeat: u32,
    ) -> Result<Duration, aya::programs::ProgramError> {
        let context = match is_xdp {
            true => xdp_context(frame.len(), self.device),
            false => skb_context(self.device),
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let ran = match is_xdp {
            true => {
                let program = self.ebpf.program(PROG_UPLINK_XDP).expect("the program");
                let program: &Xdp = program.try_into().expect("of that type");
                program.test_run(options)
            }
            false => {
                self.run_tc(frame);
                let program = self.ebpf.program(PROG_UPLINK).expect("the program");
                let program: &SchedClassifier = program.try_into().expect("of that type");
                program.test_run(options)
            }
        };
        ran.map(|ran| ran.duration)
    }

    /// Puts a task that answers on [`PORT`] on this node.
    pub fn serve(&mut self) {
        self.publish(NODE);
        let endpoint = Endpoint {
            ifindex: self.device,
            vni: VNI_OVERLAY_MIN,
            addr: addr(TASK.into()),
            ..Endpoint::default()
        };
        let mut map: Array<&mut MapData, Endpoint> = self.map(MAP_ENDPOINTS);
        map.set(0, endpoint, 0).expect("an endpoint");
        self.put(MAP_NETWORKS, VNI_OVERLAY_MIN, Network::default());
        let backends = LocalBackends {
            ready_len: 1,
            ..LocalBackends::default()
        };
        self.put(MAP_LOCAL_BACKENDS, 0_u32, backends);
    }

    /// The other node shares the segment, and l2 is used both ways.
    pub fn use_l2(&mut self) {
        let ifindex = self.device;
        let peer = Peer {
            mac: OTHER_MAC,
            own_mac: NODE_MAC,
            ifindex,
            index: PEER,
            mtu: 1_500,
            flags: PEER_ANSWERED,
        };
        self.put(MAP_PEERS, addr(OTHER.into()), peer);
        let sender = Sender {
            ifindex,
            to: NODE_MAC,
            from: OTHER_MAC,
        };
        self.put(MAP_SENDERS, sender, addr(OTHER.into()));
        let lease = Lease {
            requests_until: u64::MAX,
            replies_until: u64::MAX,
        };
        let mut leases: Array<&mut MapData, Lease> = self.map(MAP_LEASES);
        leases.set(PEER, lease, 0).expect("a lease");
    }

    pub fn watch(&mut self, watch: Watch) {
        let mut map: Array<&mut MapData, Watch> = self.map(MAP_WATCH);
        map.set(0, watch, 0).expect("what is told");
    }

    /// Lets the programs tell of so many flows, and drops.
    pub fn tell(&mut self, records: u64) {
        self.watch(Watch {
            record_cost: 3_600_000_000_000,
            record_burst: records * 3_600_000_000_000,
            ..Watch::default()
        });
    }

    /// What they have told since the last time.
    pub fn told(&mut self) -> Vec<Record> {
        let mut ring: RingBuf<&mut MapData> = self.map(MAP_RECORDS);
        let mut told = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Record>());
            // SAFETY: the programs have written one.
            told.push(unsafe { item.as_ptr().cast::<Record>().read_unaligned() });
        }
        told
    }

    pub fn lost(&mut self) -> Vec<u64> {
        let lost: PerCpuArray<&mut MapData, u64> = self.map(MAP_LOST);
        let kinds = 0..LOST_KINDS;
        let sum = |kind| lost.get(&kind, 0).expect("a count").iter().sum();
        kinds.map(sum).collect()
    }

    pub fn meter(&mut self) -> Meter {
        let map: PerCpuArray<&mut MapData, Meter> = self.map(MAP_METERS);
        let meters = map.get(&METER, 0).expect("a meter");
        meters.iter().fold(Meter::default(), |sum, meter| Meter {
            packets: [0, 1].map(|way| sum.packets[way] + meter.packets[way]),
            bytes: [0, 1].map(|way| sum.bytes[way] + meter.bytes[way]),
            flows: sum.flows + meter.flows,
        })
    }

    pub fn metered_drops(&mut self, reason: Counter) -> u64 {
        let map: PerCpuHashMap<&mut MapData, MeterDrop, u64> = self.map(MAP_METER_DROPS);
        let key = MeterDrop {
            meter: METER,
            reason: reason as u32,
        };
        map.get(&key, 0).map_or(0, |counts| counts.iter().sum())
    }

    pub fn heard(&mut self) -> Heard {
        let heard: Array<&mut MapData, Heard> = self.map(MAP_HEARD);
        heard.get(&PEER, 0).expect("an entry")
    }

    /// The same for a packet that is not the first one to its neighbour within the second.
    pub fn run_again(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        assert_passed(&self.run(frame), frame);
        self.run(frame)
    }
}

/// What a program returns, and the frame after it.
fn run_once<P>(program: &P, context: &[u8], frame: &[u8]) -> (u32, Vec<u8>)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut after = vec![0; 4096];
    let ran = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut after),
        ctx_in: Some(context),
        ..TestRunOptions::default()
    });
    let ran = ran.expect("a run");
    after.truncate(ran.data_size_out as usize);
    (ran.return_value, after)
}

pub fn assert_passed((code, after): &(u32, Vec<u8>), frame: &[u8]) {
    assert_eq!(*code, PASS);
    assert_eq!(after, frame, "what is passed on is untouched");
}
