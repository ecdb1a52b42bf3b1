//! What the kernel routes into the device, encrypted, to the other nodes.

use super::{
    DATA_OVERHEAD, PACKET_MAX, ROOM_MIN, SEGMENTS_MAX, STOP_POLL_MS, Shared, Tunnel, addresses,
    wait,
};
use crate::kernel::tunnel::counts::Count;
use boringtun::noise::TunnResult;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
};
use std::{
    io::{IoSlice, Read as _},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

/// Bytes of what is sent by one call.
const BATCH_MAX: usize = 65_000;
/// How long a sender waits for room in the socket's buffer before it drops.
const SEND_POLL_MS: u16 = 5;

/// Datagrams that go to one node by one call.
struct Batch {
    bytes: Vec<u8>,
    /// How many of them count.
    filled: usize,
    /// Length of each but the last.
    segment: usize,
    count: usize,
    /// The last is shorter: nothing can follow it.
    is_closed: bool,
    to: Option<Arc<Tunnel>>,
}

impl Batch {
    fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_MAX + PACKET_MAX + ROOM_MIN],
            filled: 0,
            segment: 0,
            count: 0,
            is_closed: false,
            to: None,
        }
    }

    /// Whether a datagram of a length can follow, to the same node.
    fn takes(&self, tunnel: &Arc<Tunnel>, len: usize) -> bool {
        match &self.to {
            None => true,
            Some(to) => {
                Arc::ptr_eq(to, tunnel)
                    && !self.is_closed
                    && self.count < SEGMENTS_MAX
                    && len <= self.segment
                    && self.filled + len <= BATCH_MAX
            }
        }
    }

    /// What was written behind the others counts.
    fn push(&mut self, tunnel: &Arc<Tunnel>, len: usize) {
        if self.to.is_none() {
            self.to = Some(Arc::clone(tunnel));
            self.segment = len;
        }
        self.is_closed = len < self.segment;
        self.filled += len;
        self.count += 1;
    }

    fn flush(&mut self, shared: &Shared) {
        if let Some(to) = self.to.take() {
            shared.send(&to, &self.bytes[..self.filled], self.segment);
        }
        (self.filled, self.count, self.is_closed) = (0, 0, false);
    }
}

/// From the kernel to the other nodes.
pub(super) fn encrypt(shared: &Shared) {
    let mut packet = vec![0; PACKET_MAX];
    let mut batch = Batch::new();
    while !shared.is_over() {
        if !wait(shared.tun.as_fd(), PollFlags::POLLIN, STOP_POLL_MS) {
            continue;
        }
        let tunnels = shared.tunnels();
        // A list that a change has made old is not used for longer than it takes to send this much.
        for _ in 0..SEGMENTS_MAX * 4 {
            let read = match (&shared.tun).read(&mut packet) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!("cannot read what is to be encrypted: {error}");
                    return;
                }
            };
            let packet = &packet[..read];
            let tunnel = addresses(packet).and_then(|[_, to]| tunnels.by_address.get(&to));
            let Some(tunnel) = tunnel else {
                shared.counts.add(Count::NoPeer, 1);
                continue;
            };
            if !batch.takes(tunnel, read + DATA_OVERHEAD) {
                batch.flush(shared);
            }
            let room = &mut batch.bytes[batch.filled..];
            let mut state = tunnel.state.lock();
            match state.tunn.encapsulate(packet, room) {
                TunnResult::WriteToNetwork(datagram) => {
                    let len = datagram.len();
                    drop(state);
                    if !batch.takes(tunnel, len) {
                        // A handshake in its place: it is longer.
                        let datagram = batch.bytes[batch.filled..][..len].to_vec();
                        batch.flush(shared);
                        batch.bytes[..len].copy_from_slice(&datagram);
                    }
                    batch.push(tunnel, len);
                }
                // It waits for session keys, or too many do.
                TunnResult::Done => {}
                _ => shared.counts.add(Count::SendFailed, 1),
            }
        }
        batch.flush(shared);
    }
}

impl Shared {
    /// Sends datagrams of one length, of which the last may be shorter.
    pub(super) fn send(&self, tunnel: &Tunnel, datagrams: &[u8], len: usize) {
        if datagrams.is_empty() {
            return;
        }
        let count = datagrams.len().div_ceil(len) as u64;
        let sent = match count {
            1 => self.send_once(tunnel, datagrams, None),
            // (Their length is one of a packet.)
            _ => self.send_once(tunnel, datagrams, u16::try_from(len).ok()),
        };
        let failed = match sent {
            Ok(()) => 0,
            // The kernel sends them one by one, where it cannot cut them itself, or the way has become narrower.
            Err(Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE) if count > 1 => {
                let one_by_one = datagrams.chunks(len);
                let failed = one_by_one.filter(|one| self.send_once(tunnel, one, None).is_err());
                failed.count() as u64
            }
            Err(_) => count,
        };
        self.counts.add(Count::Sent, count - failed);
        self.counts.add(Count::SendFailed, failed);
    }

    fn send_once(&self, tunnel: &Tunnel, bytes: &[u8], segment: Option<u16>) -> Result<(), Errno> {
        let to = SockaddrIn::from(tunnel.peer.endpoint);
        let parts = [IoSlice::new(bytes)];
        let segments = segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let try_once = || {
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            sendmsg(fd, &parts, segments.as_slice(), flags, Some(&to)).map(drop)
        };
        match try_once() {
            Err(Errno::EAGAIN) if wait(self.socket.as_fd(), PollFlags::POLLOUT, SEND_POLL_MS) => {
                try_once()
            }
            // What an earlier datagram came to (ICMP), which is not this one's.
            Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => try_once(),
            done => done,
        }
    }
}
