//! What the other nodes send, decrypted, to the kernel.

use super::{
    DATA_OVERHEAD, PACKET_MAX, ROOM_MIN, SEGMENTS_MAX, STOP_POLL_MS, Shared, State, Tunnel,
    addresses, wait,
};
use crate::kernel::tunnel::counts::Count;
use boringtun::noise::{TunnResult, errors::WireGuardError};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg},
};
use std::{
    io::{IoSliceMut, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

/// A node that sends by a session which is not known here has not noticed that this process is a new one. It is told
/// by a handshake, at most so often: anybody can forge such datagrams.
const NUDGE: Duration = Duration::from_secs(1);

/// From the other nodes to the kernel.
pub(super) fn decrypt(shared: &Shared) {
    let mut datagrams = vec![0; PACKET_MAX];
    let mut room = vec![0; PACKET_MAX + ROOM_MIN];
    while !shared.is_over() {
        if !wait(shared.socket.as_fd(), PollFlags::POLLIN, STOP_POLL_MS) {
            continue;
        }
        let tunnels = shared.tunnels();
        for _ in 0..SEGMENTS_MAX {
            let (read, segment, from) = match receive(&shared.socket, &mut datagrams) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                // What became of a datagram sent, as ICMP says it.
                Err(
                    Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH,
                ) => {
                    continue;
                }
                Err(error) => {
                    tracing::error!("cannot receive what other nodes encrypt: {error}");
                    return;
                }
            };
            let joined = datagrams[..read].chunks(segment);
            match from.and_then(|from| tunnels.by_node.get(&from)) {
                Some(tunnel) => joined.for_each(|one| take(shared, tunnel, one, &mut room)),
                None => shared.counts.add(Count::Stranger, joined.len() as u64),
            }
        }
    }
}

/// Datagrams of one sender that came one after the other: bytes, bytes of each, and who sent them.
fn receive(socket: &UdpSocket, room: &mut [u8]) -> Result<(usize, usize, Option<Ipv4Addr>), Errno> {
    let mut parts = [IoSliceMut::new(room)];
    let mut control = nix::cmsg_space!(i32);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let received = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), flags)?;
    let read = received.bytes;
    let mut segment = read.max(1);
    for message in received.cmsgs()? {
        if let ControlMessageOwned::UdpGroSegments(len) = message {
            segment = usize::try_from(len).unwrap_or(0).max(1);
        }
    }
    Ok((read, segment, received.address.map(|from| from.ip())))
}

/// One datagram of a node's.
fn take(shared: &Shared, tunnel: &Tunnel, datagram: &[u8], room: &mut [u8]) {
    let from = (*tunnel.peer.endpoint.ip()).into();
    let mut state = tunnel.state.lock();
    match state.tunn.decapsulate(Some(from), datagram, room) {
        TunnResult::WriteToTunnelV4(packet, _) => {
            drop(state);
            if addresses(packet) != Some([tunnel.address, shared.address]) {
                return shared.counts.add(Count::Misaddressed, 1);
            }
            match (&shared.tun).write_all(packet) {
                Ok(()) => shared.counts.add(Count::Received, 1),
                Err(_) => shared.counts.add(Count::NotTaken, 1),
            }
        }
        TunnResult::WriteToTunnelV6(..) => shared.counts.add(Count::Misaddressed, 1),
        TunnResult::WriteToNetwork(answer) => {
            shared.send(tunnel, answer, answer.len());
            send_waiting(shared, tunnel, &mut state, room);
        }
        // That the other side has our answer to its handshake, which is what packets may have waited for.
        TunnResult::Done if datagram.len() == DATA_OVERHEAD => {
            send_waiting(shared, tunnel, &mut state, room);
        }
        TunnResult::Done => {}
        TunnResult::Err(error) => {
            shared.counts.add(Count::Invalid, 1);
            let is_unknown = matches!(
                error,
                WireGuardError::NoCurrentSession | WireGuardError::WrongIndex
            );
            let now = Instant::now();
            let is_due = state
                .nudged
                .is_none_or(|last| now.duration_since(last) >= NUDGE);
            if is_unknown && is_due {
                state.nudged = Some(now);
                shared.begin(tunnel, &mut state, room);
            }
        }
    }
}

/// Packets that have waited for session keys.
fn send_waiting(shared: &Shared, tunnel: &Tunnel, state: &mut State, room: &mut [u8]) {
    while let TunnResult::WriteToNetwork(waiting) = state.tunn.decapsulate(None, &[], room) {
        shared.send(tunnel, waiting, waiting.len());
    }
}
