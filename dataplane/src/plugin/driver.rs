//! Networks and endpoints.

use super::{
    Plugin,
    store::{Stored, StoredEndpoint},
};
use crate::{
    desired::Desired,
    kernel::{CONTAINER_PREFIX, NETWORK_OPTION, mac_of, veth_names},
};
use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_abi::addresses::DNS_ADDRESS;
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

/// How long a joining container waits for the managers' word on its task. After it, the container is
/// taken for one that is no task's.
const TASK_TIMEOUT: Duration = Duration::from_secs(2);

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
    let insert = move |state: &mut Stored| {
        let network = state.networks.get(&call.network_id).cloned();
        let network_id = network
            .with_context(|| format!("network {} is not one of Skein's", call.network_id))?;
        let endpoint = StoredEndpoint {
            network_id,
            address: address.addr(),
            sandbox: String::new(),
            has_default_route: false,
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
        endpoint.has_default_route = takes_default_route(&known, state, &own_id, &endpoint);
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
    if endpoint.has_default_route
        && let Some(network) = desired.networks.get(&endpoint.network_id)
    {
        if network.internal {
            // No way out, but names are asked for all the same.
            answer["StaticRoutes"] = json!([{
                "Destination": format!("{DNS_ADDRESS}/32"), "RouteType": 0, "NextHop": network.gateway,
            }]);
        } else {
            answer["Gateway"] = json!(network.gateway);
        }
    }
    Ok(answer)
}

/// The state of the network as soon as it has the endpoint's task, or as it is after a while.
async fn task_known(plugin: &Plugin, endpoint: &StoredEndpoint) -> Arc<Desired> {
    let mut desired = plugin.desired.clone();
    let known = |desired: &Arc<Desired>| task_of(desired, endpoint).is_some();
    let known = tokio::time::timeout(TASK_TIMEOUT, desired.wait_for(known)).await;
    drop(known);
    let desired = plugin.desired.borrow();
    Arc::clone(&desired)
}

fn task_of<'a>(desired: &'a Desired, endpoint: &StoredEndpoint) -> Option<&'a str> {
    let address = endpoint.address.to_string();
    desired
        .endpoints
        .values()
        .find(|found| found.network_id == endpoint.network_id && found.address == address)
        .map(|found| found.task_id.as_str())
}

/// Whether the container's default route leads through this endpoint. Exactly one endpoint of a
/// container has it: that on the ingress network, if there is one, as answers to published ports
/// leave by it; else the first with a way out; else the first.
///
/// Endpoints join one by one, so a task's are taken from the managers' word rather than from who has
/// come so far.
fn takes_default_route(
    desired: &Desired,
    stored: &Stored,
    id: &str,
    endpoint: &StoredEndpoint,
) -> bool {
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
    match task_of(desired, endpoint) {
        Some(task) => desired
            .endpoints
            .values()
            .filter(|other| other.task_id == task)
            .filter_map(|other| Some(rank(&other.network_id, other.address.parse().ok()?)))
            .all(|other| own <= other),
        None => !stored.endpoints.iter().any(|(other_id, other)| {
            other_id != id && other.sandbox == endpoint.sandbox && other.has_default_route
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_proto::network::{Endpoint, Network};

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
                .filter(|e| takes_default_route(&desired, &Stored::default(), "x", e))
                .map(|e| e.network_id)
                .collect();
            assert_eq!(chosen, [expected]);
        }
    }

    #[test]
    fn a_container_that_is_no_task_has_the_route_by_its_first_network() {
        let desired = desired(&[]);
        let first = endpoint("a-net", "10.0.0.9");
        let mut stored = Stored::default();
        assert!(takes_default_route(&desired, &stored, "first", &first));
        let taken = StoredEndpoint {
            has_default_route: true,
            ..first
        };
        stored.endpoints.insert("first".into(), taken);
        let second = endpoint("closed", "10.0.0.9");
        assert!(!takes_default_route(&desired, &stored, "second", &second));
    }
}
