//! Fuzz targets: what others send, made up, in search of what it must not do.

use crate::run::{Step, run};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use std::{fs, path::PathBuf, process::Command};

/// Coverage for libFuzzer, as `clang -fsanitize=fuzzer` has it; without the sanitizers, which need another
/// compiler: Skein's own code that is fuzzed is safe Rust.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// Told by name, so that build scripts are built without coverage.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// An input that takes so long, in seconds, is a finding.
const INPUT_TIMEOUT: u32 = 10;
/// So is one that takes as much memory, in MiB.
const MEMORY_MAX: u32 = 2048;
/// Lines of what is said of a finding.
const SHOWN: usize = 40;

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub struct FuzzArgs {
    /// Which targets, by the names of files in `fuzz/targets`; all by default.
    targets: Vec<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 600)]
    seconds: u32,
}

/// Runs fuzz targets, one after the other.
///
/// # Errors
/// There is none of that name, it does not build, or it has found something: the input is in
/// `target/fuzz/found`, and what was said of it beside.
pub fn fuzz(args: &FuzzArgs) -> anyhow::Result<()> {
    let folder = crate::root().join("fuzz");
    let all = targets(&folder.join("targets"))?;
    let unknown = args.targets.iter().find(|name| !all.contains(name));
    if let Some(name) = unknown {
        bail!(
            "there is no fuzz target {name:?}; there are {}",
            all.join(", ")
        );
    }
    let built = crate::target_dir()?.join("fuzz");
    let flags = COVERAGE.join("\x1f");
    let mut building = Command::new("cargo");
    building
        .args(["build", "--release", "--locked", "--target", TARGET])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &built)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    run(&mut building)?;
    let wanted = if args.targets.is_empty() {
        &all
    } else {
        &args.targets
    };
    let mut found = Vec::new();
    for name in wanted {
        let (corpus, findings) = (built.join("corpus").join(name), built.join("found"));
        for made in [&corpus, &findings] {
            fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let step = Step::begin(name);
        let log = built.join(format!("{name}.log"));
        let written = fs::File::create(&log);
        let written = written.with_context(|| format!("cannot write {}", log.display()))?;
        // What it begins with beside what earlier runs have found; some need none.
        let seeds = Some(folder.join("seeds").join(name)).filter(|seeds| seeds.is_dir());
        let status = Command::new(built.join(TARGET).join("release").join(name))
            .arg(&corpus)
            .args(seeds)
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-timeout={INPUT_TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MAX}"))
            .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
            .arg("-print_final_stats=1")
            .stderr(written)
            .status()
            .with_context(|| format!("cannot run {name}"))?;
        let told = fs::read_to_string(&log).unwrap_or_default();
        if status.success() {
            step.end(&format!("{} inputs, nothing found", inputs(&told)));
        } else {
            step.end("FOUND SOMETHING");
            println!("{}", end(&told));
            found.push(name.as_str());
        }
    }
    ensure!(
        found.is_empty(),
        "found something: {}; the inputs are in {}: a target's program, in the folder beside, runs one again that it \
         is given as its argument",
        found.join(", "),
        built.join("found").display()
    );
    Ok(())
}

/// How many were tried, by what libFuzzer tells at its end.
fn inputs(told: &str) -> &str {
    let tried = "stat::number_of_executed_units:";
    let mut counts = told.lines().filter_map(|line| line.strip_prefix(tried));
    counts.next_back().map_or("no", str::trim)
}

fn end(told: &str) -> String {
    let lines: Vec<&str> = told.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

fn targets(folder: &PathBuf) -> anyhow::Result<Vec<String>> {
    let listed = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(listed)? {
        let path = entry.with_context(listed)?.path();
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        names.extend(name);
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_read_from_what_is_told() {
        let told = "INFO: 3\nstat::number_of_executed_units: 6623549\nstat::peak_rss_mb: 28";
        assert_eq!(inputs(told), "6623549");
        assert_eq!(inputs("nothing"), "no");
        assert_eq!(end("a\nb"), "a\nb");
    }
}
