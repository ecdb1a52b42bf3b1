//! What all servers know, and what they are asked. Pure.

use rand::{RngCore, seq::SliceRandom as _};
use skein_dataplane::desired::Desired;
use skein_proto::network as proto;
use std::{fmt::Write as _, net::Ipv4Addr};

/// Services, and tasks of each.
pub const SERVICES: u32 = 2_000;
pub const TASKS: u32 = 5;
/// The network that all are on, and its ID.
pub const NETWORK: &str = "back";
/// As long as Skein's answers may be kept, in seconds.
pub const TTL: u32 = skein_dns::message::TTL;
/// Of what is asked for in all ways, one in so many is a name that nobody has.
const UNKNOWN_SHARE: u32 = 20;
/// The addresses of all; the services' own are the first of them.
const SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 64, 0, 0), 10);

/// What is asked in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// The addresses of services: one each.
    Services,
    /// The addresses of tasks: several in an answer.
    Tasks,
    /// Both, addresses of IPv6, which nobody has, names of addresses, and a few unknown names.
    All,
}

impl Mix {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Services, Self::Tasks, Self::All];

    /// As the report calls it.
    pub fn what(self) -> &'static str {
        match self {
            Self::Services => "services, one address each",
            Self::Tasks => "tasks of services, five addresses each",
            Self::All => "A, AAAA and PTR of services and tasks, one in 20 unknown",
        }
    }

    /// Its file of questions.
    pub fn file(self) -> &'static str {
        match self {
            Self::Services => "services.txt",
            Self::Tasks => "tasks.txt",
            Self::All => "all.txt",
        }
    }

    /// The questions, as dnsperf reads them: a name and a type on each line.
    pub fn questions(self, rng: &mut dyn RngCore) -> String {
        let mut lines = Vec::new();
        for service in 0..SERVICES {
            let name = name(service);
            if self != Self::Tasks {
                lines.push(format!("{name} A"));
            }
            if self != Self::Services {
                lines.push(format!("tasks.{name} A"));
            }
            if self == Self::All {
                lines.push(format!("{name} AAAA"));
                let [a, b, c, d] = task_address(service, service % TASKS).octets();
                lines.push(format!("{d}.{c}.{b}.{a}.in-addr.arpa PTR"));
                if service % (UNKNOWN_SHARE / 4) == 0 {
                    lines.push(format!("unknown-{service} A"));
                }
            }
        }
        lines.shuffle(rng);
        lines.join("\n") + "\n"
    }
}

/// How many records there are: addresses of services, those of tasks by the services' names and by their own, and
/// names of addresses.
pub fn count() -> u32 {
    SERVICES * (1 + 3 * TASKS)
}

fn name(service: u32) -> String {
    format!("service-{service}")
}

fn address(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SUBNET.0.to_bits() + 16 + nth)
}

fn task_address(service: u32, task: u32) -> Ipv4Addr {
    address(SERVICES + service * TASKS + task)
}

/// As Docker has it: service, slot and ID.
fn task_name(service: u32, task: u32) -> String {
    format!("{}.{}.task{service:05}{task:016}", name(service), task + 1)
}

/// (name, address) of all services, then of all tasks by their own names, then by their services'.
fn addresses() -> impl Iterator<Item = (String, Ipv4Addr)> {
    let services = (0..SERVICES).map(|service| (name(service), address(service)));
    let tasks = || (0..SERVICES).flat_map(|service| (0..TASKS).map(move |task| (service, task)));
    let own = tasks().map(|(service, task)| {
        let name = format!("{}.{NETWORK}", task_name(service, task));
        (name, task_address(service, task))
    });
    let of_services = tasks().map(|(service, task)| {
        let name = format!("tasks.{}", name(service));
        (name, task_address(service, task))
    });
    services.chain(own).chain(of_services)
}

/// A hosts file, by which dnsmasq answers for addresses as well: by the first name of each.
pub fn hosts() -> String {
    let mut hosts = String::new();
    for (name, address) in addresses() {
        // Into a string, which takes everything.
        let _ = writeln!(hosts, "{address} {name}");
    }
    hosts
}

/// unbound's local data.
pub fn local_data() -> String {
    let mut data = String::new();
    let mut add = |record: String| {
        // As above.
        let _ = writeln!(data, "  local-data: \"{record}\"");
    };
    for (name, address) in addresses() {
        add(format!("{name}. {TTL} A {address}"));
    }
    for service in 0..SERVICES {
        for task in 0..TASKS {
            let [a, b, c, d] = task_address(service, task).octets();
            let name = task_name(service, task);
            add(format!(
                "{d}.{c}.{b}.{a}.in-addr.arpa. {TTL} PTR {name}.{NETWORK}."
            ));
        }
    }
    data
}

/// The same as a dataplane is told of it.
pub fn desired() -> Desired {
    let mut desired = Desired::default();
    let network = proto::Network {
        id: NETWORK.into(),
        name: NETWORK.into(),
        subnets: vec![proto::Subnet {
            subnet: format!("{}/{}", SUBNET.0, SUBNET.1),
            gateway: Ipv4Addr::from_bits(SUBNET.0.to_bits() + 1).to_string(),
        }],
        ..proto::Network::default()
    };
    desired.networks.insert(network.id.clone(), network);
    for service in 0..SERVICES {
        let id = name(service);
        let place = proto::ServiceNetwork {
            network_id: NETWORK.into(),
            vip: address(service).to_string(),
            aliases: Vec::new(),
        };
        let of_service = proto::Service {
            id: id.clone(),
            name: id.clone(),
            networks: vec![place],
            ..proto::Service::default()
        };
        desired.services.insert(id.clone(), of_service);
        for task in 0..TASKS {
            let name = task_name(service, task);
            let endpoint = proto::Endpoint {
                id: name.clone(),
                service_id: id.clone(),
                network_id: NETWORK.into(),
                address: task_address(service, task).to_string(),
                state: proto::EndpointState::Ready.into(),
                names: vec![name.clone()],
                ..proto::Endpoint::default()
            };
            desired.endpoints.insert(name, endpoint);
        }
    }
    desired
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn all_servers_have_the_same() {
        let of = |text: &str| u32::try_from(text.lines().count()).unwrap();
        let pointers = SERVICES * TASKS;
        assert_eq!(of(&local_data()), count());
        assert_eq!(of(&hosts()) + pointers, count());
        let desired = desired();
        assert_eq!(desired.services.len(), SERVICES as usize);
        assert_eq!(desired.endpoints.len(), pointers as usize);
    }

    #[test]
    fn one_in_so_many_is_unknown() {
        let questions = Mix::All.questions(&mut ChaCha8Rng::seed_from_u64(1));
        let unknown = questions.lines().filter(|line| line.starts_with("unknown"));
        let (unknown, all) = (unknown.count() as f64, questions.lines().count() as f64);
        let share = unknown / all;
        assert!(
            (share * f64::from(UNKNOWN_SHARE) - 1.0).abs() < 0.06,
            "{share}"
        );
    }
}
