//! `cargo xtask`: see [`xtask`].

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use xtask::{
    bench,
    cluster::{Attach, Cluster, Daemon, NODES_MAX, Shape, hold},
    demo, ebpf,
    fuzz::{FuzzArgs, fuzz},
    guard::guarded,
    setup,
    simulate::{SimulateArgs, simulate},
    test,
};

/// The cluster of `cargo xtask cluster`: there is one.
const NAME: &str = "default";

/// Skein's own tools.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install whatever this machine lacks for building and running Skein.
    Setup {
        /// The toolchain of the kernel programs, too.
        #[arg(long)]
        ebpf: bool,
    },
    /// Rebuild the kernel programs' committed object.
    Ebpf {
        /// Only say whether the committed object is what the sources build.
        #[arg(long)]
        check: bool,
    },
    /// A cluster on this machine: one network namespace, engine and pair of daemons per node.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Show everything on a cluster of three nodes, and check it.
    Demo,
    /// Unit tests, then end-to-end tests.
    Test {
        /// Unit tests only: needs no root.
        #[arg(long)]
        unit: bool,
        /// These end-to-end suites alone: names of files in `tests/tests`.
        #[arg(conflicts_with = "unit")]
        suites: Vec<String>,
    },
    /// Measure, against other programs where they do the same; `bench --help` says what.
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure, and its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Simulated clusters under seeded faults, until one breaks an invariant.
    Simulate(SimulateArgs),
    /// Made-up input for what reads what others send.
    Fuzz(FuzzArgs),
    /// One host of a cluster; started by `cluster up`.
    #[command(hide = true)]
    Hold(hold::HoldArgs),
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Make hosts and start the daemons on them.
    Up(UpArgs),
    /// Remove the cluster and everything it made.
    Down,
    /// List the hosts, and what runs on them.
    Ls,
    #[command(flatten)]
    Use(UseCommand),
}

/// What is done with a cluster that there is.
#[derive(Subcommand)]
enum UseCommand {
    /// Print what makes the docker CLI talk to a node: `eval "$(cargo xtask cluster env n1)"`.
    Env {
        /// Node.
        node: String,
    },
    /// Run a command on a host.
    Exec {
        /// Node, `client` or `switch`.
        host: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Print a host's address.
    Ip {
        /// Node or `client`.
        host: String,
    },
    /// Kill daemons of a node at once (SIGKILL); its containers go on.
    Kill {
        /// Node.
        node: String,
        /// Which ones; all by default.
        #[arg(long, value_delimiter = ',')]
        daemons: Vec<Daemon>,
    },
    /// Start what was killed, paused or cut off.
    Start {
        /// Node.
        node: String,
        /// Which ones; all by default.
        #[arg(long, value_delimiter = ',')]
        daemons: Vec<Daemon>,
    },
    /// Stop all processes of a node where they are; its containers' too.
    Pause {
        /// Node.
        node: String,
    },
    /// Take a node's links down.
    Cut {
        /// Node.
        node: String,
    },
    /// Print a daemon's log.
    Logs {
        /// Node.
        node: String,
        /// Which one.
        #[arg(long, default_value = "skein-control")]
        daemon: Daemon,
    },
}

#[derive(Args)]
struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// How many of them are managers; three at most by default.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    managers: Option<u8>,
    /// Leave the nodes outside any swarm.
    #[arg(long)]
    no_init: bool,
    /// The hook that serves the nodes' uplinks.
    #[arg(long, value_enum, default_value_t)]
    attach: Attach,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Setup { ebpf } => setup::setup(ebpf)?,
        Command::Ebpf { check } => ebpf::ebpf(check)?,
        Command::Cluster { command } => return cluster(command),
        Command::Demo => return guarded(demo::demo),
        Command::Test { unit, suites } => return guarded(|| test::test(unit, &suites)),
        Command::Bench { args } => return guarded(|| bench::bench(&args)),
        Command::Simulate(args) => simulate(args)?,
        Command::Fuzz(args) => fuzz(&args)?,
        Command::Hold(args) => hold::hold(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(args: &UpArgs) -> anyhow::Result<()> {
    setup::setup(false)?;
    let shape = Shape {
        nodes: args.nodes,
        managers: args.managers.unwrap_or(args.nodes.min(3)),
        init: !args.no_init,
        attach: args.attach,
    };
    let cluster = Cluster::up(NAME, &shape)?;
    cluster.leave_running()?;
    println!("the cluster is up; try: eval \"$(cargo xtask cluster env n1)\"; docker node ls");
    Ok(())
}

fn cluster(command: ClusterCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClusterCommand::Up(args) => guarded(|| up(&args)),
        ClusterCommand::Down => {
            match Cluster::find(NAME)? {
                Some(cluster) => cluster.down()?,
                None => println!("there is no cluster: nothing to take down"),
            }
            Ok(ExitCode::SUCCESS)
        }
        ClusterCommand::Ls => {
            match Cluster::find(NAME)? {
                Some(cluster) => list(&cluster)?,
                None => println!("there is no cluster: `cargo xtask cluster up` makes one"),
            }
            Ok(ExitCode::SUCCESS)
        }
        ClusterCommand::Use(command) => use_cluster(&Cluster::open(NAME)?, command),
    }
}

fn list(cluster: &Cluster) -> anyhow::Result<()> {
    if !cluster.is_whole() {
        eprintln!("`cargo xtask cluster up` is not done yet");
    }
    for host in cluster.hosts() {
        let paused = if host.is_paused()? { " (paused)" } else { "" };
        println!(
            "{:<8} {:<15} {}{paused}",
            host.name(),
            host.address(),
            host.running().join(" ")
        );
    }
    Ok(())
}

fn use_cluster(cluster: &Cluster, command: UseCommand) -> anyhow::Result<ExitCode> {
    match command {
        UseCommand::Env { node } => {
            ensure!(
                cluster.is_whole(),
                "the cluster is not up yet: wait until `cargo xtask cluster up` says so"
            );
            println!(
                "export DOCKER_HOST=unix://{}",
                cluster.host(&node)?.socket().display()
            );
        }
        UseCommand::Exec { host, command } => {
            let at = cluster.host(&host)?;
            ensure!(
                !at.is_paused()?,
                "{host} is paused: `cargo xtask cluster start {host}` lets it go on"
            );
            let status = at.command(&command[0]).args(&command[1..]).status();
            let code = status.context("cannot enter the host")?.code();
            return Ok(ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1)));
        }
        UseCommand::Ip { host } => println!("{}", cluster.host(&host)?.address()),
        UseCommand::Kill { node, daemons } => {
            cluster.node(&node)?.kill(Daemon::or_all(&daemons))?;
        }
        UseCommand::Start { node, daemons } => {
            cluster.mend(&node)?;
            cluster.node(&node)?.start(Daemon::or_all(&daemons))?;
        }
        UseCommand::Pause { node } => cluster.node(&node)?.pause()?,
        UseCommand::Cut { node } => cluster.cut(&node)?,
        UseCommand::Logs { node, daemon } => {
            print!("{}", cluster.host(&node)?.log(daemon)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
