//! Networks and endpoints.

use super::{
    Plugin,
    store::{Stored, StoredEndpoint},
};
use crate::{
    desired::{Desired, subnet_of, subnets},
    kernel::{CONTAINER_PREFIX, mac_of, veth_names},
};
use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_abi::addresses::{DNS_ADDRESS, INTERNAL_PREFIX};
use skein_proto::{
    network::Endpoint,
    plugin::{GATEWAY_NONE, GATEWAY_OPTION, NETWORK_OPTION},
};
use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

/// How long a joining container waits for the managers' word on its task. After it, the container is
/// taken for one that is no task's.
const TASK_TIMEOUT: Duration = Duration::from_secs(2);

/// The prefix of a route to one address.
const HOST_PREFIX: u8 = 32;

pub async fn capabilities(_: &Plugin, _: Value) -> anyhow::Result<Value> {
    // Local: each node's engine has a network of its own; that they are one is the cluster's doing.
    Ok(json!({ "Scope": "local", "ConnectivityScope": "global" }))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Call {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    sandbox_key: String,
    options: Value,
    interface: Option<Interface>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Interface {
    address: String,
}

pub async fn create_network(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    let generic = &call.options["com.docker.network.generic"];
    let Some(network) = generic[NETWORK_OPTION].as_str() else {
        bail!(
            "networks with driver skein are made by the cluster: use `docker network create -d overlay`"
        );
    };
    let network = network.to_owned();
    let insert = move |state: &mut Stored| state.networks.insert(call.network_id, network);
    plugin.change(insert).await?;
    Ok(json!({}))
}

pub async fn delete_network(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    let remove = move |state: &mut Stored| state.networks.remove(&call.network_id);
    plugin.change(remove).await?;
    Ok(json!({}))
}

pub async fn create_endpoint(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    let interface = call.interface.unwrap_or_default();
    let address: Ipv4Net = interface.address.parse().with_context(|| {
        format!(
            "endpoint {} has no IPv4 address: {:?}",
            call.endpoint_id, interface.address
        )
    })?;
    let no_gateway = call.options[GATEWAY_OPTION] == GATEWAY_NONE;
    let insert = move |state: &mut Stored| {
        let network = state.networks.get(&call.network_id).cloned();
        let network_id = network
            .with_context(|| format!("network {} is not one of Skein's", call.network_id))?;
        let endpoint = StoredEndpoint {
            network_id,
            address: address.addr(),
            sandbox: String::new(),
            has_default_route: false,
            dns_prefix: None,
            no_gateway,
        };
        state.endpoints.insert(call.endpoint_id, endpoint);
        anyhow::Ok(())
    };
    plugin.change(insert).await??;
    let [a, b, c, d, e, f] = mac_of(address.addr());
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    Ok(json!({ "Interface": { "MacAddress": mac } }))
}

pub async fn endpoint_info(_: &Plugin, _: Call) -> anyhow::Result<Value> {
    Ok(json!({ "Value": {} }))
}

pub async fn delete_endpoint(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    plugin.kernel.detach(&call.endpoint_id).await?;
    let remove = move |state: &mut Stored| state.endpoints.remove(&call.endpoint_id);
    plugin.change(remove).await?;
    Ok(json!({}))
}

pub async fn leave(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    plugin.kernel.detach(&call.endpoint_id).await?;
    let leave = move |state: &mut Stored| {
        if let Some(endpoint) = state.endpoints.get_mut(&call.endpoint_id) {
            endpoint.sandbox.clear();
            endpoint.has_default_route = false;
            endpoint.dns_prefix = None;
        }
    };
    plugin.change(leave).await?;
    Ok(json!({}))
}

pub async fn join(plugin: &Plugin, call: Call) -> anyhow::Result<Value> {
    let id = &call.endpoint_id;
    let unknown = || format!("endpoint {id} is not one of Skein's");
    let endpoint = plugin.store.lock().await.state().endpoints.get(id).cloned();
    let mut endpoint = endpoint.with_context(unknown)?;
    endpoint.sandbox = call.sandbox_key;
    // The device first: it waits for the network to be known, and the route's choice needs that.
    plugin.kernel.attach(&endpoint.attachment(id)).await?;
    let desired = task_known(plugin, &endpoint).await;

    let (known, own_id) = (Arc::clone(&desired), id.clone());
    let insert = move |state: &mut Stored| {
        match wanted(&known, &endpoint).filter(|found| is_tasks(found)) {
            Some(task) => endpoint.has_default_route = takes_default_route(&known, task, &endpoint),
            None => endpoint.dns_prefix = free_dns_prefix(state, &own_id, &endpoint),
        }
        state.endpoints.insert(own_id, endpoint.clone());
        endpoint
    };
    let endpoint = plugin.change(insert).await?;
    let (_, container) = veth_names(id);
    debug_assert!(container.starts_with(CONTAINER_PREFIX));
    let mut answer = json!({
        "InterfaceName": { "SrcName": container, "DstPrefix": "eth" },
        "DisableGatewayService": true,
    });
    let network = desired.networks.get(&endpoint.network_id);
    let own = network.and_then(|network| Some((network, subnet_of(network, endpoint.address)?)));
    if let Some((network, own)) = own {
        let routes = routes(&desired, &endpoint, network.internal);
        let to_dns = routes.to_dns.into_iter();
        let to_dns = to_dns.map(|prefix| Ipv4Net::new_assert(DNS_ADDRESS, prefix).trunc());
        let others = subnets(network).map(|other| other.net);
        let beside: Vec<_> = to_dns
            .chain(others.filter(|other| *other != own.net))
            .map(|to| json!({"Destination": to, "RouteType": 0, "NextHop": own.gateway}))
            .collect();
        if !beside.is_empty() {
            answer["StaticRoutes"] = json!(beside);
        }
        if routes.out {
            answer["Gateway"] = json!(own.gateway);
        }
    }
    Ok(answer)
}

/// Which routes of its container lead through an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Routes {
    /// The one to the DNS server, apart from any other: the length of its prefix.
    to_dns: Option<u8>,
    /// All others, unless the engine has another way out.
    out: bool,
}

/// A task has one way out of its overlays, and one to the DNS server: names are asked for all the same. Of
/// other containers' networks the engine chooses the way out itself, which may be none of the cluster's; so
/// it does where it has networks of its own beside a task's overlays.
fn routes(desired: &Desired, endpoint: &StoredEndpoint, internal: bool) -> Routes {
    let has_route = endpoint.has_default_route;
    if wanted(desired, endpoint).is_some_and(is_tasks) {
        Routes {
            to_dns: has_route.then_some(HOST_PREFIX),
            out: has_route && !internal,
        }
    } else {
        Routes {
            to_dns: endpoint.dns_prefix,
            out: !internal && !endpoint.no_gateway,
        }
    }
}

/// The state of the network as soon as it has the endpoint's task, or as it is after a while.
async fn task_known(plugin: &Plugin, endpoint: &StoredEndpoint) -> Arc<Desired> {
    let mut desired = plugin.desired.clone();
    let known = |desired: &Arc<Desired>| wanted(desired, endpoint).is_some();
    let known = tokio::time::timeout(TASK_TIMEOUT, desired.wait_for(known)).await;
    drop(known);
    let desired = plugin.desired.borrow();
    Arc::clone(&desired)
}

/// What the managers say of an endpoint.
fn wanted<'a>(desired: &'a Desired, endpoint: &StoredEndpoint) -> Option<&'a Endpoint> {
    let address = endpoint.address.to_string();
    desired
        .endpoints
        .values()
        .find(|found| found.network_id == endpoint.network_id && found.address == address)
}

/// Whether its container is a service's.
fn is_tasks(endpoint: &Endpoint) -> bool {
    !endpoint.service_id.is_empty()
}

/// The length of the prefix of a route to the DNS server through an endpoint of a container that is no
/// task's. Such a container comes to networks and leaves them while it runs, and is to know names for as
/// long as it is on any of them: so each has a route, and the longest that is there has the packets. Two of
/// one length would exclude each other. `None`: the container is on more networks than there are lengths.
fn free_dns_prefix(stored: &Stored, id: &str, endpoint: &StoredEndpoint) -> Option<u8> {
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
fn takes_default_route(desired: &Desired, task: &Endpoint, endpoint: &StoredEndpoint) -> bool {
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
    use skein_proto::network::Network;

    fn desired(endpoints: &[(&str, &str)]) -> Desired {
        let mut desired = Desired::default();
        for (id, ingress, internal) in [
            ("a-net", false, false),
            ("closed", false, true),
            ("zz-ingress", true, false),
        ] {
            let network = Network {
                id: id.into(),
                ingress,
                internal,
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
            let routes = routes(desired, &endpoint, network == "closed");
            (routes.to_dns.is_some(), routes.out)
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
