//! Flows and packets of this node, for those who watch.
//!
//! - [`names`]: from the programs' records to words (pure).
//! - [`filter`]: what somebody wants to see (pure).
//! - [`watcher`]: what the programs are told to tell.
//! - [`feed`]: reads records of flows, keeps the last ones, hands them on.
//! - [`capture`]: reads packets.

mod capture;
mod feed;
mod filter;
pub mod names;
mod watcher;

use crate::kernel::Shown;
use feed::{Feed, Told};
use filter::Filter;
use futures::{Stream, StreamExt as _, stream};
use skein_proto::inspect::{
    CaptureReply, CaptureRequest, FlowsLost, FlowsReply, FlowsRequest, flows_reply,
};
use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, errors::BroadcastStreamRecvError};
use tonic::Status;

/// Who may follow flows at the same time: people, and a collector or two.
const FOLLOWERS_MAX: usize = 16;

/// How long a capture waits for its turn. The one before it may just have ended: its reader is gone before this daemon
/// has learned so.
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// A stream of answers.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// See the module.
pub struct Sight {
    feed: Arc<Feed>,
    watcher: Arc<watcher::Watcher>,
    shown: watch::Receiver<Arc<Shown>>,
    bpffs: PathBuf,
    followers: Arc<Semaphore>,
    /// Of the one who captures.
    turn: Arc<Semaphore>,
}

impl Sight {
    /// Lets the programs tell, and reads what they do.
    ///
    /// # Errors
    /// The maps are not there.
    pub fn start(bpffs: &Path, shown: watch::Receiver<Arc<Shown>>) -> anyhow::Result<Self> {
        Ok(Self {
            watcher: Arc::new(watcher::Watcher::open(bpffs)?),
            feed: Feed::start(bpffs, shown.clone())?,
            shown,
            bpffs: bpffs.to_owned(),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// The last flows that a filter wants, and those that come, if they are asked for.
    ///
    /// # Errors
    /// The filter is none, or there are too many who follow.
    pub fn flows(&self, request: &FlowsRequest) -> Result<Replies<FlowsReply>, Status> {
        let filter = Filter::of(&request.filter.clone().unwrap_or_default());
        let filter = filter.map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        let turn = Arc::clone(&self.followers).try_acquire_owned();
        let turn = turn.map_err(|_| {
            Status::resource_exhausted(format!(
                "{FOLLOWERS_MAX} others follow the flows of this node already: end one of them"
            ))
        })?;
        let (history, coming) = self.feed.follow();
        let last = usize::try_from(request.last).unwrap_or(usize::MAX);
        let wanted = history.iter().rev().filter(|seen| filter.wants(seen));
        let mut before: Vec<_> = wanted.take(last).map(|seen| flow(seen)).collect();
        before.reverse();
        let before = stream::iter(before);
        if !request.follow {
            return Ok(Box::pin(before));
        }
        // It is somebody's turn as long as he reads.
        let coming = following(coming, filter).inspect(move |_| _ = &turn);
        Ok(Box::pin(before.chain(coming)))
    }

    /// The packets that a filter wants, from now on.
    ///
    /// # Errors
    /// The filter is none, somebody else captures, or the kernel refuses.
    pub async fn capture(&self, request: &CaptureRequest) -> Result<Replies<CaptureReply>, Status> {
        let filter = Filter::of(&request.filter.clone().unwrap_or_default());
        let filter = filter.map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        let turn = Arc::clone(&self.turn).acquire_owned();
        let turn = timeout(TURN_WITHIN, turn).await.ok().and_then(Result::ok);
        let turn = turn.ok_or_else(|| {
            Status::resource_exhausted("somebody else captures packets on this node: one at a time")
        })?;
        let packets = capture::start(
            &self.bpffs,
            Arc::clone(&self.watcher),
            filter,
            request.snap_length,
            self.shown.clone(),
            turn,
        );
        let packets = packets.map_err(|error| Status::internal(format!("{error:#}")))?;
        Ok(Box::pin(ReceiverStream::new(packets)))
    }
}

/// What comes, as a filter wants it. Whoever reads too slowly is told how much is missing.
fn following(
    coming: broadcast::Receiver<Told>,
    filter: Filter,
) -> impl Stream<Item = Result<FlowsReply, Status>> + Send {
    BroadcastStream::new(coming).filter_map(move |told| {
        let told = match told {
            Ok(Told::Seen(seen)) => filter.wants(&seen).then(|| flow(&seen)),
            Ok(Told::Lost(lost)) => Some(self::lost(lost)),
            Err(BroadcastStreamRecvError::Lagged(slow)) => Some(self::lost(FlowsLost {
                slow,
                ..FlowsLost::default()
            })),
        };
        futures::future::ready(told)
    })
}

fn flow(seen: &names::Seen) -> Result<FlowsReply, Status> {
    told(flows_reply::Told::Flow(seen.flow.clone()))
}

fn lost(lost: FlowsLost) -> Result<FlowsReply, Status> {
    told(flows_reply::Told::Lost(lost))
}

#[allow(clippy::unnecessary_wraps, reason = "an item of a stream of results")]
fn told(told: flows_reply::Told) -> Result<FlowsReply, Status> {
    Ok(FlowsReply { told: Some(told) })
}

/// Waits, on one of the threads of this module: none of them is the runtime's.
#[allow(clippy::disallowed_methods, reason = "it blocks nobody else")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use names::tests::{names, request};
    use skein_proto::inspect::FlowFilter;

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_how_much_is_missing() {
        const ROOM: usize = 8;
        let (sender, coming) = broadcast::channel(ROOM);
        let filter = |ports| {
            Filter::of(&FlowFilter {
                ports,
                ..FlowFilter::default()
            })
        };
        let other = following(sender.subscribe(), filter(vec![1]).unwrap());
        let coming = following(coming, filter(Vec::new()).unwrap());
        for _ in 0..ROOM + 5 {
            let seen = names().tell(&request(), String::new(), |_| String::new());
            sender.send(Told::Seen(Arc::new(seen))).unwrap();
        }
        drop(sender);
        let told: Vec<_> = coming.collect().await;
        assert_eq!(told.len(), 1 + ROOM);
        let lost = |slow| {
            flows_reply::Told::Lost(FlowsLost {
                slow,
                ..FlowsLost::default()
            })
        };
        let first = told[0].as_ref().unwrap().told.clone();
        assert_eq!(first, Some(lost(5)));
        let other: Vec<_> = other.collect().await;
        assert_eq!(other.len(), 1, "none of its own, but how much it may miss");
    }
}
