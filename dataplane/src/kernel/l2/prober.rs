//! Asks the kernel who is where, asks the members, and tells the programs: one round after the other.

use super::{
    By, Members, Way, Ways, frame,
    pairs::{PERIOD, Pairs, Round},
    segment::{Apart, Known, Seat, Seats, Surroundings, know},
};
use crate::{
    config::Forwarding,
    kernel::{devices::Devices, programs::Programs, synced::Synced},
};
use anyhow::Context as _;
use aya::maps::{Array, MapData};
use futures::{FutureExt as _, StreamExt as _};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use skein_abi::{
    Addr, addr, from_addr,
    names::{MAP_HEARD, MAP_LEASES, MAP_PEERS, MAP_SENDERS},
    segment::{Heard, Lease, PEER_ANSWERED, Peer, Sender},
};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::MissedTickBehavior};

/// The kernel is asked again so often who is where, though it tells of every change: what it told may be lost.
const RESYNC: Duration = Duration::from_secs(30);
/// Between two looks for changes that the kernel tells of: neighbours change all the time where there are many.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Prober {
    forwarding: Forwarding,
    devices: Devices,
    /// `None`: there is none, and nobody is asked.
    socket: Option<OwnedFd>,
    maps: Maps,
    pairs: Pairs,
    /// All ways to each member, or why there is none; the best one first.
    seats: Seats,
    members: Members,
    ways: Ways,
    /// What was logged last: the same trouble is told of once.
    trouble: Option<String>,
}

impl Prober {
    /// Takes its maps over from the programs, with what an earlier dataplane wrote into them.
    ///
    /// # Errors
    /// A map is missing, of another type, or cannot be read.
    pub fn open(forwarding: Forwarding, programs: &mut Programs) -> anyhow::Result<Self> {
        let maps = Maps::open(programs)?;
        let mut pairs = Pairs::new(forwarding);
        let now = monotonic();
        for (member, peer) in maps.peers.held() {
            let seat = Seat {
                ifindex: peer.ifindex,
                mac: peer.mac,
                own_mac: peer.own_mac,
                mtu: peer.mtu,
            };
            pairs.resume(from_addr(*member), seat, maps.lease(peer.index), now);
        }
        let socket = match forwarding {
            Forwarding::Vxlan => None,
            Forwarding::Auto | Forwarding::L2 => open_socket()
                .inspect_err(|error| {
                    tracing::error!("l2 cannot be tried, and is not used: {error:#}")
                })
                .ok(),
        };
        Ok(Self {
            forwarding,
            // Of its own: the kernel refuses a list while another one is under way on the same socket.
            devices: Devices::open()?,
            socket,
            maps,
            pairs,
            seats: Seats::new(),
            members: Members::default(),
            ways: Ways::new(),
            trouble: None,
        })
    }

    /// Tells the programs who is where, before they see the first packet: one that is forwarded to them
    /// by l2 must not reach the node's own stack.
    ///
    /// # Errors
    /// The kernel does not tell, or refuses.
    pub async fn look(&mut self, members: &Members) -> anyhow::Result<()> {
        let around = Surroundings {
            devices: self.devices.list().await?,
            addresses: self.devices.addresses().await?,
            neighbours: self.devices.neighbours().await?,
        };
        let seats = members.others.iter().map(|member| {
            let seats = match members.own {
                Some(own) => around.seats(own, *member),
                None => Err(Apart::NoSegment),
            };
            (*member, seats)
        });
        self.seats = seats.collect();
        self.members.clone_from(members);
        self.maps.meet(&self.seats, self.forwarding)
    }

    /// Works for ever, and shows the ways to all members.
    ///
    /// # Errors
    /// The kernel no longer tells of its neighbours.
    pub async fn run(
        mut self,
        mut members: watch::Receiver<Members>,
        shown: watch::Sender<Ways>,
    ) -> anyhow::Result<()> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Neigh,
        ];
        let (connection, _handle, mut changes) =
            new_multicast_connection(&groups).context("cannot watch the neighbours")?;
        tokio::spawn(connection);
        let mut rounds = tokio::time::interval(PERIOD);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked, mut has_changed): (Option<Instant>, bool) = (None, true);
        loop {
            rounds.tick().await;
            while let Some(change) = changes.next().now_or_never() {
                change.context(
                    "the kernel no longer tells of its neighbours: its netlink socket is closed",
                )?;
                has_changed = true;
            }
            let wanted = members.borrow_and_update().clone();
            let patience = if has_changed { PAUSE } else { RESYNC };
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= patience);
            let done = if is_due || wanted != self.members {
                let done = self.look(&wanted).await;
                looked = Some(Instant::now());
                has_changed = done.is_err();
                done
            } else {
                Ok(())
            };
            let done = done.and_then(|()| self.round());
            self.tell_trouble(done.err());
            let ways = &self.ways;
            shown.send_if_modified(|shown| {
                let changed = shown != ways;
                shown.clone_from(ways);
                changed
            });
        }
    }

    fn round(&mut self) -> anyhow::Result<()> {
        let best = self.seats.iter().map(|(member, seats)| {
            let best = seats.as_ref().map_err(|apart| *apart);
            // There is one in each list.
            let best = best.and_then(|seats| seats.first().copied().ok_or(Apart::NoMac));
            (*member, best)
        });
        let best: BTreeMap<Ipv4Addr, Result<Seat, Apart>> = best.collect();
        let maps = &self.maps;
        let Round {
            probes,
            mut leases,
            mut ways,
        } = self
            .pairs
            .step(&best, |member| maps.heard(member), monotonic());
        if self.socket.is_none() && self.forwarding != Forwarding::Vxlan {
            for lease in leases.values_mut() {
                *lease = Lease::default();
            }
            for way in ways.values_mut() {
                let reason = "this node cannot send probes: see the log of skein-dataplane";
                *way = Way::vxlan(reason.to_owned());
            }
        }
        self.tell_changes(&ways);
        self.ways = ways;
        let leased = self.maps.lend(&leases);
        let sent = self.send(&probes);
        leased.and(sent)
    }

    fn send(&self, probes: &[(Seat, u16)]) -> anyhow::Result<()> {
        let (Some(socket), Some(own)) = (&self.socket, self.members.own) else {
            return Ok(());
        };
        let mut failed = None;
        for (seat, port) in probes {
            let frame = frame::probe(seat, own, *port, self.members.port);
            if let Err(error) = send(socket, seat.ifindex, &frame) {
                failed = Some((seat.ifindex, error));
            }
        }
        match failed {
            None => Ok(()),
            Some((ifindex, error)) => {
                Err(error).with_context(|| format!("cannot send probes by device {ifindex}"))
            }
        }
    }

    fn tell_changes(&self, ways: &Ways) {
        for (member, way) in ways {
            let before = self.ways.get(member).map_or(By::Vxlan, |way| way.requests);
            match (before, way.requests) {
                (By::Vxlan, By::L2) => {
                    tracing::info!(%member, "requests go by l2: {}", way.reason);
                }
                (By::L2, By::Vxlan) => {
                    tracing::warn!(%member, "requests go in VXLAN again: {}", way.reason);
                }
                _ => {}
            }
        }
    }

    /// What fails is tried again in the next round.
    fn tell_trouble(&mut self, error: Option<anyhow::Error>) {
        let trouble = error.map(|error| format!("{error:#}"));
        if let Some(trouble) = trouble
            .as_ref()
            .filter(|new| self.trouble.as_ref() != Some(new))
        {
            tracing::error!("forwarding by l2: {trouble}");
        }
        self.trouble = trouble;
    }
}

/// What the programs know of members on segments of this node.
struct Maps {
    peers: Synced<Addr, Peer>,
    senders: Synced<Sender, Addr>,
    leases: Array<MapData, Lease>,
    heard: Array<MapData, Heard>,
}

impl Maps {
    fn open(programs: &mut Programs) -> anyhow::Result<Self> {
        let peers = Synced::new(programs.take_map(MAP_PEERS)?);
        let senders = Synced::new(programs.take_map(MAP_SENDERS)?);
        Ok(Self {
            peers: peers.context("cannot read the kernel's map PEERS")?,
            senders: senders.context("cannot read the kernel's map SENDERS")?,
            leases: programs.take_map(MAP_LEASES)?.try_into()?,
            heard: programs.take_map(MAP_HEARD)?.try_into()?,
        })
    }

    /// Makes the programs know exactly these: see [`know`].
    fn meet(&mut self, seats: &Seats, forwarding: Forwarding) -> anyhow::Result<()> {
        let flags = match forwarding {
            Forwarding::Vxlan => 0,
            Forwarding::Auto | Forwarding::L2 => PEER_ANSWERED,
        };
        let Known {
            peers,
            senders,
            fresh,
        } = know(self.peers.held(), self.senders.held(), seats, flags);
        // Nothing is sent by a way that was not tried.
        for index in fresh {
            self.leases.set(index, Lease::default(), 0)?;
            self.heard.set(index, Heard::default(), 0)?;
        }
        let written = self.peers.make(&peers);
        let written = written.context("cannot write the members on this segment into the kernel");
        let known = self.senders.make(&senders);
        written.and(known.context("cannot write the members' MAC addresses into the kernel"))
    }

    fn lend(&mut self, leases: &BTreeMap<Ipv4Addr, Lease>) -> anyhow::Result<()> {
        for (member, lease) in leases {
            let Some(peer) = self.peers.held().get(&addr(*member)) else {
                continue;
            };
            if self.lease(peer.index) != *lease {
                let written = self.leases.set(peer.index, *lease, 0);
                written.context("cannot write into the kernel how long l2 is used")?;
            }
        }
        Ok(())
    }

    /// An index that cannot be read is one that nothing is known of.
    fn lease(&self, index: u32) -> Lease {
        self.leases.get(&index, 0).unwrap_or_default()
    }

    fn heard(&self, member: Ipv4Addr) -> Heard {
        let peer = self.peers.held().get(&addr(member));
        let heard = peer.and_then(|peer| self.heard.get(&peer.index, 0).ok());
        heard.unwrap_or_default()
    }
}

/// The clock that the programs read, ns.
pub fn monotonic() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to `now`, which lives through the call. It has this clock always.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let (seconds, rest) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + rest
}

/// For sending alone: what comes in is the programs'.
fn open_socket() -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Packet, SockType::Raw, flags, None).context(
        "cannot open a packet socket (CONFIG_PACKET, CAP_NET_RAW), by which probes are sent",
    )
}

/// Sends a whole frame by a device.
fn send(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> std::io::Result<()> {
    // SAFETY: plain data, all zero is a value of it.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    to.sll_ifindex = ifindex.cast_signed();
    // SAFETY: frame and address live through the call, which is told their sizes.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    match sent {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
