//! What a daemon uses: memory and processor time.

use anyhow::Context as _;
use procfs::process::Process;
use xtask::cluster::{Daemon, Host};

/// What a process uses, and has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory, in millions of bytes.
    pub resident_mb: f64,
    /// The same, with what is shared with other processes divided among them.
    pub proportional_mb: f64,
    /// The most that was resident at once.
    pub peak_mb: f64,
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
}

/// What a daemon of a host uses.
///
/// # Errors
/// It does not run.
pub fn usage(host: &Host, daemon: Daemon) -> anyhow::Result<Usage> {
    let of = || format!("{} on {}", daemon.name(), host.name());
    let folder = host.process_of(daemon);
    let folder = folder.with_context(|| format!("{} does not run", of()))?;
    let read = || -> procfs::ProcResult<Usage> {
        let process = Process::new_with_root(folder)?;
        let (stat, status) = (process.stat()?, process.status()?);
        let rollup = process.smaps_rollup()?.memory_map_rollup;
        let maps = rollup.iter();
        let proportional: u64 = maps.filter_map(|map| map.extension.map.get("Pss")).sum();
        Ok(Usage {
            resident_mb: megabytes(status.vmrss.unwrap_or_default() * 1024),
            proportional_mb: megabytes(proportional),
            peak_mb: megabytes(status.vmhwm.unwrap_or_default() * 1024),
            cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
        })
    };
    read().with_context(|| format!("cannot read what {} uses", of()))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
