//! Which node takes which flow: one table per service, the same on every node.
//!
//! Maglev (Eisenbud et al., NSDI 2016, section 3.4), weighted: a node with twice the ready tasks gets
//! twice the slots, and a change of one node moves few of the others' slots.

use skein_abi::{Addr, limits::NODE_TABLE_SLOTS_MAX};

/// Table sizes: primes, so that every stride visits every slot; each about four times the last, so
/// that a cluster that grows seldom changes size.
const SIZES: [u32; 6] = [251, 1_021, 4_093, 8_191, 16_381, NODE_TABLE_SLOTS_MAX];
/// Slots per node: keeps shares within about 1 % of what they should be.
const SLOTS_PER_NODE: usize = 100;

/// The slots of a service whose ready tasks are on `nodes` (with how many), in any order.
///
/// No node: no slot. One node: one slot.
pub fn table(nodes: &[(Addr, u32)]) -> Vec<Addr> {
    let mut nodes: Vec<_> = nodes.iter().filter(|(_, weight)| *weight > 0).collect();
    nodes.sort_unstable();
    let &[(first, _), ref others @ ..] = &nodes[..] else {
        return Vec::new();
    };
    if others.is_empty() {
        return vec![*first];
    }
    let wanted = nodes.len() * SLOTS_PER_NODE;
    let size = SIZES.into_iter().find(|size| *size as usize >= wanted);
    let size = size.unwrap_or(NODE_TABLE_SLOTS_MAX);
    let heaviest = nodes.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    let mut turns: Vec<Turn> = nodes
        .iter()
        .map(|(addr, weight)| Turn::new(*addr, *weight, size))
        .collect();
    let mut slots = vec![0; size as usize];
    let mut filled = 0;
    loop {
        for turn in &mut turns {
            turn.credit += u64::from(turn.weight);
            if turn.credit < u64::from(heaviest) {
                continue;
            }
            turn.credit -= u64::from(heaviest);
            while slots[turn.slot as usize] != 0 {
                turn.advance(size);
            }
            slots[turn.slot as usize] = turn.addr;
            filled += 1;
            if filled == size {
                return slots;
            }
        }
    }
}

/// A node's walk through the table.
struct Turn {
    addr: Addr,
    weight: u32,
    credit: u64,
    slot: u32,
    stride: u32,
}

impl Turn {
    fn new(addr: Addr, weight: u32, size: u32) -> Self {
        let hash = spread(addr);
        Self {
            addr,
            weight,
            credit: 0,
            slot: (hash >> 32) as u32 % size,
            stride: hash as u32 % (size - 1) + 1,
        }
    }

    fn advance(&mut self, size: u32) {
        self.slot = (self.slot + self.stride) % size;
    }
}

/// Two independent numbers of an address (the finalizer of splitmix64). Of its value, not of its
/// bytes in memory: the same on every machine.
fn spread(addr: Addr) -> u64 {
    let mut x = u64::from(u32::from_be(addr)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(slots: &[Addr], node: Addr) -> f64 {
        let own = slots.iter().filter(|slot| **slot == node).count();
        own as f64 / slots.len() as f64
    }

    fn nodes() -> impl Strategy<Value = Vec<(Addr, u32)>> {
        proptest::collection::btree_map(1..u32::MAX, 1..20_u32, 2..20)
            .prop_map(|nodes| nodes.into_iter().collect())
    }

    #[test]
    fn few_nodes_need_few_slots() {
        assert!(table(&[]).is_empty());
        assert!(table(&[(7, 0)]).is_empty());
        assert_eq!(table(&[(7, 3), (8, 0)]), [7]);
        assert_eq!(table(&[(7, 3), (8, 1)]).len(), 251);
    }

    proptest! {
        #[test]
        fn shares_follow_weights_whatever_the_order(mut nodes in nodes()) {
            let slots = table(&nodes);
            let total: u32 = nodes.iter().map(|(_, weight)| weight).sum();
            for (node, weight) in &nodes {
                let wanted = f64::from(*weight) / f64::from(total);
                prop_assert!((share(&slots, *node) - wanted).abs() < 0.02);
            }
            nodes.reverse();
            prop_assert_eq!(table(&nodes), slots);
        }

        #[test]
        fn a_node_that_goes_moves_few_slots_of_the_others(nodes in nodes(), gone: prop::sample::Index) {
            let gone = gone.get(&nodes).0;
            let rest: Vec<_> = nodes.iter().copied().filter(|(node, _)| *node != gone).collect();
            let (before, after) = (table(&nodes), table(&rest));
            if before.len() != after.len() {
                return Ok(());
            }
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
            prop_assert!((moved as f64) < 0.35 * before.len() as f64, "{moved} of {}", before.len());
        }
    }
}
