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
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, time::timeout};

/// How long one scrape may take: it is a few kilobytes, from memory to the same machine.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no more files, say): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What `encode` writes.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What reads metrics. It may block.
pub trait Read: Fn() -> anyhow::Result<Registry> + Send + Sync + 'static {}

impl<F: Fn() -> anyhow::Result<Registry> + Send + Sync + 'static> Read for F {}

/// Serves `GET /metrics` for ever; each answer is what `read` has then. The daemon's work is not to wait for
/// metrics: what keeps them from being served is logged.
pub async fn serve(address: SocketAddr, read: impl Read) {
    match TcpListener::bind(address).await {
        Ok(listener) => serve_on(listener, read).await,
        Err(error) => tracing::error!(
            "no metrics: cannot listen on {address}: {error}; choose another address by --metrics"
        ),
    }
}

async fn serve_on(listener: TcpListener, read: impl Read) {
    let read = Arc::new(read);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot take a connection for metrics: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = service_fn(|request: Request<Incoming>| {
            let read = Arc::clone(&read);
            async move {
                let respond = move || respond(request.method(), request.uri().path(), &*read);
                let response = tokio::task::spawn_blocking(respond).await;
                let failed = |_| {
                    let mut failed = Response::default();
                    *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    failed
                };
                Ok::<_, Infallible>(response.unwrap_or_else(failed))
            }
        });
        let mut http = http1::Builder::new();
        let connection = http
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // Whoever goes away in the middle, or reads no further, has asked in vain: that is all.
        let _ = timeout(SCRAPE_TIMEOUT, connection).await;
    }
}

fn respond(method: &Method, path: &str, read: &impl Read) -> Response<Full<Bytes>> {
    let (status, format, body) = match (method, path) {
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

/// What `docs/metrics.md` says of the metrics with one of these prefixes, compared with what is served: for tests of
/// daemons.
///
/// # Panics
/// A metric is served, or documented, alone, or with another type or other labels.
pub fn assert_documented(served: &str, prefix: &str) {
    let manual = include_str!("../../docs/metrics.md");
    let documented: BTreeSet<[String; 3]> = manual
        .lines()
        .filter_map(|line| documented(line, prefix))
        .collect();
    let served = self::served(served, prefix);
    assert_eq!(served, documented, "left: served; right: docs/metrics.md");
}

/// Name, type and labels in a row of the table.
fn documented(line: &str, prefix: &str) -> Option<[String; 3]> {
    let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
    let name = cells.next()?.trim_end_matches('`').to_owned();
    let kind = cells.next()?.to_owned();
    let mut labels: Vec<&str> = cells
        .next()?
        .split(", ")
        .map(|label| label.trim_matches('`'))
        .collect();
    labels.retain(|label| !label.is_empty());
    labels.sort_unstable();
    name.starts_with(prefix)
        .then(|| [name, kind, labels.join(", ")])
}

/// The same of all metrics that are served. Labels of all series of one name, as not all series have all.
fn served(text: &str, prefix: &str) -> BTreeSet<[String; 3]> {
    let mut metrics: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    let mut kind = "";
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            kind = declared.split(' ').nth(1).unwrap_or_default();
        }
        if line.starts_with('#') || !line.starts_with(prefix) {
            continue;
        }
        let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let (_, found) = metrics.entry(name).or_insert((kind, BTreeSet::new()));
        let labels = labels.trim_end_matches('}').split(',');
        found.extend(labels.filter_map(|label| Some(label.split_once('=')?.0)));
    }
    let joined = |labels: BTreeSet<&str>| labels.into_iter().collect::<Vec<_>>().join(", ");
    metrics
        .into_iter()
        .map(|(name, (kind, labels))| [name.to_owned(), kind.to_owned(), joined(labels)])
        .collect()
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

    #[test]
    fn documents_and_metrics_are_read_alike() {
        let text = "# TYPE a_b counter\na_b_total{x=\"1\",y=\"2\"} 3\na_b_total{x=\"1\",z=\"2\"} 3\n\
            # TYPE a_c gauge\na_c 1\nother 2\n# EOF\n";
        let rows = [
            "| `a_b_total` | counter | `z`, `x`, `y` | What |",
            "| `a_c` | gauge | | What |",
        ];
        let documented: BTreeSet<_> = rows
            .iter()
            .filter_map(|row| documented(row, "a_"))
            .collect();
        assert_eq!(served(text, "a_"), documented);
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
