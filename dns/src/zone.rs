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

use hickory_proto::{
    rr::{Name, RecordType},
    serialize::binary::BinEncodable as _,
};
use ipnet::Ipv4Net;
use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

#[cfg(test)]
mod tests;

/// Before a service's name: its endpoints rather than its VIP.
const TASKS: &str = "tasks.";
/// Behind the four numbers of an address, the last one first.
const REVERSE: &str = ".in-addr.arpa";

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

/// What is known of a question: a look at the zone, of which nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The name's addresses, in order; one at least.
    Addresses(&'a [Ipv4Addr]),
    /// What an address is called, as it is in messages.
    Pointer(&'a [u8]),
    /// There is such a name, but it has nothing of the asked type.
    Nothing,
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
    /// By lower-case name.
    addresses: HashMap<Box<str>, Addresses>,
    /// As messages have them.
    pointers: HashMap<Ipv4Addr, Box<[u8]>>,
}

/// The addresses of a name, in order.
#[derive(Clone, Debug)]
enum Addresses {
    /// As most have: found where the name is, so with one look into memory less.
    One(Ipv4Addr),
    /// None: a service that has no endpoint.
    Several(Box<[Ipv4Addr]>),
}

impl Addresses {
    fn of(mut all: Vec<Ipv4Addr>) -> Self {
        all.sort_unstable();
        all.dedup();
        match all[..] {
            [one] => Self::One(one),
            _ => Self::Several(all.into()),
        }
    }

    fn as_slice(&self) -> &[Ipv4Addr] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

impl Zone {
    /// The names of these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let named = |network: Network| (network.id.clone(), Names::of(&network));
        Self {
            networks: networks.into_iter().map(named).collect(),
        }
    }

    /// Answers an asker who is on `networks` (IDs): the first of them that knows the name counts. The name
    /// is in lower case, without the last dot.
    pub fn answer(&self, networks: &[String], name: &str, record: RecordType) -> Answer<'_> {
        let networks = || networks.iter().filter_map(|id| self.networks.get(id));
        if let Some(address) = reverse(name) {
            return pointer(networks(), address, record);
        }
        let mut known = false;
        for addresses in splits(name, networks) {
            if addresses.is_empty() {
                known = true;
                continue;
            }
            return match record {
                RecordType::A | RecordType::ANY => Answer::Addresses(addresses),
                _ => Answer::Nothing,
            };
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
    networks: impl Fn() -> I + Copy,
) -> impl Iterator<Item = &'a [Ipv4Addr]> {
    let of = |names: &'a Names, name: &str| names.addresses.get(name).map(Addresses::as_slice);
    let whole = networks().filter_map(move |names| of(names, name));
    let dots = name.rmatch_indices('.').map(|(dot, _)| dot);
    let parts = dots.flat_map(move |dot| {
        let (name, network) = (&name[..dot], &name[dot + 1..]);
        let named = networks().filter(move |names| names.network == network);
        named.filter_map(move |names| of(names, name))
    });
    whole.chain(parts)
}

fn pointer<'a>(
    networks: impl Iterator<Item = &'a Names>,
    address: Ipv4Addr,
    record: RecordType,
) -> Answer<'a> {
    let mut known = false;
    for names in networks {
        if let Some(name) = names.pointers.get(&address) {
            return match record {
                RecordType::PTR | RecordType::ANY => Answer::Pointer(name),
                _ => Answer::Nothing,
            };
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
        let mut all: HashMap<Box<str>, Vec<Ipv4Addr>> = HashMap::new();
        let mut add = |name: &str, addresses: &[Ipv4Addr]| {
            let of_name = all.entry(name.to_ascii_lowercase().into()).or_default();
            of_name.extend_from_slice(addresses);
        };
        let mut pointers = HashMap::new();
        let mut tasks: HashMap<&str, Vec<Ipv4Addr>> = HashMap::new();
        for endpoint in &network.endpoints {
            let of_service = tasks.entry(&endpoint.service_id).or_default();
            of_service.push(endpoint.address);
            for name in &endpoint.names {
                add(name, &[endpoint.address]);
            }
            if let Some(name) = endpoint.names.first()
                && let Some(name) = full_name(name, &network.name)
            {
                pointers.insert(endpoint.address, name);
            }
        }
        for service in &network.services {
            let tasks = tasks.get(service.id.as_str());
            let tasks = tasks.map(Vec::as_slice).unwrap_or_default();
            let vip = service.vip.filter(|_| !tasks.is_empty());
            let callers = vip.as_ref().map_or(tasks, std::slice::from_ref);
            let aliases = service.aliases.iter().collect::<HashSet<_>>();
            for name in std::iter::once(&service.name).chain(aliases) {
                add(name, callers);
                add(&format!("{TASKS}{name}"), tasks);
            }
        }
        let addresses = all.into_iter();
        let addresses = addresses.map(|(name, all)| (name, Addresses::of(all)));
        Self {
            network: network.name.to_ascii_lowercase(),
            subnets: network.subnets.clone(),
            addresses: addresses.collect(),
            pointers,
        }
    }
}

/// As messages have it. `None`: too long for a name.
fn full_name(name: &str, network: &str) -> Option<Box<[u8]>> {
    let labels = name.split('.').chain(std::iter::once(network));
    let name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
    Some(name.to_bytes().ok()?.into())
}

/// The address that a name in `in-addr.arpa` is of.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut numbers = name.strip_suffix(REVERSE)?.split('.');
    let mut address = [0; 4];
    for octet in address.iter_mut().rev() {
        *octet = numbers.next()?.parse().ok()?;
    }
    numbers.next().is_none().then(|| address.into())
}
