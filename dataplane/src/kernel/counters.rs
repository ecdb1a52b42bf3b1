//! What the programs have counted, since the maps of their layout were made.

use super::programs::map_pin;
use anyhow::Context as _;
use aya::maps::{Map, MapData, PerCpuArray};
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
        let pin = map_pin(bpffs, MAP_COUNTERS);
        let open = || anyhow::Ok(Map::PerCpuArray(MapData::from_pin(&pin)?).try_into()?);
        let map = open().with_context(|| format!("cannot open the map {}", pin.display()))?;
        Ok(Self(map))
    }

    /// Packets of every reason for a drop.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn drops(&self) -> anyhow::Result<Vec<(Counter, u64)>> {
        let reasons = Counter::ALL.iter().copied();
        let reasons = reasons.filter(|counter| counter.drop_reason().is_some());
        let drops = reasons.map(|reason| Ok((reason, self.read(reason)?)));
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
