//! Requests to the node's own engine.

use crate::api::{error::ApiError, version::Offered};
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

/// How long the engine may take to accept a connection: it is local, so more means it hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the engine may take for an answer that Skein itself needs.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a request waits to hear what version of the API the engine speaks.
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// How long an engine counts as the one that was asked: it may be exchanged for one of another version
/// while this daemon runs.
const VERSION_KEPT: Duration = Duration::from_secs(10);

/// How long an engine that hangs is not asked again: requests that need none are not to wait for it.
const VERSION_PAUSE: Duration = Duration::from_secs(5);

/// How long it may take to make or change something: an engine whose network plugin is away waits 15 s
/// for each network.
pub(crate) const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest answer that Skein reads itself: lists of thousands of containers are well below.
const ANSWER_MAX: usize = 64 << 20;

/// The container engine of this node, by its socket.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    known: Mutex<EngineVersions>,
}

/// What is known of the engine's versions.
#[derive(Clone, Default)]
struct EngineVersions {
    /// What it last said, as far as Skein knows it.
    offered: Option<Offered>,
    /// The engine's own version, which it said with that.
    release: Option<Arc<str>>,
    /// It is not asked again before.
    again: Option<Instant>,
}

/// Why a request did not reach the engine, or its answer did not come.
#[derive(Debug, thiserror::Error)]
#[error("Cannot reach the container engine at unix://{socket}: {reason}. Is it running?")]
pub struct EngineError {
    socket: String,
    reason: String,
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl Engine {
    /// The engine behind a socket.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                socket,
                known: Mutex::default(),
            }),
        }
    }

    fn socket(&self) -> &Path {
        &self.inner.socket
    }

    fn error(&self, reason: impl ToString) -> EngineError {
        EngineError {
            socket: self.socket().display().to_string(),
            reason: reason.to_string(),
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// The engine does not accept one in time.
    pub async fn connect(&self) -> Result<UnixStream, EngineError> {
        match timeout(CONNECT_TIMEOUT, UnixStream::connect(self.socket())).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.error(error)),
            Err(_) => Err(self.error("it does not accept the connection")),
        }
    }

    /// Sends a request on a connection of its own, which ends with the answer's body; or, when that
    /// is dropped, at once. The time that the engine takes to answer is the caller's to bound.
    ///
    /// # Errors
    /// No connection, or it ended before an answer.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, EngineError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.error(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the engine ended");
            }
        });
        sender
            .send_request(request)
            .await
            .map_err(|error| self.error(error))
    }

    /// What a request answers within `limit`: JSON to be changed on its way, or as it comes, what is no
    /// success.
    ///
    /// # Errors
    /// The engine cannot be reached, takes too long, or answers something else.
    pub async fn relay(
        &self,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<Relayed, ApiError> {
        let answer = async {
            let response = self.send(request).await?;
            Ok(match response.status() {
                StatusCode::OK => Relayed::Json(read_json(response.into_body()).await?),
                _ => Relayed::Refusal(response.map(Body::new)),
            })
        };
        let late = |_| ApiError::from(self.error("it does not answer in time"));
        timeout(limit, answer).await.map_err(late)?
    }

    /// What a GET of a path (and query) answers, as JSON. Answers that are no success are errors of
    /// their status with the engine's message.
    ///
    /// # Errors
    /// The engine cannot be reached, refuses, or answers something else.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        let request = Request::get(path)
            .header("host", "docker")
            .body(Body::empty())
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let answer = async {
            let response = self.send(request).await?;
            let status = response.status();
            Ok::<_, ApiError>((status, read_json(response.into_body()).await?))
        };
        match timeout(ANSWER_TIMEOUT, answer).await {
            Err(_) => Err(self.error("it does not answer in time").into()),
            Ok(answer) => match answer? {
                (StatusCode::OK, value) => Ok(value),
                (status, value) => Err(ApiError::new(
                    status,
                    value["message"].as_str().unwrap_or_default(),
                )),
            },
        }
    }

    /// Sends JSON, and reads an answer of JSON or nothing (`null`), whatever its status. `request` has
    /// method, path and headers.
    ///
    /// # Errors
    /// The engine cannot be reached, takes too long, or answers something else.
    pub async fn ask(
        &self,
        request: http::request::Builder,
        body: &Value,
    ) -> Result<(StatusCode, Value), ApiError> {
        let request = request
            .header("host", "docker")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let answer = async {
            let response = self.send(request).await?;
            let status = response.status();
            Ok::<_, ApiError>((status, read_json_or_nothing(response.into_body()).await?))
        };
        match timeout(CHANGE_TIMEOUT, answer).await {
            Err(_) => Err(self.error("it does not answer in time").into()),
            Ok(answer) => answer,
        }
    }

    /// The engine's own version, such as `20.10.24`, as far as it has been asked what clients may speak.
    pub fn release(&self) -> Option<Arc<str>> {
        self.inner.known.lock().release.clone()
    }

    /// The versions that clients may speak: what both Skein and the engine know. Those of an engine which does
    /// not answer are the ones that it last had.
    pub async fn offered(&self) -> Offered {
        let before = {
            let mut known = self.inner.known.lock();
            let now = Instant::now();
            if known.again.is_some_and(|again| now < again) {
                return known.offered.unwrap_or(Offered::FALLBACK);
            }
            // Meanwhile others go on with what is known, if anything is.
            known.again = known.offered.map(|_| now + VERSION_KEPT);
            known.offered
        };
        let answer = timeout(VERSION_PATIENCE, self.get("/version")).await;
        let mut known = self.inner.known.lock();
        match answer {
            Ok(answer) => {
                let answer = answer.unwrap_or_default();
                if let Some(release) = answer["Version"].as_str() {
                    known.release = Some(release.into());
                }
                let offered = Offered::with(&answer);
                // One that refuses connections does so at once, and may be there at any moment.
                known.again = offered.map(|_| Instant::now() + VERSION_KEPT);
                known.offered = offered.or(before);
            }
            Err(_) => known.again = Some(Instant::now() + VERSION_PAUSE),
        }
        known.offered.unwrap_or(Offered::FALLBACK)
    }
}

/// What the engine answered to a request that was passed on.
pub enum Relayed {
    /// To be changed on its way.
    Json(Value),
    /// To be passed on as it is.
    Refusal(Response<Body>),
}

/// Reads a body that must be JSON, of at most [`ANSWER_MAX`] bytes.
async fn read_json(body: Incoming) -> Result<Value, ApiError> {
    as_json(&read(body).await?)
}

/// The same of a body that may be empty: `null` then.
async fn read_json_or_nothing(body: Incoming) -> Result<Value, ApiError> {
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    as_json(&bytes)
}

async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let read = Limited::new(body, ANSWER_MAX).collect().await;
    let read =
        read.map_err(|error| ApiError::internal(format!("reading the engine's answer: {error}")))?;
    Ok(read.to_bytes())
}

fn as_json(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::internal(format!("the engine's answer is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::version::ApiVersion, testing};
    use tokio::net::UnixListener;

    fn serve(socket: &Path, version: &'static str) -> testing::Server {
        let answer = format!(r#"{{"ApiVersion":"{version}","Version":"20.10.24"}}"#);
        testing::engine(socket, move |_, _| {
            std::future::ready((200, answer.clone()))
        })
    }

    #[tokio::test]
    async fn an_engine_that_was_exchanged_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let engine = Engine::new(path.clone());
        let later = || engine.inner.known.lock().again = Some(Instant::now());
        let serving = serve(&path, "1.44");
        let first = ApiVersion::new(1, 44);
        assert_eq!(engine.release(), None);
        assert_eq!(engine.offered().await.newest, first);
        assert_eq!(engine.release().as_deref(), Some("20.10.24"));
        drop(serving);
        let serving = serve(&path, "1.41");
        assert_eq!(engine.offered().await.newest, first, "known for a while");
        later();
        let second = ApiVersion::new(1, 41);
        assert_eq!(engine.offered().await.newest, second);
        // While it is away it counts as the one that it was, and is asked as soon as it is back.
        later();
        drop(serving);
        assert_eq!(engine.offered().await.newest, second);
        let _serving = serve(&path, "1.45");
        assert_eq!(engine.offered().await.newest, ApiVersion::new(1, 45));
    }

    #[tokio::test]
    async fn an_engine_that_hangs_keeps_requests_waiting_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let _hung = UnixListener::bind(&path).unwrap();
        let engine = Engine::new(path);
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(engine.offered().await, Offered::FALLBACK);
        }
        assert!(
            begun.elapsed() < VERSION_PATIENCE * 2,
            "{:?}",
            begun.elapsed()
        );
    }
}
