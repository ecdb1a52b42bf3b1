//! The end-to-end suites: one test after the other, as a cluster takes the whole machine, each in a process
//! of its own.

use super::Time;
use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

const PACKAGE: &str = "skein-tests";
/// The environment's variable that gives tests longer.
const LIMIT: &str = "SKEIN_TEST_MINUTES";
/// Of that package.
const FOLDER: &str = "tests";

/// A program of cargo's that has the tests of one file.
struct Suite {
    name: String,
    program: PathBuf,
}

/// What cargo says of a program that it has built, as far as it is looked at (`--message-format=json`).
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Target,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the suites, and runs all tests of the `wanted` ones; of all, if none is named.
pub fn run(cargo: &str, wanted: &[String]) -> anyhow::Result<Vec<Time>> {
    let folder = crate::root().join(FOLDER);
    let mut times = Vec::new();
    let mut suites = build(cargo)?;
    for name in wanted {
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        ensure!(
            names.contains(&name.as_str()),
            "there is no suite {name:?}; there are {}",
            names.join(", ")
        );
    }
    suites.retain(|suite| wanted.is_empty() || wanted.contains(&suite.name));
    for suite in suites {
        println!("\nsuite {}", suite.name);
        for test in names(&suite, &folder)? {
            let began = Instant::now();
            let (passed, why) = one(&suite, &test, &folder)
                .with_context(|| format!("cannot run {}", suite.program.display()))?;
            times.push(Time {
                name: format!("{}::{test}", suite.name),
                took: began.elapsed(),
                passed,
                why,
            });
        }
    }
    Ok(times)
}

/// Runs a test, showing what it says; whether it passed, and why not.
fn one(suite: &Suite, test: &str, folder: &Path) -> anyhow::Result<(bool, Vec<String>)> {
    let mut running = command(suite, folder)
        .args(["--exact", test, "--test-threads=1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let said = running.stdout.take().context("its output is piped")?;
    let (ended, watched) = mpsc::sync_channel::<()>(0);
    let (test, pid) = (test.to_owned(), Pid::from_raw(running.id().cast_signed()));
    let limit = limit()?;
    std::thread::spawn(move || {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            println!(
                "{test} has not ended within {limit:?}, and is killed: {LIMIT} sets other minutes"
            );
            // Its hosts end with it.
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let mut why = Why::default();
    for line in BufReader::new(said).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        why.hear(&line);
    }
    let status = running.wait()?;
    drop(ended);
    Ok((status.success(), why.lines))
}

/// How long one test may take: longer than any does on a loaded machine, but for those that are told to do many
/// rounds.
fn limit() -> anyhow::Result<Duration> {
    const MINUTES: u64 = 40;
    let minutes = match std::env::var(LIMIT) {
        Ok(minutes) => minutes
            .parse()
            .with_context(|| format!("{LIMIT}={minutes} is no number"))?,
        Err(_) => MINUTES,
    };
    Ok(Duration::from_secs(60 * minutes))
}

/// The error that a test ended with, out of all that it said: from its first line to the stack's.
#[derive(Default)]
struct Why {
    lines: Vec<String>,
    is_over: bool,
}

impl Why {
    /// Of an error: what does not fit is in the test's own output.
    const LINES_MAX: usize = 40;
    const WIDTH_MAX: usize = 400;

    fn hear(&mut self, line: &str) {
        let begins = line.starts_with("Error: ") || line.contains("' panicked at ");
        let ends = line.starts_with("Stack backtrace") || line.starts_with("stack backtrace");
        self.is_over |= ends && !self.lines.is_empty();
        let goes_on = begins || !self.lines.is_empty();
        if goes_on && !self.is_over && self.lines.len() < Self::LINES_MAX {
            self.lines
                .push(line.chars().take(Self::WIDTH_MAX).collect());
        }
    }
}

fn build(cargo: &str) -> anyhow::Result<Vec<Suite>> {
    let mut building = Command::new(cargo);
    building
        .args(["test", "-p", PACKAGE, "--no-run", "--tests"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(crate::root())
        .stderr(Stdio::inherit());
    let built = building.output().context("cannot run cargo")?;
    ensure!(built.status.success(), "the suites do not build");
    let mut suites = suites(&String::from_utf8_lossy(&built.stdout));
    suites.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(!suites.is_empty(), "cargo built no suite of {PACKAGE}");
    Ok(suites)
}

fn suites(messages: &str) -> Vec<Suite> {
    let messages = messages.lines();
    let messages = messages.filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let suite = |message: Message| {
        let is_suite = message.reason == "compiler-artifact"
            && message.target.kind.iter().any(|kind| kind == "test");
        let program = message.executable.filter(|_| is_suite)?;
        let name = message.target.name;
        Some(Suite { name, program })
    };
    messages.filter_map(suite).collect()
}

/// As cargo would start it.
fn command(suite: &Suite, folder: &Path) -> Command {
    let mut command = Command::new(&suite.program);
    command.current_dir(folder);
    command
}

fn names(suite: &Suite, folder: &Path) -> anyhow::Result<Vec<String>> {
    let listed = command(suite, folder)
        .args(["--list", "--format", "terse"])
        .output()
        .with_context(|| format!("cannot run {}", suite.program.display()))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "the suite {} has no tests", suite.name);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_test_says_its_error_is_kept() {
        let mut why = Why::default();
        let said = [
            "begin",
            "Error: they differ:",
            "",
            "a is b",
            "Stack backtrace:",
            "  0: f",
        ];
        said.iter().for_each(|line| why.hear(line));
        assert_eq!(why.lines, ["Error: they differ:", "", "a is b"]);
        let mut why = Why::default();
        why.hear("thread 't' panicked at src/lib.rs:1:2:");
        (0..2 * Why::LINES_MAX).for_each(|_| why.hear(&"x".repeat(2 * Why::WIDTH_MAX)));
        assert_eq!(why.lines.len(), Why::LINES_MAX);
        assert_eq!(why.lines[1].len(), Why::WIDTH_MAX);
    }

    #[test]
    fn suites_are_the_programs_of_test_files() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"skein_tests","kind":["lib"]},"executable":"/t/lib"}
not JSON
{"reason":"compiler-artifact","target":{"name":"flows","kind":["test"]},"executable":"/t/flows"}
{"reason":"compiler-artifact","target":{"name":"xtask","kind":["bin"]},"executable":"/t/xtask"}
{"reason":"build-finished","success":true}"#;
        let found = suites(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "flows");
        assert_eq!(found[0].program, Path::new("/t/flows"));
    }
}
