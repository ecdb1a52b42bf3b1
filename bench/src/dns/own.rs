//! Skein's server, in a process of its own: the dataplane's code, with askers that all are on one network.

use super::records;
use clap::Args;
use skein_dataplane::names;
use skein_dns::{Asker, Askers};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tokio::sync::watch;

/// Arguments of that process.
#[derive(Args, Clone, Debug)]
pub struct NamesArgs {
    /// Where it listens, on loopback.
    #[arg(long)]
    port: u16,
}

/// As in a dataplane's: found by the address, and shared.
struct OnOneNetwork(Asker);

impl Askers for OnOneNetwork {
    fn asker(&self, address: IpAddr) -> Option<Asker> {
        address.is_loopback().then(|| self.0.clone())
    }
}

/// Serves until it is killed.
///
/// # Errors
/// The server broke.
pub fn run(args: &NamesArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build()?;
    let asker = Asker {
        networks: [records::NETWORK.into()].into(),
    };
    // Of which nothing changes.
    let (_desired, follow) = watch::channel(Arc::new(records::desired()));
    let address = (Ipv4Addr::LOCALHOST, args.port).into();
    runtime.block_on(names::serve(OnOneNetwork(asker), follow, address))
}
