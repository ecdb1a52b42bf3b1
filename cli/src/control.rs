//! skein-control, by the Docker API's socket.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use skein_proto::inspect::ClusterStatus;
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;

/// A manager looks for a leader for 8 seconds before it gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// The largest answer: 4,096 nodes with about 300 bytes each.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What it says of all nodes.
#[derive(Debug)]
pub enum Answer {
    /// As the leader knows them.
    Status(ClusterStatus),
    /// Nothing: this node is no manager. In its own words.
    NotManager(String),
}

/// How far all nodes are.
///
/// # Errors
/// It is away, or there is no leader.
pub async fn status(socket: &Path) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(socket)).await;
    let answer = answer.unwrap_or_else(|_| bail!("no answer within {ANSWER_TIMEOUT:?}"));
    answer.with_context(|| format!("cannot ask skein-control at {}", socket.display()))
}

async fn ask(socket: &Path) -> anyhow::Result<Answer> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.context("does it run, and may you drive it?")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/skein/status")
        .header(HOST, "docker")
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(anyhow::Error::from_boxed)?;
        read(status, &body.to_bytes())
    };
    tokio::select! {
        answer = asking => answer,
        // What it ended with is what the answer lacks.
        ended = connection => ended.context("it closed the connection").and_then(|()| bail!("it closed the connection")),
    }
}

fn read(status: StatusCode, body: &[u8]) -> anyhow::Result<Answer> {
    if status == StatusCode::OK {
        let status = serde_json::from_slice(body);
        return Ok(Answer::Status(status.context("its answer is unreadable")?));
    }
    let message = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let message = message["message"].as_str().unwrap_or("it gives no reason");
    // Docker's status for what only managers can answer.
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Ok(Answer::NotManager(message.to_owned()));
    }
    bail!("{status}: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_refusals() {
        let ok = br#"{"version": 7, "nodes": [{"hostname": "n1", "behind": true}]}"#;
        let Answer::Status(status) = read(StatusCode::OK, ok).unwrap() else {
            panic!("a status");
        };
        assert!(status.version == 7 && status.nodes[0].behind);
        let worker = br#"{"message": "This node is not a swarm manager."}"#;
        let answer = read(StatusCode::SERVICE_UNAVAILABLE, worker).unwrap();
        assert!(matches!(answer, Answer::NotManager(message) if message.contains("not a swarm")));
        let error = read(StatusCode::INTERNAL_SERVER_ERROR, b"{}").unwrap_err();
        assert!(error.to_string().contains("no reason"), "{error}");
        read(StatusCode::OK, b"<html>").unwrap_err();
    }

    #[tokio::test]
    async fn where_it_is_away_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = status(&dir.path().join("docker.sock")).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("docker.sock"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
