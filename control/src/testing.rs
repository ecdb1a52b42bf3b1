//! What tests have in common: managers' credentials, external authorities, and servers on unix sockets that
//! answer as a test says: engines, plugins.

use crate::{
    clock,
    identity::{Identity, key_and_request, sign},
    rpc::Credentials,
};
use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http::{Method, StatusCode, header::CONTENT_TYPE};
use skein_model::{NodeRole, RootCa};
use skein_signer::{Answer, Authority, Tls};
use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinHandle},
};

/// A manager's credentials, of a node `n` in a cluster `c` with this root.
pub(crate) fn credentials(root: &RootCa) -> Credentials {
    linked_credentials(root, "", root)
}

/// The same, with a link after the certificate, of a node that trusts another root.
pub(crate) fn linked_credentials(root: &RootCa, link: &str, trusted: &RootCa) -> Credentials {
    let pair = key_and_request().unwrap();
    let (node, day) = (("c", "n", NodeRole::Manager), Duration::from_secs(86_400));
    let cert = sign(root, &pair.csr_pem, node, day, clock::now()).unwrap() + link;
    let identity = Identity::new(trusted.cert_pem.clone(), cert, pair.key_pem).unwrap();
    Credentials::new(identity).unwrap()
}

/// How long what a test's authority signs is good.
const SIGNED_VALIDITY: Duration = Duration::from_secs(86_400);

/// An external authority with this root.
pub(crate) fn authority(root: &RootCa) -> Authority {
    Authority::new(&root.cert_pem, &root.key_pem, SIGNED_VALIDITY)
}

/// What such a one answers.
pub(crate) fn signs(root: &RootCa) -> impl Fn(&[u8]) -> Answer + Clone + Send + Sync + 'static {
    let authority = Arc::new(authority(root));
    move |body| authority.answer(body).into()
}

/// An authority's server. It is gone once this is dropped.
pub(crate) struct AuthorityServer {
    pub url: String,
    serving: AbortHandle,
}

impl Drop for AuthorityServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A server of this root, whose clients are to be of `clients`; whoever else signs.
pub(crate) async fn authority_server(
    dir: &Path,
    root: &RootCa,
    clients: &RootCa,
    answer: impl Fn(&[u8]) -> Answer + Clone + Send + Sync + 'static,
) -> AuthorityServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/sign?x=1", listener.local_addr().unwrap());
    let file = dir.join("clients.pem");
    fs::write(&file, &clients.cert_pem).unwrap();
    let names = ["127.0.0.1".to_owned()];
    let tls = Tls {
        certificate: authority(root).server_certificate(&names).unwrap(),
        clients: file,
    };
    let serving = tokio::spawn(skein_signer::serve(listener, tls, answer)).abort_handle();
    AuthorityServer { url, serving }
}

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
    B: Into<Body> + Send + 'static,
{
    engine_that_reads(socket, move |method, path, _| answer(method, path))
}

/// The same where the answer hangs on the request's body.
pub(crate) fn engine_that_reads<F, A, B>(socket: &Path, answer: F) -> Server
where
    F: Fn(Method, String, Bytes) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = (u16, B)> + Send + 'static,
    B: Into<Body> + Send + 'static,
{
    let handle = move |request: Request| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let path = parts.uri.path().to_owned();
            let (status, body) = answer(parts.method, path, body).await;
            let status = StatusCode::from_u16(status).unwrap();
            let body: Body = body.into();
            (status, [(CONTENT_TYPE, "application/json")], body)
        }
    };
    serve(socket, Router::new().fallback(handle))
}
