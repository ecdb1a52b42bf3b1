//! The HTTP side.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::answer::Identity;

/// The longest delay that may be asked for: longer than any grace period in the tests.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// How long open requests may take after SIGTERM: docker's own grace period is 10 s.
const DRAIN: Duration = Duration::from_secs(9);
/// Connections served at once, below the usual limit of 1024 open files. More wait in the backlog.
const CONNECTIONS_MAX: u32 = 1000;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (no more files, say): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` completes and the requests then open are answered, at most [`DRAIN`] later.
pub async fn serve(listener: TcpListener, identity: &Identity, stop: impl Future<Output = ()>) {
    let (draining, drain) = watch::channel(());
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    tokio::pin!(stop);
    loop {
        let accept = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are one small segment each; waiting for more only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("set TCP_NODELAY for {client}: {error}");
        }
        let identity = identity.clone();
        let service = service_fn(move |request| {
            let identity = identity.clone();
            async move { Ok::<_, Infallible>(respond(&identity, client, &request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut drain = drain.clone();
        tokio::spawn(async move {
            tokio::pin!(connection);
            // A client that goes away in the middle is its own business: errors are dropped.
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = drain.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
    }
    drop(listener);
    draining.send_replace(());
    // All permits are back when the last connection has ended.
    if tokio::time::timeout(DRAIN, room.acquire_many(CONNECTIONS_MAX))
        .await
        .is_err()
    {
        eprintln!(
            "requests were still open {} s after the signal",
            DRAIN.as_secs()
        );
    }
}

async fn respond(
    identity: &Identity,
    client: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "use GET, HEAD or POST\n");
    }
    match request.uri().path() {
        "/" => {}
        "/health" => return text(StatusCode::OK, "ok\n"),
        "/delay" => match delay(request.uri()) {
            Ok(delay) => tokio::time::sleep(delay).await,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        },
        _ => return text(StatusCode::NOT_FOUND, "try /, /health or /delay?ms=100\n"),
    }
    let mut answer = identity.answer("tcp", client);
    answer.method = request.method().as_str();
    answer.path = request.uri().path();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        answer.headers.insert(name.to_string(), value.into_owned());
    }
    let mut response = Response::new(Full::new(Bytes::from(answer.to_line())));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The delay that `/delay?ms=N` asks for.
fn delay(uri: &Uri) -> Result<Duration, &'static str> {
    let wanted = uri
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("ms=")))
        .and_then(|value| value.parse().ok())
        .map(Duration::from_millis);
    match wanted {
        Some(delay) if delay <= DELAY_MAX => Ok(delay),
        _ => Err("want ?ms=N with N from 0 to 60000\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(uri: &str) -> Result<Duration, &'static str> {
        delay(&uri.parse().unwrap())
    }

    #[test]
    fn delay_takes_its_milliseconds_from_the_query() {
        assert_eq!(parsed("/delay?ms=250"), Ok(Duration::from_millis(250)));
        assert_eq!(parsed("/delay?x=1&ms=0"), Ok(Duration::ZERO));
        assert_eq!(parsed("/delay?ms=60000"), Ok(DELAY_MAX));
    }

    #[test]
    fn delay_refuses_what_is_no_or_too_long_a_time() {
        for uri in [
            "/delay",
            "/delay?ms=",
            "/delay?ms=-1",
            "/delay?ms=60001",
            "/delay?sms=1",
        ] {
            assert!(parsed(uri).is_err(), "{uri} was accepted");
        }
    }
}
