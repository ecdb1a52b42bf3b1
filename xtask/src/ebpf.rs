//! The kernel programs' object, which is committed so that Skein builds with stable Rust alone.
//!
//! Built by Debian's rustc, which has a prebuilt `core` for BPF, and linked by bpf-linker. What is
//! committed has BTF but no debug information, and no path of the machine that built it.

use crate::{
    run::{Step, output, sh},
    setup,
};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

/// The committed object.
fn committed() -> PathBuf {
    crate::root().join("ebpf/skein.bpf.o")
}

/// Rebuilds the committed object; with `check`, only says whether it is what the sources build.
///
/// # Errors
/// The build fails; or, with `check`, the two differ.
pub fn ebpf(check: bool) -> anyhow::Result<()> {
    setup::setup(true)?;
    let step = Step::begin("build the kernel programs");
    let built = build()?;
    step.end("built");
    if !check {
        fs::copy(&built, committed())?;
        println!("wrote {}", committed().display());
        return Ok(());
    }
    let differ: Vec<String> = sections(&built)?
        .into_iter()
        .zip(sections(&committed())?)
        .filter(|(new, old)| new != old)
        .map(|(new, _)| new.0)
        .collect();
    ensure!(
        differ.is_empty(),
        "the committed object is not what the sources build (sections {}): run `cargo xtask ebpf` and commit ebpf/skein.bpf.o",
        differ.join(", ")
    );
    println!("the committed object is what the sources build");
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let folder = crate::root().join("ebpf");
    let target = crate::target_dir()?.join("ebpf");
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--remap-path-prefix={}=.", folder.display()),
        format!(
            "--remap-path-prefix={}=cargo",
            home.context("HOME is not set")?
        ),
    ];
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            TARGET,
        ])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC", "/usr/bin/rustc")
        // Debian's stable compiler has what BPF needs, behind the gate of the nightly one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    output(&mut cargo)?;
    let built = target.join(TARGET).join("release/skein");
    let stripped = target.join("skein.bpf.o");
    sh(&format!(
        "/usr/lib/llvm-22/bin/llvm-objcopy --strip-debug {} {}",
        built.display(),
        stripped.display()
    ))?;
    Ok(stripped)
}

/// What the kernel loads, instructions and maps, by section. Symbol names and line tables are
/// not compared: the order in which they come may differ.
fn sections(object: &Path) -> anyhow::Result<Vec<(String, String)>> {
    [
        "classifier",
        "xdp",
        "cgroup/connect4",
        "cgroup/sendmsg4",
        "cgroup/recvmsg4",
        "cgroup/getpeername4",
        ".maps",
        ".text",
    ]
    .into_iter()
    .map(|section| {
        let dump = sh(&format!(
            "/usr/lib/llvm-22/bin/llvm-objdump --full-contents --section={section} {}",
            object.display()
        ))?;
        // The first lines name the file.
        let contents = dump.lines().skip(3).collect::<Vec<_>>().join("\n");
        Ok((section.to_owned(), contents))
    })
    .collect()
}
