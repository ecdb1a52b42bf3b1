//! Networks and endpoints.

use super::{
    Plugin,
    routes::{Routes, free_dns_prefix, is_tasks, routes, takes_default_route, wanted},
    store::{Stored, StoredEndpoint},
};
use crate::{
    desired::Desired,
    kernel::{CONTAINER_PREFIX, mac_of, veth_names},
};
use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_proto::plugin::{GATEWAY_NONE, GATEWAY_OPTION, NETWORK_OPTION};
use std::{sync::Arc, time::Duration};

/// How long a joining container waits for the managers' word on its task. After it, the container is
/// taken for one that is no task's.
const TASK_TIMEOUT: Duration = Duration::from_secs(2);

pub fn capabilities() -> Value {
    // Local: each node's engine has a network of its own; that they are one is the cluster's doing.
    json!({ "Scope": "local", "ConnectivityScope": "global" })
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

pub fn create_network(stored: &mut Stored, call: Call) -> anyhow::Result<Value> {
    let generic = &call.options["com.docker.network.generic"];
    let Some(network) = generic[NETWORK_OPTION].as_str() else {
        bail!(
            "networks with driver skein are made by the cluster: use `docker network create -d overlay`"
        );
    };
    stored.networks.insert(call.network_id, network.to_owned());
    Ok(json!({}))
}

pub fn delete_network(stored: &mut Stored, call: Call) -> anyhow::Result<Value> {
    stored.networks.remove(&call.network_id);
    Ok(json!({}))
}

pub fn create_endpoint(stored: &mut Stored, call: Call) -> anyhow::Result<Value> {
    let interface = call.interface.unwrap_or_default();
    let address: Ipv4Net = interface.address.parse().with_context(|| {
        format!(
            "endpoint {} has no IPv4 address: {:?}",
            call.endpoint_id, interface.address
        )
    })?;
    let network = stored.networks.get(&call.network_id).cloned();
    let network_id =
        network.with_context(|| format!("network {} is not one of Skein's", call.network_id))?;
    let endpoint = StoredEndpoint {
        network_id,
        address: address.addr(),
        sandbox: String::new(),
        has_default_route: false,
        dns_prefix: None,
        no_gateway: call.options[GATEWAY_OPTION] == GATEWAY_NONE,
    };
    stored.endpoints.insert(call.endpoint_id, endpoint);
    let [a, b, c, d, e, f] = mac_of(address.addr());
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    Ok(json!({ "Interface": { "MacAddress": mac } }))
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
    Ok(joined(&desired, id, &endpoint))
}

/// What the engine is to make of an endpoint in its container. Pure.
pub fn joined(desired: &Desired, id: &str, endpoint: &StoredEndpoint) -> Value {
    let (_, container) = veth_names(id);
    debug_assert!(container.starts_with(CONTAINER_PREFIX));
    let mut answer = json!({
        "InterfaceName": { "SrcName": container, "DstPrefix": "eth" },
        "DisableGatewayService": true,
    });
    if let Some(Routes { via, to, out }) = routes(desired, endpoint) {
        let beside: Vec<_> = to
            .iter()
            .map(|to| json!({"Destination": to, "RouteType": 0, "NextHop": via}))
            .collect();
        if !beside.is_empty() {
            answer["StaticRoutes"] = json!(beside);
        }
        if out {
            answer["Gateway"] = json!(via);
        }
    }
    answer
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
