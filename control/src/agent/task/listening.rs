//! Whether a container takes connections: read from the kernel's tables of its network namespace.

use skein_model::{PortConfig, PortProtocol};
use std::{collections::BTreeSet, io::ErrorKind};

/// `st` of a TCP socket that listens.
const LISTEN: &str = "0A";
/// `st` of a UDP socket that is bound and not connected.
const UNCONNECTED: &str = "07";

/// Whether all ports are listened on in the namespace of a process. A table that cannot be read
/// shows none.
pub async fn all_listen(pid: i64, ports: &[PortConfig]) -> bool {
    let mut tcp = None;
    let mut udp = None;
    for port in ports {
        let table = match port.protocol {
            PortProtocol::Tcp => &mut tcp,
            PortProtocol::Udp => &mut udp,
            // The kernel may have no SCTP, and no table of it.
            PortProtocol::Sctp => return false,
        };
        if table.is_none() {
            *table = Some(match port.protocol {
                PortProtocol::Tcp => bound(pid, ["tcp", "tcp6"], LISTEN).await,
                _ => bound(pid, ["udp", "udp6"], UNCONNECTED).await,
            });
        }
        if !table
            .as_ref()
            .is_some_and(|bound| bound.contains(&port.target_port))
        {
            return false;
        }
    }
    true
}

async fn bound(pid: i64, tables: [&str; 2], state: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for table in tables {
        let path = format!("/proc/{pid}/net/{table}");
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => ports.extend(reachable_ports(&text, state)),
            // The process has just ended, or the kernel has no IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(%error, path, "cannot read a table of sockets"),
        }
    }
    ports
}

/// The local ports of the sockets in a state that are not bound to the loopback alone.
fn reachable_ports(table: &str, state: &str) -> BTreeSet<u16> {
    let lines = table.lines().skip(1);
    let ports = lines.filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let found = fields.nth(1)?;
        if found != state || is_loopback(address) {
            return None;
        }
        u16::from_str_radix(port, 16).ok()
    });
    ports.collect()
}

/// Addresses are words of 32 bits in the order of the machine, all of which are little-endian here.
fn is_loopback(address: &str) -> bool {
    match address.len() {
        8 => address.ends_with("7F"),
        32 => {
            address == "00000000000000000000000001000000"
                // ::ffff:127.0.0.0/104
                || (address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0201000A:0051 0301000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0201000A:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4 1 0 100 0 0 10 0
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:2328 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000000000000000000001000000:2329 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0000000000000000FFFF00000100007F:232A 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1
";

    #[test]
    fn listeners_that_others_can_reach() {
        assert_eq!(reachable_ports(TCP, LISTEN), [80, 443].into());
        assert_eq!(reachable_ports(TCP6, LISTEN), [9000].into());
        assert_eq!(reachable_ports("", LISTEN), [].into());
    }

    #[tokio::test]
    async fn a_socket_of_this_process_is_found() {
        let tcp = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let udp = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let port = |protocol, target_port| PortConfig {
            protocol,
            target_port,
            ..PortConfig::default()
        };
        let mut ports = vec![
            port(PortProtocol::Tcp, tcp.local_addr().unwrap().port()),
            port(PortProtocol::Udp, udp.local_addr().unwrap().port()),
        ];
        let pid = i64::from(std::process::id());
        assert!(all_listen(pid, &ports).await);
        ports.push(port(PortProtocol::Tcp, 1));
        assert!(!all_listen(pid, &ports).await);
        assert!(all_listen(pid, &[]).await);
    }
}
