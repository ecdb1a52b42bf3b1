use super::*;
use crate::kernel::tunnel::counts::Count;
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
