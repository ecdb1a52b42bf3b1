//! `skein-dataplane`: see the library.

use anyhow::Context as _;
use clap::Parser as _;
use skein_abi::addresses::DNS_ADDRESS;
use skein_dataplane::{
    config::Config,
    desired::Desired,
    inspect,
    kernel::{Counters, Kernel, Meters, TunnelCounts, check_requirements},
    metrics, names,
    plugin::{self, Store},
    sync::Sync,
};
use std::{io::IsTerminal as _, net::SocketAddr, process::ExitCode, sync::Arc};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    // What boringtun takes for errors, a tunnel that is not used among them, is none to whoever runs the node.
    let usual = || EnvFilter::new("info,boringtun=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| usual());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(&Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("skein-dataplane stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config) -> anyhow::Result<()> {
    // Before anything fails for the lack of it.
    check_requirements(&config.bpffs)?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make {}", config.state_dir.display()))?;
    let listener = plugin::listen(&config.plugin_socket).await?;
    let path = config.state_dir.join("desired");
    let last = Arc::new(Desired::load(&path));
    let store = Store::open(config.state_dir.join("plugin.json"))?;
    let tunnels = Arc::new(TunnelCounts::default());
    let counted = Arc::clone(&tunnels);
    let (kernel, mut working) =
        Kernel::start(config, Arc::clone(&last), store.joined(), counted).await?;
    let counters = Counters::open(&config.bpffs)?;
    let (meters, shown) = (Meters::open(&config.bpffs)?, kernel.shown());
    let read = move || {
        let shown = Arc::clone(&shown.borrow());
        metrics::read(&counters, &tunnels, &meters, &shown)
    };
    tokio::spawn(skein_metrics::serve(config.metrics, read));
    inspect::start(&config.inspect, kernel.clone(), &config.bpffs).await?;
    let (desired, follow) = watch::channel(last);

    let dns = SocketAddr::from((DNS_ADDRESS, names::PORT));
    let sync = Sync::new(kernel.clone(), desired, path);
    let mut terminate = signal(SignalKind::terminate())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "skein-dataplane runs");
    // A signal ends everything where it is: what is pinned stays, and whoever was being answered asks
    // again.
    let ended = tokio::select! {
        ended = &mut working => return ended.context("the kernel's side broke")?,
        ended = sync.serve(&config.socket) => ended,
        ended = names::serve(kernel.clone(), follow.clone(), dns) => ended,
        ended = plugin::serve(listener, kernel.clone(), follow, store) => ended,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    kernel.stop().await;
    working.await.context("the kernel's side broke")?.and(ended)
}
