//! The log broker: asks the agents for logs, and brings what they send to the readers.

mod broker;
mod reading;
mod service;

pub(super) use broker::Broker;
pub(super) use service::LogsService;

use bytes::Bytes;
use std::time::Duration;

/// Readers at a time: each costs an open stream to every agent concerned.
pub const READERS_MAX: usize = 256;
/// How long a reader may take no record before its agents are told to stop.
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// The stream of records that tell of the collection itself.
const STREAM_ERROR: u8 = 3;

/// Whose logs are asked for.
#[derive(Clone, Debug, Default)]
pub struct LogSelector {
    /// All tasks of these services (IDs); those that come later too if the logs are followed.
    pub services: Vec<String>,
    /// These tasks (IDs).
    pub tasks: Vec<String>,
}

/// What of the logs is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on when all there is has been sent.
    pub follow: bool,
    /// The last lines of each task; -1: all.
    pub tail: i64,
    /// Nanoseconds since the Unix epoch; 0: from the start.
    pub since: i64,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
}

/// One line, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The task that wrote it; "" for errors that concern none.
    pub task_id: String,
    /// The node it ran on.
    pub node_id: String,
    /// 1 stdout, 2 stderr, 3 an error of the collection itself.
    pub stream: u8,
    /// RFC 3339, nine fractional digits.
    pub timestamp: String,
    /// What the log driver notes with the line: `KEY=VALUE`, joined by commas, both escaped as in queries.
    pub details: String,
    /// The bytes that were written.
    pub data: Bytes,
}

/// Why logs cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogsError {
    /// Only the leader knows the agents.
    #[error("this manager is not the leader: ask the leader for logs")]
    NotLeader,
    /// See [`READERS_MAX`].
    #[error("{READERS_MAX} log readers are at work already: end one of them, and try again")]
    TooMany,
}
