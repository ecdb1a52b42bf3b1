//! Which routes of a container lead through which of its endpoints. Pure.

use super::{StoredEndpoint, store::Stored};
use crate::desired::{Desired, subnet_of, subnets};
use ipnet::Ipv4Net;
use skein_abi::addresses::{DNS_ADDRESS, INTERNAL_PREFIX};
use skein_proto::network::Endpoint;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// The prefix of a route to one address.
const HOST_PREFIX: u8 = 32;

/// Those through one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// The gateway of the endpoint's subnet.
    pub via: Ipv4Addr,
    /// To the DNS server, if by this endpoint, and to the network's other subnets.
    pub to: Vec<Ipv4Net>,
    /// All others, unless the engine has another way out.
    pub out: bool,
}

/// A task has one way out of its overlays, and one to the DNS server: names are asked for all the same. Of
/// other containers' networks the engine chooses the way out itself, which may be none of the cluster's; so
/// it does where it has networks of its own beside a task's overlays. `None`: the network is not known.
pub fn routes(desired: &Desired, endpoint: &StoredEndpoint) -> Option<Routes> {
    let network = desired.networks.get(&endpoint.network_id)?;
    let own = subnet_of(network, endpoint.address)?;
    let has_route = endpoint.has_default_route;
    let (to_dns, out) = match wanted(desired, endpoint).is_some_and(is_tasks) {
        true => (has_route.then_some(HOST_PREFIX), has_route),
        false => (endpoint.dns_prefix, !endpoint.no_gateway),
    };
    let to_dns = to_dns.map(|prefix| Ipv4Net::new_assert(DNS_ADDRESS, prefix).trunc());
    let others = subnets(network).map(|subnet| subnet.net);
    let others = others.filter(|net| *net != own.net);
    Some(Routes {
        via: own.gateway,
        to: to_dns.into_iter().chain(others).collect(),
        out: out && !network.internal,
    })
}

/// What the managers say of an endpoint.
pub fn wanted<'a>(desired: &'a Desired, endpoint: &StoredEndpoint) -> Option<&'a Endpoint> {
    let address = endpoint.address.to_string();
    desired
        .endpoints
        .values()
        .find(|found| found.network_id == endpoint.network_id && found.address == address)
}

/// Whether its container is a service's.
pub fn is_tasks(endpoint: &Endpoint) -> bool {
    !endpoint.service_id.is_empty()
}

/// The length of the prefix of a route to the DNS server through an endpoint of a container that is no
/// task's. Such a container comes to networks and leaves them while it runs, and is to know names for as
/// long as it is on any of them: so each has a route, and the longest that is there has the packets. Two of
/// one length would exclude each other. `None`: the container is on more networks than there are lengths.
pub(super) fn free_dns_prefix(stored: &Stored, id: &str, endpoint: &StoredEndpoint) -> Option<u8> {
    let beside = stored
        .endpoints
        .iter()
        .filter(|(other_id, other)| *other_id != id && other.sandbox == endpoint.sandbox);
    let taken: BTreeSet<u8> = beside
        .filter_map(|(_, other)| match other.dns_prefix {
            // Of an endpoint that an earlier version of Skein has made.
            None if other.has_default_route => Some(HOST_PREFIX),
            prefix => prefix,
        })
        .collect();
    let mut lengths = (INTERNAL_PREFIX + 1..=HOST_PREFIX).rev();
    lengths.find(|length| !taken.contains(length))
}

/// Whether the task's default route leads through this endpoint. Exactly one endpoint of a task has it:
/// that on the ingress network, if there is one, as answers to published ports leave by it; else the first
/// with a way out; else the first.
///
/// Endpoints join one by one, so they are taken from the managers' word rather than from who has come so
/// far.
pub fn takes_default_route(desired: &Desired, task: &Endpoint, endpoint: &StoredEndpoint) -> bool {
    let rank = |network: &str, address: Ipv4Addr| {
        let found = desired.networks.get(network);
        (
            !found.is_some_and(|network| network.ingress),
            found.is_some_and(|network| network.internal),
            network.to_owned(),
            address,
        )
    };
    let own = rank(&endpoint.network_id, endpoint.address);
    desired
        .endpoints
        .values()
        .filter(|other| other.task_id == task.task_id)
        .filter_map(|other| Some(rank(&other.network_id, other.address.parse().ok()?)))
        .all(|other| own <= other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::{Network, Subnet};

    fn desired(endpoints: &[(&str, &str)]) -> Desired {
        let mut desired = Desired::default();
        for (id, ingress, internal) in [
            ("a-net", false, false),
            ("closed", false, true),
            ("zz-ingress", true, false),
        ] {
            let subnet = |subnet: &str, gateway: &str| Subnet {
                subnet: subnet.into(),
                gateway: gateway.into(),
            };
            let network = Network {
                id: id.into(),
                ingress,
                internal,
                subnets: vec![
                    subnet("10.0.0.0/24", "10.0.0.1"),
                    subnet("10.7.0.0/24", "10.7.0.1"),
                ],
                ..Network::default()
            };
            desired.networks.insert(id.into(), network);
        }
        for (network, address) in endpoints {
            let endpoint = Endpoint {
                id: format!("t.{network}"),
                task_id: "t".into(),
                service_id: "s".into(),
                network_id: (*network).into(),
                address: (*address).into(),
                ..Endpoint::default()
            };
            desired.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        desired
    }

    fn endpoint(network: &str, address: &str) -> StoredEndpoint {
        StoredEndpoint {
            network_id: network.into(),
            address: address.parse().unwrap(),
            sandbox: "/run/s".into(),
            has_default_route: false,
            dns_prefix: None,
            no_gateway: false,
        }
    }

    #[test]
    fn exactly_one_endpoint_of_a_task_has_the_route_whatever_the_order() {
        for (endpoints, expected) in [
            (&["closed", "a-net", "zz-ingress"][..], "zz-ingress"),
            (&["closed", "a-net"], "a-net"),
            (&["closed"], "closed"),
        ] {
            let endpoints: Vec<_> = endpoints.iter().map(|n| (*n, "10.0.0.9")).collect();
            let desired = desired(&endpoints);
            let chosen: Vec<_> = endpoints
                .iter()
                .map(|(network, address)| endpoint(network, address))
                .filter(|e| takes_default_route(&desired, wanted(&desired, e).unwrap(), e))
                .map(|e| e.network_id)
                .collect();
            assert_eq!(chosen, [expected]);
        }
    }

    #[test]
    fn a_container_that_is_no_task_has_a_route_to_names_by_each_of_its_networks() {
        let mut stored = Stored::default();
        let mut join = |id: &str, sandbox: &str| {
            let mut endpoint = endpoint("a-net", "10.0.0.9");
            endpoint.sandbox = sandbox.into();
            endpoint.dns_prefix = free_dns_prefix(&stored, id, &endpoint);
            let prefix = endpoint.dns_prefix;
            stored.endpoints.insert(id.into(), endpoint);
            prefix
        };
        assert_eq!(join("first", "/run/s"), Some(32));
        assert_eq!(join("second", "/run/s"), Some(31));
        assert_eq!(join("other", "/run/another"), Some(32));
        assert_eq!(join("first", "/run/s"), Some(32), "joined again");
        for more in 3..=16 {
            assert_eq!(join(&format!("{more}"), "/run/s"), Some(33 - more));
        }
        assert_eq!(join("seventeenth", "/run/s"), None);
        stored.endpoints.remove("first");
        let again = endpoint("a-net", "10.0.0.9");
        assert_eq!(free_dns_prefix(&stored, "again", &again), Some(32));
    }

    #[test]
    fn a_task_has_one_way_out_and_the_engine_chooses_that_of_other_containers() {
        let mut desired = desired(&[("a-net", "10.0.0.9"), ("closed", "10.0.0.9")]);
        let routes_of = |desired: &Desired, network: &str, first: bool, no_gateway: bool| {
            let endpoint = StoredEndpoint {
                has_default_route: first,
                dns_prefix: first.then_some(HOST_PREFIX),
                no_gateway,
                ..endpoint(network, "10.0.0.9")
            };
            let routes = routes(desired, &endpoint).unwrap();
            assert_eq!(routes.via.to_string(), "10.0.0.1");
            let leads_to = |to: &str| {
                let to: Ipv4Addr = to.parse().unwrap();
                routes.to.iter().any(|net| net.contains(&to))
            };
            assert!(leads_to("10.7.0.9"), "to the other subnet, always");
            assert!(!leads_to("10.0.0.9"), "the own one needs none");
            (leads_to(&DNS_ADDRESS.to_string()), routes.out)
        };
        assert_eq!(routes_of(&desired, "a-net", true, false), (true, true));
        assert_eq!(routes_of(&desired, "a-net", false, false), (false, false));
        assert_eq!(routes_of(&desired, "closed", true, false), (true, false));
        for endpoint in desired.endpoints.values_mut() {
            endpoint.service_id.clear();
        }
        assert_eq!(routes_of(&desired, "a-net", true, false), (true, true));
        assert_eq!(routes_of(&desired, "a-net", false, false), (false, true));
        assert_eq!(routes_of(&desired, "a-net", true, true), (true, false));
        assert_eq!(routes_of(&desired, "closed", true, false), (true, false));
    }
}
