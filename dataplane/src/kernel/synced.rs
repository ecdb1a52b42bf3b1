//! A hash map of the kernel's that is kept equal to one of ours.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use std::collections::BTreeMap;

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

    /// Adds and changes what `wanted` has; removes nothing yet.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses: the first refusal. All that can be written is.
    pub fn add(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), MapError> {
        let mut outcome = Ok(());
        for (key, value) in wanted {
            if self.held.get(key) != Some(value) {
                match self.map.insert(key, value, 0) {
                    Ok(()) => drop(self.held.insert(*key, *value)),
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
        }
        outcome
    }

    /// Removes what `wanted` has not.
    ///
    /// # Errors
    /// The kernel refuses. What was removed so far stays so.
    pub fn remove_others(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), MapError> {
        let gone: Vec<K> = self
            .held
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            match self.map.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
            self.held.remove(&key);
        }
        Ok(())
    }

    /// Both.
    ///
    /// # Errors
    /// As above.
    pub fn make(&mut self, wanted: &BTreeMap<K, V>) -> Result<(), MapError> {
        let added = self.add(wanted);
        self.remove_others(wanted)?;
        match added {
            Ok(()) => Ok(()),
            // There may be room now.
            Err(_) => self.add(wanted),
        }
    }

    /// Adds or changes one entry.
    ///
    /// # Errors
    /// As above.
    pub fn put(&mut self, key: K, value: V) -> Result<(), MapError> {
        self.add(&BTreeMap::from([(key, value)]))
    }

    /// Removes one entry.
    ///
    /// # Errors
    /// As above.
    pub fn remove(&mut self, key: &K) -> Result<(), MapError> {
        if self.held.remove(key).is_none() {
            return Ok(());
        }
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
