//! WireGuard in this process: boringtun, between a TUN device and a UDP socket.
//!
//! Three threads, none of the runtime's: one encrypts what the kernel routes into the device, one decrypts what the
//! other nodes send, one keeps time. Packets wait in the device's queue and the socket's buffers, whose lengths the
//! kernel limits, and in boringtun's queue of each tunnel while there are no session keys (256 packets).
//!
//! A peer is known by the address that its datagrams come from, and nobody can move it elsewhere: nodes' addresses
//! are the managers' to say. Who forges one still lacks the key.
//!
//! - `outward`: what the kernel routes into the device, encrypted and sent. `inward`: the way back.

mod inward;
mod outward;
#[cfg(test)]
mod tests;

use super::{
    counts::Counts,
    ends::{Ends, Peer},
    keys::Keys,
};
use anyhow::Context as _;
use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::PublicKey,
};
use inward::decrypt;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use outward::encrypt;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    fs::File,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::BorrowedFd,
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
/// Datagrams of one call (UDP_SEGMENT, UDP_GRO): the kernel's limit of older versions.
const SEGMENTS_MAX: usize = 64;
/// boringtun wants as much room, whatever it is given.
const ROOM_MIN: usize = 148;
/// The kernel doubles it: what comes and goes in some milliseconds at 10 Gbit/s.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a thread may not notice that it is to end.
const STOP_POLL_MS: u16 = 200;
/// Between looks at the tunnels' timers, of which the shortest have seconds.
const TICK: Duration = Duration::from_millis(250);

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
