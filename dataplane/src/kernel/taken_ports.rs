//! Ports that programs of the host listen on, and that are therefore not published here.

use super::plan::{Plan, service_of};
use skein_abi::{
    TCP, UDP,
    addresses::DNS_ADDRESS,
    ingress::{PUBLISHED_TAKEN, Published, PublishedKey},
};
use skein_proto::network::{Kind, Problem};
use skein_sockets::Namespace;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// See the module. A port that becomes published while a program of the host listens on it stays the
/// program's.
#[derive(Debug, Default)]
pub struct TakenPorts {
    taken: BTreeSet<PublishedKey>,
    published: BTreeSet<PublishedKey>,
}

impl TakenPorts {
    /// As an earlier dataplane left them in the kernel: whose a port is does not change with a restart.
    pub fn resume(published: &BTreeMap<PublishedKey, Published>) -> Self {
        let is_taken = |published: &Published| published.flags & PUBLISHED_TAKEN != 0;
        let taken = published.iter().filter(|(_, entry)| is_taken(entry));
        Self {
            taken: taken.map(|(key, _)| *key).collect(),
            published: published.keys().copied().collect(),
        }
    }

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
                id: service_of(&plan.published[key].group).to_owned(),
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
    let of = |proto, sockets: Vec<SocketAddr>| {
        let hinder = sockets.into_iter().filter(|address| hinders(address.ip()));
        hinder.map(move |address| PublishedKey {
            port: skein_abi::port(address.port()),
            proto,
            pad: 0,
        })
    };
    let tcp = of(TCP, skein_sockets::tcp_listeners(Namespace::Own));
    let udp = of(UDP, skein_sockets::udp_bound(Namespace::Own));
    tcp.chain(udp).collect()
}

/// Whether a socket with this address would get what comes to a published port. Sockets on loopback
/// alone are no hindrance, nor is Skein's own DNS server: what comes from outside does not concern
/// them.
fn hinders(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_loopback() && address != IpAddr::V4(DNS_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::plan::Leads;

    #[test]
    fn a_port_stays_with_whoever_had_it_first() {
        let key = PublishedKey {
            port: skein_abi::port(8080),
            proto: TCP,
            pad: 0,
        };
        let mut plan = Plan::default();
        let leads = Leads {
            group: "web".to_owned(),
            target: 80,
            flags: 0,
        };
        plan.published.insert(key, leads);
        let (nobody, somebody) = (BTreeSet::new(), BTreeSet::from([key]));
        let mut ports = TakenPorts::default();

        let problems = ports.judge(&plan, &somebody);
        assert_eq!(problems[0].id, "web");
        ports.published(&plan);
        assert!(ports.contains(&key), "the program came first");
        assert_eq!(ports.judge(&plan, &somebody).len(), 1, "and keeps it");
        assert!(ports.judge(&plan, &nobody).is_empty() && ports.is_empty());
        assert!(ports.judge(&plan, &somebody).is_empty(), "the service did");

        for (flags, taken) in [(0, 0), (PUBLISHED_TAKEN, 1)] {
            let entry = Published {
                flags,
                ..Published::default()
            };
            let mut ports = TakenPorts::resume(&BTreeMap::from([(key, entry)]));
            let problems = ports.judge(&plan, &somebody);
            assert_eq!(problems.len(), taken, "as it was before a restart");
        }
    }

    #[test]
    fn loopback_and_the_dns_server_are_no_hindrance() {
        for (address, expected) in [
            ("0.0.0.0", true),
            ("198.18.0.1", true),
            ("::", true),
            ("::ffff:198.18.0.1", true),
            ("127.0.0.2", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("100.65.0.1", false),
        ] {
            assert_eq!(hinders(address.parse().unwrap()), expected, "{address}");
        }
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
