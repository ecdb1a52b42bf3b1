//! Which addresses the programs of a network namespace take connections and datagrams at, and which
//! connections they have.
//!
//! Listening TCP sockets are asked of the kernel's socket diagnostics ([`diagnostics`]), which look at
//! these alone. The tables under `/proc` ([`tables`]) walk all connections that the kernel has room for,
//! of every namespace: milliseconds of a processor for each look. They are the fall-back, and serve UDP,
//! of which there is no such walk.

mod diagnostics;
mod tables;

use std::net::SocketAddr;

/// Whose network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// This process's own.
    Own,
    /// That of another process.
    OfProcess(i32),
}

/// Where TCP sockets listen. A namespace that cannot be read shows none: its process may just have ended.
/// Blocks.
pub fn tcp_listeners(of: Namespace) -> Vec<SocketAddr> {
    // Kernels may have no socket diagnostics.
    diagnostics::tcp_listeners(of).unwrap_or_else(|_| tables::tcp_listeners(of))
}

/// Whether there is a TCP socket, in whatever state but listening, between two addresses. A namespace that
/// cannot be read has none. Blocks.
pub fn is_tcp_connected(of: Namespace, local: SocketAddr, remote: SocketAddr) -> bool {
    tables::is_tcp_connected(of, local, remote)
}

/// Where UDP sockets are bound that are not connected. A namespace that cannot be read shows none. Blocks.
pub fn udp_bound(of: Namespace) -> Vec<SocketAddr> {
    tables::udp_bound(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

    #[test]
    fn listeners_are_found_and_connections_are_not() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(four.local_addr().unwrap()).unwrap();
        // Another process's namespace is root's to enter: others are served by the tables.
        let other = Namespace::OfProcess(own_id());
        for found in [
            diagnostics::tcp_listeners(Namespace::Own).unwrap(),
            tables::tcp_listeners(Namespace::Own),
            tcp_listeners(other),
        ] {
            assert!(found.contains(&four.local_addr().unwrap()), "{found:?}");
            assert!(found.contains(&six.local_addr().unwrap()), "{found:?}");
            assert!(!found.contains(&client.local_addr().unwrap()), "{found:?}");
        }
    }

    #[test]
    fn a_connection_is_between_its_two_addresses_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(is_tcp_connected(Namespace::Own, local, remote));
        let nobody = SocketAddr::new(local.ip(), 1);
        assert!(!is_tcp_connected(Namespace::Own, local, nobody));
        let listens = SocketAddr::from(([0, 0, 0, 0], 0));
        assert!(!is_tcp_connected(Namespace::Own, remote, listens));
    }

    #[test]
    fn as_many_listeners_as_fit_into_no_single_answer_are_all_found() {
        let many: Vec<_> = (0..500)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let found = diagnostics::tcp_listeners(Namespace::Own).unwrap();
        for listener in many {
            assert!(found.contains(&listener.local_addr().unwrap()));
        }
    }

    #[test]
    fn datagram_sockets_are_found_unless_they_are_connected() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(bound.local_addr().unwrap()).unwrap();
        let found = udp_bound(Namespace::OfProcess(own_id()));
        assert!(found.contains(&bound.local_addr().unwrap()));
        assert!(!found.contains(&connected.local_addr().unwrap()));
    }

    #[test]
    fn a_process_that_is_none_has_none() {
        let nobody = Namespace::OfProcess(i32::MAX);
        assert!(tcp_listeners(nobody).is_empty());
        assert!(udp_bound(nobody).is_empty());
    }

    fn own_id() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }
}
