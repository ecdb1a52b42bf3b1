//! What this machine must have, installed where it is missing.

use crate::run::{Step, run, sh};
use anyhow::{Context as _, bail};
use std::{path::Path, process::Command};

/// (the program or file that shows that it is there, Debian's package)
const PACKAGES: [(&str, &str); 18] = [
    ("/usr/bin/cmake", "cmake"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/bin/docker", "docker.io"),
    ("/usr/sbin/iptables", "iptables"),
    ("/sbin/ip", "iproute2"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/dig", "dnsutils"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/bin/socat", "socat"),
    ("/bin/ping", "iputils-ping"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/bpftool", "bpftool"),
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/musl-gcc", "musl-tools"),
];

const EBPF_PACKAGES: [(&str, &str); 7] = [
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    (
        "/usr/lib/rustlib/bpfel-unknown-none",
        "libstd-rust-web-dev-bpf",
    ),
    ("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
    ("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev"),
    ("/usr/include/zstd.h", "libzstd-dev"),
    ("/usr/bin/c++", "g++"),
];

/// The linker of kernel programs: the version that the recipe was tried with.
pub const BPF_LINKER: &str = "0.13.0";

/// Installs what is missing; says what it did.
///
/// # Errors
/// Packages are missing and cannot be installed.
pub fn setup(ebpf: bool) -> anyhow::Result<()> {
    install(&PACKAGES)?;
    if ebpf {
        install(&EBPF_PACKAGES)?;
        install_bpf_linker()?;
    }
    Ok(())
}

/// Installs those of `packages`, each with a file that shows that it is there, that are missing.
///
/// # Errors
/// They cannot be installed; with their names.
pub fn install(packages: &[(&str, &'static str)]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = packages
        .iter()
        .filter(|(shows, _)| !Path::new(shows).exists())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("missing: {list}; install them as root: apt-get install {list}");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing: {list}; this is no Debian: install what they hold by hand");
    }
    let step = Step::begin_commands(&format!("install {list}"));
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args([
            "-qq",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]);
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        // Packages start their services where they can: a cluster brings its own engines.
        run(apt.env("RUNLEVEL", "1"))
    };
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install).with_context(|| format!("cannot install {list}"))?;
    step.end("installed");
    Ok(())
}

fn install_bpf_linker() -> anyhow::Result<()> {
    if sh("bpf-linker --version").is_ok_and(|version| version.contains(BPF_LINKER)) {
        return Ok(());
    }
    let step = Step::begin_commands(&format!("build bpf-linker {BPF_LINKER}"));
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22"])
        .current_dir("/")
        .env(
            "RUSTFLAGS",
            "-L /usr/lib/llvm-22/lib -C link-arg=-Wl,-rpath,/usr/lib/llvm-22/lib",
        );
    run(&mut cargo)?;
    step.end("built");
    Ok(())
}
