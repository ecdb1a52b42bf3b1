//! The addresses of one network.

use ipnet::Ipv4Net;
use skein_model::{Network, NetworkAllocation, SubnetAllocation};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Which addresses of a network's ranges are free.
///
/// Addresses are given in order, one range after the other, from the one after the last given, and from the
/// start again at the end: one that is freed rests as long as it can, so that no peer's cache still has it
/// when it gets a new owner.
#[derive(Debug)]
pub(super) struct AddressPool {
    subnets: Vec<SubnetAllocation>,
    name: String,
    taken: BTreeSet<u32>,
    last: u32,
}

impl AddressPool {
    /// A pool in which the gateway, network and broadcast address of each subnet, and auxiliary addresses
    /// are taken.
    pub(super) fn new(network: &Network, allocation: &NetworkAllocation) -> Self {
        let auxiliary = network.spec.ipam.config.iter();
        let auxiliary = auxiliary.flat_map(|config| config.auxiliary_addresses.values().copied());
        let kept = allocation
            .subnets
            .iter()
            .flat_map(|s| [s.gateway, s.subnet.network(), s.subnet.broadcast()]);
        Self {
            subnets: allocation.subnets.clone(),
            name: network.spec.name.clone(),
            taken: auxiliary.chain(kept).map(Ipv4Addr::to_bits).collect(),
            last: 0,
        }
    }

    /// Notes an address that somebody has.
    pub(super) fn take(&mut self, address: Ipv4Addr) {
        self.taken.insert(address.to_bits());
    }

    /// Goes on after `last`; without it, after the highest address that is taken in the first range that
    /// has room after it.
    pub(super) fn start_after(&mut self, last: Option<u32>) {
        let highest = |(first, end): (u32, u32)| self.taken.range(first..end).next_back().copied();
        let has_room = |highest: u32, end| highest + 1 < end || !self.taken.contains(&end);
        let mut spans = self.spans().map(|span| (highest(span), span.1));
        let open = spans.find(|(highest, end)| highest.is_none_or(|h| has_room(h, *end)));
        let highest = open.and_then(|(highest, _)| highest);
        drop(spans);
        self.last = last.or(highest).unwrap_or(0);
    }

    /// The address given last, to start after the next time.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// A certain address, with the prefix of its subnet: any of the subnets that nobody has.
    pub(super) fn fixed(&mut self, address: Ipv4Addr) -> Result<Ipv4Net, String> {
        let Some(found) = self.in_subnet(address) else {
            let (subnets, name) = (self.listed(|s| s.subnet), &self.name);
            return Err(format!(
                "address {address} is not in subnet {subnets} of network {name}"
            ));
        };
        if !self.taken.insert(address.to_bits()) {
            let name = &self.name;
            return Err(format!(
                "address {address} of network {name} is already in use"
            ));
        }
        Ok(found)
    }

    /// The next free address, with the prefix of its subnet.
    pub(super) fn next(&mut self) -> Result<Ipv4Net, String> {
        let found = self.find()?;
        self.last = found.addr().to_bits();
        self.taken.insert(self.last);
        Ok(found)
    }

    /// Which one would be next. Whoever needs one of several pools asks each before it takes any: what is taken
    /// for nothing is missing to others.
    pub(super) fn find(&self) -> Result<Ipv4Net, String> {
        let spans: Vec<_> = self.spans().collect();
        let current = spans
            .iter()
            .position(|(first, end)| (first..=end).contains(&&self.last));
        let free = match current {
            None => self.first_free(spans),
            Some(current) => {
                let (first, end) = spans[current];
                let (before, after) = (&spans[..current], &spans[current + 1..]);
                let rest = (self.last.saturating_add(1), end);
                let order = [&[rest], after, before, &[(first, self.last)]].concat();
                self.first_free(order)
            }
        };
        let found = free.map(Ipv4Addr::from_bits);
        let found = found.and_then(|address| self.in_subnet(address));
        found.ok_or_else(|| {
            format!(
                "could not find an available IP in {} of network {}: remove tasks, or make a network with \
                 a larger subnet",
                self.listed(|s| s.range),
                self.name,
            )
        })
    }

    fn in_subnet(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        let subnet = self.subnets.iter().find(|s| s.subnet.contains(&address))?;
        let length = subnet.subnet.prefix_len();
        Some(Ipv4Net::new_assert(address, length))
    }

    /// First and last address of each range.
    fn spans(&self) -> impl Iterator<Item = (u32, u32)> + use<'_> {
        let ranges = self.subnets.iter().map(|s| s.range);
        ranges.map(|range| (range.network().to_bits(), range.broadcast().to_bits()))
    }

    fn listed(&self, what: impl Fn(&SubnetAllocation) -> Ipv4Net) -> String {
        let all: Vec<_> = self.subnets.iter().map(|s| what(s).to_string()).collect();
        all.join(", ")
    }

    /// The first free address of the first of these spans that has one.
    fn first_free(&self, spans: impl IntoIterator<Item = (u32, u32)>) -> Option<u32> {
        let mut spans = spans.into_iter().filter(|(first, last)| first <= last);
        spans.find_map(|(first, last)| self.first_free_in(first, last))
    }

    /// The first free address from `first` to `last`. Runs of taken addresses are walked in order of
    /// the set, so that a full network of any size costs one pass over what is taken in it.
    fn first_free_in(&self, first: u32, last: u32) -> Option<u32> {
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
        pool_of(&[(subnet, range)])
    }

    fn pool_of(subnets: &[(&str, &str)]) -> AddressPool {
        let subnet = |(subnet, range): &(&str, &str)| SubnetAllocation {
            range: range.parse().unwrap(),
            ..SubnetAllocation::whole(4097, subnet.parse().unwrap())
        };
        let subnets = subnets.iter().map(subnet).collect();
        AddressPool::new(&Network::default(), &NetworkAllocation { subnets })
    }

    #[test]
    fn addresses_come_in_order_and_wrap_around() {
        let mut pool = pool("10.0.1.0/29", "10.0.1.0/29");
        pool.start_after(None);
        let mut given = || pool.next().map(|address| address.addr().octets()[3]);
        let all: Vec<_> = (0..5).map(|_| given().unwrap()).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        assert!(given().unwrap_err().contains("10.0.1.0/29"));
    }

    #[test]
    fn a_freed_address_rests_until_the_others_had_their_turn() {
        let mut pool = pool("10.0.1.0/29", "10.0.1.0/29");
        pool.take("10.0.1.5".parse().unwrap());
        pool.start_after(Some(Ipv4Addr::new(10, 0, 1, 4).to_bits()));
        let given: Vec<_> = (0..4)
            .map(|_| pool.next().unwrap().addr().octets()[3])
            .collect();
        assert_eq!(given, [6, 2, 3, 4]);
    }

    #[test]
    fn subnets_are_filled_one_after_the_other() {
        // The second is the lower one.
        let subnets = [
            ("10.0.9.0/29", "10.0.9.0/29"),
            ("10.0.1.0/28", "10.0.1.8/29"),
        ];
        let mut pool = pool_of(&subnets);
        pool.start_after(None);
        let given: Vec<_> = std::iter::from_fn(|| pool.next().ok()).collect();
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        let first = (2..=6).map(|n| format!("10.0.9.{n}/29"));
        let second = (8..=14).map(|n| format!("10.0.1.{n}/28"));
        assert_eq!(given, first.chain(second).collect::<Vec<_>>());
        let full = pool.next().unwrap_err();
        assert!(full.contains("10.0.9.0/29, 10.0.1.8/29"), "{full}");

        let mut pool = pool_of(&subnets);
        let taken = (2..=5).map(|n| Ipv4Addr::new(10, 0, 9, n));
        taken.for_each(|address| pool.take(address));
        pool.start_after(None);
        assert_eq!(pool.next().unwrap().to_string(), "10.0.9.6/29");
        assert_eq!(pool.next().unwrap().to_string(), "10.0.1.8/28");
        pool.start_after(None);
        assert_eq!(pool.next().unwrap().to_string(), "10.0.1.9/28");
        let fixed = |pool: &mut AddressPool, address: &str| pool.fixed(address.parse().unwrap());
        assert_eq!(
            fixed(&mut pool, "10.0.1.3").unwrap().to_string(),
            "10.0.1.3/28"
        );
        assert!(fixed(&mut pool, "10.0.1.3").unwrap_err().contains("in use"));
        let outside = fixed(&mut pool, "10.0.2.3").unwrap_err();
        assert!(outside.contains("10.0.9.0/29, 10.0.1.0/28"), "{outside}");
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
                prop_assert!(given.insert(address.addr().to_bits()));
            }
            let expected: BTreeSet<_> = (range..range + 64).filter(|a| *a != range + taken).collect();
            prop_assert_eq!(given, expected);
        }
    }
}
