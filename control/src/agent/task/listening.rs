//! Whether a container takes connections: by the sockets of its network namespace.

use skein_model::{PortConfig, PortProtocol};
use skein_sockets::Namespace;
use std::{collections::BTreeSet, net::SocketAddr};

/// Whether all ports are listened on in the namespace of a process. A namespace that cannot be read
/// shows none. Blocks.
pub fn all_listen(pid: i64, ports: &[PortConfig]) -> bool {
    if ports.is_empty() {
        return true;
    }
    let Ok(pid) = i32::try_from(pid) else {
        return false;
    };
    let namespace = Namespace::OfProcess(pid);
    let has = |protocol| ports.iter().any(|port| port.protocol == protocol);
    let reachable_by = |protocol, sockets: fn(Namespace) -> Vec<SocketAddr>| {
        let addresses = has(protocol).then(|| sockets(namespace));
        reachable(addresses.unwrap_or_default())
    };
    let tcp = reachable_by(PortProtocol::Tcp, skein_sockets::tcp_listeners);
    let udp = reachable_by(PortProtocol::Udp, skein_sockets::udp_bound);
    ports.iter().all(|port| match port.protocol {
        PortProtocol::Tcp => tcp.contains(&port.target_port),
        PortProtocol::Udp => udp.contains(&port.target_port),
        // The kernel may have no SCTP, and no table of it.
        PortProtocol::Sctp => false,
    })
}

/// The ports of this node that some program listens on, or is bound to, by any address. Blocks.
pub fn in_use() -> BTreeSet<(PortProtocol, u16)> {
    let of = |protocol, sockets: Vec<SocketAddr>| {
        let ports = sockets.into_iter();
        ports.map(move |address| (protocol, address.port()))
    };
    let tcp = of(
        PortProtocol::Tcp,
        skein_sockets::tcp_listeners(Namespace::Own),
    );
    let udp = of(PortProtocol::Udp, skein_sockets::udp_bound(Namespace::Own));
    tcp.chain(udp).collect()
}

/// The ports of what is not bound to the loopback alone.
fn reachable(addresses: impl IntoIterator<Item = SocketAddr>) -> BTreeSet<u16> {
    addresses
        .into_iter()
        .filter(|address| !address.ip().to_canonical().is_loopback())
        .map(|address| address.port())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn listeners_that_others_can_reach() {
        let addresses = [
            "0.0.0.0:80",
            "10.0.1.2:443",
            "127.0.0.1:8080",
            "[::]:9000",
            "[::1]:9001",
            "[::ffff:127.0.0.1]:9002",
        ];
        let addresses = addresses.map(|address| address.parse().unwrap());
        assert_eq!(reachable(addresses), [80, 443, 9000].into());
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = |protocol, address: std::io::Result<SocketAddr>| PortConfig {
            protocol,
            target_port: address.unwrap().port(),
            ..PortConfig::default()
        };
        let mut ports = vec![
            port(PortProtocol::Tcp, tcp.local_addr()),
            port(PortProtocol::Udp, udp.local_addr()),
        ];
        let pid = i64::from(std::process::id());
        assert!(all_listen(pid, &ports));
        let on_loopback = loopback.local_addr().unwrap().port();
        let in_use = in_use();
        assert!(in_use.contains(&(PortProtocol::Tcp, on_loopback)));
        for port in &ports {
            assert!(in_use.contains(&(port.protocol, port.target_port)));
        }
        ports.push(port(PortProtocol::Tcp, loopback.local_addr()));
        assert!(!all_listen(pid, &ports));
        assert!(all_listen(pid, &[]));
        assert!(!all_listen(i64::MAX, &ports));
    }
}
