//! Skein's benchmarks, started by `cargo xtask bench`.
//!
//! - [`control`], [`ingress`], [`packet`], [`dns`], [`scale_network`], and later others: one benchmark each, which
//!   returns a [`report::Report`].
//! - [`rounds`]: contenders in turns. [`stats`]: what their values say.
//! - [`report`], [`chart`]: how that is written.
//! - [`api`], [`process`], [`machine`]: what is measured with.
//! - [`programs`], [`frames`]: a node's programs, run on packets that nobody sent. [`pair`]: two nodes with a hook
//!   and a forwarding. [`agents`]: very many nodes in one process.

mod agents;
mod api;
mod chart;
mod control;
mod dns;
mod frames;
mod ingress;
mod machine;
mod packet;
mod pair;
mod process;
mod programs;
mod report;
mod rounds;
mod scale_network;
mod stats;

use anyhow::ensure;
use clap::{Args, Parser, Subcommand};
use report::Report;
use std::{fs, path::PathBuf, process::ExitCode};

/// Orders and resampling are the same with the same seed.
const SEED: u64 = 1;
/// Where reports are kept, below the workspace's root.
const DOCS: &str = "docs";
const DOCS_FILE: &str = "benchmarks.md";

/// Skein's benchmarks.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Speed and memory of the control plane, against Docker Swarm where it can do the same.
    Control {
        /// Which parts; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        parts: Vec<control::Part>,
        #[command(flatten)]
        common: Common,
    },
    /// A published port of a node without the task, against other ways to the same server: plain routing,
    /// nftables, iptables, HAProxy, nginx, and Docker's mesh where the kernel has IPVS.
    Ingress {
        /// Which parts; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        parts: Vec<ingress::Part>,
        /// Whom to compare with, beside plain routing; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        peers: Vec<ingress::Peer>,
        /// Skein's return modes dsr and snat at XDP, too, and not only at tc.
        #[arg(long)]
        every_mode: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Names of a cluster, asked for by dnsperf, against dnsmasq and unbound with the same records.
    Dns {
        #[command(flatten)]
        common: Common,
    },
    /// What a packet costs in each of the kernel's programs, beside a program that does nothing.
    Packet {
        #[command(flatten)]
        common: Common,
    },
    /// Very many services, tasks and overlays: how long nodes take to have them, and what a packet costs then.
    ScaleNetwork {
        /// Which parts; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        parts: Vec<scale_network::Part>,
        #[command(flatten)]
        common: Common,
    },
    /// Plays the agents of `control`, which starts it.
    #[command(hide = true)]
    Agents(agents::AgentsArgs),
    /// Plays the client of `ingress`, which starts it.
    #[command(hide = true)]
    Load(ingress::load::LoadArgs),
    /// Plays the server of `dns`, which starts it.
    #[command(hide = true)]
    Names(dns::own::NamesArgs),
}

/// What all benchmarks take.
#[derive(Args)]
struct Common {
    /// Smaller and shorter: shows that it works, and little else.
    #[arg(long)]
    quick: bool,
    /// Of the orders of contenders, and of resampling.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Write the report as JSON there, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report and its charts to `docs/`, too, in place of an earlier one.
    #[arg(long)]
    docs: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().bench) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Control { parts, common } => {
            let options = control::Options {
                quick: common.quick,
                seed: common.seed,
                parts,
            };
            finish(&control::run(&options)?, &common)
        }
        Bench::Ingress {
            parts,
            peers,
            every_mode,
            common,
        } => {
            let options = ingress::Options {
                quick: common.quick,
                seed: common.seed,
                parts,
                peers,
                every_mode,
            };
            finish(&ingress::run(&options)?, &common)
        }
        Bench::Dns { common } => {
            let options = dns::Options {
                quick: common.quick,
                seed: common.seed,
            };
            finish(&dns::run(&options)?, &common)
        }
        Bench::Packet { common } => {
            let options = packet::Options {
                quick: common.quick,
                seed: common.seed,
            };
            finish(&packet::run(&options)?, &common)
        }
        Bench::ScaleNetwork { parts, common } => {
            let options = scale_network::Options {
                quick: common.quick,
                seed: common.seed,
                parts,
            };
            finish(&scale_network::run(&options)?, &common)
        }
        Bench::Agents(args) => agents::run(&args),
        Bench::Load(args) => ingress::load::run(&args),
        Bench::Names(args) => dns::own::run(&args),
    }
}

/// Writes the report wherever it is wanted, and shows it.
fn finish(report: &Report, common: &Common) -> anyhow::Result<()> {
    let path = report.write_to(&xtask::target_dir()?.join("bench"))?;
    if let Some(json) = &common.json {
        report.write_json(json)?;
    }
    if common.docs {
        let docs = xtask::root().join(DOCS);
        fs::create_dir_all(&docs)?;
        report.write_charts(&docs)?;
        report.write_among_others(&docs.join(DOCS_FILE))?;
    }
    println!(
        "\n{}\nthe report is in {}",
        report.markdown(),
        path.display()
    );
    let errors = report.errors();
    ensure!(
        errors.is_empty(),
        "not all could be compared:\n{}",
        errors.join("\n")
    );
    let missed: Vec<_> = report.missed().iter().map(ToString::to_string).collect();
    ensure!(missed.is_empty(), "bars missed:\n{}", missed.join("\n"));
    Ok(())
}
