//! Very many nodes in one process: what the managers see of them is what they see of real ones.
//!
//! - [`node`]: one of them: it joins with a token, and keeps a session with the leader.
//! - [`engine`]: what its tasks come to.
//! - [`player`]: this process, as the benchmark sees it that started it.
//! - [`told`]: what this process tells the benchmark that started it.
//!
//! Each has a key, a certificate and connections of its own. Their containers run because they say so.

mod engine;
mod node;
mod player;
pub mod told;

pub use player::Agents;

use anyhow::Context as _;
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use skein_control::identity::JoinToken;
use std::{io::Read as _, net::Ipv4Addr, sync::Arc};
use tokio::sync::{Semaphore, mpsc};
use told::Told;

/// Nodes that join at once: each join is a signature and an entry of the log.
const JOINING: usize = 32;
/// Lines that wait to be written: they are short, and the benchmark reads at once.
const LINES: usize = 4096;
/// Data path addresses of the nodes: from the block for tests of networks, above those of clusters.
const ADDRESSES: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

/// Arguments of the process that plays the nodes.
#[derive(Args, Clone, Debug)]
pub struct AgentsArgs {
    /// `host:port` of a manager.
    #[arg(long)]
    manager: String,
    /// Token to join with.
    #[arg(long)]
    token: String,
    /// How many nodes.
    #[arg(long)]
    count: u32,
    /// Of delays.
    #[arg(long)]
    seed: u64,
}

/// Plays the nodes until standard input ends. What they see goes to standard output, see [`told`].
///
/// # Errors
/// The token is none, or standard output is closed.
pub fn run(args: &AgentsArgs) -> anyhow::Result<()> {
    raise_descriptors()?;
    let token = JoinToken::parse(&args.token).context("no join token")?;
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build()?;
    let (lines, mut waiting) = mpsc::channel::<Told>(LINES);
    let (joining, token) = (Arc::new(Semaphore::new(JOINING)), Arc::new(token));
    let mut seeds = ChaCha8Rng::seed_from_u64(args.seed);
    for n in 0..args.count {
        let node = node::Node {
            name: format!("sim{n:04}"),
            address: Ipv4Addr::from_bits(ADDRESSES.to_bits() + 1 + n),
            manager: args.manager.clone(),
            token: token.clone(),
            told: lines.clone(),
            rng: ChaCha8Rng::seed_from_u64(seeds.random()),
        };
        runtime.spawn(node.run(joining.clone()));
    }
    drop(lines);
    // Not of the runtime: reading standard input cannot be cancelled.
    let (end, mut ended) = mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _end = end;
        // Whatever comes, and however it ends: nobody needs the nodes any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    });
    runtime.block_on(async {
        loop {
            let line = tokio::select! {
                line = waiting.recv() => line,
                _ = ended.recv() => None,
            };
            let Some(line) = line else { return Ok(()) };
            line.write(&mut std::io::stdout().lock())?;
        }
    })
}

/// Every node needs a few descriptors.
fn raise_descriptors() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}
