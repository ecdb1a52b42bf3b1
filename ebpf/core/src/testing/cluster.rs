//! Several nodes, and packets on their way between them: what the hooks do with a verdict.

use super::{
    node::Node,
    packets::{ACK, RST, answer_to, as_parsed, error_about, ip},
};
use crate::{
    Action, Packet, Tables as _, Work, from_container, from_host, from_tunnel, path_mtu, settle,
    uplink,
};
use skein_abi::{
    Addr, TCP, UDP, VNI_OVERLAY_MIN, VNI_REPLY,
    flow::Tuple,
    ingress::{MEMBER_UP, Published, PublishedKey},
    overlay::*,
    port,
    segment::Lease,
    verdict::Counter,
};
use std::vec::Vec;

/// The overlay that tasks with published ports have.
pub const INGRESS: u32 = VNI_OVERLAY_MIN;
const INGRESS_NET: Addr = ip(10, 0, 0, 0);
pub const MASK_16: Addr = ip(255, 255, 0, 0);
/// No packet goes on longer than this, or the tests would not end.
const HOPS_MAX: usize = 16;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A container got it.
    Task(Task),
    /// It left this node for whoever it is addressed to.
    Out(usize),
    /// This node's own stack got it on the local pair.
    Host(usize),
    /// This node's own stack got it where it arrived.
    Passed(usize),
    /// A ping that this node answered in place.
    Echo(usize),
    Dropped(usize, Counter),
    /// It was sent to an address that no node has.
    Lost,
}

/// A container's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pub node: usize,
    pub index: u32,
    pub addr: Addr,
}

/// A packet at its end.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    pub end: Fate,
    pub packet: Packet,
    /// How often it went from node to node.
    pub hops: usize,
    /// How often of those by l2.
    pub by_l2: usize,
    /// It is the reset that answers what was sent; this many of `hops` are the reset's.
    pub reset_hops: Option<usize>,
    /// Not 0: it is the message that what was sent is longer than this.
    pub too_big: u32,
    /// What its MSS was limited to on the way; 0: not at all.
    pub mss: u32,
}

impl Journey {
    /// What the container got that it went to.
    #[track_caller]
    pub fn at(&self, task: Task) -> Packet {
        assert_eq!(self.end, Fate::Task(task), "{self:?}");
        self.packet
    }

    /// The container that got it.
    #[track_caller]
    pub fn task(&self) -> Task {
        match self.end {
            Fate::Task(task) => task,
            _ => panic!("no task got it: {self:?}"),
        }
    }

    /// What left the cluster by a node.
    #[track_caller]
    pub fn out_of(&self, node: usize) -> Tuple {
        assert_eq!(self.end, Fate::Out(node), "{self:?}");
        self.packet.tuple
    }

    #[track_caller]
    pub fn at_host(&self, node: usize) -> Tuple {
        assert_eq!(self.end, Fate::Host(node), "{self:?}");
        self.packet.tuple
    }

    /// Whether it came to nothing, for this reason.
    pub fn is_dropped(&self, reason: Counter) -> bool {
        matches!(self.end, Fate::Dropped(_, counter) if counter == reason)
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
}

/// Data path address of a node.
pub const fn node_addr(node: usize) -> Addr {
    ip(198, 18, 0, 1 + node as u8)
}

/// Address of a node in the tunnels of encrypted overlays.
pub const fn secure_addr(node: usize) -> Addr {
    ip(100, 66, 0, 1 + node as u8)
}

/// The host part of gateways.
const GATEWAY: Addr = ip(0, 0, 0, 1);

/// The device of every node on the segment that all share.
pub const SEGMENT: u32 = 2;
/// One on another segment.
pub const OTHER_SEGMENT: u32 = 3;

/// Its MAC address there.
pub const fn mac_of(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, 1 + node as u8]
}

impl Cluster {
    /// Nodes that are all up and members of one another, on one segment. Nobody uses l2.
    pub fn new(nodes: usize) -> Self {
        let mut cluster = Self {
            nodes: (0..nodes).map(|n| Node::new(node_addr(n))).collect(),
        };
        for node in &mut cluster.nodes {
            node.members = (0..nodes).map(|n| (node_addr(n), MEMBER_UP)).collect();
        }
        for (n, node) in cluster.nodes.iter_mut().enumerate() {
            for other in (0..nodes).filter(|other| *other != n) {
                node.meet(n, other, mac_of(other));
            }
        }
        cluster.network(INGRESS, INGRESS_NET, 0);
        cluster
    }

    /// Nodes with one service, 0, on TCP and UDP `published`, and one ready task on each of `at`.
    pub fn serving(nodes: usize, published: u16, target: u16, at: &[usize]) -> (Self, Vec<Task>) {
        let mut cluster = Self::new(nodes);
        cluster.publish(0, published, target);
        let tasks = at.iter().map(|node| cluster.ready_task(*node, 0)).collect();
        cluster.set_tables(0, at);
        (cluster, tasks)
    }

    pub fn publish(&mut self, service: u32, published: u16, target: u16) {
        for node in &mut self.nodes {
            for proto in [TCP, UDP] {
                let key = PublishedKey {
                    port: port(published),
                    proto,
                    pad: 0,
                };
                let value = Published {
                    meter: 0,
                    service,
                    slots: node.tables.get(&(service, false)).map_or(0, Vec::len) as u32,
                    old_slots: node.tables.get(&(service, true)).map_or(0, Vec::len) as u32,
                    target: port(target),
                    flags: 0,
                };
                node.published.insert(key, value);
            }
        }
    }

    /// Puts the same node table on every node.
    pub fn set_tables(&mut self, service: u32, nodes: &[usize]) {
        let table: Vec<Addr> = nodes.iter().map(|node| node_addr(*node)).collect();
        for node in &mut self.nodes {
            node.set_table(service, false, table.clone());
        }
    }

    /// The same of all nodes: see [`Node::set_mode`].
    pub fn set_mode(&mut self, mode: u16) {
        for node in &mut self.nodes {
            node.set_mode(mode);
        }
    }

    /// A /16 that every node has.
    pub fn network(&mut self, vni: u32, net: Addr, flags: u32) {
        for node in &mut self.nodes {
            node.networks.insert(vni, Network { subnets: 0, flags });
        }
        self.subnet(vni, net);
    }

    /// One more /16 of a network.
    pub fn subnet(&mut self, vni: u32, net: Addr) {
        for node in &mut self.nodes {
            let network = node.networks.get_mut(&vni).expect("a network");
            let nth = network.subnets;
            network.subnets += 1;
            let subnet = Subnet {
                net,
                mask: MASK_16,
                gateway: net | GATEWAY,
            };
            node.subnets.insert(SubnetKey { vni, nth }, subnet);
        }
    }

    /// A container at an address of an overlay, known to every node.
    pub fn endpoint(&mut self, at: usize, vni: u32, addr: Addr) -> Task {
        let index = self.nodes[at].endpoints.len() as u32;
        self.nodes[at].endpoints.push(Some(Endpoint {
            ifindex: 100 + index,
            vni,
            addr,
            internal: ip(100, 65, 1, index as u8),
            mask: MASK_16,
            gateway: addr & MASK_16 | GATEWAY,
        }));
        for (n, node) in self.nodes.iter_mut().enumerate() {
            let location = match n == at {
                true => Location {
                    node: 0,
                    endpoint: index,
                },
                false => Location {
                    node: node_addr(at),
                    endpoint: 0,
                },
            };
            node.locations.insert(OverlayKey { vni, addr }, location);
        }
        Task {
            node: at,
            index,
            addr,
        }
    }

    /// All use l2, for ever.
    pub fn use_l2(&mut self) {
        for node in 0..self.nodes.len() {
            for other in 0..self.nodes.len() {
                self.lease(node, other, true, true);
            }
        }
    }

    /// Whether a node uses l2 to another one, for requests and for answers.
    pub fn lease(&mut self, node: usize, other: usize, requests: bool, replies: bool) {
        let until = |is_used| if is_used { u64::MAX } else { 0 };
        let lease = Lease {
            requests_until: until(requests),
            replies_until: until(replies),
        };
        self.nodes[node].leases.insert(other as u32, lease);
    }

    /// A task that takes flows of a service.
    pub fn ready_task(&mut self, at: usize, service: u32) -> Task {
        let nth = self.nodes[at].endpoints.len() as u8;
        let task = self.endpoint(at, INGRESS, ip(10, 0, 1 + at as u8, 1 + nth));
        self.nodes[at]
            .ready
            .entry(service)
            .or_default()
            .push(task.index);
        task
    }

    /// It takes no more new flows.
    pub fn drain(&mut self, task: Task, service: u32) {
        let node = &mut self.nodes[task.node];
        node.ready
            .entry(service)
            .or_default()
            .retain(|index| *index != task.index);
        node.draining.entry(service).or_default().push(task.index);
    }

    /// It is gone.
    pub fn remove(&mut self, task: Task, service: u32) {
        let node = &mut self.nodes[task.node];
        for tasks in [&mut node.ready, &mut node.draining] {
            tasks
                .entry(service)
                .or_default()
                .retain(|index| *index != task.index);
        }
        node.endpoints[task.index as usize] = None;
        for node in &mut self.nodes {
            node.locations.retain(|key, _| key.addr != task.addr);
        }
    }

    pub fn advance(&self, nanoseconds: u64) {
        for node in &self.nodes {
            node.clock.set(node.clock.get() + nanoseconds);
        }
    }

    /// A client's packet comes in by the uplink of a node.
    pub fn send(&self, node: usize, packet: Packet) -> Journey {
        self.send_by_device(node, packet, 0)
    }

    /// The same, by a device with these flags.
    pub fn send_by_device(&self, node: usize, packet: Packet, device: u32) -> Journey {
        let mut work = Work::new(packet);
        uplink(&self.nodes[node], &mut work, SEGMENT, device);
        self.carry(node, work)
    }

    /// A frame from a MAC address of the segment.
    pub fn frame(&self, node: usize, from: [u8; 6], packet: Packet) -> Journey {
        self.frame_by(node, SEGMENT, from, packet)
    }

    /// The same by a device.
    pub fn frame_by(&self, node: usize, ifindex: u32, from: [u8; 6], packet: Packet) -> Journey {
        let macs = [mac_of(node), from];
        self.frame_of(node, ifindex, Packet { macs, ..packet })
    }

    /// The same with any addresses of its frame.
    pub fn frame_of(&self, node: usize, ifindex: u32, packet: Packet) -> Journey {
        let mut work = Work::new(packet);
        uplink(&self.nodes[node], &mut work, ifindex, 0);
        self.carry(node, work)
    }

    /// A node's own stack sends into the local pair.
    pub fn send_from_host(&self, node: usize, packet: Packet) -> Journey {
        let mut work = Work::new(packet);
        from_host(&self.nodes[node], &mut work);
        self.carry(node, work)
    }

    /// A container sends.
    pub fn send_from_task(&self, task: Task, packet: Packet) -> Journey {
        let mut work = Work::new(packet);
        let node = &self.nodes[task.node];
        let endpoint = node.endpoint(task.index).expect("the task is there");
        from_container(node, &mut work, task.index, &endpoint);
        self.carry(task.node, work)
    }

    /// The task that got a packet answers it.
    #[track_caller]
    pub fn answer(&self, got: &Journey, flags: u8) -> Journey {
        self.send_from_task(got.task(), answer_to(&got.packet, flags))
    }

    /// A packet arrives by VXLAN, with the outer source `remote` and the inner source `mac(entry)`.
    pub fn tunnel(
        &self,
        node: usize,
        vni: u32,
        remote: Addr,
        entry: Addr,
        packet: Packet,
    ) -> Journey {
        let mut work = Work::new(packet);
        from_tunnel(&self.nodes[node], &mut work, vni, remote, entry);
        self.carry(node, work)
    }

    /// The same, by the secure device: decrypted.
    pub fn secure_tunnel(&self, node: usize, vni: u32, remote: Addr, packet: Packet) -> Journey {
        let mut work = Work::new(packet);
        work.secure = 1;
        from_tunnel(&self.nodes[node], &mut work, vni, remote, 0);
        self.carry(node, work)
    }

    /// Carries verdicts out until the packet is at its end.
    fn carry(&self, mut at: usize, mut work: Work) -> Journey {
        let (mut hops, mut by_l2, mut reset_hops) = (0, 0, None);
        let (mut too_big, mut mss) = (0, 0);
        loop {
            let node = &self.nodes[at];
            settle(node, &mut work);
            if work.verdict.action == Action::Out && work.packet.exceeds(node.out_mtu) {
                path_mtu::too_big(node, &mut work, node.out_mtu.into());
            }
            let verdict = work.verdict;
            let mut packet = work.packet;
            if verdict.too_big != 0 {
                too_big = verdict.too_big;
                packet = error_about(&packet.tuple, verdict.to.src);
                assert_eq!(verdict.to.dst, packet.tuple.dst);
            } else {
                if packet.sender == packet.tuple.src {
                    packet.sender = verdict.to.src;
                }
                packet.tuple = verdict.to;
            }
            if verdict.mss != 0 {
                mss = verdict.mss;
            }
            if verdict.reset != 0 {
                assert!(packet.tuple.proto == TCP, "only TCP has resets");
                packet.tcp_flags = RST | ACK;
                reset_hops = Some(0);
            }
            let is_hop = matches!(verdict.action, Action::Tunnel | Action::Segment);
            if is_hop {
                hops += 1;
                assert!(hops <= HOPS_MAX, "the packet goes round: {packet:?}");
                reset_hops = reset_hops.map(|hops| hops + 1);
            }
            let end = match verdict.action {
                Action::Segment => {
                    by_l2 += 1;
                    let next = work.peer.mac[5] as usize - 1;
                    packet.macs = [work.peer.mac, work.peer.own_mac];
                    work = Work::new(as_parsed(&packet));
                    uplink(&self.nodes[next], &mut work, SEGMENT, 0);
                    at = next;
                    continue;
                }
                Action::Tunnel => {
                    let count = 0..self.nodes.len();
                    let clear = count.clone().find(|n| node_addr(*n) == verdict.node);
                    let secure = count.clone().find(|n| secure_addr(*n) == verdict.node);
                    // The kernel routes the latter by the secure device, and so has that one's source.
                    let remote = match secure {
                        Some(_) => secure_addr(at),
                        None => node_addr(at),
                    };
                    match clear.or(secure) {
                        Some(next) => {
                            let node = &self.nodes[next];
                            work = Work::new(as_parsed(&packet));
                            work.secure = u32::from(secure.is_some());
                            from_tunnel(node, &mut work, verdict.vni, remote, verdict.entry);
                            at = next;
                            continue;
                        }
                        None => Fate::Lost,
                    }
                }
                Action::Endpoint => {
                    let endpoint = self.nodes[at].endpoint(verdict.endpoint);
                    Fate::Task(Task {
                        node: at,
                        index: verdict.endpoint,
                        addr: endpoint
                            .expect("verdicts name endpoints that are there")
                            .addr,
                    })
                }
                Action::Out => Fate::Out(at),
                Action::Host => Fate::Host(at),
                Action::Pass => Fate::Passed(at),
                Action::Echo => Fate::Echo(at),
                Action::Drop => Fate::Dropped(at, Counter::ALL[verdict.reason as usize]),
                half => panic!("half a decision: {half:?}"),
            };
            return Journey {
                end,
                packet,
                hops,
                by_l2,
                reset_hops,
                too_big,
                mss,
            };
        }
    }
}

/// What a node that has no flow of it makes of a finished reply.
pub fn forged_reply(cluster: &Cluster, to: usize, from: usize, packet: Packet) -> Journey {
    cluster.tunnel(to, VNI_REPLY, node_addr(from), 0, packet)
}
