//! Ports that programs of the host listen on, and that are therefore not published here.

use super::plan::Plan;
use skein_abi::{TCP, UDP, ingress::PublishedKey, limits::DNS_ADDRESS};
use skein_proto::network::{Kind, Problem};
use std::{collections::BTreeSet, fs};

/// See the module. A port that becomes published while a program of the host listens on it stays the
/// program's.
#[derive(Debug, Default)]
pub struct TakenPorts {
    taken: BTreeSet<PublishedKey>,
    published: BTreeSet<PublishedKey>,
}

impl TakenPorts {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Whether a port is one.
    pub fn contains(&self, key: &PublishedKey) -> bool {
        self.taken.contains(key)
    }

    /// Looks for them again, before a plan is written into the kernel. What they keep from being
    /// published is in the answer.
    pub fn find(&mut self, plan: &Plan) -> Vec<Problem> {
        self.judge(plan, &listening())
    }

    /// A plan is written: what the host listens on later is none of its ports any more.
    pub fn published(&mut self, plan: &Plan) {
        self.published = plan.published.keys().copied().collect();
    }

    fn judge(&mut self, plan: &Plan, listening: &BTreeSet<PublishedKey>) -> Vec<Problem> {
        let is_new = |key: &PublishedKey| !self.published.contains(key) || self.taken.contains(key);
        let taken: BTreeSet<PublishedKey> = plan
            .published
            .keys()
            .filter(|key| is_new(key) && listening.contains(key))
            .copied()
            .collect();
        let mut problems = Vec::new();
        for key in &taken {
            let port = u16::from_be(key.port);
            if !self.taken.contains(key) {
                tracing::warn!(
                    port,
                    "not published here: a program of the host listens on it"
                );
            }
            problems.push(Problem {
                kind: Kind::Service.into(),
                id: plan.published[key].0.clone(),
                message: format!(
                    "port {port} is not published on this node: a program of the host listens on it; stop it, or publish another port"
                ),
            });
        }
        self.taken = taken;
        problems
    }
}

/// The ports that sockets of this network namespace listen on (TCP) or are bound to (UDP).
fn listening() -> BTreeSet<PublishedKey> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stays_with_whoever_had_it_first() {
        let key = PublishedKey {
            port: skein_abi::port(8080),
            proto: TCP,
            pad: 0,
        };
        let mut plan = Plan::default();
        plan.published.insert(key, ("web".to_owned(), 80));
        let (nobody, somebody) = (BTreeSet::new(), BTreeSet::from([key]));
        let mut ports = TakenPorts::default();

        let problems = ports.judge(&plan, &somebody);
        assert_eq!(problems[0].id, "web");
        ports.published(&plan);
        assert!(ports.contains(&key), "the program came first");
        assert_eq!(ports.judge(&plan, &somebody).len(), 1, "and keeps it");
        assert!(ports.judge(&plan, &nobody).is_empty() && ports.is_empty());
        assert!(ports.judge(&plan, &somebody).is_empty(), "the service did");
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
