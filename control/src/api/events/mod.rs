//! `GET /events`: the engine's and, on managers, the swarm's, as one stream.

mod filter;
mod format;
mod twins;

use super::{Local, error::ApiError, query::Params, version::ApiVersion};
use crate::manager::EventMessage;
use axum::{
    body::{Body, BodyDataStream},
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use filter::Wanted;
use format::Format;
use futures::{StreamExt as _, TryStreamExt as _, stream::MapErr};
use http::StatusCode;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, mpsc},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};
use twins::Twins;

/// Lines on their way to a client; one that reads slower than that is waited for.
const QUEUE_MAX: usize = 64;
/// The longest line of the engine's: events carry the labels of a container.
const LINE_MAX: usize = 1 << 20;
/// The engine tells what was without a pause; after one of this length, it is done with that.
const PAST_PAUSE: Duration = Duration::from_millis(100);
/// How often a node that is no manager looks whether it has become one.
const MANAGER_CHECK: Duration = Duration::from_millis(250);

pub async fn stream(
    State(local): State<Local>,
    version: ApiVersion,
    params: Params,
    mut request: Request,
) -> Result<Response, ApiError> {
    let format = Format::choose(request.headers_mut(), version);
    // Before the engine is asked: what happens meanwhile is told, too.
    let own = Own::listen(&local);
    let response = local.pass_to_engine(request).await;
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let wanted = Wanted::parse(
        params.text("filters"),
        params.text("since"),
        params.text("until"),
    )?;
    let (mut parts, body) = response.into_parts();
    format.name(&mut parts.headers);
    let (to_client, lines) = mpsc::channel(QUEUE_MAX);
    let merging = Merging {
        engines: in_lines(body),
        own,
        wanted,
        format,
        twins: Twins::default(),
        local,
        to_client,
    };
    tokio::spawn(merging.run());
    let lines = ReceiverStream::new(lines).map(Ok::<_, Infallible>);
    Ok(Response::from_parts(parts, Body::from_stream(lines)))
}

type Chunks = MapErr<BodyDataStream, fn(axum::Error) -> std::io::Error>;
type Lines = FramedRead<StreamReader<Chunks, Bytes>, LinesCodec>;

/// The swarm's events, where and while this node is a manager.
struct Own {
    past: VecDeque<Arc<EventMessage>>,
    live: Option<broadcast::Receiver<Arc<EventMessage>>>,
}

impl Own {
    fn listen(local: &Local) -> Self {
        let listened = local
            .member
            .store()
            .and_then(|store| store.events().listen_from_now());
        match listened {
            Some((past, live)) => Self {
                past: past.into(),
                live: Some(live),
            },
            None => Self {
                past: VecDeque::new(),
                live: None,
            },
        }
    }

    /// The next event that happens. Cancelling loses none.
    async fn next(&mut self, local: &Local) -> Arc<EventMessage> {
        loop {
            let Some(live) = &mut self.live else {
                sleep(MANAGER_CHECK).await;
                self.live = Self::listen(local).live;
                continue;
            };
            match live.recv().await {
                Ok(event) => return event,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a client of /events reads too slowly and misses some");
                }
                Err(broadcast::error::RecvError::Closed) => self.live = None,
            }
        }
    }
}

/// Two streams becoming one.
struct Merging {
    engines: Lines,
    own: Own,
    wanted: Wanted,
    format: Format,
    twins: Twins,
    local: Local,
    to_client: mpsc::Sender<Bytes>,
}

/// The client is gone.
struct Gone;

impl Merging {
    /// Until the engine ends its part: it knows the end of the time that was asked for.
    async fn run(mut self) {
        // An error means that the client has gone, and with it whoever would read of it.
        let _ = self.merge().await;
    }

    async fn merge(&mut self) -> Result<(), Gone> {
        let wanted = &self.wanted;
        self.own.past.retain(|event| wanted.includes_past(event));
        loop {
            let is_past = !self.own.past.is_empty();
            tokio::select! {
                line = self.engines.next() => {
                    let Some(line) = line.and_then(whole) else {
                        return self.tell_past(i128::MAX).await;
                    };
                    if is_past {
                        self.tell_past(time_of(&line)).await?;
                    }
                    let translated = self.twins.translate(&self.local, &line).await;
                    self.send(translated.unwrap_or(line)).await?;
                }
                () = sleep(PAST_PAUSE), if is_past => self.tell_past(i128::MAX).await?,
                event = self.own.next(&self.local), if !is_past => {
                    if self.wanted.includes(&event) {
                        self.send_own(&event).await?;
                    }
                }
                () = self.to_client.closed() => return Err(Gone),
            }
        }
    }

    /// The swarm's past events up to a time.
    async fn tell_past(&mut self, until: i128) -> Result<(), Gone> {
        while let Some(event) = self.own.past.front()
            && event.at.unix_nanos() <= until
        {
            let event = event.clone();
            self.own.past.pop_front();
            self.send_own(&event).await?;
        }
        Ok(())
    }

    async fn send_own(&mut self, event: &EventMessage) -> Result<(), Gone> {
        match serde_json::to_string(event) {
            Ok(line) => self.send(line).await,
            Err(error) => {
                tracing::error!(%error, "cannot encode an event");
                Ok(())
            }
        }
    }

    async fn send(&mut self, line: String) -> Result<(), Gone> {
        let record = self.format.record(line);
        self.to_client.send(record).await.map_err(|_| Gone)
    }
}

/// A line that was read. Without one the stream is at its end.
fn whole(line: Result<String, LinesCodecError>) -> Option<String> {
    line.inspect_err(|error| tracing::warn!(%error, "the engine's events broke off"))
        .ok()
}

/// When the engine says that an event was; now, if it does not say.
fn time_of(line: &str) -> i128 {
    let event: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let at = event.and_then(|event| event["timeNano"].as_i64());
    at.map_or(i128::MAX, i128::from)
}

/// A body in lines. One that breaks off ends.
fn in_lines(body: Body) -> Lines {
    let chunks = body.into_data_stream().map_err(std::io::Error::other as _);
    FramedRead::new(
        StreamReader::new(chunks),
        LinesCodec::new_with_max_length(LINE_MAX),
    )
}

#[cfg(test)]
mod tests;
