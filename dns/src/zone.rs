//! What the networks call their services and tasks. Pure.
//!
//! | name | answer |
//! |---|---|
//! | a service, or an alias of one | its VIP; without one, all of its endpoints |
//! | `tasks.` and a service, or an alias | all of its endpoints |
//! | a name of an endpoint | its address |
//! | any of these, and `.<network>` | the same, on that network alone |
//! | the address of an endpoint, in `in-addr.arpa` | `<first name>.<network>.` |
//!
//! A name that only services without an endpoint have does not exist, and is not asked for elsewhere:
//! nor are addresses of the asker's networks. Case does not matter.

use hickory_proto::rr::{Name, RData, RecordType, rdata};
use ipnet::{IpNet, Ipv4Net};
use rand::{Rng, seq::SliceRandom as _};
use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

#[cfg(test)]
mod tests;

/// Before a service's name: its endpoints rather than its VIP.
const TASKS: &str = "tasks.";

/// An overlay, and who is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    #[allow(missing_docs, reason = "the name says it")]
    pub id: String,
    #[allow(missing_docs, reason = "the name says it")]
    pub name: String,
    /// Addresses in them have no names elsewhere.
    pub subnets: Vec<Ipv4Net>,
    #[allow(missing_docs, reason = "the name says it")]
    pub services: Vec<Service>,
    /// Those that may be found: ready ones.
    pub endpoints: Vec<Endpoint>,
}

/// A service on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    #[allow(missing_docs, reason = "the name says it")]
    pub id: String,
    #[allow(missing_docs, reason = "the name says it")]
    pub name: String,
    /// `None`: its names lead to its endpoints.
    pub vip: Option<Ipv4Addr>,
    /// Further names of the whole service.
    pub aliases: Vec<String>,
}

/// A container's place on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The service whose task it is; empty: of none.
    pub service_id: String,
    #[allow(missing_docs, reason = "the name says it")]
    pub address: Ipv4Addr,
    /// Names of it alone; the first is the one that its address leads to.
    pub names: Vec<String>,
}

/// What is known of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, none if the name has none of the asked type.
    Records(Vec<RData>),
    /// The cluster knows that there is no such name.
    NoSuchName,
    /// Not of the cluster: others may know.
    Foreign,
}

/// The names of all networks.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// By ID.
    networks: HashMap<String, Names>,
}

/// The names of one network.
#[derive(Clone, Debug)]
struct Names {
    /// Lower case.
    network: String,
    subnets: Vec<Ipv4Net>,
    /// By lower-case name. An empty list: a service that has no endpoint.
    addresses: HashMap<String, Vec<Ipv4Addr>>,
    pointers: HashMap<Ipv4Addr, Name>,
}

impl Zone {
    /// The names of these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let named = |network: Network| (network.id.clone(), Names::of(&network));
        Self {
            networks: networks.into_iter().map(named).collect(),
        }
    }

    /// Answers an asker who is on `networks` (IDs): the first of them that knows the name counts.
    /// Addresses come in random order, so that callers that take the first share the load.
    pub fn answer(
        &self,
        networks: &[String],
        name: &Name,
        record: RecordType,
        rng: &mut impl Rng,
    ) -> Answer {
        let networks = || networks.iter().filter_map(|id| self.networks.get(id));
        if let Some(address) = reverse(name) {
            return pointer(networks(), address, record);
        }
        let Some(name) = text(name) else {
            return Answer::Foreign;
        };
        let mut known = false;
        for addresses in splits(&name, networks) {
            if addresses.is_empty() {
                known = true;
                continue;
            }
            if !matches!(record, RecordType::A | RecordType::ANY) {
                return Answer::Records(Vec::new());
            }
            let mut addresses = addresses.clone();
            addresses.shuffle(rng);
            let record = |address: Ipv4Addr| RData::A(rdata::A(address));
            return Answer::Records(addresses.into_iter().map(record).collect());
        }
        if known {
            Answer::NoSuchName
        } else {
            Answer::Foreign
        }
    }
}

/// What the networks know of a name: as a whole, then as `<name>.<network>` at each of its dots.
fn splits<'a, I: Iterator<Item = &'a Names>>(
    name: &str,
    networks: impl Fn() -> I,
) -> impl Iterator<Item = &'a Vec<Ipv4Addr>> {
    let whole = networks().filter_map(|names| names.addresses.get(name));
    let dots = name.rmatch_indices('.').map(|(dot, _)| dot);
    let parts = dots.flat_map(move |dot| {
        let (name, network) = (&name[..dot], &name[dot + 1..]);
        let named = networks().filter(move |names| names.network == network);
        named.filter_map(move |names| names.addresses.get(name))
    });
    whole.chain(parts).collect::<Vec<_>>().into_iter()
}

fn pointer<'a>(
    networks: impl Iterator<Item = &'a Names>,
    address: Ipv4Addr,
    record: RecordType,
) -> Answer {
    let mut known = false;
    for names in networks {
        if let Some(name) = names.pointers.get(&address) {
            return Answer::Records(match record {
                RecordType::PTR | RecordType::ANY => vec![RData::PTR(rdata::PTR(name.clone()))],
                _ => Vec::new(),
            });
        }
        known |= names.subnets.iter().any(|subnet| subnet.contains(&address));
    }
    if known {
        Answer::NoSuchName
    } else {
        Answer::Foreign
    }
}

impl Names {
    fn of(network: &Network) -> Self {
        let mut names = Self {
            network: network.name.to_ascii_lowercase(),
            subnets: network.subnets.clone(),
            addresses: HashMap::new(),
            pointers: HashMap::new(),
        };
        let mut tasks: HashMap<&str, Vec<Ipv4Addr>> = HashMap::new();
        for endpoint in &network.endpoints {
            let of_service = tasks.entry(&endpoint.service_id).or_default();
            of_service.push(endpoint.address);
            for name in &endpoint.names {
                names.add(name, &[endpoint.address]);
            }
            if let Some(name) = endpoint.names.first()
                && let Some(name) = full_name(name, &network.name)
            {
                names.pointers.insert(endpoint.address, name);
            }
        }
        for service in &network.services {
            let tasks = tasks.get(service.id.as_str());
            let tasks = tasks.map(Vec::as_slice).unwrap_or_default();
            let vip = service.vip.filter(|_| !tasks.is_empty());
            let callers = vip.as_ref().map_or(tasks, std::slice::from_ref);
            let aliases = service.aliases.iter().collect::<HashSet<_>>();
            for name in std::iter::once(&service.name).chain(aliases) {
                names.add(name, callers);
                names.add(&format!("{TASKS}{name}"), tasks);
            }
        }
        for addresses in names.addresses.values_mut() {
            addresses.sort_unstable();
            addresses.dedup();
        }
        names
    }

    fn add(&mut self, name: &str, addresses: &[Ipv4Addr]) {
        let name = name.to_ascii_lowercase();
        let all = self.addresses.entry(name).or_default();
        all.extend_from_slice(addresses);
    }
}

/// `None`: too long for a name.
fn full_name(name: &str, network: &str) -> Option<Name> {
    let labels = name.split('.').chain(std::iter::once(network));
    Name::from_labels(labels.map(str::as_bytes)).ok()
}

/// Lower case, without the last dot. `None`: no name of the cluster is like this.
fn text(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        if label.contains('.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    text.make_ascii_lowercase();
    (!text.is_empty()).then_some(text)
}

/// The address that a name in `in-addr.arpa` is of.
fn reverse(name: &Name) -> Option<Ipv4Addr> {
    match name.parse_arpa_name().ok()? {
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr()),
        _ => None,
    }
}
