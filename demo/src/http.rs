//! The HTTP side.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};

use crate::answer::Identity;

/// The longest delay that may be asked for: longer than any grace period in the tests.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// How long open requests may take after SIGTERM: docker's own grace period is 10 s.
const DRAIN: Duration = Duration::from_secs(9);
/// How long after SIGTERM a kept connection may send one more request, which is answered with
/// `Connection: close`. Who closes a connection at once resets the request that is on its way.
const LAST_REQUEST: Duration = Duration::from_secs(5);
/// What a server bears of its clients.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once, below the usual limit of 1024 open files. More wait in the backlog.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 1000)]
    connections_max: u32,
    /// How many seconds a client may take to send its request's head.
    #[arg(long, env = "HEAD_SECONDS", default_value_t = 30)]
    head_seconds: u64,
}

/// Pause after a failed accept (no more files, say): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A place among [`Limits::connections_max`]; nobody closes the semaphore, so there is one in every result.
type Permit = Result<OwnedSemaphorePermit, AcquireError>;

/// Serves until `stop` completes and the connections then open have had their last answer, at most
/// [`DRAIN`] later.
pub async fn serve(
    listener: TcpListener,
    identity: &Identity,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let (draining, drain) = watch::channel(false);
    let room = Arc::new(Semaphore::new(limits.connections_max as usize));
    let begin = |stream, client, permit: Permit| {
        let connection = answer_all(stream, client, identity.clone(), limits, drain.clone());
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    };
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
        match accepted {
            Ok((stream, client)) => begin(stream, client, permit),
            Err(error) => {
                eprintln!("accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let waiting = backlog(listener).unwrap_or_else(|error| {
        eprintln!("accept the connections in the backlog: {error}");
        Vec::new()
    });
    for (stream, client) in waiting {
        begin(stream, client, Arc::clone(&room).acquire_owned().await);
    }
    draining.send_replace(true);
    // All permits are back when the last connection has ended.
    if tokio::time::timeout(DRAIN, room.acquire_many(limits.connections_max))
        .await
        .is_err()
    {
        eprintln!(
            "connections were still open {} s after the signal",
            DRAIN.as_secs()
        );
    }
}

/// Closes the socket, and gives the connections that the kernel has made on it: who closes it with those
/// in its backlog resets them, and a busy machine has some there.
fn backlog(listener: TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    // Asked directly: the runtime may not know yet that there are any.
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                waiting.push((TcpStream::from_std(stream)?, client));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(waiting),
            Err(error) => return Err(error),
        }
    }
}

/// Answers the requests of a connection until it ends; once `drain` says so, one more at most.
async fn answer_all(
    stream: TcpStream,
    client: SocketAddr,
    identity: Identity,
    limits: Limits,
    mut drain: watch::Receiver<bool>,
) {
    // Answers are one small segment each; waiting for more only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        eprintln!("set TCP_NODELAY for {client}: {error}");
    }
    let is_last = drain.clone();
    let service = service_fn(move |request| {
        let (identity, is_last) = (identity.clone(), is_last.clone());
        async move {
            let mut response = respond(&identity, client, &request).await;
            if *is_last.borrow() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.head_seconds))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A client that goes away in the middle is its own business: errors are dropped.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = drain.changed() => {
            let last = tokio::time::timeout(LAST_REQUEST, connection.as_mut());
            if last.await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const NOBODY: Identity = Identity {
        hostname: String::new(),
        node: String::new(),
        task: String::new(),
    };

    const LIMITS: Limits = Limits {
        connections_max: 1000,
        head_seconds: 30,
    };

    fn parsed(uri: &str) -> Result<Duration, &'static str> {
        delay(&uri.parse().unwrap())
    }

    /// One answer, head and body, to a request on a connection that stays open.
    async fn ask(stream: &mut TcpStream) -> String {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"ok\n") {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0, "closed");
        }
        String::from_utf8(said).unwrap()
    }

    #[tokio::test]
    async fn a_kept_connection_has_a_last_answer_after_the_signal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            serve(listener, &NOBODY, LIMITS, async { drop(stopped.await) }).await;
        });
        let mut kept = TcpStream::connect(address).await.unwrap();
        assert!(!ask(&mut kept).await.contains("connection: close"));
        stop.send(()).unwrap();
        // The server's own end of the listening socket says that it has had the signal.
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ask(&mut kept).await.contains("connection: close"));
        assert_eq!(kept.read(&mut [0]).await.unwrap(), 0, "and is closed");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_in_the_backlog_at_the_signal_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // The signal is there before the server looks at its socket for the first time.
        let mut waiting = Vec::new();
        for _ in 0..8 {
            waiting.push(TcpStream::connect(address).await.unwrap());
        }
        let server = tokio::spawn(async move {
            serve(listener, &NOBODY, LIMITS, std::future::ready(())).await;
        });
        for mut stream in waiting {
            assert!(ask(&mut stream).await.contains("connection: close"));
        }
        server.await.unwrap();
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
