//! Logs of services and tasks, in Docker's stream format.

use super::{
    Leader,
    error::ApiError,
    node_handle::Store,
    query::{Params, unix_nanos},
    version::ApiVersion,
};
use crate::{
    manager::{LogOptions, LogRecord, LogSelector, LogsError},
    raft::ProposeError,
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::header;
use percent_encoding::percent_decode_str;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};
use tokio_stream::wrappers::ReceiverStream;

/// The first version of the API that tells frames from what a terminal writes.
const FRAMES_NAMED: ApiVersion = ApiVersion::new(1, 42);
/// The stream of messages about the log itself.
const STREAM_ERROR: u8 = 3;

pub async fn of_service(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let options = options(&params)?;
    let state = leader.read().await?;
    let service = state.find_service(&id)?;
    let selector = LogSelector {
        services: vec![service.id.clone()],
        tasks: Vec::new(),
    };
    let tty = service.spec.task_template.container_spec.tty;
    respond(&leader, selector, options, &params, version, tty).await
}

pub async fn of_task(
    State(leader): State<Leader>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let options = options(&params)?;
    let state = leader.read().await?;
    let task = state.find_task(&id)?;
    if task.is_attachment() {
        // The reference's error has no type here.
        return Err(ApiError::internal("logs only supported on container tasks"));
    }
    let selector = LogSelector {
        services: Vec::new(),
        tasks: vec![task.id.clone()],
    };
    let tty = task.spec.container_spec.tty;
    respond(&leader, selector, options, &params, version, tty).await
}

async fn respond(
    leader: &Leader,
    selector: LogSelector,
    options: LogOptions,
    params: &Params,
    version: ApiVersion,
    tty: bool,
) -> Result<Response, ApiError> {
    let records = leader.store.logs(selector, options).await;
    let records = records.map_err(|error| match error {
        LogsError::NotLeader => ProposeError::NotLeader { leader: None }.into(),
        LogsError::TooMany => ApiError::unavailable(error.to_string()),
    })?;
    let format = Format {
        store: leader.store.clone(),
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
        framed: !tty,
    };
    let frames =
        ReceiverStream::new(records).map(move |record| Ok::<_, Infallible>(format.write(&record)));
    let body = Body::from_stream(frames);
    Ok(([(header::CONTENT_TYPE, content_type(version, tty))], body).into_response())
}

fn content_type(asked: ApiVersion, tty: bool) -> &'static str {
    if tty || asked < FRAMES_NAMED {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    }
}

fn options(params: &Params) -> Result<LogOptions, ApiError> {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid(
            "must specify at least one of 'stdout' or 'stderr'",
        ));
    }
    let tail = match params.text("tail") {
        "" | "all" => -1,
        text => match text.parse::<i64>() {
            Ok(lines) if lines >= 0 => lines,
            Ok(_) => return Err(ApiError::internal("negative tail values not supported")),
            Err(_) => {
                return Err(ApiError::internal(
                    "tail value must be a positive integer or \"all\"",
                ));
            }
        },
    };
    let since = match params.text("since") {
        "" => 0,
        text => unix_nanos(text)
            .map(|nanos| i64::try_from(nanos).unwrap_or(i64::MAX))
            .ok_or_else(|| ApiError::invalid(format!("invalid value for since: {text}")))?,
    };
    Ok(LogOptions {
        follow: params.flag("follow"),
        tail,
        since,
        stdout,
        stderr,
    })
}

/// How records are written.
struct Format {
    store: Arc<dyn Store>,
    timestamps: bool,
    details: bool,
    /// With a header per record that tells the stream; not for terminals, which have only one.
    framed: bool,
}

impl Format {
    fn write(&self, record: &LogRecord) -> Bytes {
        let line = if record.stream == STREAM_ERROR {
            let mut line = BytesMut::from(&b"Error grabbing logs: "[..]);
            line.put_slice(record.data.trim_ascii_end());
            line.put_u8(b'\n');
            line
        } else {
            self.line(record)
        };
        if !self.framed {
            return line.freeze();
        }
        let mut frame = BytesMut::with_capacity(8 + line.len());
        frame.put_slice(&[record.stream, 0, 0, 0]);
        // The records of one call to the agent are far below 4 GiB.
        frame.put_u32(u32::try_from(line.len()).unwrap_or(u32::MAX));
        frame.put(line);
        frame.freeze()
    }

    fn line(&self, record: &LogRecord) -> BytesMut {
        let mut prefix = String::new();
        if self.timestamps {
            prefix.push_str(&record.timestamp);
            prefix.push(' ');
        }
        if self.details {
            let state = self.store.state();
            let task = state.task(&record.task_id);
            let service = task.map_or("", |task| &task.service_id);
            prefix.push_str(&details(record, service));
            prefix.push(' ');
        }
        let mut line = BytesMut::with_capacity(prefix.len() + record.data.len());
        line.put_slice(prefix.as_bytes());
        line.put_slice(&record.data);
        line
    }
}

/// What the log driver notes with a line, and whose it is, which the driver has no say in: by key.
fn details(record: &LogRecord, service_id: &str) -> String {
    let own = [
        ("node", &*record.node_id),
        ("service", service_id),
        ("task", &record.task_id),
    ]
    // IDs need no escaping.
    .map(|(what, id)| (format!("com.docker.swarm.{what}.id"), id.to_owned()));
    let key_of = |detail: &str| {
        let key = detail.split('=').next().unwrap_or_default();
        let key = key.replace('+', " ");
        percent_decode_str(&key).decode_utf8_lossy().into_owned()
    };
    let noted = record.details.split(',').filter(|noted| !noted.is_empty());
    let noted = noted.map(|noted| (key_of(noted), noted.to_owned()));
    let mut all: BTreeMap<String, String> = noted.collect();
    all.extend(own.map(|(key, id)| (key.clone(), format!("{key}={id}"))));
    let all: Vec<_> = all.into_values().collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_clients_know_frames_by_no_name() {
        let framed = "application/vnd.docker.multiplexed-stream";
        let raw = "application/vnd.docker.raw-stream";
        for (minor, tty, expected) in [
            (41, false, raw),
            (41, true, raw),
            (42, false, framed),
            (51, false, framed),
            (51, true, raw),
        ] {
            assert_eq!(content_type(ApiVersion::new(1, minor), tty), expected);
        }
    }

    #[test]
    fn what_the_log_driver_notes_stands_beside_whose_line_it_is() {
        let of = |noted: &str| {
            let record = LogRecord {
                task_id: "t".into(),
                node_id: "n".into(),
                stream: 1,
                timestamp: String::new(),
                details: noted.into(),
                data: Bytes::new(),
            };
            details(&record, "s")
        };
        let own =
            "com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t";
        assert_eq!(of(""), own);
        assert_eq!(of("a=b%2Cc,tier=x+y"), format!("a=b%2Cc,{own},tier=x+y"));
        // As the labels of a user's own container have it.
        assert_eq!(of("com.docker.swarm.node.id=forged"), own);
    }

    #[test]
    fn options_are_checked_in_the_references_words() {
        let refused = |pairs: [(&str, &str); 2]| options(&pairs.into()).unwrap_err().message;
        assert_eq!(
            refused([("stdout", "0"), ("follow", "1")]),
            "must specify at least one of 'stdout' or 'stderr'"
        );
        assert_eq!(
            refused([("stdout", "1"), ("tail", "-1")]),
            "negative tail values not supported"
        );
        assert_eq!(
            refused([("stdout", "1"), ("tail", "x")]),
            "tail value must be a positive integer or \"all\""
        );
        let params = [("stderr", "1"), ("tail", "all"), ("since", "12.000000005")].into();
        let read = options(&params).unwrap();
        assert_eq!((read.tail, read.since), (-1, 12_000_000_005));
        assert!(read.stderr && !read.stdout && !read.follow);
        assert_eq!(
            refused([("stdout", "1"), ("since", "12.5s")]),
            "invalid value for since: 12.5s"
        );
    }
}
