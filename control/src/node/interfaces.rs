//! The machine's network interfaces, over netlink.

use super::{NodeError, address::Interface};
use futures::TryStreamExt;
use rtnetlink::packet_route::{
    address::AddressAttribute,
    link::{LinkAttribute, LinkFlags, LinkInfo},
};
use std::{collections::BTreeMap, net::IpAddr};

/// All interfaces, in the kernel's order.
pub(super) async fn list() -> Result<Vec<Interface>, NodeError> {
    let failed = |error: &dyn std::fmt::Display| {
        NodeError::internal(format!("could not list the network interfaces: {error}"))
    };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let mut interfaces = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(|e| failed(&e))? {
        let mut interface = Interface {
            up: link.header.flags.contains(LinkFlags::Up),
            loopback: link.header.flags.contains(LinkFlags::Loopback),
            device: true,
            ..Interface::default()
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::LinkInfo(infos) => {
                    interface.device = !infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
                }
                _ => {}
            }
        }
        interfaces.insert(link.header.index, interface);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.map_err(|e| failed(&e))? {
        let mut ip: Option<IpAddr> = None;
        for attribute in &address.attributes {
            match attribute {
                // The own end of a point-to-point link; else the same as the address.
                AddressAttribute::Local(local) => ip = Some(*local),
                AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
                _ => {}
            }
        }
        if let (Some(interface), Some(ip)) = (interfaces.get_mut(&address.header.index), ip) {
            interface.addresses.push(ip);
        }
    }
    connection.abort();
    Ok(interfaces.into_values().collect())
}
