//! The kernel's WireGuard, told by its generic netlink family (include/uapi/linux/wireguard.h): a device, its key, and
//! its peers. The packets are the kernel's own business.

use super::{
    ends::{Ends, Peer},
    keys::Keys,
};
use crate::kernel::generic::{Family, bytes_of, within};
use anyhow::Context as _;
use netlink_packet_core::{DecodeError, DefaultNla, Emitable as _, Nla as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWED_IPS: u16 = 9;
const PEER_REMOVE: u32 = 1;
const PEER_REPLACE_ALLOWED_IPS: u32 = 2;
const ALLOWED_IP_FAMILY: u16 = 1;
const ALLOWED_IP_ADDRESS: u16 = 2;
const ALLOWED_IP_PREFIX: u16 = 3;
/// The value of an attribute is attributes (include/uapi/linux/netlink.h).
const NESTED: u16 = 1 << 15;
const AF_INET: u16 = 2;
/// Peers in one message: the length of the attribute that they are in has 16 bits, and a peer about 100 bytes.
const PEERS_MAX: usize = 256;

type Key = [u8; 32];

/// The device, as it was told last.
pub struct Interface {
    family: Family,
    ifindex: u32,
    /// By key.
    peers: BTreeMap<Key, (Ipv4Addr, Peer)>,
}

impl Interface {
    /// Gives the device its key and port, and takes over the peers that it has: of those nothing is known but their
    /// keys, so that they are told anew, by which their sessions do not end.
    ///
    /// # Errors
    /// The kernel refuses, or another program has the port.
    pub fn start(ifindex: u32, keys: &Keys, port: u16) -> anyhow::Result<(Self, BTreeSet<Key>)> {
        let family = Family::open("wireguard")?;
        let mut attributes = device(ifindex);
        attributes.push(DefaultNla::new(
            DEVICE_PRIVATE_KEY,
            keys.secret.to_bytes().to_vec(),
        ));
        attributes.push(DefaultNla::new(
            DEVICE_LISTEN_PORT,
            port.to_ne_bytes().to_vec(),
        ));
        family.tell(SET_DEVICE, attributes).with_context(|| {
            format!(
                "the kernel's WireGuard cannot listen on UDP port {port} for encrypted networks: if another \
                 program does, start skein-dataplane with another --wireguard-port"
            )
        })?;
        let listed = family
            .list(GET_DEVICE, device(ifindex))
            .context("cannot list the peers of the kernel's WireGuard")?;
        let mut present = BTreeSet::new();
        for message in &listed {
            present.extend(
                peers_of(&message.attributes).context("the kernel's peers cannot be read")?,
            );
        }
        let interface = Self {
            family,
            ifindex,
            peers: BTreeMap::new(),
        };
        Ok((interface, present))
    }

    /// Has these peers, and no others: neither those told before nor those that were `found`.
    ///
    /// # Errors
    /// The kernel refuses. What it took it has.
    pub fn set_peers(&mut self, ends: &Ends, found: &BTreeSet<Key>) -> anyhow::Result<()> {
        let wanted = ends
            .peers
            .iter()
            .map(|(address, peer)| (peer.key, (*address, *peer)));
        let wanted: BTreeMap<Key, (Ipv4Addr, Peer)> = wanted.collect();
        let known: BTreeSet<Key> = self.peers.keys().chain(found).copied().collect();
        let mut changes: Vec<Vec<DefaultNla>> = Vec::new();
        changes.extend(
            known
                .iter()
                .filter(|key| !wanted.contains_key(*key))
                .map(removed),
        );
        let new = wanted
            .iter()
            .filter(|(key, told)| self.peers.get(*key) != Some(told));
        changes.extend(new.map(|(_, (address, peer))| added(*address, peer)));
        for some in changes.chunks(PEERS_MAX) {
            let mut attributes = device(self.ifindex);
            attributes.push(list(DEVICE_PEERS, some));
            self.family
                .tell(SET_DEVICE, attributes)
                .context("the kernel's WireGuard refuses its peers")?;
        }
        self.peers = wanted;
        Ok(())
    }
}

fn device(ifindex: u32) -> Vec<DefaultNla> {
    vec![DefaultNla::new(
        DEVICE_IFINDEX,
        ifindex.to_ne_bytes().to_vec(),
    )]
}

/// An attribute of attributes.
fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NESTED, value)
}

/// An attribute that is a list: its elements have no kind.
fn list(kind: u16, elements: &[Vec<DefaultNla>]) -> DefaultNla {
    let elements: Vec<_> = elements.iter().map(|of| nested(0, of)).collect();
    nested(kind, &elements)
}

fn flags(flags: u32) -> DefaultNla {
    DefaultNla::new(PEER_FLAGS, flags.to_ne_bytes().to_vec())
}

fn removed(key: &Key) -> Vec<DefaultNla> {
    vec![
        DefaultNla::new(PEER_PUBLIC_KEY, key.to_vec()),
        flags(PEER_REMOVE),
    ]
}

/// A peer that may send from one address alone, and is sent that.
fn added(address: Ipv4Addr, peer: &Peer) -> Vec<DefaultNla> {
    // `struct sockaddr_in`
    let mut endpoint = AF_INET.to_ne_bytes().to_vec();
    endpoint.extend(peer.endpoint.port().to_be_bytes());
    endpoint.extend(peer.endpoint.ip().octets());
    endpoint.extend([0; 8]);
    let allowed = vec![
        DefaultNla::new(ALLOWED_IP_FAMILY, AF_INET.to_ne_bytes().to_vec()),
        DefaultNla::new(ALLOWED_IP_ADDRESS, address.octets().to_vec()),
        DefaultNla::new(ALLOWED_IP_PREFIX, vec![32]),
    ];
    vec![
        DefaultNla::new(PEER_PUBLIC_KEY, peer.key.to_vec()),
        flags(PEER_REPLACE_ALLOWED_IPS),
        DefaultNla::new(PEER_ENDPOINT, endpoint),
        list(PEER_ALLOWED_IPS, &[allowed]),
    ]
}

/// The keys of the peers that a message about a device has.
fn peers_of(attributes: &[DefaultNla]) -> Result<Vec<Key>, DecodeError> {
    let is = |of: &&DefaultNla, kind| of.kind() & !NESTED == kind;
    let mut keys = Vec::new();
    for peers in attributes.iter().filter(|of| is(of, DEVICE_PEERS)) {
        for peer in within(&bytes_of(peers))? {
            let inside = within(&bytes_of(&peer))?;
            let key = inside.iter().find(|of| is(of, PEER_PUBLIC_KEY));
            keys.extend(key.and_then(|key| Key::try_from(bytes_of(key)).ok()));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Peer {
        Peer {
            key: [last; 32],
            endpoint: format!("198.18.0.{last}:4793").parse().unwrap(),
            is_busy: false,
        }
    }

    fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        bytes
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_peer_is_told_as_the_kernel_reads_it() {
        let told = bytes(&added(Ipv4Addr::new(100, 66, 0, 2), &peer(2)));
        let mut expected = vec![36, 0, 1, 0];
        expected.extend([2; 32]);
        expected.extend([8, 0, 3, 0, 2, 0, 0, 0]);
        expected.extend([20, 0, 4, 0, 2, 0, 0x12, 0xb9, 198, 18, 0, 2]);
        expected.extend([0; 8]);
        // A list of one, of three attributes.
        expected.extend([32, 0, 9, 0x80, 28, 0, 0, 0x80]);
        expected.extend([6, 0, 1, 0, 2, 0, 0, 0]);
        expected.extend([8, 0, 2, 0, 100, 66, 0, 2]);
        expected.extend([5, 0, 3, 0, 32, 0, 0, 0]);
        assert_eq!(told, expected);
        let told = bytes(&removed(&[7; 32]));
        assert_eq!(told[..4], [36, 0, 1, 0]);
        assert_eq!(told[36..], [8, 0, 3, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn as_many_peers_as_a_message_has_fit_its_attribute() {
        let one = added(Ipv4Addr::new(100, 66, 0, 2), &peer(2));
        let many = vec![one; PEERS_MAX];
        let told = list(DEVICE_PEERS, &many);
        assert!(
            told.value_len() + 4 <= usize::from(u16::MAX),
            "{}",
            told.value_len()
        );
    }

    #[test]
    fn the_peers_of_a_device_are_read_back() {
        let told: Vec<_> = (2..5)
            .map(|last| added(Ipv4Addr::new(100, 66, 0, last), &peer(last)))
            .collect();
        let mut attributes = device(7);
        attributes.push(list(DEVICE_PEERS, &told));
        let read = within(&bytes(&attributes)).unwrap();
        let keys = peers_of(&read).unwrap();
        assert_eq!(keys, [[2; 32], [3; 32], [4; 32]]);
        assert!(
            peers_of(&within(&bytes(&device(7))).unwrap())
                .unwrap()
                .is_empty()
        );
    }
}
