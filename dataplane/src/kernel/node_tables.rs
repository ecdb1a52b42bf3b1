//! The node tables of services: `NODE_TABLES`, and `OLD_TABLES` with what was there before.

use super::maglev;
use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use skein_abi::Addr;
use std::collections::BTreeMap;

type Table = Array<MapData, u32>;
type Tables = ArrayOfMaps<MapData, Table>;

/// BPF_F_INNER_MAP: tables of different sizes may stand in one array of maps.
const INNER_MAP: u32 = 1 << 12;

/// See the module.
pub struct NodeTables {
    current: Tables,
    previous: Tables,
    held: BTreeMap<u32, Held>,
}

/// What is in the kernel for one service.
#[derive(Clone, Debug, Default)]
struct Held {
    nodes: Vec<(Addr, u32)>,
    slots: Vec<Addr>,
    old_slots: Vec<Addr>,
}

/// How many slots a service's tables have: what `PUBLISHED` says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// In the current table.
    pub current: u32,
    /// In the previous one.
    pub previous: u32,
}

impl NodeTables {
    /// Takes over both maps.
    ///
    /// # Errors
    /// They are not arrays of maps.
    pub fn new(current: Map, previous: Map) -> Result<Self, MapError> {
        Ok(Self {
            current: current.try_into()?,
            previous: previous.try_into()?,
            held: BTreeMap::new(),
        })
    }

    /// The size of the tables that a service will have with these nodes, without writing them. Readers
    /// must never see a size above that of the table: announce a smaller size before [`Self::write`],
    /// a larger one after it.
    pub fn upcoming(&self, service: u32, nodes: &[(Addr, u32)]) -> Slots {
        match self.held.get(&service) {
            Some(held) => held.after(nodes).as_ref().unwrap_or(held).sizes(),
            None => Slots {
                current: maglev::table(nodes).len() as u32,
                previous: 0,
            },
        }
    }

    /// The nodes that a service's table leads to, and how many tasks each has.
    pub fn nodes(&self, service: u32) -> &[(Addr, u32)] {
        let held = self.held.get(&service);
        held.map_or(&[], |held| &held.nodes)
    }

    /// Writes a service's table; what was there becomes the previous one.
    ///
    /// # Errors
    /// The kernel refuses a new map.
    pub fn write(&mut self, service: u32, nodes: &[(Addr, u32)]) -> Result<(), MapError> {
        let held = self.held.entry(service).or_default();
        let Some(next) = held.after(nodes) else {
            return Ok(());
        };
        if !next.old_slots.is_empty() {
            set(&mut self.previous, service, &next.old_slots)?;
        }
        if !next.slots.is_empty() {
            set(&mut self.current, service, &next.slots)?;
        }
        *held = next;
        Ok(())
    }

    /// Forgets services that are gone. Their maps stay until their index is given again: nothing
    /// leads to them.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.held.retain(|service, _| keep(*service));
    }
}

impl Held {
    /// What must be there for these nodes; `None`: it is there. Equal nodes never push the previous
    /// table out, not even where there are none and the table is empty.
    fn after(&self, nodes: &[(Addr, u32)]) -> Option<Self> {
        (self.nodes != nodes).then(|| Self {
            nodes: nodes.to_vec(),
            slots: maglev::table(nodes),
            old_slots: self.slots.clone(),
        })
    }

    fn sizes(&self) -> Slots {
        Slots {
            current: self.slots.len() as u32,
            previous: self.old_slots.len() as u32,
        }
    }
}

fn set(tables: &mut Tables, service: u32, slots: &[Addr]) -> Result<(), MapError> {
    let mut table = Table::create(slots.len() as u32, INNER_MAP)?;
    for (slot, node) in slots.iter().enumerate() {
        table.set(slot as u32, node, 0)?;
    }
    tables.set(service, &table, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_previous_table_stays_until_the_nodes_change() {
        let nodes = [(1, 1), (2, 1)];
        let first = Held::default().after(&nodes).unwrap();
        assert!(first.old_slots.is_empty());
        assert!(first.after(&nodes).is_none());
        let none_ready = first.after(&[]).unwrap();
        assert_eq!(none_ready.old_slots, first.slots);
        assert!(none_ready.slots.is_empty());
        assert!(none_ready.after(&[]).is_none(), "an unrelated change");
        assert!(none_ready.after(&nodes[..1]).is_some());
    }
}
