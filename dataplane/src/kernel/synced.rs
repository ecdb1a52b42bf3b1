//! A map of the kernel's, of keys and values, that is kept equal to one of ours.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use std::{collections::BTreeMap, fmt};

/// What is kept equal: by default a hash map.
pub trait Backing<K, V>: TryFrom<Map, Error = MapError> {
    /// All entries.
    ///
    /// # Errors
    /// The map cannot be read.
    fn entries(&self) -> Result<BTreeMap<K, V>, MapError>;
    /// Adds or changes an entry.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    /// Removes an entry.
    ///
    /// # Errors
    /// There is none, or the kernel refuses.
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod + Ord, V: Pod> Backing<K, V> for HashMap<MapData, K, V> {
    fn entries(&self) -> Result<BTreeMap<K, V>, MapError> {
        self.iter().collect()
    }

    fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        HashMap::insert(self, key, value, 0)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        HashMap::remove(self, key)
    }
}

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
pub struct Synced<K, V, M = HashMap<MapData, K, V>> {
    map: M,
    held: BTreeMap<K, V>,
}

impl<K: Copy + Ord, V: Copy + PartialEq, M: Backing<K, V>> Synced<K, V, M> {
    /// Takes the map over with what it holds already.
    ///
    /// # Errors
    /// The map has other types, or cannot be read.
    pub fn new(map: Map) -> Result<Self, MapError> {
        let map = M::try_from(map)?;
        let held = map.entries()?;
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
        let found = self.map.entries()?;
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
                match self.map.insert(key, value) {
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
