//! Where a benchmark runs, as far as its figures depend on it.

use anyhow::Context as _;
use nix::sys::utsname::uname;
use procfs::{CurrentSI as _, KernelStats};
use serde::Serialize;
use std::{fs, path::Path, time::Instant};

/// The file that is there where the kernel has IPVS, by which Docker balances what it publishes.
const IPVS: &str = "/proc/net/ip_vs";
/// What reports say where it is not.
pub const NO_IPVS: &str =
    "this kernel has no IPVS (/proc/net/ip_vs), without which Docker publishes nothing";

/// Whether Docker's own mesh works here.
pub fn has_ipvs() -> bool {
    Path::new(IPVS).exists()
}

/// What to know of the machine when reading figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// How many of them this process may use.
    pub processors: usize,
    /// Of main memory, in billions of bytes.
    pub memory_gb: f64,
    /// Release of the kernel.
    pub kernel: String,
    /// Processes that wanted a processor, over the last minute: what was going on beside the benchmark.
    pub load: f64,
    /// `release`, or `debug`: whose figures are worth little.
    pub build: &'static str,
}

impl Machine {
    /// This one, now. What cannot be read is left empty.
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: value(&cpu, "model name")
                .unwrap_or("a processor")
                .to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: kibibytes(value(&memory, "MemTotal")).unwrap_or_default() / 1e9,
            kernel: uname().map_or_else(
                |_| String::new(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
            load: first_number(&load).unwrap_or_default(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        }
    }
}

/// The value of the first line `name : value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(of, _)| of.trim() == name)?;
    Some(value.trim())
}

/// Bytes of a value such as `24 kB`.
fn kibibytes(value: Option<&str>) -> Option<f64> {
    Some(first_number(value?)? * 1024.0)
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// What all processors of this machine were busy with from a moment on: softirqs, which run inside whatever
/// they interrupt, as well as processes.
#[derive(Debug)]
pub struct Busy {
    since: Instant,
    away: f64,
}

impl Busy {
    /// From now on.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn now() -> anyhow::Result<Self> {
        Ok(Self {
            since: Instant::now(),
            away: away()?,
        })
    }

    /// Seconds of one processor until now.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn used(&self) -> anyhow::Result<f64> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let passed = self.since.elapsed().as_secs_f64() * all as f64;
        Ok(passed - (away()? - self.away))
    }
}

/// Seconds that processors had nothing to do, or were not this machine's, since it started. The kernel
/// measures them, where it only samples what a busy processor does.
fn away() -> anyhow::Result<f64> {
    let stat = KernelStats::current().context("cannot read /proc/stat")?;
    let of = &stat.total;
    let ticks = of.idle + of.iowait.unwrap_or_default() + of.steal.unwrap_or_default();
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let cpu = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\n";
        assert_eq!(value(cpu, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(value(cpu, "model"), None);
        assert_eq!(kibibytes(Some("24 kB")), Some(24_576.0));
        assert_eq!(first_number("0.52 0.4 1/90 7"), Some(0.52));
        assert_eq!(first_number(""), None);
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let busy = Busy::now().unwrap();
        let since = Instant::now();
        while since.elapsed().as_millis() < 300 {
            std::hint::spin_loop();
        }
        let used = busy.used().unwrap();
        let all = std::thread::available_parallelism().unwrap().get() as f64;
        assert!((0.1..=all).contains(&used), "{used}");
    }

    #[test]
    fn this_machine_has_something_to_run_on() {
        let machine = Machine::here();
        assert!(machine.processors >= 1 && machine.memory_gb > 0.0);
        assert!(!machine.kernel.is_empty());
    }
}
