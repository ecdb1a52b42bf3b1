//! Which members share a segment with this node, and by which MAC address. Pure.

use crate::kernel::devices::{Address, Device, Neighbour};
use skein_abi::{
    Addr, addr,
    limits::NODES_MAX,
    segment::{Peer, Sender},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What the kernel tells of the host.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// By index.
    pub devices: BTreeMap<u32, Device>,
    /// Its own addresses.
    pub addresses: Vec<Address>,
    /// Whose MAC addresses it knows.
    pub neighbours: Vec<Neighbour>,
}

/// The way to a member on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The device by which it is reached.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The device's.
    pub own_mac: [u8; 6],
    /// Largest IP packet that the device carries, bytes.
    pub mtu: u16,
}

impl Seat {
    /// What the programs know it by.
    pub const fn peer(&self, index: u32, flags: u16) -> Peer {
        Peer {
            mac: self.mac,
            own_mac: self.own_mac,
            ifindex: self.ifindex,
            index,
            mtu: self.mtu,
            flags,
        }
    }

    /// Whether the programs know it so.
    pub fn is(&self, peer: &Peer) -> bool {
        self.peer(peer.index, peer.flags) == *peer
    }

    const fn sender(&self) -> Sender {
        Sender {
            ifindex: self.ifindex,
            to: self.own_mac,
            from: self.mac,
        }
    }
}

/// Why a member has no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// No device of this node has an address of the member's subnet.
    NoSegment,
    /// One has, but the member's MAC address is not known.
    NoMac,
}

impl Surroundings {
    /// All ways to a member on segments of this node; first the best one, by the device that has the address
    /// `own`.
    ///
    /// # Errors
    /// There is none.
    pub fn seats(&self, own: Ipv4Addr, member: Ipv4Addr) -> Result<Vec<Seat>, Apart> {
        let mut shared: Vec<(bool, u32)> = Vec::new();
        for address in &self.addresses {
            let is_shared = address.has_in_subnet(member)
                && self
                    .devices
                    .get(&address.ifindex)
                    .is_some_and(|device| device.is_uplink() && !device.is_engine_bridge());
            if is_shared {
                shared.push((address.address != own, address.ifindex));
            }
        }
        if shared.is_empty() {
            return Err(Apart::NoSegment);
        }
        shared.sort_unstable();
        let mut seats: Vec<Seat> = Vec::new();
        for (_, ifindex) in shared {
            let seat = self.seat(ifindex, member);
            // A device may have several addresses of the subnet.
            seats.extend(
                seat.filter(|seat| seats.iter().all(|other| other.ifindex != seat.ifindex)),
            );
        }
        match seats.is_empty() {
            true => Err(Apart::NoMac),
            false => Ok(seats),
        }
    }

    fn seat(&self, ifindex: u32, member: Ipv4Addr) -> Option<Seat> {
        let device = self.devices.get(&ifindex)?;
        let is_it =
            |neighbour: &&Neighbour| neighbour.ifindex == ifindex && neighbour.address == member;
        Some(Seat {
            ifindex,
            mac: self.neighbours.iter().find(is_it)?.mac,
            own_mac: device.mac?,
            mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX),
        })
    }
}

/// All ways to each member, or why there is none; the best one first.
pub type Seats = BTreeMap<Ipv4Addr, Result<Vec<Seat>, Apart>>;

/// What the programs are to know of members on segments of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// By whom packets go.
    pub peers: BTreeMap<Addr, Peer>,
    /// Whom frames come from: by every way to every member. A MAC address that two claim is the first one's.
    pub senders: BTreeMap<Sender, Addr>,
    /// Indices of peers by ways that nothing is known of.
    pub fresh: Vec<u32>,
}

/// What the programs are to know, where they know something already. Whoever has no seat now stays known by the
/// one it had: it may send still, though nothing is sent to it.
pub fn know(
    peers: &BTreeMap<Addr, Peer>,
    senders: &BTreeMap<Sender, Addr>,
    seats: &Seats,
    flags: u16,
) -> Known {
    let mut used: BTreeSet<u32> = peers.values().map(|peer| peer.index).collect();
    let mut known = Known::default();
    for (member, seats) in seats {
        let member = addr(*member);
        let before = peers.get(&member);
        let Ok(seats) = seats else {
            if let Some(before) = before {
                known.peers.insert(member, Peer { flags, ..*before });
                let of_member = senders.iter().filter(|(_, known)| **known == member);
                known
                    .senders
                    .extend(of_member.map(|(sender, _)| (*sender, member)));
            }
            continue;
        };
        for seat in seats {
            known.senders.entry(seat.sender()).or_insert(member);
        }
        let free = || (0..NODES_MAX).find(|index| !used.contains(index));
        // There are as many indices as members.
        let (Some(best), Some(index)) =
            (seats.first(), before.map(|peer| peer.index).or_else(free))
        else {
            continue;
        };
        if !before.is_some_and(|before| best.is(before)) {
            known.fresh.push(index);
        }
        used.insert(index);
        known.peers.insert(member, best.peer(index, flags));
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    const MEMBER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn device(ifindex: u32, name: &str) -> (u32, Device) {
        let device = Device {
            ifindex,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 1, ifindex as u8]),
            mtu: 1_500,
            is_ethernet: true,
            is_port: false,
            is_bridge: name.starts_with("docker"),
            is_veth: false,
            is_wireguard: false,
            xdp_program: None,
        };
        (ifindex, device)
    }

    fn address(address: Ipv4Addr, prefix: u8, ifindex: u32) -> Address {
        Address {
            address,
            prefix,
            ifindex,
        }
    }

    fn neighbour(ifindex: u32) -> Neighbour {
        Neighbour {
            ifindex,
            address: MEMBER,
            mac: MAC,
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            devices: [device(2, "eth0"), device(3, "eth1"), device(4, "docker0")].into(),
            addresses: vec![address(OWN, 24, 2)],
            neighbours: vec![neighbour(2)],
        }
    }

    #[test]
    fn who_is_in_the_subnet_of_an_uplink_and_has_a_mac_address_shares_its_segment() {
        let around = surroundings();
        let seats = around.seats(OWN, MEMBER).expect("it is there");
        let [seat] = seats[..] else {
            panic!("{seats:?}");
        };
        assert_eq!((seat.ifindex, seat.mac), (2, MAC));
        assert_eq!(seat.own_mac, [2, 0, 0, 0, 1, 2]);
        assert!(seat.is(&seat.peer(7, 1)));
        assert!(!seat.is(&Peer {
            mtu: 9_000,
            ..seat.peer(7, 1)
        }));
    }

    #[test]
    fn who_is_elsewhere_does_not() {
        let mut around = surroundings();
        assert_eq!(
            around.seats(OWN, Ipv4Addr::new(203, 0, 113, 1)),
            Err(Apart::NoSegment)
        );
        around.addresses[0].prefix = 32;
        assert_eq!(around.seats(OWN, MEMBER), Err(Apart::NoSegment));
        // A container could claim the address there.
        around.addresses = vec![address(OWN, 24, 4)];
        around.neighbours = vec![neighbour(4)];
        assert_eq!(around.seats(OWN, MEMBER), Err(Apart::NoSegment));
        let mut around = surroundings();
        around.neighbours = vec![neighbour(3)];
        assert_eq!(around.seats(OWN, MEMBER), Err(Apart::NoMac));
    }

    #[test]
    fn the_device_with_the_nodes_address_is_sent_by_and_others_are_listened_to() {
        let mut around = surroundings();
        let second = Ipv4Addr::new(198, 18, 0, 9);
        around.addresses = vec![
            address(second, 24, 2),
            address(OWN, 24, 3),
            address(second, 16, 3),
        ];
        around.neighbours = vec![neighbour(2), neighbour(3)];
        let seats = around.seats(OWN, MEMBER).expect("it is there");
        let order: Vec<u32> = seats.iter().map(|seat| seat.ifindex).collect();
        assert_eq!(order, [3, 2]);
        let known = know(
            &BTreeMap::new(),
            &BTreeMap::new(),
            &[(MEMBER, Ok(seats))].into(),
            0,
        );
        assert_eq!(known.peers[&addr(MEMBER)].ifindex, 3);
        assert_eq!(known.senders.len(), 2);
        assert!(known.senders.values().all(|member| *member == addr(MEMBER)));
    }

    #[test]
    fn who_moves_is_tried_anew_and_who_is_lost_is_listened_to() {
        let other = Ipv4Addr::new(198, 18, 0, 3);
        let seat = |last: u8| Seat {
            ifindex: 2,
            mac: [2, 0, 0, 0, 0, last],
            own_mac: [2, 0, 0, 0, 1, 2],
            mtu: 1_500,
        };
        let step = |before: &Known, seats: Seats| know(&before.peers, &before.senders, &seats, 1);
        let [lost, gone] = [Apart::NoMac, Apart::NoSegment];
        let seats = |member, other_one| [(MEMBER, member), (other, other_one)].into();
        let first = step(
            &Known::default(),
            seats(Ok(vec![seat(2)]), Ok(vec![seat(3)])),
        );
        assert_eq!(first.fresh, [0, 1]);
        let same = step(&first, seats(Ok(vec![seat(2)]), Ok(vec![seat(3)])));
        let Known { fresh, .. } = &same;
        assert!(fresh.is_empty());
        assert_eq!((&same.peers, &same.senders), (&first.peers, &first.senders));

        let moved = step(&first, seats(Ok(vec![seat(4)]), Err(lost)));
        assert_eq!(moved.fresh, [0]);
        assert_eq!(moved.peers[&addr(MEMBER)].mac, seat(4).mac);
        assert_eq!(moved.peers[&addr(other)], first.peers[&addr(other)]);
        let senders: Vec<Addr> = moved.senders.values().copied().collect();
        assert_eq!(
            senders,
            [addr(other), addr(MEMBER)],
            "the old address is nobody's"
        );

        let left = step(&moved, [(other, Err(gone))].into());
        assert_eq!(left.peers.len(), 1);
        assert_eq!(left.senders.len(), 1);
        let joined = step(&left, seats(Ok(vec![seat(5)]), Err(gone)));
        assert_eq!(joined.fresh, [0], "the index that was given back");
    }
}
