//! Requests to the node's own engine.

use crate::api::{error::ApiError, version::ApiVersion};
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

/// How long the engine may take to accept a connection: it is local, so more means it hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the engine may take for an answer that Skein itself needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long it may take to make or change something: an engine whose network plugin is away waits 15 s
/// for each network.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest answer that Skein reads itself: lists of thousands of containers are well below.
const ANSWER_MAX: usize = 64 << 20;

/// The container engine of this node, by its socket.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    /// Asked for once: an engine of another version is another process, and that breaks so many
    /// connections that clients negotiate anew after this daemon's restart at the latest.
    version: OnceLock<ApiVersion>,
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
                version: OnceLock::new(),
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

    /// The newest version that clients may speak: what both Skein and the engine know.
    pub async fn offered_version(&self) -> ApiVersion {
        if let Some(version) = self.inner.version.get() {
            return *version;
        }
        let answer = self.get("/version").await;
        let known = answer
            .ok()
            .and_then(|version| ApiVersion::parse(version["ApiVersion"].as_str()?));
        match known {
            Some(engines) => *self
                .inner
                .version
                .get_or_init(|| engines.min(ApiVersion::NEWEST)),
            None => ApiVersion::FALLBACK,
        }
    }
}

/// Reads a body that must be JSON, of at most [`ANSWER_MAX`] bytes.
pub(crate) async fn read_json(body: Incoming) -> Result<Value, ApiError> {
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
