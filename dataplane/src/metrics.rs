//! What the kernel programs have counted, for Prometheus: its text format over HTTP, on loopback.
//!
//! Loopback is open to every user of the node, who may see these numbers and no more than keep others
//! from seeing them for a moment: one connection is served at a time, and not for long.

use crate::kernel::Counters;
use anyhow::Context as _;
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter as Metric, family::Family},
    registry::Registry,
};
use skein_abi::verdict::Counter;
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, time::timeout};

/// How long one scrape may take: it is a few kilobytes, from memory to the same machine.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (no more files, say): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What `encode` writes.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves for ever. Packets are not to wait for metrics: what keeps this from serving is logged.
pub async fn serve(address: SocketAddr, counters: Counters) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(
                "no metrics: cannot listen on {address}: {error}; choose another address by --metrics"
            );
            return;
        }
    };
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
            let response = respond(&request, &counters);
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
    counters: &Counters,
) -> Response<http_body_util::Full<Bytes>> {
    let (status, format, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match text(|counter| counters.read(counter)) {
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
    let mut response = Response::new(http_body_util::Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let format = hyper::header::HeaderValue::from_static(format);
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

type Labels = [(&'static str, &'static str); 1];

/// All counters, in the text format of OpenMetrics.
fn text(read: impl Fn(Counter) -> anyhow::Result<u64>) -> anyhow::Result<String> {
    let packets = Family::<Labels, Metric>::default();
    let dropped = Family::<Labels, Metric>::default();
    for counter in Counter::ALL {
        let metric = match counter.drop_reason() {
            Some(reason) => dropped.get_or_create(&[("reason", reason)]),
            None => packets.get_or_create(&[("event", counter.name())]),
        };
        metric.inc_by(read(*counter)?);
    }
    let mut registry = Registry::with_prefix("skein_dataplane");
    registry.register("packets", "Packets, by what became of them", packets);
    registry.register("dropped_packets", "Packets dropped, by why", dropped);
    let mut text = String::new();
    encode(&mut text, &registry).context("cannot write the metrics")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_line() {
        let text = text(|counter| Ok(counter as u64 + 100)).unwrap();
        for (line, counter) in [
            (
                "skein_dataplane_packets_total{event=\"overlay\"}",
                Counter::Overlay,
            ),
            (
                "skein_dataplane_dropped_packets_total{reason=\"no_flow\"}",
                Counter::DropNoFlow,
            ),
        ] {
            let line = format!("{line} {}\n", counter as u64 + 100);
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        let values = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(values.count(), Counter::ALL.len());
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn half_the_counters_are_none() {
        let refused = text(|_| anyhow::bail!("the kernel refuses")).unwrap_err();
        assert_eq!(refused.to_string(), "the kernel refuses");
    }
}
