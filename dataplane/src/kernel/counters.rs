//! What the programs have counted, since the maps of their layout were made.

use super::programs::open_map;
use anyhow::Context as _;
use aya::maps::{MapData, PerCpuArray};
use skein_abi::{names::MAP_COUNTERS, verdict::Counter};
use std::path::Path;

/// See the module.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Opens the map that the programs have pinned.
    ///
    /// # Errors
    /// It is not there, or not ours.
    pub fn open(bpffs: &Path) -> anyhow::Result<Self> {
        Ok(Self(open_map(bpffs, MAP_COUNTERS)?))
    }

    /// Packets of every reason for a drop.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn drops(&self) -> anyhow::Result<Vec<(Counter, u64)>> {
        let drops = Counter::drops().map(|reason| Ok((reason, self.read(reason)?)));
        drops.collect()
    }

    /// Packets, of all CPUs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(&self, counter: Counter) -> anyhow::Result<u64> {
        let counts = self.0.get(&(counter as u32), 0);
        let counts =
            counts.with_context(|| format!("cannot read the counter {}", counter.name()))?;
        Ok(counts.iter().sum())
    }
}
