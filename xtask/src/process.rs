//! Processes of this machine.

use std::{fs, path::Path};

/// Whether the process of a folder of /proc runs. A zombie runs no more.
pub fn is_alive(process: impl AsRef<Path>) -> bool {
    let stat = fs::read_to_string(process.as_ref().join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
