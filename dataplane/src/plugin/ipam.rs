//! Addresses: the agent names the one that the cluster's allocator has given; it is passed on.

use anyhow::{Context as _, bail, ensure};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_proto::plugin::NETWORK_OPTION;
use std::{collections::BTreeMap, net::Ipv4Addr};

pub fn capabilities() -> Value {
    json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })
}

pub fn address_spaces() -> Value {
    json!({ "LocalDefaultAddressSpace": "skein", "GlobalDefaultAddressSpace": "skein" })
}

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[derive(Default)]
pub struct RequestPool {
    pool: String,
    options: Option<BTreeMap<String, String>>,
    v6: bool,
}

/// Pools of different networks may be the same subnet: their IDs hold the network's.
pub fn request_pool(call: RequestPool) -> anyhow::Result<Value> {
    ensure!(!call.v6, "overlays have IPv4 addresses only");
    let options = call.options.unwrap_or_default();
    let Some(network) = options.get(NETWORK_OPTION) else {
        bail!(
            "networks with driver skein are made by the cluster: use `docker network create -d overlay`"
        );
    };
    let subnet: Ipv4Net = call.pool.parse().with_context(|| {
        format!(
            "pool {:?} of network {network} is no IPv4 subnet",
            call.pool
        )
    })?;
    Ok(json!({ "PoolID": format!("{network}/{subnet}"), "Pool": subnet, "Data": {} }))
}

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[derive(Default)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pool_id: String,
    address: String,
}

pub fn request_address(call: RequestAddress) -> anyhow::Result<Value> {
    let subnet = call.pool_id.split_once('/').map(|(_, subnet)| subnet);
    let subnet: Ipv4Net = subnet
        .and_then(|subnet| subnet.parse().ok())
        .with_context(|| format!("pool {:?} is not one of Skein's", call.pool_id))?;
    ensure!(
        !call.address.is_empty(),
        "addresses of {subnet} are given by the cluster: run the container by Skein's own API, not by the engine's"
    );
    let address: Ipv4Addr = call
        .address
        .parse()
        .with_context(|| format!("address {:?} is not IPv4", call.address))?;
    ensure!(
        subnet.contains(&address),
        "address {address} is not in {subnet}"
    );
    let address = Ipv4Net::new_assert(address, subnet.prefix_len());
    Ok(json!({ "Address": address, "Data": {} }))
}
