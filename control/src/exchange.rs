//! Asking strangers: one HTTP/1.1 request on a connection of its own, and its answer as a whole.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::pending;
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest word of a stranger's that is passed on, in characters: it goes into the status of tasks, and
/// into errors.
pub(crate) const WORD_MAX: usize = 300;

/// What a stranger says, as part of one line.
pub(crate) fn word(said: &str) -> String {
    let plain = said.trim().chars().take(WORD_MAX);
    plain
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Sends a request, and reads an answer of up to `answer_max` bytes. Deadlines are the caller's.
///
/// # Errors
/// The connection ends before the answer, what comes is no HTTP, or it is longer.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
    answer_max: usize,
) -> Result<(http::StatusCode, Bytes), String> {
    let connecting = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connecting.map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), answer_max);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let driven = async {
        // Whatever ends it, the answer's end says it, too.
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        never = driven => never,
    }
}
