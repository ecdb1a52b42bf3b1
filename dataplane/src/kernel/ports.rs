//! Ports of the host itself: what its programs listen on, and what they are kept from taking.

use super::devices::set_sysctl;
use skein_abi::{
    TCP, UDP,
    ingress::PublishedKey,
    limits::{DNS_ADDRESS, NAT_PORTS},
};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// The ports that sockets of this network namespace listen on (TCP) or are bound to (UDP).
pub fn listening() -> BTreeSet<PublishedKey> {
    let mut ports = BTreeSet::new();
    for (file, proto, state) in [
        ("tcp", TCP, "0A"),
        ("tcp6", TCP, "0A"),
        ("udp", UDP, "07"),
        ("udp6", UDP, "07"),
    ] {
        // A kernel without IPv6 has no such file.
        let sockets = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        ports.extend(
            sockets
                .lines()
                .filter_map(|line| listener(line, state))
                .map(|port| PublishedKey {
                    port: skein_abi::port(port),
                    proto,
                    pad: 0,
                }),
        );
    }
    ports
}

/// The local port of a line of /proc/net/{tcp,udp} whose socket is in `state`. Sockets on loopback
/// alone are no hindrance, nor is Skein's own DNS server: what comes from outside does not concern
/// them.
fn listener(line: &str, state: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, found) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let is_loopback = is_loopback(address);
    // Addresses are printed as words of the machine.
    let is_dns = address == format!("{:08X}", u32::from_le_bytes(DNS_ADDRESS.octets()));
    (found == state && !is_loopback && !is_dns).then(|| u16::from_str_radix(port, 16).ok())?
}

/// Whether an address is loopback's, in either family, or IPv4's as IPv6 carries it. The kernel prints
/// addresses as words, here of a little-endian machine.
fn is_loopback(address: &str) -> bool {
    const MAPPED: &str = "0000000000000000FFFF0000";
    let v4 = match address.len() {
        8 => address,
        _ => address.strip_prefix(MAPPED).unwrap_or_default(),
    };
    v4.len() == 8 && v4.ends_with("7F") || address == "00000000000000000000000001000000"
}

/// Keeps the kernel from giving published ports, and those of translated sources, to sockets that
/// ask for any port. What the administrator has reserved stays.
#[derive(Debug)]
pub struct ReservedPorts {
    /// Holds what we wrote last, so that a restarted dataplane can tell it from the rest.
    path: PathBuf,
    ours: String,
}

const SYSCTL: &str = "net/ipv4/ip_local_reserved_ports";

impl ReservedPorts {
    /// `path`: where to remember what is ours.
    pub fn open(path: PathBuf) -> Self {
        let ours = fs::read_to_string(&path).unwrap_or_default();
        Self { path, ours }
    }

    /// Reserves the published ports, and frees those that are no longer published.
    ///
    /// # Errors
    /// The kernel or the disk refuses.
    pub fn reserve<'a>(
        &mut self,
        published: impl Iterator<Item = &'a PublishedKey>,
    ) -> anyhow::Result<()> {
        let mut ports: BTreeSet<u16> = published.map(|key| u16::from_be(key.port)).collect();
        ports.extend(NAT_PORTS.0..=NAT_PORTS.1);
        let wanted = to_ranges(&ports);
        if wanted == self.ours {
            return Ok(());
        }
        let present = fs::read_to_string(format!("/proc/sys/{SYSCTL}"))?;
        let ours = from_ranges(&self.ours);
        let mut all = from_ranges(present.trim());
        all.retain(|port| !ours.contains(port));
        all.extend(ports);
        fs::write(&self.path, &wanted)?;
        set_sysctl(SYSCTL, &to_ranges(&all))?;
        self.ours = wanted;
        Ok(())
    }
}

/// "80,443,30000-32767"
fn from_ranges(text: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse()) {
            ports.extend(first..=last);
        }
    }
    ports
}

fn to_ranges(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *port => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        let ports = from_ranges("80,443,30000-30002");
        assert_eq!(ports.len(), 5);
        assert_eq!(to_ranges(&ports), "80,443,30000-30002");
        assert_eq!(to_ranges(&from_ranges("")), "");
        assert_eq!(to_ranges(&from_ranges("65534-65535")), "65534-65535");
    }

    #[test]
    fn listeners_are_told_from_connections_and_loopback() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000")
        };
        assert_eq!(listener(&line("00000000:0016", "0A"), "0A"), Some(22));
        assert_eq!(listener(&line("00000000:0016", "01"), "0A"), None);
        assert_eq!(listener(&line("0100007F:0016", "0A"), "0A"), None);
        assert_eq!(listener(&line("01004164:0035", "0A"), "0A"), None, "DNS");
        let v6 = line("00000000000000000000000000000000:0050", "0A");
        assert_eq!(listener(&v6, "0A"), Some(80));
        for loopback in [
            "00000000000000000000000001000000:0050",
            "0000000000000000FFFF00000100007F:0050",
        ] {
            assert_eq!(listener(&line(loopback, "0A"), "0A"), None);
        }
        let mapped = line("0000000000000000FFFF00000101C6C0:0050", "0A");
        assert_eq!(listener(&mapped, "0A"), Some(80), "mapped");
        assert_eq!(listener("  sl  local_address rem_address   st", "0A"), None);
    }

    #[test]
    fn a_port_that_a_socket_listens_on_is_found() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let key = PublishedKey {
            port: skein_abi::port(port),
            proto: TCP,
            pad: 0,
        };
        assert!(listening().contains(&key));
        drop(socket);
        assert!(!listening().contains(&key));
    }
}
