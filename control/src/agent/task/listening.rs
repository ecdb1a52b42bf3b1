//! Whether a container takes connections: read from the kernel's tables of its network namespace.

use procfs::{
    ProcResult,
    net::{TcpState, UdpState},
    process::Process,
};
use skein_model::{PortConfig, PortProtocol};
use std::{collections::BTreeSet, net::SocketAddr};

/// Whether all ports are listened on in the namespace of a process. A table that cannot be read
/// shows none. Blocks.
pub fn all_listen(pid: i64, ports: &[PortConfig]) -> bool {
    if ports.is_empty() {
        return true;
    }
    let Some(process) = i32::try_from(pid)
        .ok()
        .and_then(|pid| Process::new(pid).ok())
    else {
        return false;
    };
    let has = |protocol| ports.iter().any(|port| port.protocol == protocol);
    let tcp = if has(PortProtocol::Tcp) {
        reachable(listening(&process))
    } else {
        BTreeSet::new()
    };
    let udp = if has(PortProtocol::Udp) {
        reachable(bound(&process))
    } else {
        BTreeSet::new()
    };
    ports.iter().all(|port| match port.protocol {
        PortProtocol::Tcp => tcp.contains(&port.target_port),
        PortProtocol::Udp => udp.contains(&port.target_port),
        // The kernel may have no SCTP, and no table of it.
        PortProtocol::Sctp => false,
    })
}

/// The ports of this node that some program listens on, or is bound to, by any address. A table that cannot be
/// read shows none. Blocks.
pub fn in_use() -> BTreeSet<(PortProtocol, u16)> {
    let Ok(own) = Process::myself() else {
        return BTreeSet::new();
    };
    let tcp = listening(&own).map(|address| (PortProtocol::Tcp, address.port()));
    let udp = bound(&own).map(|address| (PortProtocol::Udp, address.port()));
    tcp.chain(udp).collect()
}

fn listening(process: &Process) -> impl Iterator<Item = SocketAddr> + use<> {
    let sockets = rows([process.tcp(), process.tcp6()]);
    let listening = sockets.filter(|socket| socket.state == TcpState::Listen);
    listening.map(|socket| socket.local_address)
}

fn bound(process: &Process) -> impl Iterator<Item = SocketAddr> + use<> {
    let sockets = rows([process.udp(), process.udp6()]);
    // So the kernel calls what is not connected.
    let bound = sockets.filter(|socket| socket.state == UdpState::Close);
    bound.map(|socket| socket.local_address)
}

/// The process may have just ended, and a kernel without IPv6 has no tables of it.
fn rows<T>(tables: [ProcResult<Vec<T>>; 2]) -> impl Iterator<Item = T> {
    tables.into_iter().flatten().flatten()
}

/// The ports of what is not bound to the loopback alone.
fn reachable(addresses: impl Iterator<Item = SocketAddr>) -> BTreeSet<u16> {
    addresses
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
        assert_eq!(reachable(addresses.into_iter()), [80, 443, 9000].into());
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
