//! Servers on unix sockets that answer as a test says: engines, plugins.

use axum::{Router, body::Body, extract::Request};
use http::{Method, StatusCode, header::CONTENT_TYPE};
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
};
use tokio::{net::UnixListener, task::JoinHandle};

/// What an engine says of itself that speaks version 1.44 of the API.
pub(crate) const VERSION: &str = r#"{"ApiVersion":"1.44"}"#;

/// A server. It is gone, and its socket too, once this is dropped.
pub(crate) struct Server {
    socket: PathBuf,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
        // Gone already where the test has removed its directory.
        drop(fs::remove_file(&self.socket));
    }
}

/// Serves on a socket, whose directory is made if need be.
pub(crate) fn serve(socket: &Path, router: Router) -> Server {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server {
        socket: socket.to_owned(),
        serving,
    }
}

/// An engine: what it answers to a method on a path, as status and JSON.
pub(crate) fn engine<F, A, B>(socket: &Path, answer: F) -> Server
where
    F: Fn(Method, String) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = (u16, B)> + Send + 'static,
    B: Into<Body> + 'static,
{
    let handle = move |request: Request| {
        let path = request.uri().path().to_owned();
        let answered = answer(request.method().clone(), path);
        async move {
            let (status, body) = answered.await;
            let status = StatusCode::from_u16(status).unwrap();
            let body: Body = body.into();
            (status, [(CONTENT_TYPE, "application/json")], body)
        }
    };
    serve(socket, Router::new().fallback(handle))
}
