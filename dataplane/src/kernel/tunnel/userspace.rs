//! WireGuard in this process: boringtun, between a TUN device and a UDP socket.
//!
//! Three threads, none of the runtime's: one encrypts what the kernel routes into the device, one decrypts what the
//! other nodes send, one keeps time. Packets wait in the device's queue and the socket's buffers, whose lengths the
//! kernel limits, and in boringtun's queue of each tunnel while there are no session keys (256 packets).
//!
//! A peer is known by the address that its datagrams come from, and nobody can move it elsewhere: nodes' addresses
//! are the managers' to say. Who forges one still lacks the key.

use super::{
    counts::{Count, Counts},
    ends::{Ends, Peer},
    keys::Keys,
};
use anyhow::Context as _;
use boringtun::{
    noise::{Tunn, TunnResult, errors::WireGuardError},
    x25519::PublicKey,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Largest packet of IPv4, and so of any of these buffers.
const PACKET_MAX: usize = 65_535;
/// What encryption adds in front and behind.
const DATA_OVERHEAD: usize = 32;
/// boringtun wants as much room, whatever it is given.
const ROOM_MIN: usize = 148;
/// Datagrams of one call (UDP_SEGMENT): the kernel's limit of older versions, and bytes of them.
const SEGMENTS_MAX: usize = 64;
const BATCH_MAX: usize = 65_000;
/// The kernel doubles it: what comes and goes in some milliseconds at 10 Gbit/s.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a thread may not notice that it is to end.
const STOP_POLL_MS: u16 = 200;
/// How long a sender waits for room in the socket's buffer before it drops.
const SEND_POLL_MS: u16 = 5;
/// Between looks at the tunnels' timers, of which the shortest have seconds.
const TICK: Duration = Duration::from_millis(250);
/// A node that sends by a session which is not known here has not noticed that this process is a new one. It is told
/// by a handshake, at most so often: anybody can forge such datagrams.
const NUDGE: Duration = Duration::from_secs(1);

/// A tunnel to another node.
struct Tunnel {
    peer: Peer,
    address: Ipv4Addr,
    state: Mutex<State>,
}

struct State {
    tunn: Tunn,
    /// When the last handshake was begun because of a session that is not known.
    nudged: Option<Instant>,
}

/// All of them. A change makes a new list, so that packets wait for none.
#[derive(Default)]
struct Tunnels {
    /// By the address inside.
    by_address: BTreeMap<Ipv4Addr, Arc<Tunnel>>,
    /// By the address that datagrams come from.
    by_node: BTreeMap<Ipv4Addr, Arc<Tunnel>>,
}

struct Shared {
    keys: Keys,
    tun: File,
    socket: UdpSocket,
    /// This node's address inside.
    address: Ipv4Addr,
    tunnels: RwLock<Arc<Tunnels>>,
    counts: Arc<Counts>,
    stop: AtomicBool,
}

type Work = fn(&Shared);

/// The threads. They end with it.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Number of the next tunnel: no two have the same, so that none takes another's handshakes.
    next_index: u32,
}

impl Engine {
    /// Begins to carry packets, to nobody yet. `node` is where it listens, `address` its address inside.
    ///
    /// # Errors
    /// The UDP port is taken, or the kernel has no threads left.
    pub fn start(
        keys: Keys,
        tun: File,
        node: SocketAddrV4,
        address: Ipv4Addr,
        counts: Arc<Counts>,
    ) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(node).with_context(|| {
            format!(
                "cannot listen on UDP {node} for encrypted networks: if another program does, start \
                 skein-dataplane with another --wireguard-port"
            )
        })?;
        socket
            .set_nonblocking(true)
            .context("cannot use the UDP socket of the tunnels")?;
        // Smaller buffers, and a receiver of single datagrams, only cost throughput.
        for refused in [
            setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).err(),
            setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).err(),
            setsockopt(&socket, sockopt::UdpGroSegment, &true).err(),
        ]
        .into_iter()
        .flatten()
        {
            tracing::warn!("the UDP socket of the tunnels will be slower: {refused}");
        }
        let shared = Arc::new(Shared {
            keys,
            tun,
            socket,
            address,
            tunnels: RwLock::default(),
            counts,
            stop: AtomicBool::new(false),
        });
        let mut engine = Self {
            shared,
            threads: Vec::new(),
            next_index: 1,
        };
        let works: [(&str, Work); 3] = [
            ("skein-encrypt", encrypt),
            ("skein-decrypt", decrypt),
            ("skein-tunnels", keep_time),
        ];
        for (name, work) in works {
            let shared = Arc::clone(&engine.shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || work(&shared));
            engine
                .threads
                .push(thread.context("cannot start a thread for encrypted networks")?);
        }
        Ok(engine)
    }

    /// Whether all of its threads work: one that cannot go on has said why, and ended.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Has tunnels to these nodes, and no others. A tunnel that is as it was keeps its sessions.
    pub fn set_peers(&mut self, ends: &Ends) {
        let before = Arc::clone(&self.shared.tunnels.read());
        let mut tunnels = Tunnels::default();
        let mut begun = Vec::new();
        for (address, peer) in &ends.peers {
            let same = |known: &&Arc<Tunnel>| {
                (known.peer.key, known.peer.endpoint) == (peer.key, peer.endpoint)
            };
            let tunnel = match before.by_address.get(address).filter(same) {
                Some(known) => Arc::clone(known),
                None => {
                    let made = Arc::new(self.tunnel(*address, *peer));
                    if peer.is_busy {
                        begun.push(Arc::clone(&made));
                    }
                    made
                }
            };
            tunnels
                .by_node
                .insert(*peer.endpoint.ip(), Arc::clone(&tunnel));
            tunnels.by_address.insert(*address, tunnel);
        }
        *self.shared.tunnels.write() = Arc::new(tunnels);
        // A node that has sessions with an earlier process of this one goes on with them until it hears of another;
        // one that is to send anyway has its session before.
        let mut room = vec![0; ROOM_MIN];
        for tunnel in begun {
            self.shared
                .begin(&tunnel, &mut tunnel.state.lock(), &mut room);
        }
    }

    fn tunnel(&mut self, address: Ipv4Addr, peer: Peer) -> Tunnel {
        let index = self.next_index;
        // boringtun has 24 bits for it.
        self.next_index = index.wrapping_add(1) & 0x00ff_ffff;
        let (secret, public) = (self.shared.keys.secret.clone(), PublicKey::from(peer.key));
        let state = State {
            tunn: Tunn::new(secret, public, None, None, index, None),
            nudged: None,
        };
        Tunnel {
            peer,
            address,
            state: Mutex::new(state),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the tunnels had broken");
            }
        }
    }
}

/// Waits for one of these; false: for nothing, until the time was over.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, millis: u16) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    poll(&mut fds, PollTimeout::from(millis)).is_ok_and(|ready| ready > 0)
}

/// The source and the destination of an IPv4 packet.
fn addresses(packet: &[u8]) -> Option<[Ipv4Addr; 2]> {
    let is_ipv4 = packet.first()? >> 4 == 4;
    let at = |from: usize| {
        let bytes: [u8; 4] = packet.get(from..from + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    is_ipv4.then_some(())?;
    Some([at(12)?, at(16)?])
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn tunnels(&self) -> Arc<Tunnels> {
        Arc::clone(&self.tunnels.read())
    }

    /// Sends a handshake, unless one is on its way.
    fn begin(&self, tunnel: &Tunnel, state: &mut State, room: &mut [u8]) {
        if let TunnResult::WriteToNetwork(datagram) =
            state.tunn.format_handshake_initiation(room, false)
        {
            self.send(tunnel, datagram, datagram.len());
        }
    }

    /// Sends datagrams of one length, of which the last may be shorter.
    fn send(&self, tunnel: &Tunnel, datagrams: &[u8], len: usize) {
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
fn encrypt(shared: &Shared) {
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

/// From the other nodes to the kernel.
fn decrypt(shared: &Shared) {
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

/// Handshakes that are due, or were lost; keys that are old.
fn keep_time(shared: &Shared) {
    let mut room = vec![0; ROOM_MIN];
    while !shared.is_over() {
        // Woken by nobody.
        std::thread::park_timeout(TICK);
        for tunnel in shared.tunnels().by_address.values() {
            let mut state = tunnel.state.lock();
            if let TunnResult::WriteToNetwork(datagram) = state.tunn.update_timers(&mut room) {
                shared.send(tunnel, datagram, datagram.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// A node whose TUN device is a pair of sockets.
    struct Node {
        engine: Option<Engine>,
        /// The kernel's side of the device.
        kernel: UnixDatagram,
        keys: Keys,
        counts: Arc<Counts>,
        at: SocketAddrV4,
        address: Ipv4Addr,
        dir: tempfile::TempDir,
    }

    impl Node {
        fn new(last: u8) -> Self {
            let dir = tempfile::tempdir().unwrap();
            // A port of its own for each, so that tests may run at the same time.
            let any = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
            let std::net::SocketAddr::V4(at) = UdpSocket::bind(any).unwrap().local_addr().unwrap()
            else {
                unreachable!("it is of IPv4");
            };
            let mut node = Self {
                engine: None,
                kernel: UnixDatagram::unbound().unwrap(),
                keys: Keys::open(&dir.path().join("key")).unwrap(),
                counts: Arc::default(),
                at,
                address: Ipv4Addr::new(100, 66, 0, last),
                dir,
            };
            node.start();
            node
        }

        /// A new process, with the key that is on disk.
        fn start(&mut self) {
            self.engine = None;
            let (kernel, device) = UnixDatagram::pair().unwrap();
            device.set_nonblocking(true).unwrap();
            kernel
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            self.kernel = kernel;
            self.keys = Keys::open(&self.dir.path().join("key")).unwrap();
            let tun = File::from(std::os::fd::OwnedFd::from(device));
            let (keys, counts) = (self.keys.clone(), Arc::clone(&self.counts));
            let engine = Engine::start(keys, tun, self.at, self.address, counts);
            self.engine = Some(engine.unwrap());
        }

        fn meet(&mut self, other: &Self, is_busy: bool) {
            let peer = Peer {
                key: *other.keys.public.as_bytes(),
                endpoint: other.at,
                is_busy,
            };
            let ends = Ends {
                node: *self.at.ip(),
                address: self.address,
                peers: [(other.address, peer)].into(),
            };
            self.engine.as_mut().unwrap().set_peers(&ends);
        }

        fn send(&self, to: Ipv4Addr, len: usize) -> Vec<u8> {
            let packet = packet(self.address, to, len);
            self.kernel.send(&packet).unwrap();
            packet
        }

        fn receive(&self) -> Vec<u8> {
            let mut room = vec![0; PACKET_MAX];
            let read = self.kernel.recv(&mut room).expect("a packet in time");
            room.truncate(read);
            room
        }

        fn counted(&self, what: Count, packets: u64) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.counts.get(what) < packets {
                assert!(
                    Instant::now() < deadline,
                    "{what:?}: {}",
                    self.counts.get(what)
                );
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }

    /// Enough of IPv4's header.
    fn packet(from: Ipv4Addr, to: Ipv4Addr, len: usize) -> Vec<u8> {
        let mut packet = vec![0x5a; len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        packet[12..16].copy_from_slice(&from.octets());
        packet[16..20].copy_from_slice(&to.octets());
        packet
    }

    fn pair() -> (Node, Node) {
        let (mut one, mut other) = (Node::new(1), Node::new(2));
        one.meet(&other, false);
        other.meet(&one, false);
        (one, other)
    }

    #[test]
    fn packets_of_any_length_come_through_whole_and_in_order() {
        let (one, other) = pair();
        for (from, to) in [(&one, &other), (&other, &one)] {
            for len in [20, 1_440, 1_440, 1_440, 100, 1_440, 9_000, 60, 60] {
                let sent = from.send(to.address, len);
                assert_eq!(to.receive(), sent, "{len} bytes");
            }
            let many: Vec<_> = (0..100).map(|n| from.send(to.address, 500 + n)).collect();
            for sent in many {
                assert_eq!(to.receive(), sent);
            }
        }
    }

    #[test]
    fn a_node_cannot_speak_for_another_nor_for_anybody_else() {
        let (one, other) = pair();
        let ok = one.send(other.address, 64);
        assert_eq!(other.receive(), ok);
        let elsewhere = Ipv4Addr::new(10, 0, 0, 1);
        one.kernel
            .send(&packet(elsewhere, other.address, 64))
            .unwrap();
        other.counted(Count::Misaddressed, 1);
        one.kernel
            .send(&packet(one.address, elsewhere, 64))
            .unwrap();
        one.counted(Count::NoPeer, 1);
        // What comes behind it is the next that arrives.
        let ok = one.send(other.address, 65);
        assert_eq!(other.receive(), ok);
    }

    #[test]
    fn who_has_no_key_is_not_heard() {
        let (one, other) = pair();
        let ok = one.send(other.address, 64);
        assert_eq!(other.receive(), ok);
        // From another address, and from the node's own, in the clear and as if it were encrypted.
        let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
        let forger = UdpSocket::bind((*one.at.ip(), 0)).unwrap();
        let mut sealed = vec![4, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        sealed.extend([0; 96]);
        for forged in [packet(one.address, other.address, 96), sealed] {
            stranger.send_to(&forged, other.at).unwrap();
            forger.send_to(&forged, other.at).unwrap();
        }
        other.counted(Count::Stranger, 2);
        other.counted(Count::Invalid, 2);
        let ok = one.send(other.address, 65);
        assert_eq!(other.receive(), ok);
    }

    #[test]
    fn a_node_that_starts_anew_is_heard_at_once() {
        let (mut one, mut other) = pair();
        let ok = one.send(other.address, 64);
        assert_eq!(other.receive(), ok);
        other.start();
        other.meet(&one, true);
        // By its own handshake; what was sent before that is lost.
        let began = Instant::now();
        other
            .kernel
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut room = [0; 128];
        while other.kernel.recv(&mut room).is_err() {
            one.send(other.address, 64);
            assert!(
                began.elapsed() < Duration::from_secs(3),
                "{:?}",
                began.elapsed()
            );
        }
        // One that waits for others to send hears what it cannot read, and says so.
        one.start();
        one.meet(&other, false);
        let began = Instant::now();
        one.kernel
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        while one.kernel.recv(&mut room).is_err() {
            other.send(one.address, 64);
            assert!(
                began.elapsed() < Duration::from_secs(3),
                "{:?}",
                began.elapsed()
            );
        }
    }

    #[test]
    fn a_new_key_is_taken_over_once_the_others_know_it() {
        let (mut one, mut other) = pair();
        let ok = one.send(other.address, 64);
        assert_eq!(other.receive(), ok);
        std::fs::remove_file(other.dir.path().join("key")).unwrap();
        other.start();
        other.meet(&one, true);
        other
            .kernel
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        one.send(other.address, 64);
        let mut room = [0; 128];
        assert!(
            other.kernel.recv(&mut room).is_err(),
            "by a key that is no more"
        );
        other
            .kernel
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        one.meet(&other, true);
        let ok = one.send(other.address, 66);
        assert_eq!(other.receive(), ok);
    }
}
