//! A table of flows with room for few: the least recently used gives way, as in the kernel's.

use crate::Live;
use std::{boxed::Box, cell::RefCell, collections::HashMap, hash::Hash, vec::Vec};

pub struct Flows<K, V> {
    limit: usize,
    inner: RefCell<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Removed ones. Decisions may still hold them, as the kernel frees none before a program ends.
    removed: Vec<Entry<V>>,
    uses: u64,
}

struct Entry<V> {
    value: *mut V,
    used: u64,
}

impl<V> Drop for Entry<V> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `insert`, and dropped with the table alone.
        drop(unsafe { Box::from_raw(self.value) });
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Flows<K, V> {
    pub fn with_room_for(limit: usize) -> Self {
        Self {
            limit,
            inner: RefCell::new(Inner {
                entries: HashMap::new(),
                removed: Vec::new(),
                uses: 0,
            }),
        }
    }

    pub fn get(&self, key: &K) -> Option<Live<V>> {
        let mut inner = self.inner.borrow_mut();
        inner.uses += 1;
        let uses = inner.uses;
        let entry = inner.entries.get_mut(key)?;
        entry.used = uses;
        // SAFETY: freed with the table alone, which outlives every decision; no reference is made.
        Some(unsafe { Live::new(entry.value) })
    }

    pub fn insert(&self, key: &K, value: &V) {
        self.remove(key);
        let mut inner = self.inner.borrow_mut();
        if inner.entries.len() == self.limit {
            let oldest = inner.entries.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| *key);
            let evicted = oldest.and_then(|key| inner.entries.remove(&key));
            inner.removed.extend(evicted);
        }
        inner.uses += 1;
        let entry = Entry {
            value: Box::into_raw(Box::new(*value)),
            used: inner.uses,
        };
        inner.entries.insert(*key, entry);
    }

    pub fn remove(&self, key: &K) {
        let mut inner = self.inner.borrow_mut();
        let removed = inner.entries.remove(key);
        inner.removed.extend(removed);
    }

    pub fn count(&self) -> usize {
        self.inner.borrow().entries.len()
    }

    /// Copies of all entries.
    pub fn all(&self) -> Vec<(K, V)> {
        let inner = self.inner.borrow();
        let copy = |(key, entry): (&K, &Entry<V>)| {
            // SAFETY: as in `get`; nobody writes meanwhile, as there is one thread.
            (*key, unsafe { entry.value.read() })
        };
        inner.entries.iter().map(copy).collect()
    }
}
