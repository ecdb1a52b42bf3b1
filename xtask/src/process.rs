//! Processes of this machine.

use std::{fs, path::Path};

/// Whether the process of a folder of /proc runs. A zombie runs no more; but of one that was killed the first
/// thread may have ended before the others, in which its sockets are open still.
pub fn is_alive(process: impl AsRef<Path>) -> bool {
    let folder = process.as_ref();
    let stat = fs::read_to_string(folder.join("stat"));
    let threads = || fs::read_dir(folder.join("task")).map_or(0, Iterator::count);
    stat.is_ok_and(|stat| !stat.contains(") Z ") || threads() > 1)
}
