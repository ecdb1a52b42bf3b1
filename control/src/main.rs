//! Skein's control plane: manager, agent and the Docker-compatible API.

use anyhow::{Context, Result};
use clap::Parser;
use skein_control::{
    api, metrics,
    node::{Config, Node},
};
use std::{
    env, fs,
    io::{self, IsTerminal as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Skein's control plane: manager, agent and the Docker-compatible API.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where the node keeps its certificate, the Raft log and its tasks.
    #[arg(long, default_value = "/var/lib/skein/control")]
    state_dir: PathBuf,
    /// The unix socket to serve the Docker API on.
    #[arg(long, default_value = "/run/skein/docker.sock")]
    api: PathBuf,
    /// The unix socket of the node's container engine.
    #[arg(long, default_value = "/var/run/docker.sock")]
    engine: PathBuf,
    /// The unix socket of skein-dataplane.
    #[arg(long, default_value = "/run/skein/dataplane.sock")]
    dataplane: PathBuf,
    /// What this node advertises to a swarm that it begins or joins without --advertise-addr: an IP address or
    /// the name of an interface.
    #[arg(long, default_value = "", value_name = "IP|INTERFACE")]
    swarm_default_advertise_addr: String,
    /// Where Prometheus finds /metrics. On loopback, so that no published port is lost to it.
    #[arg(long, default_value_t = METRICS)]
    metrics: SocketAddr,
}

/// Beside skein-dataplane's.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9788);

/// Set to 1, tasks start with the images that the engine has: Docker's name.
const PREFER_OFFLINE_IMAGE: &str = "DOCKER_SERVICE_PREFER_OFFLINE_IMAGE";

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    run(Flags::parse()).await
}

/// Root, and a group that the administrator gives the socket to, as with Docker's.
const API_MODE: u32 = 0o660;
/// openraft tells every step at level info; what matters is told by the raft module.
const DEFAULT_LOG: &str = "info,openraft=warn";

/// How long an orderly end may take: less than service managers wait (systemd: 90 s) before they kill.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

async fn run(flags: Flags) -> Result<()> {
    let shutdown = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let listener = skein_proto::socket::listen(&flags.api, API_MODE)
        .await
        .context("--api")?;
    let node = Node::start(Config {
        state_dir: flags.state_dir,
        engine: flags.engine.clone(),
        prefers_present_images: env::var_os(PREFER_OFFLINE_IMAGE).is_some_and(|set| set == "1"),
        dataplane: flags.dataplane,
        default_advertise_addr: flags.swarm_default_advertise_addr,
    })
    .await
    .context("could not start the node")?;
    tracing::info!(api = %flags.api.display(), "ready");
    let measured = node.clone();
    let read = move || Ok(metrics::read(&measured));
    tokio::spawn(skein_metrics::serve(flags.metrics, read));
    let serving = tokio::spawn(api::serve(
        listener,
        Arc::new(node.clone()),
        flags.engine,
        shutdown.clone(),
    ));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
    if timeout(STOP_DEADLINE, node.stop()).await.is_err() {
        tracing::warn!(
            "the node has not stopped within {} s, as a change of its membership is under way: it ends all the \
             same, and goes on when it is started again",
            STOP_DEADLINE.as_secs()
        );
    }
    let served = serving.await.context("the API failed")?;
    if let Err(error) = fs::remove_file(&flags.api) {
        tracing::debug!(%error, "the API's socket was gone already");
    }
    served
}
