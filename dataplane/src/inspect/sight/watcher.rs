//! What the programs are told to tell: the map `WATCH`.

use crate::kernel::{monotonic, open_map};
use anyhow::Context as _;
use aya::maps::{Array, MapData};
use parking_lot::Mutex;
use skein_abi::{names::MAP_WATCH, sight::Watch};
use std::{path::Path, time::Duration};

/// Records of flows, and of drops, that one CPU tells at most in a second, and at once: far more than people read, and a
/// few tenths of a percent of its time. What is above is counted.
const RECORDS_PER_SECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;

/// How long a capture goes on after its lease was renewed last.
pub const LEASE: Duration = Duration::from_secs(3);

/// See the module. Others write nothing there.
pub struct Watcher(Mutex<(Array<MapData, Watch>, Watch)>);

impl Watcher {
    /// Lets the programs tell of flows and drops, and ends what an earlier dataplane captured.
    ///
    /// # Errors
    /// The map is not there, or the kernel refuses.
    pub fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let watch = Watch {
            record_cost: SECOND / RECORDS_PER_SECOND,
            record_burst: SECOND,
            ..Watch::default()
        };
        let watcher = Self(Mutex::new((open_map(bpffs, MAP_WATCH)?, watch)));
        watcher.change(|_| {})?;
        Ok(watcher)
    }

    /// Captures for [`LEASE`] from now on what `narrow` leaves.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn capture(&self, len: u32, narrow: impl FnOnce(&mut Watch)) -> anyhow::Result<()> {
        self.change(|watch| {
            narrow(watch);
            watch.capture_len = len;
            watch.capture_until = monotonic() + u64::try_from(LEASE.as_nanos()).unwrap_or(SECOND);
        })
    }

    /// Captures nothing more.
    ///
    /// # Errors
    /// The kernel refuses: then the lease ends by itself.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.change(|watch| watch.capture_until = 0)
    }

    fn change(&self, change: impl FnOnce(&mut Watch)) -> anyhow::Result<()> {
        let mut held = self.0.lock();
        let (map, watch) = &mut *held;
        change(watch);
        map.set(0, *watch, 0)
            .context("cannot tell the kernel's programs what to tell")
    }
}
