//! Unix sockets that only root may use.

use anyhow::Context as _;
use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};
use tokio::net::UnixListener;

/// Listens at a path; what an earlier process left there is replaced.
///
/// # Errors
/// The folder or the socket cannot be made.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}
