//! Captures packets for one reader at a time.
//!
//! The programs copy the beginning of a frame into a buffer of its CPU, while a lease in `WATCH` lasts. This renews it as
//! long as the reader is there: so a capture ends whatever becomes of the reader, or of this process. The kernel takes
//! the buffers away with the process, too.

use super::{
    feed::{Clock, device},
    filter::Filter,
    names::Names,
    watcher::Watcher,
};
use crate::kernel::{Shown, open_map, pod};
use anyhow::Context as _;
use aya::{
    maps::{
        MapData,
        perf::{PerfEvent, PerfEventArray, PerfEventArrayBuffer},
    },
    util::online_cpus,
};
use skein_abi::{names::MAP_CAPTURED, sight::Record};
use skein_proto::inspect::{CaptureReply, CapturedPacket, capture_reply::Told};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::Status;

/// Pages of each CPU's buffer, 512 KiB: of 1,500 bytes each, the packets of 10 ms at 30,000 a second.
const PAGES: usize = 128;
/// Between two looks into the buffers.
const PERIOD: Duration = Duration::from_millis(10);
/// The lease is renewed so often: three times before it ends.
const RENEWAL: Duration = Duration::from_secs(1);
/// Packets that wait for the reader at most; more are lost.
const WAITING_MAX: usize = 1_024;
/// Bytes of a frame at most: what the kernel's buffers take with all else that stands there.
pub const SNAP_LENGTH_MAX: u32 = 65_000;

/// What the reader gets.
pub type Packets = mpsc::Receiver<Result<CaptureReply, Status>>;

/// A capture under way.
struct Capture {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    watcher: Arc<Watcher>,
    filter: Filter,
    snap_length: u32,
    shown: watch::Receiver<Arc<Shown>>,
    names: Names,
    reader: mpsc::Sender<Result<CaptureReply, Status>>,
    lost: u64,
    /// Nobody else captures meanwhile.
    _turn: OwnedSemaphorePermit,
}

/// Begins a capture, in a thread of its own. It ends when what is returned is dropped.
///
/// # Errors
/// The kernel refuses.
pub fn start(
    bpffs: &Path,
    watcher: Arc<Watcher>,
    filter: Filter,
    snap_length: u32,
    shown: watch::Receiver<Arc<Shown>>,
    turn: OwnedSemaphorePermit,
) -> anyhow::Result<Packets> {
    let mut events: PerfEventArray<MapData> = open_map(bpffs, MAP_CAPTURED)?;
    let cpus = online_cpus();
    let cpus = cpus.map_err(|(file, error)| {
        anyhow::anyhow!("cannot learn from {file} which CPUs there are: {error}")
    })?;
    let buffers = cpus
        .into_iter()
        .map(|cpu| events.open(cpu, Some(PAGES)))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot make buffers for captured packets")?;
    let (reader, packets) = mpsc::channel(WAITING_MAX);
    let snap_length = match snap_length {
        0 => SNAP_LENGTH_MAX,
        asked => asked.min(SNAP_LENGTH_MAX),
    };
    let names = Names::of(&shown.borrow());
    let mut capture = Capture {
        buffers,
        watcher,
        filter,
        snap_length,
        names,
        shown,
        reader,
        lost: 0,
        _turn: turn,
    };
    capture.renew()?;
    capture.tell(Told::Begun(true));
    std::thread::Builder::new()
        .name("skein-capture".to_owned())
        .spawn(move || capture.run())
        .context("cannot start a thread for the capture")?;
    Ok(packets)
}

impl Capture {
    fn run(mut self) {
        let mut renewed = Instant::now();
        while !self.reader.is_closed() {
            self.read();
            if renewed.elapsed() >= RENEWAL {
                renewed = Instant::now();
                if let Err(error) = self.renew() {
                    let status = Status::internal(format!("{error:#}"));
                    // Who reads nothing now sees that it ends.
                    let _ = self.reader.try_send(Err(status));
                    break;
                }
            }
            super::rest(PERIOD);
        }
        if let Err(error) = self.watcher.stop() {
            tracing::warn!("a capture goes on until its lease ends: {error:#}");
        }
    }

    fn renew(&self) -> anyhow::Result<()> {
        let narrow = |watch: &mut _| self.filter.narrow(watch);
        self.watcher.capture(self.snap_length, narrow)
    }

    fn read(&mut self) {
        if self.shown.has_changed().unwrap_or(false) {
            self.names = Names::of(&self.shown.borrow_and_update());
        }
        let clock = Clock::now();
        let (mut packets, mut lost) = (Vec::new(), 0);
        let (filter, names, snap_length) = (&self.filter, &self.names, self.snap_length);
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => {
                    let bytes = [head, tail].concat();
                    packets.extend(packet_of(&bytes, snap_length, clock, names, filter));
                }
                PerfEvent::Lost { count } => lost += count,
            });
        }
        self.lost += lost;
        // Of several CPUs.
        packets.sort_by_key(|packet: &CapturedPacket| packet.nanos);
        for packet in packets {
            self.tell(Told::Packet(packet));
        }
        if self.lost != 0 && self.tell(Told::Lost(self.lost)) {
            self.lost = 0;
        }
    }

    /// False: the reader takes nothing now.
    fn tell(&mut self, told: Told) -> bool {
        let is_packet = matches!(told, Told::Packet(_));
        let is_told = self
            .reader
            .try_send(Ok(CaptureReply { told: Some(told) }))
            .is_ok();
        if is_packet && !is_told {
            self.lost += 1;
        }
        is_told
    }
}

/// A packet, without outer headers, if it is one that is wanted. Behind the frame there may be bytes that fill up a word.
fn packet_of(
    bytes: &[u8],
    snap_length: u32,
    clock: Clock,
    names: &Names,
    filter: &Filter,
) -> Option<CapturedPacket> {
    let mut record = pod::read::<Record>(bytes)?;
    let captured = record.frame.min(snap_length + u32::from(record.outer)) as usize;
    let frame = bytes.get(size_of::<Record>()..)?;
    let frame = frame.get(..captured.min(frame.len()))?;
    let frame = frame.get(usize::from(record.outer)..)?;
    record.frame -= u32::from(record.outer).min(record.frame);
    let seen = names.tell(&record, clock.rfc3339(record.at), device);
    filter.wants(&seen).then(|| CapturedPacket {
        nanos: clock.unix(record.at),
        frame: frame.to_vec(),
        length: record.frame,
        flow: Some(seen.flow),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::sight::names::tests::{names, request};
    use skein_abi::sight::EVENT_PACKET;
    use skein_proto::inspect::FlowFilter;

    /// As the programs write it.
    fn sample(outer: u16, frame: &[u8], copied: usize, fill: usize) -> Vec<u8> {
        let record = Record {
            outer,
            frame: frame.len() as u32,
            event: EVENT_PACKET,
            ..request()
        };
        let mut bytes = pod::bytes(&record);
        bytes.extend(&frame[..copied]);
        bytes.extend(vec![0xee; fill]);
        bytes
    }

    #[test]
    fn a_frame_is_what_the_programs_copied_without_outer_headers() {
        let frame: Vec<u8> = (0..120).collect();
        let all = Filter::default();
        let read = |bytes: &[u8], snap| packet_of(bytes, snap, Clock::now(), &names(), &all);
        let whole = read(&sample(0, &frame, 120, 4), SNAP_LENGTH_MAX).unwrap();
        assert_eq!((whole.length, &whole.frame[..]), (120, &frame[..]));
        let cut = read(&sample(0, &frame, 60, 4), 60).unwrap();
        assert_eq!((cut.length, &cut.frame[..]), (120, &frame[..60]));
        let inner = read(&sample(50, &frame, 120, 0), SNAP_LENGTH_MAX).unwrap();
        assert_eq!((inner.length, &inner.frame[..]), (70, &frame[50..]));
        let cut = read(&sample(50, &frame, 80, 0), 30).unwrap();
        assert_eq!((cut.length, &cut.frame[..]), (70, &frame[50..80]));
        assert_eq!(inner.flow.unwrap().event, "packet");
        assert!(read(&[0; 9], 60).is_none());
        let udp = Filter::of(&FlowFilter {
            protocols: vec!["udp".to_owned()],
            ..FlowFilter::default()
        });
        let bytes = sample(0, &frame, 120, 0);
        assert!(packet_of(&bytes, 60, Clock::now(), &names(), &udp.unwrap()).is_none());
    }
}
