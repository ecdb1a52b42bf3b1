//! The uplink's programs in the kernel, one packet at a time (BPF_PROG_TEST_RUN), in a network
//! namespace of its own: node 198.18.0.1 with the device v0. Needs root.

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{
        Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf,
        perf::{PerfEvent, PerfEventArray},
    },
    programs::{SchedClassifier, Xdp, XdpMode},
};
use nix::{net::if_::if_nametoindex, sched::CloneFlags};
use skein_abi::{
    Addr, VNI_FORWARD, VNI_OVERLAY_MIN, VNI_REPLY, addr,
    config::Config,
    ingress::{DEVICE_PAIR, DEVICE_XDP, LocalBackends, MEMBER_UP, Published, PublishedKey},
    limits::FLOOD_RATE,
    mac,
    names::*,
    overlay::{Endpoint, Network},
    segment::{Heard, Lease, PEER_ANSWERED, PROBE_ADDRESS, Peer, Sender},
    sight::{
        EVENT_CLOSED, EVENT_DROPPED, EVENT_OPENED, LOST_DROPS, LOST_FLOWS, LOST_KINDS, Meter,
        MeterDrop, Record, SEEN_UPLINK, SEEN_XDP, Watch,
    },
    verdict::Counter,
};
use skein_dataplane::kernel::verifier;
use std::{process::Command, time::Duration};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/skein.bpf.o");

const NODE: [u8; 4] = [198, 18, 0, 1];
const OTHER: [u8; 4] = [198, 18, 0, 2];
/// A member whose MAC address nobody knows.
const UNRESOLVED: [u8; 4] = [198, 18, 0, 3];
const CLIENT: [u8; 4] = [198, 18, 0, 250];
const STRANGER: [u8; 4] = [198, 18, 0, 251];
/// A client behind the device w0.
const FAR_CLIENT: [u8; 4] = [203, 0, 113, 9];
const TASK: [u8; 4] = [10, 0, 0, 5];

const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfa];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const FAR_DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x30];

const PORT: u16 = 8080;
const VXLAN_PORT: u16 = 4789;
/// Largest packet in VXLAN, as the devices have 1,500.
const TUNNEL_MTU: u16 = 1_450;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Index of the other node among those of the segment: any.
const PEER: u32 = 5;
/// Number of what counts the published port: any.
const METER: u32 = 9;
/// Slots of the node tables: any number will do, all of them name one node.
const SLOTS: u32 = 3;
/// A map that is an element of another one may have any size (include/uapi/linux/bpf.h).
const BPF_F_INNER_MAP: u32 = 1 << 12;

// Return values of programs (include/uapi/linux/bpf.h, pkt_cls.h).
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;
const TC_OK: u32 = 0;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// `struct xdp_md`
fn xdp_context(len: usize, ifindex: u32) -> Vec<u8> {
    let fields = [0, len as u32, 0, ifindex, 0, 0];
    let bytes = fields.iter().map(|field| field.to_ne_bytes());
    bytes.flatten().collect()
}

/// `struct __sk_buff`
fn skb_context(ifindex: u32) -> Vec<u8> {
    const SIZE: usize = 192;
    const IFINDEX: usize = 40;
    let mut context = vec![0; SIZE];
    context[IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

struct Bench {
    ebpf: Ebpf,
    device: u32,
}

impl Bench {
    fn new() -> Self {
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

    fn configure(&mut self) {
        self.configure_with(FLOOD_RATE);
    }

    fn configure_with(&mut self, flood_rate: u32) {
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
    fn publish(&mut self, node: [u8; 4]) {
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

    fn map<'a, M>(&'a mut self, name: &str) -> M
    where
        M: TryFrom<&'a mut aya::maps::Map>,
        M::Error: std::fmt::Debug,
    {
        let map = self.ebpf.map_mut(name).expect("a map of that name");
        map.try_into().expect("of that type")
    }

    fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, K, V> = self.map(name);
        map.insert(key, value, 0).expect("room");
    }

    fn count(&mut self, counter: Counter) -> u64 {
        let map: PerCpuArray<&mut MapData, u64> = self.map(MAP_COUNTERS);
        let counts = map.get(&(counter as u32), 0).expect("a counter");
        counts.iter().sum()
    }

    /// What the program returns, and the frame after it.
    fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &Xdp = self
            .ebpf
            .program(PROG_UPLINK_XDP)
            .and_then(|program| program.try_into().ok())
            .expect("the program");
        let context = xdp_context(frame.len(), self.device);
        let mut after = vec![0; 4096];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        });
        let result = result.expect("a run");
        after.truncate(result.data_size_out as usize);
        (result.return_value, after)
    }

    /// What the tc program behind returns, and the frame after it.
    fn run_tc(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(PROG_UPLINK)
            .and_then(|program| program.try_into().ok())
            .expect("the program");
        if program.fd().is_err() {
            verifier::load(|| program.load()).expect("the verifier");
        }
        let mut after = vec![0; 4096];
        let context = skb_context(self.device);
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        });
        let result = result.expect("a run");
        after.truncate(result.data_size_out as usize);
        (result.return_value, after)
    }

    /// What one run of many takes, ns. A run that a signal ends early is begun anew.
    fn repeat(&mut self, frame: &[u8], is_xdp: bool, repeat: u32) -> u32 {
        const TRIES: usize = 20;
        let mut tries = (0..TRIES).map(|_| self.try_repeat(frame, is_xdp, repeat));
        let ran = tries.find_map(Result::ok).expect("a run");
        u32::try_from(ran.as_nanos()).expect("short")
    }

    fn try_repeat(
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
    fn serve(&mut self) {
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
    fn use_l2(&mut self) {
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

    fn watch(&mut self, watch: Watch) {
        let mut map: Array<&mut MapData, Watch> = self.map(MAP_WATCH);
        map.set(0, watch, 0).expect("what is told");
    }

    /// Lets the programs tell of so many flows, and drops.
    fn tell(&mut self, records: u64) {
        self.watch(Watch {
            record_cost: 3_600_000_000_000,
            record_burst: records * 3_600_000_000_000,
            ..Watch::default()
        });
    }

    /// What they have told since the last time.
    fn told(&mut self) -> Vec<Record> {
        let mut ring: RingBuf<&mut MapData> = self.map(MAP_RECORDS);
        let mut told = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Record>());
            // SAFETY: the programs have written one.
            told.push(unsafe { item.as_ptr().cast::<Record>().read_unaligned() });
        }
        told
    }

    fn lost(&mut self) -> Vec<u64> {
        let lost: PerCpuArray<&mut MapData, u64> = self.map(MAP_LOST);
        let kinds = 0..LOST_KINDS;
        let sum = |kind| lost.get(&kind, 0).expect("a count").iter().sum();
        kinds.map(sum).collect()
    }

    fn meter(&mut self) -> Meter {
        let map: PerCpuArray<&mut MapData, Meter> = self.map(MAP_METERS);
        let meters = map.get(&METER, 0).expect("a meter");
        meters.iter().fold(Meter::default(), |sum, meter| Meter {
            packets: [0, 1].map(|way| sum.packets[way] + meter.packets[way]),
            bytes: [0, 1].map(|way| sum.bytes[way] + meter.bytes[way]),
            flows: sum.flows + meter.flows,
        })
    }

    fn metered_drops(&mut self, reason: Counter) -> u64 {
        let map: PerCpuHashMap<&mut MapData, MeterDrop, u64> = self.map(MAP_METER_DROPS);
        let key = MeterDrop {
            meter: METER,
            reason: reason as u32,
        };
        map.get(&key, 0).map_or(0, |counts| counts.iter().sum())
    }

    fn heard(&mut self) -> Heard {
        let heard: Array<&mut MapData, Heard> = self.map(MAP_HEARD);
        heard.get(&PEER, 0).expect("an entry")
    }

    /// The same for a packet that is not the first one to its neighbour within the second.
    fn run_again(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        assert_passed(&self.run(frame), frame);
        self.run(frame)
    }
}

fn assert_passed((code, after): &(u32, Vec<u8>), frame: &[u8]) {
    assert_eq!(*code, PASS);
    assert_eq!(after, frame, "what is passed on is untouched");
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    let words = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

fn ip_header(len: usize, ttl: u8, proto: u8, src: [u8; 4], dst: [u8; 4]) -> [u8; 20] {
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[4..10].copy_from_slice(&[0xab, 0xcd, 0x40, 0, ttl, proto]);
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    seal(&mut ip);
    ip
}

/// Puts the checksum of an IPv4 header right.
fn seal(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[derive(Clone, Copy)]
struct Tcp {
    src: ([u8; 4], u16),
    dst: ([u8; 4], u16),
    flags: u8,
    ttl: u8,
    payload: usize,
}

impl Tcp {
    fn request(sport: u16) -> Self {
        Self {
            src: (CLIENT, sport),
            dst: (NODE, PORT),
            flags: SYN,
            ttl: 64,
            payload: 6,
        }
    }

    fn answer(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            flags: SYN | ACK,
            ..self
        }
    }

    fn frame(&self, macs: [[u8; 6]; 2]) -> Vec<u8> {
        let mut frame = macs.concat();
        frame.extend([0x08, 0x00]);
        let len = 40 + self.payload;
        frame.extend(ip_header(len, self.ttl, 6, self.src.0, self.dst.0));
        frame.extend(self.src.1.to_be_bytes());
        frame.extend(self.dst.1.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        frame.extend([0x50, self.flags, 0x20, 0, 0x12, 0x34, 0, 0]);
        frame.extend((0..self.payload).map(|n| n as u8));
        frame
    }

    fn received(&self) -> Vec<u8> {
        self.frame([NODE_MAC, CLIENT_MAC])
    }
}

/// A frame from another node.
fn vxlan(src: [u8; 4], vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut frame = [NODE_MAC, OTHER_MAC].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(36 + inner.len(), 64, 17, src, NODE));
    frame.extend(50_000_u16.to_be_bytes());
    frame.extend(VXLAN_PORT.to_be_bytes());
    frame.extend((16 + inner.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x08, 0, 0, 0]);
    frame.extend((vni << 8).to_be_bytes());
    frame.extend(inner);
    frame
}

fn answered(request: Tcp) -> Vec<u8> {
    let inner = request.answer().frame([[0x02; 6], [0x04; 6]]);
    vxlan(OTHER, VNI_REPLY, &inner)
}

/// The frame one router later.
fn routed(frame: &[u8], macs: [[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].copy_from_slice(&macs.concat());
    frame[22] -= 1;
    seal(&mut frame[14..34]);
    frame
}

/// The frame with another byte in its IPv4 header or behind.
fn changed(frame: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset] = value;
    seal(&mut frame[14..34]);
    frame
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn what_concerns_nobody_here_is_passed_on() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_000);
    let unpublished = Tcp {
        dst: (NODE, 81),
        ..request
    };
    let elsewhere = Tcp {
        dst: (STRANGER, PORT),
        ..request
    };
    for frame in [
        unpublished.received(),
        elsewhere.received(),
        vec![0xff; 60],
        vec![0; 14],
    ] {
        assert_passed(&bench.run(&frame), &frame);
    }
    assert_eq!(bench.count(Counter::XdpSent), 0);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_request_goes_to_the_node_of_the_task_in_vxlan() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_001).received();
    let (code, sent) = bench.run_again(&request);
    assert_eq!(code, TX);

    let (outer, inner) = sent.split_at(50);
    // The node that the client came in by stands in the source.
    let from = mac(addr(NODE.into()));
    assert_eq!(inner, routed(&request, [NODE_MAC, from]));

    assert_eq!(outer[..12], [OTHER_MAC, NODE_MAC].concat());
    assert_eq!(outer[12..14], [0x08, 0x00]);
    let mut ip = ip_header(36 + request.len(), 64, 17, NODE, OTHER);
    // Like the kernel's own, it may be fragmented, under a number of its own.
    ip[4..6].copy_from_slice(&outer[18..20]);
    ip[6] = 0;
    seal(&mut ip);
    assert_eq!(outer[14..34], ip);
    let sport = u16::from_be_bytes([outer[34], outer[35]]);
    assert!(sport >= 49_152, "{sport}");
    assert_eq!(outer[36..38], VXLAN_PORT.to_be_bytes());
    assert_eq!(outer[38..40], (16 + request.len() as u16).to_be_bytes());
    let no_checksum_and_vni = [0, 0, 0x08, 0, 0, 0, 0, 0, VNI_FORWARD as u8, 0];
    assert_eq!(outer[40..], no_checksum_and_vni);

    // Decided twice, counted once.
    assert_eq!(bench.count(Counter::EntryForwarded), 1);
    assert_eq!(bench.count(Counter::XdpSent), 1);

    let (_, same_flow) = bench.run(&request);
    assert_eq!(same_flow[34..36], outer[34..36], "a flow keeps its order");
    let (_, other_flow) = bench.run(&Tcp::request(40_002).received());
    assert_ne!(other_flow[34..36], outer[34..36], "flows spread");
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn congestion_is_not_hidden() {
    let bench = Bench::new();
    // Congestion experienced: the inner packet keeps it, the outer one may get it anew (RFC 6040).
    let request = changed(&Tcp::request(40_003).received(), 15, 3);
    let (code, sent) = bench.run_again(&request);
    assert_eq!((code, sent[15], sent[65]), (TX, 2, 3));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_leaves_vxlan_and_goes_to_the_client() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_004);
    assert_eq!(bench.run_again(&request.received()).0, TX);

    let answer = answered(request);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent, routed(&answer[50..], [CLIENT_MAC, NODE_MAC]));
    assert_eq!(bench.count(Counter::ReplyOut), 1);
    assert_eq!(bench.count(Counter::XdpSent), 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_leaves_by_another_device_that_has_xdp() {
    let mut bench = Bench::new();
    let request = Tcp {
        src: (FAR_CLIENT, 40_005),
        ..Tcp::request(0)
    };
    assert_eq!(bench.run_again(&request.received()).0, TX);
    let answer = answered(request);
    for _ in 0..2 {
        assert_passed(&bench.run(&answer), &answer);
    }
    let other = if_nametoindex("w0").expect("made");
    bench.put(MAP_DEVICES, other, DEVICE_XDP);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, REDIRECT);
    assert_eq!(sent, routed(&answer[50..], [FAR_MAC, FAR_DEVICE_MAC]));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn the_other_end_of_a_veth_pair_is_told_of_each_frame() {
    let mut bench = Bench::new();
    let device = bench.device;
    bench.put(MAP_DEVICES, device, DEVICE_PAIR | DEVICE_XDP);
    let request = Tcp::request(40_010).received();
    assert_eq!(bench.run_again(&request).0, REDIRECT);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn forged_and_late_answers_go_nowhere() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_006);
    let unknown = answered(request);
    assert_eq!(bench.run(&unknown).0, DROP);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);

    bench.run_again(&request.received());
    let forged = vxlan(STRANGER, VNI_REPLY, &unknown[50..]);
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.count(Counter::DropNotMember), 1);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn in_a_flood_answers_go_out_without_a_remembered_flow() {
    let mut bench = Bench::new();
    // No flow at all may be remembered: the first is a flood.
    bench.configure_with(0);
    let request = Tcp::request(40_009);
    let answer = answered(request);
    assert_eq!(bench.run(&answer).0, DROP, "nobody has called yet");
    assert_eq!(bench.run_again(&request.received()).0, TX);
    assert_eq!(bench.run_again(&answer).0, TX);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn what_the_stack_must_see_is_passed_on() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_007);
    let of_len = |payload| Tcp { payload, ..request }.received();
    let whole = request.received();
    let answer = answered(request);
    let mut options = whole.clone();
    options.splice(34..34, [1, 1, 1, 0]);
    options[14] = 0x46;
    let mut damaged = answer.clone();
    damaged[24] ^= 1;
    let inner = |frame: &[u8]| vxlan(OTHER, VNI_REPLY, frame);
    let last_hop = Tcp { ttl: 1, ..request }.received();
    // From here on its neighbours are confirmed.
    assert_eq!(bench.run_again(&whole).0, TX);
    assert_eq!(bench.run_again(&answer).0, TX);
    let before = bench.count(Counter::XdpSent);
    for (what, frame) in [
        ("options", options),
        ("a first fragment", changed(&whole, 20, 0x20)),
        ("a later fragment", changed(&whole, 21, 8)),
        ("the end of its time to live", last_hop),
        ("too long in VXLAN", of_len(1_411)),
        ("for a task here", vxlan(OTHER, VNI_FORWARD, &whole)),
        ("of an overlay", vxlan(OTHER, VNI_OVERLAY_MIN, &whole)),
        ("a UDP checksum", changed(&answer, 41, 1)),
        ("congestion on its way", changed(&answer, 15, 3)),
        ("a damaged outer header", damaged),
        (
            "a fragment in VXLAN",
            inner(&changed(&answer[50..], 20, 0x20)),
        ),
        ("cut short", inner(&answer[50..80])),
    ] {
        let (code, after) = bench.run(&frame);
        assert_eq!(code, PASS, "{what}");
        assert_eq!(after, frame, "{what}");
    }
    assert_eq!(bench.count(Counter::XdpSent), before);
    assert_eq!(bench.run(&of_len(1_410)).0, TX, "it just fits");

    bench.publish(UNRESOLVED);
    let other_flow = Tcp::request(40_008).received();
    for _ in 0..2 {
        assert_passed(&bench.run(&other_flow), &other_flow);
    }
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_task_of_this_node_gets_its_packet_from_the_hook_behind() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_009).received();
    assert_passed(&bench.run(&request), &request);
    assert_eq!(bench.count(Counter::EntryLocal), 0);

    let (code, after) = bench.run_tc(&request);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(after[30..34], TASK);
    assert_eq!(bench.count(Counter::EntryLocal), 1);
}

/// A request with options of TCP.
fn with_options(request: Tcp, options: &[u8]) -> Vec<u8> {
    let mut frame = request.received();
    frame.splice(54..54, options.iter().copied());
    frame[46] = 0x50 + ((options.len() as u8) << 2);
    let len = (frame.len() as u16 - 14).to_be_bytes();
    frame[16..18].copy_from_slice(&len);
    seal(&mut frame[14..34]);
    // TCP's own checksum, for what is checked below.
    frame[50..52].fill(0);
    let sum = tcp_checksum(&frame);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Of the TCP header and what follows; 0 if the one that is there is right.
fn tcp_checksum(frame: &[u8]) -> u16 {
    let tcp = &frame[34..];
    let pseudo = [
        &frame[26..34],
        &[0, 6],
        &(tcp.len() as u16).to_be_bytes(),
        tcp,
    ]
    .concat();
    checksum(&pseudo)
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn segments_of_a_connection_are_to_fit() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_012);
    assert_eq!(bench.run_again(&request.received()).0, TX);
    let mss = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    for (announced, expected) in [(1_460, 1_410), (1_410, 1_410), (536, 536)] {
        let frame = with_options(request, &mss(announced));
        assert_eq!(tcp_checksum(&frame), 0);
        let (code, sent) = bench.run(&frame);
        assert_eq!(code, TX);
        assert_eq!(sent[106..108], u16::to_be_bytes(expected));
        assert_eq!(tcp_checksum(&sent[50..]), 0);
    }
    // Behind other options it is for the hook behind.
    let late = with_options(request, &[&[1, 1, 1, 1][..], &mss(1_460)].concat());
    assert_passed(&bench.run(&late), &late);
    let (code, sent) = bench.run_tc(&late);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(sent[60..62], 1_410_u16.to_be_bytes());
    assert_eq!(tcp_checksum(&sent), 0);
    // So does the other side hear of it.
    let inner = with_options(request.answer(), &mss(1_460));
    let answer = vxlan(OTHER, VNI_REPLY, &inner);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent[56..58], 1_410_u16.to_be_bytes());
    assert_eq!(tcp_checksum(&sent), 0);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn who_sends_too_long_packets_is_told() {
    let mut bench = Bench::new();
    let of_len = |payload| {
        let request = Tcp::request(40_013);
        Tcp { payload, ..request }.received()
    };
    let (long, fitting) = (of_len(1_411), of_len(1_410));
    assert_passed(&bench.run(&long), &long);
    let (code, told) = bench.run_tc(&long);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(told.len(), 14 + 20 + 8 + 28);
    assert_eq!(told[14..34], {
        let mut ip = ip_header(56, 63, 1, NODE, CLIENT);
        ip[4..8].fill(0);
        seal(&mut ip);
        ip
    });
    let [high, low] = TUNNEL_MTU.to_be_bytes();
    assert_eq!(told[34..36], [3, 4], "fragmentation needed");
    assert_eq!(told[38..42], [0, 0, high, low]);
    assert_eq!(checksum(&told[34..]), 0);
    assert_eq!(told[42..], long[14..42]);
    assert_eq!(bench.count(Counter::DropTooBig), 1);

    let (code, sent) = bench.run_tc(&fitting);
    assert_eq!((code, sent.len()), (TC_REDIRECT, fitting.len()));
    let may_be_fragmented = changed(&long, 20, 0);
    let (code, sent) = bench.run_tc(&may_be_fragmented);
    assert_eq!((code, sent.len()), (TC_REDIRECT, long.len()));
}

/// An ICMP error from a router, about what is quoted.
fn error_about(quoted: &[u8], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [NODE_MAC, CLIENT_MAC].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(20 + icmp.len(), 64, 1, src, dst));
    frame.extend(icmp);
    frame
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_icmp_error_is_translated_inside_and_out() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_014);
    assert_eq!(bench.run_tc(&request.received()).0, TC_REDIRECT);
    let answer = request.answer().received();
    for len in [28, 60] {
        let error = error_about(&answer[14..][..len.min(answer.len() - 14)], STRANGER, NODE);
        assert_passed(&bench.run(&error), &error);
        let (code, told) = bench.run_tc(&error);
        assert_eq!(code, TC_REDIRECT);
        assert_eq!(told.len(), error.len());
        assert_eq!(told[26..30], STRANGER, "who says it");
        assert_eq!(told[30..34], TASK);
        assert_eq!(checksum(&told[14..34]), 0);
        assert_eq!(checksum(&told[34..]), 0);
        let quoted = &told[42..];
        assert_eq!((&quoted[12..16], &quoted[16..20]), (&TASK[..], &CLIENT[..]));
        assert_eq!(checksum(&quoted[..20]), 0);
        assert_eq!(quoted[20..22], 80_u16.to_be_bytes());
        assert_eq!(quoted[22..24], 40_014_u16.to_be_bytes());
    }
    // About no flow, or for somebody else.
    let stray = error_about(&Tcp::request(1).answer().received()[14..42], STRANGER, NODE);
    assert_eq!(bench.run_tc(&stray).0, TC_SHOT);
    let other = error_about(&answer[14..42], STRANGER, OTHER);
    assert_eq!(bench.run_tc(&other), (TC_OK, other));
}

/// As the other node sends it.
fn by_l2(packet: Tcp) -> Vec<u8> {
    packet.frame([NODE_MAC, OTHER_MAC])
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_request_goes_by_l2_in_its_own_frame() {
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_020).received();
    let expected = routed(&request, [OTHER_MAC, NODE_MAC]);
    assert_eq!(bench.run(&request), (TX, expected.clone()));
    let counts = [Counter::EntryForwarded, Counter::L2Sent, Counter::XdpSent];
    assert_eq!(counts.map(|counter| bench.count(counter)), [1, 1, 1]);
    assert_eq!(bench.run_tc(&request), (TC_REDIRECT, expected));
    assert_eq!(counts.map(|counter| bench.count(counter)), [2, 2, 1]);

    let last = Tcp {
        ttl: 1,
        ..Tcp::request(40_020)
    }
    .received();
    assert_passed(&bench.run(&last), &last);
    assert_eq!(bench.run_tc(&last).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropTtl), 1);

    // As narrow as VXLAN: another way may be needed at any time.
    let mss = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    let opening = with_options(Tcp::request(40_021), &mss(1_460));
    for (code, sent) in [bench.run(&opening), bench.run_tc(&opening)] {
        assert!(matches!(code, TX | TC_REDIRECT), "{code}");
        assert_eq!(sent[56..58], 1_410_u16.to_be_bytes());
        assert_eq!(tcp_checksum(&sent), 0);
    }
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_by_l2_goes_to_the_client() {
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_022);
    assert_eq!(bench.run(&by_l2(request.answer())).0, DROP);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);
    assert_eq!(bench.run(&request.received()).0, TX);
    let answer = by_l2(request.answer());
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent, routed(&answer, [CLIENT_MAC, NODE_MAC]));
    let (code, sent) = bench.run_tc(&answer);
    assert_eq!((code, sent[22]), (TC_REDIRECT, 63));
    assert_eq!(bench.count(Counter::ReplyOut), 2);

    let forged = request.answer().frame([NODE_MAC, CLIENT_MAC]);
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.run_tc(&forged).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropForged), 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_task_here_gets_what_another_node_sends_by_l2() {
    let mut bench = Bench::new();
    bench.serve();
    bench.use_l2();
    let request = Tcp {
        dst: (OTHER, PORT),
        ..Tcp::request(40_023)
    };
    let forwarded = by_l2(request);
    assert_passed(&bench.run(&forwarded), &forwarded);
    let (code, after) = bench.run_tc(&forwarded);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!((&after[26..30], &after[30..34]), (&CLIENT[..], &TASK[..]));
    assert_eq!(bench.count(Counter::Delivered), 1);

    // From nobody that may: it must not come to the stack, which would send it on.
    let forged = request.received();
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.run_tc(&forged).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropForged), 2);
    let unpublished = Tcp {
        dst: (OTHER, 81),
        ..request
    };
    let unpublished = unpublished.received();
    assert_passed(&bench.run(&unpublished), &unpublished);
    assert_eq!(bench.run_tc(&unpublished), (TC_OK, unpublished));
}

/// A probe of the other node, or an answer to one.
fn probe(src: ([u8; 4], u16), dst: ([u8; 4], u16), macs: [[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = macs.concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(28, 64, 17, src.0, dst.0));
    frame.extend(src.1.to_be_bytes());
    frame.extend(dst.1.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn probes_of_l2_are_answered_by_the_programs() {
    let mut bench = Bench::new();
    bench.use_l2();
    let client = (PROBE_ADDRESS.octets(), 0x8001);
    let asked = probe(client, (OTHER, VXLAN_PORT), [NODE_MAC, OTHER_MAC]);
    assert_passed(&bench.run(&asked), &asked);
    let expected = probe((OTHER, VXLAN_PORT), client, [OTHER_MAC, NODE_MAC]);
    assert_eq!(bench.run_tc(&asked), (TC_REDIRECT, expected));
    let heard = bench.heard();
    assert_eq!((heard.asked_port, heard.answered), (0x8001_u16.to_be(), 0));
    assert_ne!(heard.asked, 0);

    let answer = probe((NODE, VXLAN_PORT), client, [NODE_MAC, OTHER_MAC]);
    assert_eq!(bench.run(&answer).0, DROP);
    assert_eq!(bench.run_tc(&answer).0, TC_SHOT);
    let heard = bench.heard();
    assert_eq!(heard.answered_port, 0x8001_u16.to_be());
    assert_ne!(heard.answered, 0);

    let forged = probe(client, (OTHER, VXLAN_PORT), [NODE_MAC, CLIENT_MAC]);
    assert_eq!(bench.run_tc(&forged), (TC_OK, forged));
}

/// Another packet of a connection that is made.
fn later(request: Tcp, flags: u8) -> Vec<u8> {
    Tcp { flags, ..request }.received()
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_flow_is_told_of_when_it_begins_and_when_it_ends() {
    const FIN: u8 = 1;
    const RST: u8 = 4;
    let mut bench = Bench::new();
    bench.use_l2();
    bench.tell(10);
    let request = Tcp::request(40_100);
    assert_eq!(bench.run(&request.received()).0, TX);
    let opened = bench.told();
    assert_eq!(opened.len(), 1, "{opened:?}");
    let (from, to) = (addr(CLIENT.into()), addr(NODE.into()));
    let record = opened[0];
    assert_eq!((record.event, record.place), (EVENT_OPENED, SEEN_XDP));
    assert_eq!((record.packet.src, record.packet.dst), (from, to));
    assert_eq!(record.packet.dport, PORT.to_be());
    assert_eq!((record.node, record.vni), (addr(OTHER.into()), VNI_FORWARD));
    assert_eq!((u32::from(record.meter), record.tcp_flags), (METER, SYN));
    assert_eq!(record.frame as usize, request.received().len());
    assert_ne!(record.at, 0);

    for packet in [later(request, ACK), later(request, ACK), request.received()] {
        assert_eq!(bench.run(&packet).0, TX);
    }
    assert_eq!(bench.told(), [], "a flow that goes on is not told of");
    assert_eq!(bench.run(&later(request, FIN | ACK)).0, TX);
    assert_eq!(bench.told(), [], "closed one way only");
    let answer = Tcp {
        flags: FIN | ACK,
        ..request.answer()
    };
    assert_eq!(bench.run_again(&by_l2(answer)).0, TX);
    let closed = bench.told();
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!((closed[0].event, closed[0].flags), (EVENT_CLOSED, 1));
    assert_eq!(u32::from(closed[0].meter), METER);

    let reset = Tcp::request(40_101);
    for flags in [SYN, RST, RST] {
        assert_eq!(bench.run(&later(reset, flags)).0, TX);
    }
    let events: Vec<u8> = bench.told().iter().map(|record| record.event).collect();
    assert_eq!(events, [EVENT_OPENED, EVENT_CLOSED], "once");
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_flow_that_xdp_leaves_to_the_hook_behind_is_told_of_once() {
    let mut bench = Bench::new();
    bench.serve();
    bench.tell(10);
    let request = Tcp::request(40_102);
    let frame = request.received();
    assert_passed(&bench.run(&frame), &frame);
    assert_eq!(bench.run_tc(&frame).0, TC_REDIRECT);
    let told = bench.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].to.dst, addr(TASK.into()));
    let meter = bench.meter();
    assert_eq!((meter.packets, meter.flows), ([1, 0], 1), "counted once");
    // Only tc, where there is no XDP.
    let frame = Tcp::request(40_103).received();
    assert_eq!(bench.run_tc(&frame).0, TC_REDIRECT);
    let told = bench.told();
    assert_eq!((told.len(), told[0].place), (1, SEEN_UPLINK));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn drops_are_told_of_with_their_reason_and_a_flood_of_them_is_counted() {
    let mut bench = Bench::new();
    bench.tell(2);
    let answer = answered(Tcp::request(40_104));
    for _ in 0..5 {
        assert_eq!(bench.run(&answer).0, DROP);
    }
    let told = bench.told();
    assert_eq!(told.len(), 2, "{told:?}");
    let record = told[0];
    assert_eq!(record.event, EVENT_DROPPED);
    assert_eq!(record.reason, Counter::DropNoFlow as u32);
    assert_eq!(bench.lost()[LOST_DROPS as usize], 3);
    // Flows have a budget of their own.
    for port in 0..4 {
        bench.run(&Tcp::request(41_000 + port).received());
    }
    assert_eq!(bench.told().len(), 2);
    assert_eq!(bench.lost()[LOST_FLOWS as usize], 2);
    bench.watch(Watch::default());
    bench.run(&Tcp::request(41_100).received());
    assert_eq!(bench.told(), [], "nothing is to be told");
    assert_eq!(bench.lost()[LOST_FLOWS as usize], 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_service_is_counted_where_its_tasks_are() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_105);
    for flags in [SYN, ACK, ACK] {
        assert_eq!(bench.run_tc(&later(request, flags)).0, TC_REDIRECT);
    }
    let expected = Meter {
        packets: [3, 0],
        bytes: [3 * 46, 0],
        flows: 1,
    };
    assert_eq!(bench.meter(), expected);
    // Nobody is ready any more: who calls is refused.
    bench.put(MAP_LOCAL_BACKENDS, 0_u32, LocalBackends::default());
    assert_eq!(
        bench.run_tc(&Tcp::request(40_106).received()).0,
        TC_REDIRECT
    );
    assert_eq!(bench.metered_drops(Counter::DropNoTask), 1);
    assert_eq!(bench.meter(), expected);
}

/// Captured frames: the record in front of each, and its bytes.
fn captured(bench: &mut Bench, run: impl FnOnce(&mut Bench)) -> Vec<(Record, Vec<u8>)> {
    let map = bench.ebpf.take_map(MAP_CAPTURED).expect("a map");
    let mut events = PerfEventArray::try_from(map).expect("of that type");
    let cpus = aya::util::online_cpus().expect("CPUs");
    let mut buffers: Vec<_> = cpus
        .into_iter()
        .map(|cpu| events.open(cpu, Some(8)).expect("a buffer"))
        .collect();
    run(bench);
    let mut captured = Vec::new();
    for buffer in &mut buffers {
        buffer.for_each(|event| {
            if let PerfEvent::Sample { head, tail } = event {
                let bytes = [head, tail].concat();
                let (record, frame) = bytes.split_at(size_of::<Record>());
                // SAFETY: the programs have written one.
                let record = unsafe { record.as_ptr().cast::<Record>().read_unaligned() };
                captured.push((record, frame.to_vec()));
            }
        });
    }
    captured
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn packets_are_captured_while_the_lease_lasts() {
    let mut bench = Bench::new();
    let capture = Watch {
        capture_until: u64::MAX,
        capture_len: 65_000,
        ..Watch::default()
    };
    let (request, other) = (Tcp::request(40_107), Tcp::request(40_108));
    let answer = answered(Tcp::request(1));
    let captured = captured(&mut bench, |bench| {
        // The lease has ended long ago.
        bench.watch(Watch {
            capture_until: 1,
            ..capture
        });
        bench.run_again(&request.received());
        bench.watch(capture);
        assert_eq!(bench.run(&request.received()).0, TX);
        // Cut short, and of one port alone.
        bench.watch(Watch {
            capture_len: 40,
            capture_port: 40_108_u16.to_be(),
            ..capture
        });
        bench.run(&request.received());
        assert_eq!(bench.run_tc(&other.received()).0, TC_REDIRECT);
        bench.watch(capture);
        assert_eq!(bench.run(&answer).0, DROP);
    });
    let [(xdp, sent), (tc, cut), (dropped, whole)] = &captured[..] else {
        panic!("{captured:?}");
    };
    // As it leaves: in outer headers, which are told of.
    let len = request.received().len();
    assert_eq!(
        (xdp.outer, xdp.frame as usize, xdp.place),
        (50, len + 50, SEEN_XDP)
    );
    let from = mac(addr(NODE.into()));
    let expected = routed(&request.received(), [NODE_MAC, from]);
    assert_eq!(sent[50..][..len], expected);
    // As it came.
    assert_eq!((tc.outer, tc.frame as usize), (0, other.received().len()));
    assert_eq!(cut[..40], other.received()[..40]);
    assert!(cut.len() < 48, "{}", cut.len());
    assert_eq!(dropped.reason, Counter::DropNoFlow as u32);
    assert_eq!(whole[..answer.len()], answer);
}

/// What a packet costs, ns: `cargo test -p skein-dataplane --test uplink_xdp -- --ignored --nocapture cost`.
#[test]
#[ignore = "kernel programs and network namespaces need root; a figure, where nothing else runs"]
fn cost_of_a_packet() {
    const REPEAT: u32 = 200_000;
    const ROUNDS: usize = 7;
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_109);
    let frame = later(request, ACK);
    bench.run(&request.received());
    bench.run(&frame);
    let told = Watch {
        record_cost: 1_000_000,
        record_burst: 1_000_000_000,
        ..Watch::default()
    };
    let capture = Watch {
        capture_until: u64::MAX,
        capture_len: 128,
        ..told
    };
    let unwanted = Watch {
        capture_port: 1,
        ..capture
    };
    let mut medians = Vec::new();
    for (what, watch) in [
        ("nothing is told", Watch::default()),
        ("flows are told", told),
        ("others are captured", unwanted),
        ("it is captured", capture),
    ] {
        bench.watch(watch);
        for (hook, is_xdp) in [("xdp", true), ("tc", false)] {
            let mut rounds: Vec<u32> = (0..ROUNDS)
                .map(|_| bench.repeat(&frame, is_xdp, REPEAT))
                .collect();
            rounds.sort_unstable();
            medians.push(rounds[ROUNDS / 2]);
            println!("{hook}, {what}: {} ns (of {rounds:?})", rounds[ROUNDS / 2]);
        }
    }
    // A packet of a known flow tells nothing: that somebody listens must be next to nothing to it, on any machine.
    let [silent, _, told, ..] = medians[..] else {
        panic!("{medians:?}");
    };
    assert!(silent > 0 && told < 2 * silent, "{medians:?}");
}
