//! The addresses of this node that ports are bound to, as services ask for them. Pure.

use ipnet::Ipv4Net;
use skein_proto::network::Offer;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// An address of this node, and the device that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// Name of the device.
    pub device: String,
    /// The address.
    pub address: Ipv4Addr,
}

/// What a published port is bound to; `None`: to nothing, it is at every address of the node.
pub(super) fn of_port(offer: &Offer, published: u32) -> Option<&[String]> {
    let of = |port| offer.binds.iter().find(|bind| bind.port == port);
    let bind = of(published).or_else(|| of(0))?;
    Some(&bind.to)
}

/// Those of the node's addresses that are meant, by range or by device. What it does not have now it may get;
/// what is neither range nor device is none of its.
pub(super) fn addresses(to: &[String], present: &BTreeSet<HostAddress>) -> BTreeSet<Ipv4Addr> {
    let mut meant = BTreeSet::new();
    for to in to {
        match to.parse::<Ipv4Net>() {
            // All of 127.0.0.0/8 is the node's own, without being noted anywhere.
            Ok(range) if range.addr().is_loopback() && range.prefix_len() == 32 => {
                meant.insert(range.addr());
            }
            Ok(range) => {
                let present = present.iter().map(|present| present.address);
                let loopback = std::iter::once(Ipv4Addr::LOCALHOST);
                let of_range = present
                    .chain(loopback)
                    .filter(|address| range.contains(address));
                meant.extend(of_range);
            }
            Err(_) => {
                let of_device = present.iter().filter(|present| present.device == *to);
                meant.extend(of_device.map(|present| present.address));
            }
        }
    }
    meant
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::Bind;

    fn bind(port: u32, to: &[&str]) -> Bind {
        let to = to.iter().map(|to| (*to).to_owned()).collect();
        Bind { port, to }
    }

    #[test]
    fn a_port_has_its_own_bind_before_that_of_all() {
        let mut offer = Offer::default();
        assert_eq!(of_port(&offer, 80), None);
        offer.binds = vec![bind(0, &["eth0"]), bind(80, &["eth1"])];
        assert_eq!(of_port(&offer, 80), Some(&["eth1".to_owned()][..]));
        assert_eq!(of_port(&offer, 81), Some(&["eth0".to_owned()][..]));
        offer.binds.remove(0);
        assert_eq!(of_port(&offer, 81), None);
    }

    #[test]
    fn ports_are_at_what_is_meant_and_at_nothing_else() {
        let present = |(device, address): (&str, &str)| HostAddress {
            device: device.into(),
            address: address.parse().unwrap(),
        };
        let present: BTreeSet<HostAddress> = [
            ("eth0", "198.18.0.1"),
            ("eth0", "198.18.9.9"),
            ("eth1", "10.0.0.1"),
        ]
        .map(present)
        .into();
        for (to, expected) in [
            (&["eth0"][..], &["198.18.0.1", "198.18.9.9"][..]),
            (&["eth2"], &[]),
            (
                &["10.0.0.0/8", "198.18.0.1/32"],
                &["10.0.0.1", "198.18.0.1"],
            ),
            (&["192.0.2.1/32"], &[]),
            (&["127.0.0.1/32"], &["127.0.0.1"]),
            (&["127.0.0.5/32"], &["127.0.0.5"]),
            (
                &["0.0.0.0/0"],
                &["10.0.0.1", "127.0.0.1", "198.18.0.1", "198.18.9.9"],
            ),
        ] {
            let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
            let expected = expected.iter().map(|address| address.parse().unwrap());
            assert_eq!(addresses(&to, &present), expected.collect(), "{to:?}");
        }
    }
}
