//! A hash map of the kernel's that is kept equal to one of ours.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use std::{collections::BTreeMap, fmt};

/// Entries that could not be written or removed.
#[derive(Debug)]
pub struct Refused {
    entries: usize,
    first: MapError,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entries {
            1 => f.write_str("an entry was refused"),
            entries => write!(f, "{entries} entries were refused, the first of them"),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.first)
    }
}

fn note(refused: &mut Option<Refused>, error: MapError) {
    match refused {
        Some(refused) => refused.entries += 1,
        None => {
            *refused = Some(Refused {
                entries: 1,
                first: error,
            });
        }
    }
}

/// See the module. Only this writes the map, so only differences are written.
pub struct Synced<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    held: BTreeMap<K, V>,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Synced<K, V> {
    /// Takes the map over with what it holds already.
    ///
    /// # Errors
    /// The map has other types, or cannot be read.
    pub fn new(map: Map) -> Result<Self, MapError>
    where
        HashMap<MapData, K, V>: TryFrom<Map, Error = MapError>,
    {
        let map = HashMap::try_from(map)?;
        let held = map.iter().collect::<Result<_, _>>()?;
        Ok(Self { map, held })
    }

    /// What the map holds.
    pub fn held(&self) -> &BTreeMap<K, V> {
        &self.held
    }

    /// Reads the map again, in case somebody else has written to it: then [`Self::make`] writes what
    /// differs. How many entries are other than this left them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn reread(&mut self) -> Result<usize, MapError> {
        let found: BTreeMap<K, V> = self.map.iter().collect::<Result<_, _>>()?;
        let left = self.held.iter();
        let changed = left.filter(|(key, value)| found.get(key) != Some(value));
        let added = found.keys().filter(|key| !self.held.contains_key(key));
        let differing = changed.count() + added.count();
        self.held = found;
        Ok(differing)
    }

    /// Adds and changes what `wanted` has; removes nothing yet.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses. All that can be written is.
    pub fn add(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), Refused> {
        let mut refused = None;
        for (key, value) in wanted {
            if self.held.get(key) != Some(value) {
                match self.map.insert(key, value, 0) {
                    Ok(()) => drop(self.held.insert(*key, *value)),
                    Err(error) => note(&mut refused, error),
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Removes what `wanted` has not.
    ///
    /// # Errors
    /// The kernel refuses. All that can be removed is.
    pub fn remove_others(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), Refused> {
        let mut refused = None;
        let gone: Vec<K> = self
            .held
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            match self.map.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => drop(self.held.remove(&key)),
                Err(error) => note(&mut refused, error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Both.
    ///
    /// # Errors
    /// As above.
    pub fn make(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), Refused> {
        let added = self.add(wanted);
        let removed = self.remove_others(wanted);
        // There may be room now.
        let added = added.or_else(|_| self.add(wanted));
        added.and(removed)
    }

    /// Adds or changes one entry.
    ///
    /// # Errors
    /// As above.
    pub fn put(&mut self, key: K, value: V) -> Result<(), Refused> {
        self.add(&BTreeMap::from([(key, value)]))
    }

    /// Removes one entry.
    ///
    /// # Errors
    /// As above.
    pub fn remove(&mut self, key: &K) -> Result<(), MapError> {
        if !self.held.contains_key(key) {
            return Ok(());
        }
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {
                self.held.remove(key);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "maps of the kernel need root"]
    fn what_finds_no_room_keeps_nothing_else_out() {
        let map = HashMap::create(2, 0).expect("a map");
        let mut synced: Synced<u32, u32> = Synced {
            map,
            held: BTreeMap::new(),
        };
        let entries = |keys: std::ops::Range<u32>| keys.map(|key| (key, key)).collect();
        let full: BTreeMap<u32, u32> = entries(0..5);
        let refused = synced.add(&full).unwrap_err();
        assert_eq!(refused.entries, 3);
        assert!(refused.to_string().starts_with("3 entries"), "{refused}");
        assert_eq!(*synced.held(), entries(0..2));
        // What is there already can be changed, and what goes makes room.
        let changed = BTreeMap::from([(0, 9), (7, 7), (8, 8)]);
        let refused = synced.make(&changed).unwrap_err();
        assert_eq!(refused.entries, 1);
        assert_eq!(*synced.held(), BTreeMap::from([(0, 9), (7, 7)]));
        synced.make(&BTreeMap::from([(0, 9), (8, 8)])).unwrap();
        // Somebody else takes an entry, changes none, and puts one in.
        synced.map.remove(&0).unwrap();
        synced.map.insert(3, 3, 0).unwrap();
        assert_eq!(synced.reread().unwrap(), 2);
        synced.make(&BTreeMap::from([(0, 9), (8, 8)])).unwrap();
        assert_eq!(synced.reread().unwrap(), 0);
        let in_kernel: Result<BTreeMap<u32, u32>, _> = synced.map.iter().collect();
        assert_eq!(in_kernel.unwrap(), *synced.held());
    }
}
