//! A daemon's metrics for Prometheus: its text format over HTTP, on loopback.
//!
//! Loopback is open to every user of the node, who may see these numbers and no more than keep others
//! from seeing them for a moment: one connection is served at a time, and not for long.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, time::timeout};

/// How long one scrape may take: it is a few kilobytes, from memory to the same machine.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no more files, say): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What `encode` writes.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `GET /metrics` for ever; each answer is what `read` has then. The daemon's work is not to wait for
/// metrics: what keeps them from being served is logged.
pub async fn serve(address: SocketAddr, read: impl Fn() -> anyhow::Result<Registry>) {
    match TcpListener::bind(address).await {
        Ok(listener) => serve_on(listener, read).await,
        Err(error) => tracing::error!(
            "no metrics: cannot listen on {address}: {error}; choose another address by --metrics"
        ),
    }
}

async fn serve_on(listener: TcpListener, read: impl Fn() -> anyhow::Result<Registry>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot take a connection for metrics: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = service_fn(|request| {
            let response = respond(&request, &read);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut http = http1::Builder::new();
        let connection = http
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // Whoever goes away in the middle, or reads no further, has asked in vain: that is all.
        let _ = timeout(SCRAPE_TIMEOUT, connection).await;
    }
}

fn respond(
    request: &Request<Incoming>,
    read: &impl Fn() -> anyhow::Result<Registry>,
) -> Response<Full<Bytes>> {
    let (status, format, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match read().and_then(|registry| text(&registry)) {
            Ok(text) => (StatusCode::OK, FORMAT, text),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("{error:#}\n"),
            ),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "try GET /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let format = HeaderValue::from_static(format);
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

/// What Prometheus reads of a registry.
///
/// # Errors
/// A metric cannot be written.
pub fn text(registry: &Registry) -> anyhow::Result<String> {
    let mut text = String::new();
    encode(&mut text, registry).context("cannot write the metrics")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn asked(read: fn() -> anyhow::Result<Registry>, path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let asking = async {
            let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::select! {
            () = serve_on(listener, read) => unreachable!("it serves for ever"),
            answer = asking => answer,
        }
    }

    #[tokio::test]
    async fn metrics_are_read_anew_for_whoever_asks() {
        let read = || {
            let mut registry = Registry::default();
            let nodes = Gauge::<i64>::default();
            nodes.set(3);
            registry.register("nodes", "Nodes", nodes);
            Ok(registry)
        };
        let answer = asked(read, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\nnodes 3\n"), "{answer}");
        assert!(asked(read, "/").await.starts_with("HTTP/1.1 404 "));
        let broken = asked(|| anyhow::bail!("no map"), "/metrics").await;
        assert!(broken.starts_with("HTTP/1.1 500 ") && broken.contains("no map"));
    }
}
