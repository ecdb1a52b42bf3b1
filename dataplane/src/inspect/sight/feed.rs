//! Reads what the programs tell of flows, keeps the last of it, and hands it on to whoever follows.

use super::names::{Names, Seen};
use crate::kernel::{Shown, monotonic, open_map, pod};
use anyhow::Context as _;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use nix::net::if_::if_indextoname;
use parking_lot::Mutex;
use skein_abi::{
    names::{MAP_LOST, MAP_RECORDS},
    sight::{LOST_DROPS, LOST_FLOWS, LOST_ROOM, Record},
};
use skein_proto::inspect::FlowsLost;
use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{broadcast, watch};

/// Records that are kept for who asks later: about a kilobyte each.
pub const HISTORY_MAX: usize = 4_096;
/// Records that wait for a reader at most; above, it loses the oldest.
const WAITING_MAX: usize = 4_096;
/// Between two looks while somebody follows, and while nobody does: the ring has room for more than one CPU may
/// tell in that time, by far.
const PERIOD: Duration = Duration::from_millis(50);
const IDLE_PERIOD: Duration = Duration::from_millis(250);

/// What whoever follows is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// A record.
    Seen(Arc<Seen>),
    /// Records that there are not.
    Lost(FlowsLost),
}

/// See the module.
pub struct Feed {
    reader: Mutex<Reader>,
    history: Mutex<VecDeque<Arc<Seen>>>,
    sender: broadcast::Sender<Told>,
}

struct Reader {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    /// What was lost before.
    before: [u64; 3],
    shown: watch::Receiver<Arc<Shown>>,
    /// Those of `shown`; `None`: that has changed since.
    names: Option<Names>,
}

impl Feed {
    /// Reads for ever, in a thread of its own: it blocks.
    ///
    /// # Errors
    /// The maps are not there, or there can be no thread.
    pub fn start(bpffs: &Path, shown: watch::Receiver<Arc<Shown>>) -> anyhow::Result<Arc<Self>> {
        let mut reader = Reader {
            ring: open_map(bpffs, MAP_RECORDS)?,
            lost: open_map(bpffs, MAP_LOST)?,
            before: [0; 3],
            shown,
            names: None,
        };
        // What was lost before this process is nobody's news.
        reader.lost()?;
        let feed = Arc::new(Self {
            reader: Mutex::new(reader),
            history: Mutex::default(),
            sender: broadcast::channel(WAITING_MAX).0,
        });
        let reading = Arc::clone(&feed);
        std::thread::Builder::new()
            .name("skein-flows".to_owned())
            .spawn(move || {
                loop {
                    reading.read();
                    super::rest(match reading.sender.receiver_count() {
                        0 => IDLE_PERIOD,
                        _ => PERIOD,
                    });
                }
            })
            .context("cannot start the thread that reads flows")?;
        Ok(feed)
    }

    /// Reads what there is.
    fn read(&self) {
        let mut reader = self.reader.lock();
        let seen = reader.read();
        let lost = reader.lost();
        let mut history = self.history.lock();
        for one in seen {
            let one = Arc::new(one);
            if history.len() == HISTORY_MAX {
                history.pop_front();
            }
            history.push_back(Arc::clone(&one));
            // Nobody may follow.
            let _ = self.sender.send(Told::Seen(one));
        }
        match lost {
            Ok(lost) if lost != FlowsLost::default() => {
                // Nor then.
                let _ = self.sender.send(Told::Lost(lost));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("cannot read how many records were lost: {error:#}"),
        }
    }

    /// What was told so far, and what will be, without a gap between them.
    pub fn follow(&self) -> (Vec<Arc<Seen>>, broadcast::Receiver<Told>) {
        self.read();
        let history = self.history.lock();
        (history.iter().cloned().collect(), self.sender.subscribe())
    }
}

impl Reader {
    fn read(&mut self) -> Vec<Seen> {
        if self.shown.has_changed().unwrap_or(false) {
            self.names = None;
        }
        let clock = Clock::now();
        let mut seen = Vec::new();
        while let Some(item) = self.ring.next() {
            let Some(record) = pod::read::<Record>(&item) else {
                continue;
            };
            let names = self
                .names
                .get_or_insert_with(|| Names::of(&self.shown.borrow_and_update()));
            seen.push(names.tell(&record, clock.rfc3339(record.at), device));
            if seen.len() == HISTORY_MAX {
                // The rest waits for the next look: others want the lock, too.
                break;
            }
        }
        seen
    }

    /// Since the last time.
    fn lost(&mut self) -> anyhow::Result<FlowsLost> {
        let mut now = [0; 3];
        for (kind, now) in [LOST_FLOWS, LOST_DROPS, LOST_ROOM].iter().zip(&mut now) {
            *now = self.lost.get(kind, 0)?.iter().sum();
        }
        let [flows, drops, unread] =
            [0, 1, 2].map(|kind| now[kind] - self.before[kind].min(now[kind]));
        self.before = now;
        Ok(FlowsLost {
            flows,
            drops,
            unread,
            slow: 0,
        })
    }
}

/// The name of a device; "" if it is gone.
pub fn device(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_default()
}

/// The time that it is, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    monotonic: u64,
    unix: u64,
}

impl Clock {
    /// Now.
    pub fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or_default().as_nanos();
        Self {
            monotonic: monotonic(),
            unix: u64::try_from(unix).unwrap_or(u64::MAX),
        }
    }

    /// Since 1970, of a time of the programs' clock, ns.
    pub fn unix(self, monotonic: u64) -> u64 {
        let ago = i128::from(self.monotonic) - i128::from(monotonic);
        u64::try_from(i128::from(self.unix) - ago).unwrap_or(0)
    }

    /// The same in words, to the microsecond.
    pub fn rfc3339(self, monotonic: u64) -> String {
        let micros = i128::from(self.unix(monotonic) / 1_000);
        let time = OffsetDateTime::from_unix_timestamp_nanos(micros * 1_000).ok();
        let text = time.and_then(|time| time.format(&Rfc3339).ok());
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_people() {
        let clock = Clock {
            monotonic: 5_000_000_000,
            unix: 1_700_000_000_000_000_000,
        };
        assert_eq!(clock.rfc3339(5_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(clock.rfc3339(3_999_999_000), "2023-11-14T22:13:18.999999Z");
        assert_eq!(clock.unix(5_000_000_007), 1_700_000_000_000_000_007);
    }
}
