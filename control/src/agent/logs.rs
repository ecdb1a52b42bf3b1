//! What tasks write, for the readers that the managers have.

use super::{engine::Engine, task::Tasks};
use crate::manager::LOG_READERS_MAX;
use bollard::{BollardRequest, container::LogOutput, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures::StreamExt as _;
use skein_model::{TaskState, Timestamp};
use skein_proto::node::{LogChunk, LogSubscription, SubscriptionsRequest, logs_client::LogsClient};
use std::{collections::HashMap, convert::Infallible, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

/// Subscriptions served at a time: one of each reader that the leader lets in, and as many again for
/// the tasks that come while they follow.
const SUBSCRIPTIONS_MAX: usize = 2 * LOG_READERS_MAX;
/// Readers beyond those that are being told that they get nothing: each takes a call to the leader.
const REFUSALS_MAX: usize = LOG_READERS_MAX;
/// How long telling a reader that it gets nothing may take.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(10);
/// Chunks of one subscription that wait for the leader; the engine waits with its own then.
const QUEUE: usize = 128;
/// Between tries to subscribe with a leader that does not serve logs at the moment.
const RETRY: Duration = Duration::from_secs(1);
/// Between looks for the container of a task that is being prepared.
const CONTAINER_POLL: Duration = Duration::from_millis(500);
/// An engine that does not begin to send a log which is not followed is given up.
const SILENCE: Duration = Duration::from_secs(15);
/// Of a chunk that tells of the collection itself.
const STREAM_ERROR: u32 = 3;

/// Serves log subscriptions for as long as the session lasts.
pub async fn serve(
    engine: &Engine,
    tasks: &Tasks,
    channel: Channel,
    session_id: &str,
) -> Result<Infallible, Status> {
    loop {
        let served = serve_once(engine, tasks, channel.clone(), session_id).await;
        if let Err(status) = served {
            tracing::debug!("no log subscriptions: {}", status.message());
        }
        sleep(RETRY).await;
    }
}

async fn serve_once(
    engine: &Engine,
    tasks: &Tasks,
    channel: Channel,
    session_id: &str,
) -> Result<(), Status> {
    let mut client = LogsClient::new(channel);
    let request = SubscriptionsRequest {
        session_id: session_id.to_owned(),
    };
    let mut subscriptions = client.subscriptions(request).await?.into_inner();
    // Dropped, and all publishing with it, when the session ends.
    let mut publishing: JoinSet<String> = JoinSet::new();
    let mut open: HashMap<String, CancellationToken> = HashMap::new();
    loop {
        let subscription = tokio::select! {
            next = subscriptions.message() => next?,
            Some(ended) = publishing.join_next(), if !publishing.is_empty() => {
                if let Ok(id) = ended {
                    open.remove(&id);
                }
                continue;
            }
        };
        let Some(subscription) = subscription else {
            return Ok(());
        };
        if subscription.close {
            if let Some(closing) = open.remove(&subscription.id) {
                closing.cancel();
            }
            continue;
        }
        if publishing.len() >= SUBSCRIPTIONS_MAX + REFUSALS_MAX {
            tracing::warn!(
                subscription = subscription.id,
                "more log readers than can be told so get nothing: this one is not answered"
            );
            continue;
        }
        if open.len() >= SUBSCRIPTIONS_MAX {
            tracing::warn!(
                subscription = subscription.id,
                "{SUBSCRIPTIONS_MAX} log readers are being served already: this one gets nothing"
            );
            let mut client = client.clone();
            publishing.spawn(async move {
                let refusal = tokio_stream::iter(refusal(&subscription));
                let told = timeout(REFUSAL_DEADLINE, client.publish(refusal)).await;
                if !matches!(told, Ok(Ok(_))) {
                    tracing::debug!(subscription = subscription.id, "its reader was not told");
                }
                subscription.id
            });
            continue;
        }
        let (id, closing) = (subscription.id.clone(), CancellationToken::new());
        open.insert(id.clone(), closing.clone());
        let publish = publish(engine.clone(), tasks.clone(), client.clone(), subscription);
        publishing.spawn(async move {
            let published = closing.run_until_cancelled(publish).await;
            if let Some(Err(status)) = published {
                tracing::debug!(subscription = id, "logs end: {}", status.message());
            }
            id
        });
    }
}

/// What the reader of a subscription that is not served gets: an error for each task, and its end.
fn refusal(subscription: &LogSubscription) -> Vec<LogChunk> {
    let tasks = subscription.task_ids.iter();
    let refusal = tasks.map(|task_id| {
        let text = format!(
            "task {task_id}: its node serves {SUBSCRIPTIONS_MAX} log readers already: end one of \
             them, and try again\n"
        );
        LogChunk {
            subscription_id: subscription.id.clone(),
            task_id: task_id.clone(),
            stream: STREAM_ERROR,
            data: text.into_bytes(),
            end: true,
            ..LogChunk::default()
        }
    });
    refusal.collect()
}

/// Sends the logs of a subscription until they end or nobody reads them.
async fn publish(
    engine: Engine,
    tasks: Tasks,
    mut client: LogsClient<Channel>,
    subscription: LogSubscription,
) -> Result<(), Status> {
    let (chunks, queue) = mpsc::channel(QUEUE);
    let mut readers = JoinSet::new();
    for task_id in subscription.task_ids.clone() {
        let reader = Reader {
            engine: engine.clone(),
            tasks: tasks.clone(),
            subscription: subscription.clone(),
            task_id,
            chunks: chunks.clone(),
        };
        readers.spawn(reader.run());
    }
    drop(chunks);
    client.publish(ReceiverStream::new(queue)).await?;
    Ok(())
}

/// Reads the log of one task.
struct Reader {
    engine: Engine,
    tasks: Tasks,
    subscription: LogSubscription,
    task_id: String,
    chunks: mpsc::Sender<LogChunk>,
}

/// Nobody takes the chunks any more.
struct Gone;

impl Reader {
    async fn run(self) {
        let read = self.read().await;
        if read.is_ok() {
            let end = LogChunk {
                end: true,
                ..self.chunk()
            };
            // A reader that is gone needs no end.
            let _ = self.chunks.send(end).await;
        }
    }

    fn chunk(&self) -> LogChunk {
        LogChunk {
            subscription_id: self.subscription.id.clone(),
            task_id: self.task_id.clone(),
            ..LogChunk::default()
        }
    }

    async fn send(&self, stream: u32, line: Line) -> Result<(), Gone> {
        let chunk = LogChunk {
            stream,
            timestamp: line.timestamp,
            details: line.details,
            data: line.data.into(),
            ..self.chunk()
        };
        self.chunks.send(chunk).await.map_err(|_| Gone)
    }

    /// The task's container, once there is one; `None` if there is none to wait for.
    async fn container(&self) -> Result<Option<String>, Gone> {
        loop {
            let Some((task, status)) = self.tasks.get(&self.task_id) else {
                return Ok(None);
            };
            let container = status.container_status.map(|c| c.container_id);
            // Whoever follows the log of one that is made and not started is told by the engine at once that it has
            // ended.
            let has_begun = !self.subscription.follow || status.state >= TaskState::Starting;
            if let Some(id) = container.filter(|id| !id.is_empty() && has_begun) {
                return Ok(Some(id));
            }
            if !self.subscription.follow || status.state.is_terminal() {
                // Made, and not yet reported; or never made.
                let found = self.engine.container(&task.name()).await;
                return Ok(found.ok().flatten().and_then(|container| container.id));
            }
            tokio::select! {
                () = sleep(CONTAINER_POLL) => {}
                () = self.chunks.closed() => return Err(Gone),
            }
        }
    }

    async fn read(&self) -> Result<(), Gone> {
        while !self.read_once().await? && self.begins_yet() {
            tokio::select! {
                () = sleep(CONTAINER_POLL) => {}
                () = self.chunks.closed() => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Whether a log that ended without a word may be that of a container which the engine had not started yet.
    fn begins_yet(&self) -> bool {
        let task = self.tasks.get(&self.task_id);
        let state = task.map(|(_, status)| status.state);
        self.subscription.follow && state.is_some_and(|state| state <= TaskState::Starting)
    }

    /// Reads the log to its end, whether or not it goes on after that. False: there was nothing in it.
    async fn read_once(&self) -> Result<bool, Gone> {
        let Some(container) = self.container().await? else {
            return Ok(true);
        };
        let mut has_said = false;
        let docker = match self.engine.streams().await {
            Ok(docker) => docker,
            Err(error) => {
                self.send_error(&error.to_string()).await?;
                return Ok(true);
            }
        };
        let wanted = &self.subscription;
        let tail = match wanted.tail {
            tail if tail < 0 => "all".to_owned(),
            tail => tail.to_string(),
        };
        let options = LogsOptionsBuilder::new()
            .follow(wanted.follow)
            .stdout(wanted.stdout)
            .stderr(wanted.stderr)
            .since(i32::try_from(wanted.since).unwrap_or(i32::MAX))
            .timestamps(true)
            .tail(&tail)
            .build();
        // The engine's client knows whole seconds only.
        let since = (wanted.since_nanos != 0).then(|| since(wanted)).flatten();
        let docker = docker.with_request_modifier(with_details);
        let mut output = docker.logs(&container, Some(options));
        loop {
            let next = if wanted.follow {
                tokio::select! {
                    next = output.next() => next,
                    () = self.chunks.closed() => return Err(Gone),
                }
            } else {
                match timeout(SILENCE, output.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.send_error("the engine does not send the log").await?;
                        return Ok(true);
                    }
                }
            };
            match next {
                None => return Ok(has_said),
                Some(Ok(line)) => {
                    has_said = true;
                    let (stream, message) = match line {
                        LogOutput::StdErr { message } => (2, message),
                        LogOutput::StdOut { message }
                        | LogOutput::StdIn { message }
                        | LogOutput::Console { message } => (1, message),
                    };
                    let line = Line::parse(message);
                    if since.is_some_and(|since| is_before(&line.timestamp, since)) {
                        continue;
                    }
                    self.send(stream, line).await?;
                }
                Some(Err(error)) if has_no_log(&error) => return Ok(true),
                Some(Err(error)) => {
                    self.send_error(&error.to_string()).await?;
                    return Ok(true);
                }
            }
        }
    }

    async fn send_error(&self, reason: &str) -> Result<(), Gone> {
        let text = format!("task {}: {reason}\n", self.task_id);
        let line = Line {
            data: text.into(),
            ..Line::default()
        };
        self.send(STREAM_ERROR, line).await
    }
}

/// Whether there is nothing to read, now or later: the container was removed, or goes, or its log driver keeps
/// nothing that can be read. The reader of a service has the other tasks' logs, as with Swarm.
fn has_no_log(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error::DockerResponseServerError;
    matches!(
        error,
        DockerResponseServerError {
            status_code: 404 | 409 | 501,
            ..
        }
    )
}

/// From when on lines are wanted; `None`: no clock shows it.
fn since(wanted: &LogSubscription) -> Option<Timestamp> {
    let nanos = i128::from(wanted.since) * 1_000_000_000 + i128::from(wanted.since_nanos);
    Timestamp::try_from_unix_nanos(nanos)
}

/// Whether a line is of an earlier time; one of no time is not.
fn is_before(timestamp: &str, moment: Timestamp) -> bool {
    timestamp
        .parse::<Timestamp>()
        .is_ok_and(|written| written < moment)
}

/// Asks for details, which the engine's client knows no option for.
fn with_details(mut request: BollardRequest) -> BollardRequest {
    let uri = request.uri();
    let separator = if uri.query().is_some() { '&' } else { '?' };
    if let Ok(uri) = format!("{uri}{separator}details=1").parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// A line, as the engine says it.
#[derive(Debug, Default, PartialEq)]
struct Line {
    /// The engine's time of it; "" where it says none.
    timestamp: String,
    /// What the log driver notes with it, in the engine's words; "" if nothing.
    details: String,
    data: Bytes,
}

impl Line {
    /// Takes `TIME DETAILS DATA` apart. What has no time is all data.
    fn parse(message: Bytes) -> Self {
        let parted = split_word(&message).filter(|(time, _)| is_time(time));
        let parted = parted.and_then(|(timestamp, rest)| {
            let (details, data) = split_word(&rest)?;
            Some(Self {
                timestamp,
                details,
                data,
            })
        });
        parted.unwrap_or_else(|| Self {
            data: message,
            ..Self::default()
        })
    }
}

/// What stands before the first space, and what behind it.
fn split_word(text: &Bytes) -> Option<(String, Bytes)> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let word = std::str::from_utf8(&text[..space]).ok()?;
    Some((word.to_owned(), text.slice(space + 1..)))
}

fn is_time(word: &str) -> bool {
    word.ends_with('Z') && word.contains('T')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_is_gone_has_no_log_and_an_engine_that_fails_is_told_of() {
        let answer = |status_code| bollard::errors::Error::DockerResponseServerError {
            status_code,
            message: String::new(),
        };
        for (status, none) in [
            (404, true),
            (409, true),
            (501, true),
            (500, false),
            (400, false),
        ] {
            assert_eq!(has_no_log(&answer(status)), none, "{status}");
        }
    }

    #[test]
    fn a_reader_too_many_is_told_so_for_each_task() {
        let subscription = LogSubscription {
            id: "s".into(),
            task_ids: vec!["a".into(), "b".into()],
            ..LogSubscription::default()
        };
        let chunks = refusal(&subscription);
        let tasks: Vec<_> = chunks.iter().map(|chunk| &*chunk.task_id).collect();
        assert_eq!(tasks, ["a", "b"]);
        for chunk in chunks {
            assert!(chunk.end && chunk.stream == STREAM_ERROR && !chunk.data.is_empty());
            assert_eq!(chunk.subscription_id, "s");
        }
    }

    #[test]
    fn lines_of_the_second_that_is_asked_for_may_be_too_early_still() {
        let wanted = LogSubscription {
            since: 1_767_323_045,
            since_nanos: 123_456_789,
            ..LogSubscription::default()
        };
        let moment = since(&wanted).unwrap();
        for (time, early) in [
            ("2026-01-02T03:04:05.123456788Z", true),
            ("2026-01-02T03:04:05.123456789Z", false),
            ("2026-01-02T03:04:06Z", false),
            ("", false),
        ] {
            assert_eq!(is_before(time, moment), early, "{time}");
        }
    }

    #[test]
    fn lines_are_parted_from_their_times_and_details() {
        const TIME: &str = "2026-01-02T03:04:05.123456789Z";
        for (message, timestamp, details, data) in [
            (format!("{TIME}  hello you\n"), TIME, "", "hello you\n"),
            (format!("{TIME} a=b,c=d+e x\n"), TIME, "a=b,c=d+e", "x\n"),
            (format!("{TIME}  \n"), TIME, "", "\n"),
            ("no time\n".to_owned(), "", "", "no time\n"),
            ("one\n".to_owned(), "", "", "one\n"),
        ] {
            let line = Line {
                timestamp: timestamp.to_owned(),
                details: details.to_owned(),
                data: data.into(),
            };
            assert_eq!(Line::parse(message.into()), line);
        }
    }
}
