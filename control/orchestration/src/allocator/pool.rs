//! The addresses of one network.

use skein_model::{Network, NetworkAllocation};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Which addresses of a network's range are free.
///
/// Addresses are given in order, from the one after the last given, and from the start again at the
/// end: one that is freed rests as long as it can, so that no peer's cache still has it when it gets
/// a new owner.
#[derive(Debug)]
pub(super) struct AddressPool {
    allocation: NetworkAllocation,
    name: String,
    taken: BTreeSet<u32>,
    last: u32,
}

impl AddressPool {
    /// A pool whose gateway, network and broadcast address, and auxiliary addresses are taken.
    pub(super) fn new(network: &Network, allocation: NetworkAllocation) -> Self {
        let subnet = allocation.subnet;
        let auxiliary = network.spec.ipam.config.iter();
        let taken = auxiliary
            .flat_map(|config| config.auxiliary_addresses.values())
            .chain([&allocation.gateway, &subnet.network(), &subnet.broadcast()])
            .map(|address| address.to_bits())
            .collect();
        Self {
            allocation,
            name: network.spec.name.clone(),
            taken,
            last: 0,
        }
    }

    /// Notes an address that somebody has.
    pub(super) fn take(&mut self, address: Ipv4Addr) {
        self.taken.insert(address.to_bits());
    }

    /// Goes on after `last`; without it, after the highest address that is taken.
    pub(super) fn start_after(&mut self, last: Option<u32>) {
        let (_, end) = self.bounds();
        let highest = self.taken.range(..end).next_back().copied();
        self.last = last.or(highest).unwrap_or(0);
    }

    /// The address given last, to start after the next time.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// A certain address: any of the subnet that nobody has.
    pub(super) fn fixed(&mut self, address: Ipv4Addr) -> Result<Ipv4Addr, String> {
        let (subnet, name) = (self.allocation.subnet, &self.name);
        if !subnet.contains(&address) {
            return Err(format!(
                "address {address} is not in subnet {subnet} of network {name}"
            ));
        }
        if !self.taken.insert(address.to_bits()) {
            return Err(format!(
                "address {address} of network {name} is already in use"
            ));
        }
        Ok(address)
    }

    /// The next free address.
    pub(super) fn next(&mut self) -> Result<Ipv4Addr, String> {
        let (first, end) = self.bounds();
        let start = match self.last.checked_add(1) {
            Some(next) if (first..=end).contains(&next) => next,
            _ => first,
        };
        let address = self
            .first_free(start, end)
            .or_else(|| self.first_free(first, start))
            .ok_or_else(|| {
                format!(
                    "could not find an available IP in {} of network {}: remove tasks, or make a \
                     network with a larger subnet",
                    self.allocation.range, self.name,
                )
            })?;
        self.taken.insert(address);
        self.last = address;
        Ok(Ipv4Addr::from_bits(address))
    }

    fn bounds(&self) -> (u32, u32) {
        let range = self.allocation.range;
        (range.network().to_bits(), range.broadcast().to_bits())
    }

    /// The first free address from `first` to `last`. Runs of taken addresses are walked in order of
    /// the set, so that a full network of any size costs one pass over what is taken in it.
    fn first_free(&self, first: u32, last: u32) -> Option<u32> {
        let mut candidate = first;
        for taken in self.taken.range(first..=last) {
            if *taken > candidate {
                break;
            }
            candidate = taken.checked_add(1)?;
        }
        (candidate <= last).then_some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(subnet: &str, range: &str) -> AddressPool {
        let subnet: ipnet::Ipv4Net = subnet.parse().unwrap();
        let allocation = NetworkAllocation {
            vni: 4097,
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            range: range.parse().unwrap(),
        };
        AddressPool::new(&Network::default(), allocation)
    }

    #[test]
    fn addresses_come_in_order_and_wrap_around() {
        let mut pool = pool("10.0.1.0/29", "10.0.1.0/29");
        pool.start_after(None);
        let mut given = || pool.next().map(|address| address.octets()[3]);
        let all: Vec<_> = (0..5).map(|_| given().unwrap()).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        assert!(given().unwrap_err().contains("10.0.1.0/29"));
    }

    #[test]
    fn a_freed_address_rests_until_the_others_had_their_turn() {
        let mut pool = pool("10.0.1.0/29", "10.0.1.0/29");
        pool.take("10.0.1.5".parse().unwrap());
        pool.start_after(Some(Ipv4Addr::new(10, 0, 1, 4).to_bits()));
        let given: Vec<_> = (0..4).map(|_| pool.next().unwrap().octets()[3]).collect();
        assert_eq!(given, [6, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn every_address_of_the_range_is_given_once(start in 0u32..300, taken in 0u32..64) {
            let mut pool = pool("10.0.1.0/24", "10.0.1.64/26");
            let range = Ipv4Addr::new(10, 0, 1, 64).to_bits();
            pool.take(Ipv4Addr::from_bits(range + taken));
            pool.start_after(Some(Ipv4Addr::new(10, 0, 1, 0).to_bits() + start));
            let mut given = BTreeSet::new();
            while let Ok(address) = pool.next() {
                prop_assert!(given.insert(address.to_bits()));
            }
            let expected: BTreeSet<_> = (range..range + 64).filter(|a| *a != range + taken).collect();
            prop_assert_eq!(given, expected);
        }
    }
}
