//! Passing a request on, streams and upgraded connections included.

use super::{Engine, engine::EngineError};
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

/// Headers that are about one connection, not about the message.
const HOP_BY_HOP: [HeaderName; 3] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    // The server answers it itself, by reading the body.
    header::EXPECT,
];

/// Passes a request on to the engine and its answer back, both as they come: bodies stream, and
/// where the engine switches protocols (attach, exec, build sessions), the two connections become
/// one. A client that goes away takes its request to the engine with it.
///
/// # Errors
/// The engine cannot be reached.
pub async fn forward(
    engine: &Engine,
    mut request: Request<Body>,
) -> Result<Response<Body>, EngineError> {
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    prepare(&mut request, upgrades);
    let mut response = engine.send(request).await?;
    match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let server = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(client, server));
            Ok(response.map(|_| Body::empty()))
        }
        _ => Ok(finish(response)),
    }
}

fn prepare(request: &mut Request<Body>, upgrades: bool) {
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    drop_hop_by_hop(headers);
    if upgrades {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    headers
        .entry(header::HOST)
        .or_insert(HeaderValue::from_static("docker"));
}

fn finish(mut response: Response<Incoming>) -> Response<Body> {
    drop_hop_by_hop(response.headers_mut());
    response.map(Body::new)
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Copies both ways until both are done. The end of one direction is passed on, so that a client can
/// end a container's input and still read its output.
async fn tunnel(client: OnUpgrade, server: OnUpgrade) {
    let (mut client, mut server) = match tokio::try_join!(client, server) {
        Ok((client, server)) => (TokioIo::new(client), TokioIo::new(server)),
        Err(error) => {
            tracing::debug!(%error, "a connection ended before its protocol was switched");
            return;
        }
    };
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
        tracing::debug!(%error, "a switched connection broke");
    }
}
