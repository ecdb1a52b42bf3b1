//! All tests.

mod end_to_end;

use crate::{run::run, setup};
use anyhow::bail;
use std::{
    fmt::Write as _,
    process::Command,
    time::{Duration, Instant},
};

/// Unit tests, simulated clusters among them (`control/simulation/tests`); then, unless `unit`, the
/// end-to-end tests. With `suites`, those alone. Says how long each took.
///
/// # Errors
/// A test fails: end-to-end tests after that are run all the same. Or there is no suite of that name.
pub fn test(unit: bool, suites: &[String]) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let test = |args: &[&str]| {
        run(Command::new(&cargo)
            .arg("test")
            .args(args)
            .current_dir(crate::root()))
    };
    let units = ["--workspace", "--exclude", "skein-tests"];
    // Of the kernel's maps and programs; without root they are told as ignored.
    let with_kernel = [&units[..], &["--", "--include-ignored"]].concat();
    if unit {
        let is_root = nix::unistd::geteuid().is_root();
        return test(if is_root { &with_kernel } else { &units });
    }
    setup::setup(false)?;
    let mut times = Vec::new();
    if suites.is_empty() {
        let began = Instant::now();
        test(&with_kernel)?;
        // The harness's own, which are none of a cluster.
        test(&["-p", "skein-tests", "--lib"])?;
        times.push(Time {
            name: "unit tests and simulated clusters, built".to_owned(),
            took: began.elapsed(),
            passed: true,
            why: Vec::new(),
        });
    }
    times.extend(end_to_end::run(&cargo, suites)?);
    println!("\n{}", table(&times));
    let failed = || times.iter().filter(|time| !time.passed);
    // Once more, at the end: what a long run said before is far up, or cut off.
    for time in failed() {
        println!("\n{}:\n    {}", time.name, time.why.join("\n    "));
    }
    let failed: Vec<&str> = failed().map(|time| time.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("{} failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

/// How long a test took.
struct Time {
    /// Its suite, and its own name in it.
    name: String,
    took: Duration,
    passed: bool,
    /// The error, of one that failed.
    why: Vec<String>,
}

/// The slowest first.
fn table(times: &[Time]) -> String {
    let mut sorted: Vec<&Time> = times.iter().collect();
    sorted.sort_by_key(|time| std::cmp::Reverse(time.took));
    let mut table = String::new();
    for time in sorted {
        let verdict = if time.passed { "ok" } else { "FAILED" };
        let seconds = time.took.as_secs_f32();
        // Into a string, which takes everything.
        let _ = writeln!(table, "{seconds:>8.1} s  {verdict:<6}  {}", time.name);
    }
    let all: Duration = times.iter().map(|time| time.took).sum();
    let _ = write!(table, "{:>8.1} s  together", all.as_secs_f32());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_begins_with_the_slowest() {
        let time = |name: &str, seconds, passed| Time {
            name: name.to_owned(),
            took: Duration::from_secs(seconds),
            passed,
            why: Vec::new(),
        };
        let times = [time("a::quick", 2, true), time("b::slow", 70, false)];
        let expected =
            "    70.0 s  FAILED  b::slow\n     2.0 s  ok      a::quick\n    72.0 s  together";
        assert_eq!(table(&times), expected);
    }
}
