//! Skein's control plane: manager, agent and the Docker-compatible API.

use anyhow::{Context, Result};
use clap::Parser;
use skein_control::{
    api,
    node::{Config, Node},
};
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
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
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    run(Flags::parse()).await
}

/// openraft tells every step at level info; what matters is told by the raft module.
const DEFAULT_LOG: &str = "info,openraft=warn";

async fn run(flags: Flags) -> Result<()> {
    let shutdown = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let listener = listen(&flags.api).await?;
    let node = Node::start(Config {
        state_dir: flags.state_dir,
        engine: flags.engine.clone(),
        dataplane: flags.dataplane,
    })
    .await
    .context("could not start the node")?;
    tracing::info!(api = %flags.api.display(), "ready");
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
    node.stop().await;
    let served = serving.await.context("the API failed")?;
    if let Err(error) = fs::remove_file(&flags.api) {
        tracing::debug!(%error, "the API's socket was gone already");
    }
    served
}

/// Listens on a unix socket for root alone; takes the place of one that nobody listens on any more.
async fn listen(path: &Path) -> Result<UnixListener> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("could not create {}", dir.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            anyhow::ensure!(
                UnixStream::connect(path).await.is_err(),
                "another process serves {shown}: stop it, or choose another socket with --api"
            );
            fs::remove_file(path).with_context(|| format!("could not remove {shown}"))?;
        }
        Ok(_) => anyhow::bail!("{shown} is there and is not a socket: choose another with --api"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("could not look at {shown}")),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("could not listen on {shown}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("could not set the mode of {shown}"))?;
    Ok(listener)
}
