//! The node's DNS server: what the networks call their services and tasks, told to the containers
//! that are on them.
//!
//! A container's resolver is the engine's own (127.0.0.11), which passes on what it does not know
//! itself to this server, from inside the container's network namespace. The packet path gives each
//! container an internal address towards the host: by that the server knows the asker.
//!
//! - [`zone`]: from the wanted network state to the names (pure).

pub mod zone;

use crate::{desired::Desired, kernel::Kernel};
use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use skein_dns::{Asker, Askers, Server, upstream};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};

/// The port of DNS.
pub const PORT: u16 = 53;
/// Whom the host asks: it may change at any time, by DHCP for example.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Between two looks at it.
const RESOLV_CONF_PERIOD: Duration = Duration::from_secs(5);
/// UDP sockets at most: there is one for each processor, and more of them than these have better to do.
const UDP_SOCKETS_MAX: usize = 4;
/// Between two tries to get the server's port, at first and at most.
const BIND_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

impl Askers for Kernel {
    fn asker(&self, address: IpAddr) -> Option<Asker> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let networks = Self::asker(self, address)?.network_ids;
        Some(Asker { networks })
    }
}

/// Serves the names of the wanted state on this address, which no device needs to have yet.
///
/// # Errors
/// The server broke. While its port is taken, it waits.
pub async fn serve(
    askers: impl Askers,
    mut desired: watch::Receiver<Arc<Desired>>,
    address: SocketAddr,
) -> anyhow::Result<()> {
    let server = Arc::new(Server::new(askers));
    let serving = async {
        let (udp, tcp) = bound(address).await;
        tracing::info!(%address, "DNS server runs");
        let ended = Arc::clone(&server).serve(udp, tcp).await;
        ended.context("the DNS server broke")
    };
    tokio::select! {
        ended = serving => ended,
        never = follow_state(&server, &mut desired) => match never {},
        never = follow_upstreams(&server, Path::new(RESOLV_CONF), address.ip()) => match never {},
    }
}

/// Keeps the names equal to the wanted state.
async fn follow_state(server: &Server, desired: &mut watch::Receiver<Arc<Desired>>) -> Infallible {
    loop {
        let state = Arc::clone(&desired.borrow_and_update());
        // Of a large cluster this takes milliseconds: not on the threads that answer.
        match tokio::task::spawn_blocking(move || zone::of(&state)).await {
            Ok(zone) => server.zone.store(Arc::new(zone)),
            Err(error) => tracing::error!(%error, "the names stay as they were"),
        }
        if desired.changed().await.is_err() {
            // The state changes no more; what it was is served on.
            return std::future::pending().await;
        }
    }
}

/// Keeps the upstream servers equal to the host's.
async fn follow_upstreams(server: &Server, resolv_conf: &Path, own: IpAddr) -> Infallible {
    loop {
        match tokio::fs::read_to_string(resolv_conf).await {
            Ok(text) => {
                let servers = upstream::servers(&text, own);
                if **server.upstreams.load() != servers {
                    tracing::info!(?servers, "names outside the cluster are asked for there");
                    server.upstreams.store(Arc::new(servers));
                }
            }
            Err(error) => {
                tracing::debug!(path = %resolv_conf.display(), %error, "cannot be read");
            }
        }
        tokio::time::sleep(RESOLV_CONF_PERIOD).await;
    }
}

/// The sockets of both kinds, as soon as they can be had.
async fn bound(address: SocketAddr) -> (Vec<UdpSocket>, TcpListener) {
    let (mut wait, longest) = BIND_RETRY;
    loop {
        match sockets(address) {
            Ok(sockets) => return sockets,
            Err(error) => tracing::warn!(
                %address,
                %error,
                "cannot serve DNS, so tasks find no names: does another DNS server of this host \
                 listen on all addresses? Tried again in {wait:?}"
            ),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

fn sockets(address: SocketAddr) -> io::Result<(Vec<UdpSocket>, TcpListener)> {
    // This one first: nobody else can have it as well, so those of UDP are all this process's.
    let tcp = open(address, SockType::Stream)?;
    listen(&tcp, Backlog::MAXCONN)?;
    let tcp = TcpListener::from_std(tcp.into())?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let address = tcp.local_addr()?;
    let udp = (0..processors.min(UDP_SOCKETS_MAX))
        .map(|_| UdpSocket::from_std(open(address, SockType::Datagram)?.into()));
    Ok((udp.collect::<io::Result<_>>()?, tcp))
}

/// A socket with an address that the host need not have yet.
fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None)?;
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    match kind {
        // Several have the address: the kernel deals the questions out to them, those of one socket to one.
        SockType::Datagram => setsockopt(&socket, sockopt::ReusePort, &true)?,
        // Connections of a server that was stopped just now do not keep the port.
        _ => setsockopt(&socket, sockopt::ReuseAddr, &true)?,
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network as proto;
    use std::net::Ipv4Addr;
    use tokio::{task::JoinSet, time::timeout};

    struct Everybody;

    impl Askers for Everybody {
        fn asker(&self, _: IpAddr) -> Option<Asker> {
            Some(Asker {
                networks: ["n1".into()].into(),
            })
        }
    }

    /// A question for the addresses of `box`.
    const QUESTION: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03box\0\0\x01\0\x01";

    fn state(address: &str) -> Arc<Desired> {
        let mut state = Desired::default();
        let network = proto::Network {
            id: "n1".into(),
            ..Default::default()
        };
        let endpoint = proto::Endpoint {
            network_id: "n1".into(),
            address: address.into(),
            state: proto::EndpointState::Ready.into(),
            names: vec!["box".into()],
            ..Default::default()
        };
        state.networks.insert("n1".into(), network);
        state.endpoints.insert("e1".into(), endpoint);
        Arc::new(state)
    }

    #[tokio::test]
    async fn names_follow_the_state_and_the_port_is_waited_for() {
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let (desired, follow) = watch::channel(state("10.0.0.5"));
        let mut serving = JoinSet::new();
        serving.spawn(serve(Everybody, follow, address));
        tokio::time::sleep(BIND_RETRY.0 / 2).await;
        drop(taken);

        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(address).await.unwrap();
        for expected in ["10.0.0.5", "10.0.0.6"] {
            desired.send_replace(state(expected));
            let expected: Ipv4Addr = expected.parse().unwrap();
            let asked = async {
                let mut reply = [0; 512];
                loop {
                    // Refused while nobody listens; the old name until the new one is there.
                    let sent = client.send(QUESTION).await.is_ok();
                    let period = timeout(Duration::from_millis(50), client.recv(&mut reply));
                    if let (true, Ok(Ok(length))) = (sent, period.await)
                        && reply[..length].ends_with(&expected.octets())
                    {
                        break;
                    }
                }
            };
            timeout(Duration::from_secs(10), asked).await.unwrap();
        }
        assert!(serving.try_join_next().is_none(), "it serves on");
    }

    #[tokio::test]
    async fn an_address_that_no_device_has_can_be_served() {
        let address: SocketAddr = "100.65.0.1:0".parse().unwrap();
        let (udp, tcp) = sockets(address).unwrap();
        let bound = tcp.local_addr().unwrap();
        assert_eq!(bound.ip(), address.ip());
        assert!(!udp.is_empty());
        assert!(
            udp.iter()
                .all(|socket| socket.local_addr().unwrap() == bound)
        );
        // Another process cannot take a part of the questions.
        assert!(sockets(bound).is_err());
    }
}
