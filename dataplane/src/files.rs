//! Files that are read back after a crash.

use anyhow::Context as _;
use atomicwrites::{AtomicFile, OverwriteBehavior::AllowOverwrite};
use std::{io::Write as _, path::Path};

/// Replaces a file so that a crash leaves the old or the new one whole. Blocks.
///
/// # Errors
/// The disk refuses.
pub fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    AtomicFile::new(path, AllowOverwrite)
        .write(|file| file.write_all(contents))
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot write {}", path.display()))
}
