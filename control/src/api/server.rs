//! The API's listener and its connections.

use super::{
    Local, Original,
    cluster::Cluster,
    leader_table,
    node_handle::Member,
    node_table,
    proxy::{self, Engine, Opening},
    version::ApiVersion,
};
use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections at a time: each `docker logs -f` and each attached terminal is one, and needs another
/// to the engine, of which dockerd takes as many.
const CONNECTIONS_MAX: usize = 4096;

/// After a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may wait for a request, and a request's head may take, before the connection is
/// closed: an idle one would keep another client out. Far above what clients keep a connection for.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves the API on a socket until `shutdown`.
///
/// # Errors
/// None yet: what goes wrong with one connection is that connection's.
pub async fn serve(
    listener: UnixListener,
    member: Arc<dyn Member>,
    engine_socket: PathBuf,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let engine = Engine::new(engine_socket);
    let local = Local {
        cluster: Cluster::new(member.clone(), leader_table),
        member,
        engine: engine.clone(),
    };
    let router = node_table(local);
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            permit = free.clone().acquire_owned() => permit?,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the API socket accepts no connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = connection(stream, router.clone(), engine.clone());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = connection => {}
            }
            drop(permit);
        });
    }
}

async fn connection(mut stream: UnixStream, router: Router, engine: Engine) {
    let Ok(Ok(opening)) = timeout(IDLE_TIMEOUT, Opening::read(&mut stream)).await else {
        return;
    };
    if opening.is_raw() {
        if let Err(error) = proxy::splice(&engine, &opening, stream).await {
            tracing::warn!(%error, "a raw stream could not be passed on");
        }
        return;
    }
    let service = service_fn(move |request| answer(router.clone(), engine.clone(), request));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(opening.put_back(stream)), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Takes the version off the path, has the request answered, and adds the headers of every answer.
async fn answer(
    router: Router,
    engine: Engine,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let offered = engine.offered().await;
    let mut request = request.map(Body::new);
    let original = request.uri().clone();
    let (asked, path) = ApiVersion::of_path(original.path());
    let checked = asked.map_or(Ok(()), |asked| offered.check(asked));
    let mut response = match checked {
        // Docker answers it on every path.
        Ok(()) if request.method() == Method::OPTIONS => StatusCode::OK.into_response(),
        Ok(()) => {
            *request.uri_mut() = with_path(&original, path);
            request.extensions_mut().insert(Original(original));
            router.oneshot(request).await.into_response()
        }
        Err(error) => error.into_response(),
    };
    add_headers(&mut response, offered.newest, engine.release().as_deref());
    Ok(response)
}

fn with_path(original: &Uri, path: &str) -> Uri {
    let text = match original.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // A part of a URI's path is a path.
    text.parse().unwrap_or_else(|_| original.clone())
}

/// `release`: the engine's own version, by which clients know what they talk to; Skein's, where it is not known.
fn add_headers(response: &mut Response, offered: ApiVersion, release: Option<&str>) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(offered.to_string()) {
        headers.insert(HeaderName::from_static("api-version"), value);
    }
    headers
        .entry(HeaderName::from_static("ostype"))
        .or_insert(HeaderValue::from_static("linux"));
    let server = format!(
        "Docker/{} (linux)",
        release.unwrap_or(env!("CARGO_PKG_VERSION"))
    );
    if let Ok(server) = HeaderValue::try_from(server) {
        headers.entry(header::SERVER).or_insert(server);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{body, query::Params};
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn served(stream: UnixStream) -> tokio::task::JoinHandle<()> {
        served_by(Router::new(), stream)
    }

    fn served_by(router: Router, stream: UnixStream) -> tokio::task::JoinHandle<()> {
        let engine = Engine::new(PathBuf::from("/nonexistent/engine.sock"));
        tokio::spawn(connection(stream, router, engine))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_is_let_go() {
        let (_client, server) = UnixStream::pair().unwrap();
        let ended = timeout(IDLE_TIMEOUT * 2, served(server)).await;
        ended.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_more_is_let_go() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let serving = served(server);
        let request = b"GET /nothing HTTP/1.1\r\nhost: docker\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(IDLE_TIMEOUT * 2, client.read_to_end(&mut answer)).await;
        ended.unwrap().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404 "));
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_asked_is_answered_on_every_path() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let serving = served(server);
        let request = b"OPTIONS /anything HTTP/1.1\r\nhost: docker\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(IDLE_TIMEOUT * 2, client.read_to_end(&mut answer)).await;
        ended.unwrap().unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        serving.await.unwrap();
    }

    #[test]
    fn every_answer_is_dockers() {
        let server = |mut response: Response, release| {
            add_headers(&mut response, ApiVersion::new(1, 41), release);
            assert_eq!(response.headers()["api-version"], "1.41");
            assert_eq!(response.headers()["ostype"], "linux");
            response.headers()[header::SERVER].clone()
        };
        let own = || StatusCode::OK.into_response();
        assert_eq!(server(own(), Some("20.10.24")), "Docker/20.10.24 (linux)");
        let skeins = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");
        assert_eq!(server(own(), None), skeins);
        let mut engines = own();
        let said = HeaderValue::from_static("Docker/1 (linux)");
        engines.headers_mut().insert(header::SERVER, said);
        assert_eq!(server(engines, Some("20.10.24")), "Docker/1 (linux)");
    }

    #[tokio::test]
    async fn targets_that_clients_did_not_encode_are_answered() {
        let filters = async |params: Params| params.text("filters").to_owned();
        let router = Router::new().route("/services", axum::routing::any(filters));
        let (mut client, server) = UnixStream::pair().unwrap();
        let serving = served_by(router, server);
        let ask = "/v1.41/services?filters={\"name\":[\"a<b\"]} HTTP/1.1\r\nhost: docker\r\n";
        let requests = format!(
            "GET {ask}\r\nPOST {ask}content-length: 3\r\n\r\n\"<>GET {ask}connection: close\r\n\r\n"
        );
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        let ended = timeout(IDLE_TIMEOUT, client.read_to_string(&mut answers)).await;
        ended.unwrap().unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
        assert_eq!(
            answers.matches("{\"name\":[\"a<b\"]}").count(),
            3,
            "{answers}"
        );
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_body_is_told_so_and_let_go() {
        let read = |body: Body| async { body::read(body).await.map(|_| ()) };
        let router = Router::new().route("/objects", axum::routing::post(read));
        let (mut client, server) = UnixStream::pair().unwrap();
        let serving = served_by(router, server);
        let request = b"POST /objects HTTP/1.1\r\nhost: docker\r\ncontent-length: 9\r\n\r\n{\"a\"";
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(IDLE_TIMEOUT * 2, client.read_to_end(&mut answer)).await;
        ended.unwrap().unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("after its first 4 bytes"), "{answer}");
        serving.await.unwrap();
    }
}
