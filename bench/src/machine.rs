//! Where a benchmark runs, as far as its figures depend on it.

use nix::sys::utsname::uname;
use serde::Serialize;
use std::fs;

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
    fn this_machine_has_something_to_run_on() {
        let machine = Machine::here();
        assert!(machine.processors >= 1 && machine.memory_gb > 0.0);
        assert!(!machine.kernel.is_empty());
    }
}
