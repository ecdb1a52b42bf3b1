//! Unix sockets that Skein's daemons are reached by.

use anyhow::{Context as _, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};
use tokio::net::{UnixListener, UnixStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// How long a daemon of this node may take to let another process in: what is not busy does so at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a daemon that owes an answer may say nothing until it is asked whether it is there still: one that hangs
/// closes nothing. Whoever has died closes its socket, and is noticed without this. Rare enough to cost nothing, on
/// streams that are silent for hours.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long it may take to say so. One that is merely busy has threads for that, and what a loaded machine, or one
/// whose hypervisor has no time for it, keeps all of them waiting for is a few seconds: a multiple of it, as an end
/// costs a daemon that lives its streams, and gains nothing that is urgent.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_secs(30);

/// Connects to the gRPC services behind a path. A connection on which anything is awaited from a daemon that hangs ends.
///
/// # Errors
/// `Unavailable`, with the reason alone: nobody listens there, or this process may not connect.
pub async fn connect(path: &Path) -> Result<Channel, Status> {
    let path = path.to_owned();
    // The name is not looked up: every connection is one to the socket.
    let endpoint = Endpoint::from_static("http://socket")
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_DEADLINE);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Status::unavailable(cause.to_string())
    })
}

/// Listens at a path, with an access mode. Takes the place of a socket that nobody listens on any more.
///
/// # Errors
/// Another process serves it, something else is there, or the folder or the socket cannot be made.
pub async fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    let shown = path.display();
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("could not create {}", dir.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            ensure!(
                UnixStream::connect(path).await.is_err(),
                "another process serves {shown}: stop it, or choose another socket"
            );
            fs::remove_file(path).with_context(|| format!("could not remove {shown}"))?;
        }
        Ok(_) => bail!("{shown} is there and is not a socket: choose another"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("could not look at {shown}")),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("could not listen on {shown}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("could not set the mode of {shown}"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{StatusRequest, inspect_client::InspectClient};

    #[tokio::test]
    async fn what_is_awaited_from_a_daemon_that_hangs_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("skein.sock");
        // Nobody ever reads what comes there.
        let _hangs = listen(&path, 0o600).await.unwrap();
        let mut client = InspectClient::new(connect(&path).await.unwrap());
        // The time that passes here is none that the machine needs.
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        client.status(StatusRequest {}).await.unwrap_err();
        let waited = began.elapsed();
        assert!(waited > KEEP_ALIVE_DEADLINE, "{waited:?}");
        assert!(
            waited < (KEEP_ALIVE + KEEP_ALIVE_DEADLINE) * 2,
            "{waited:?}"
        );
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/skein.sock");
        let first = listen(&path, 0o600).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = listen(&path, 0o600).await.unwrap_err().to_string();
        assert!(refused.starts_with("another process serves"), "{refused}");
        drop(first);
        listen(&path, 0o600).await.unwrap();

        fs::remove_file(&path).unwrap();
        fs::write(&path, "kept").unwrap();
        assert!(listen(&path, 0o600).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }
}
