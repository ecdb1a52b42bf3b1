//! The wires: a bridge on the switch, a veth pair to each host, and pairs between hosts.

use super::{Host, NETWORK};
use crate::run::sh;
use std::net::Ipv4Addr;

/// Length of the prefix of a wire between two hosts.
const PAIR_PREFIX: u8 = 24;

/// Makes the bridge.
pub fn make_switch(switch: &Host) -> anyhow::Result<()> {
    switch.run("ip link set lo up")?;
    switch.run("ip link add br0 type bridge forward_delay 0")?;
    switch.run("ip link set br0 up")?;
    Ok(())
}

fn port(host: &Host) -> String {
    format!("to-{}", host.name())
}

/// Joins a host to the switch: its end is eth0.
pub fn plug_in(switch: &Host, host: &Host) -> anyhow::Result<()> {
    let port = port(host);
    switch
        .run(&format!(
            "ip link add {port} type veth peer name eth0 netns /proc/{}/ns/net",
            host.process()
        ))
        .or_else(|_| {
            // Older iproute2 takes process numbers only, of this namespace: so from outside.
            sh(&format!(
                "ip link add {port} netns {} type veth peer name eth0 netns {}",
                switch.process(),
                host.process()
            ))
        })?;
    switch.run(&format!("ip link set {port} master br0 up"))?;
    host.run("ip link set lo up")?;
    let (address, prefix) = (host.address(), NETWORK.1);
    host.run(&format!("ip address add {address}/{prefix} dev eth0"))?;
    // A frame that an XDP program sends on must have its checksum in it.
    host.run("ethtool -K eth0 tx off")?;
    host.run("ip link set eth0 up")?;
    Ok(())
}

/// Joins two hosts by a wire of their own, past the switch: at each end a device by this name, with this
/// address. It is a veth pair as it comes.
///
/// # Errors
/// A host refuses.
pub fn join(one: (&Host, &str, Ipv4Addr), other: (&Host, &str, Ipv4Addr)) -> anyhow::Result<()> {
    sh(&format!(
        "ip link add {} netns {} type veth peer name {} netns {}",
        one.1,
        one.0.process(),
        other.1,
        other.0.process()
    ))?;
    for (host, device, address) in [one, other] {
        host.run(&format!(
            "ip address add {address}/{PAIR_PREFIX} dev {device}"
        ))?;
        host.run(&format!("ip link set {device} up"))?;
    }
    Ok(())
}

/// Makes a host's port take frames from XDP programs: without GRO, which polls, nobody fetches them.
/// What GRO joined is taken apart again on its way to a host, and must have its checksums in it, too.
pub fn take_from_xdp(switch: &Host, host: &Host) -> anyhow::Result<()> {
    switch.run(&format!("ethtool -K {} gro on tx off", port(host)))?;
    Ok(())
}

/// Sets a host's port on the switch "up" or "down". The host's end loses its carrier, as if the cable
/// was pulled.
pub fn set_port(switch: &Host, host: &Host, state: &str) -> anyhow::Result<()> {
    switch.run(&format!("ip link set {} {state}", port(host)))?;
    Ok(())
}
