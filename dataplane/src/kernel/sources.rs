//! The ranges of clients in the kernel: a trie of prefixes, each of a service's index and of an address.

use super::synced::Backing;
use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::Ipv4Net;
use skein_abi::{addr, from_addr, ingress::Source};
use std::collections::BTreeMap;

/// A range of clients of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    bits: u32,
    source: Source,
}

impl Range {
    /// Of the service with an index.
    pub fn new(service: u32, range: Ipv4Net) -> Self {
        Self {
            bits: Source::prefix_bits(range.prefix_len()),
            source: Source {
                service,
                addr: addr(range.network()),
            },
        }
    }

    /// The service's index.
    pub fn service(&self) -> u32 {
        self.source.service
    }

    /// The clients.
    pub fn net(&self) -> Ipv4Net {
        let len = self.bits.saturating_sub(Source::prefix_bits(0));
        let len = u8::try_from(len).unwrap_or(u8::MAX);
        let address = from_addr(self.source.addr);
        // What somebody else wrote into the map may be no range.
        Ipv4Net::new(address, len).unwrap_or_else(|_| address.into())
    }

    fn key(&self) -> Key<Source> {
        Key::new(self.bits, self.source)
    }
}

impl Backing<Range, u32> for LpmTrie<MapData, Source, u32> {
    fn entries(&self) -> Result<BTreeMap<Range, u32>, MapError> {
        let range = |key: Key<Source>| Range {
            bits: key.prefix_len(),
            source: key.data(),
        };
        let entries = self.iter();
        entries
            .map(|entry| entry.map(|(key, value)| (range(key), value)))
            .collect()
    }

    fn insert(&mut self, range: &Range, value: &u32) -> Result<(), MapError> {
        LpmTrie::insert(self, &range.key(), value, 0)
    }

    fn remove(&mut self, range: &Range) -> Result<(), MapError> {
        LpmTrie::remove(self, &range.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_is_what_it_was_made_of(service: u32, address: u32, len in 0u8..=32) {
            let net = Ipv4Net::new(address.into(), len).unwrap().trunc();
            let range = Range::new(service, net);
            prop_assert_eq!((range.service(), range.net()), (service, net));
        }
    }
}
