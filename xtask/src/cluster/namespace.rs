//! Work of this process in another network.

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use std::{fs::File, path::Path};

/// Does something in a network namespace, on a thread of its own. Sockets made there stay in it.
///
/// # Errors
/// The namespace cannot be entered, or what is done fails.
pub fn within_network<T: Send>(
    path: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let namespace = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network")?;
            work()
        });
        let done = thread.join();
        done.map_err(|_| anyhow::anyhow!("a thread in another network panicked"))?
    })
}
