//! Numbers for what the kernel's maps know by number: services, and lists of backends.
//!
//! They are kept in a file, so that a restarted dataplane finds its services where the kernel has
//! them, and never changes a live table to another service's.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// See the module.
#[derive(Debug)]
pub struct Indices {
    path: PathBuf,
    given: Given,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Given {
    by_name: BTreeMap<String, u32>,
}

impl Indices {
    /// Reads the file; starts anew if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not ours.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let given = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Given::default(),
            Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
        };
        Ok(Self { path, given })
    }

    /// Who has which.
    pub fn given(&self) -> &BTreeMap<String, u32> {
        &self.given.by_name
    }

    /// Gives each name an index below `max`, frees those of other names, and stores it; names that
    /// find none are left out.
    ///
    /// # Errors
    /// The file cannot be written; nothing is changed.
    pub fn assign<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        max: u32,
    ) -> anyhow::Result<BTreeMap<String, u32>> {
        let names: BTreeSet<&str> = names.collect();
        let next = self.given.assign(&names, max);
        if next != self.given {
            crate::files::replace(&self.path, &serde_json::to_vec(&next)?)?;
            self.given = next;
        }
        Ok(self.given.by_name.clone())
    }
}

impl Given {
    fn assign(&self, names: &BTreeSet<&str>, max: u32) -> Self {
        let mut by_name: BTreeMap<String, u32> = self
            .by_name
            .iter()
            .filter(|(name, _)| names.contains(name.as_str()))
            .map(|(name, index)| (name.clone(), *index))
            .collect();
        // An index just freed is given last: packets on their way may still carry it.
        let used: BTreeSet<u32> = self.by_name.values().copied().collect();
        let kept: BTreeSet<u32> = by_name.values().copied().collect();
        let fresh = (0..max).filter(|index| !used.contains(index));
        let freed = used.iter().copied().filter(|index| !kept.contains(index));
        let mut free = fresh.chain(freed);
        for name in names {
            if !by_name.contains_key(*name)
                && let Some(index) = free.next()
            {
                by_name.insert((*name).to_owned(), index);
            }
        }
        Self { by_name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stay_with_their_names_through_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("services");
        let mut indices = Indices::open(path.clone()).unwrap();
        let first = indices.assign(["a", "b", "c"].into_iter(), 10).unwrap();
        drop(indices);
        let mut indices = Indices::open(path).unwrap();
        let second = indices.assign(["d", "c", "a"].into_iter(), 10).unwrap();
        assert_eq!((second["a"], second["c"]), (first["a"], first["c"]));
        assert_ne!(second["d"], first["b"], "just freed");
    }

    #[test]
    fn who_finds_no_index_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut indices = Indices::open(dir.path().join("services")).unwrap();
        let given = indices.assign(["a", "b", "c"].into_iter(), 2).unwrap();
        assert_eq!(given.len(), 2);
        let given = indices.assign(["c"].into_iter(), 2).unwrap();
        assert!(given.contains_key("c"));
    }
}
