//! Which addresses a node listens on and advertises: the rules, on what the machine has.

use super::NodeError;
use crate::rpc::DEFAULT_PORT;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Smallest and largest UDP port that the overlay may use.
const DATA_PATH_PORTS: std::ops::RangeInclusive<u32> = 1024..=49151;
/// UDP port of the overlay unless asked otherwise.
const DATA_PATH_PORT_DEFAULT: u16 = 4789;

/// A network interface of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Interface {
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    /// Not made by software: it has no link kind.
    pub device: bool,
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// Bridges and pairs that the engine or the dataplane made: never the way to other nodes.
    fn is_managed(&self) -> bool {
        let name = self.name.as_str();
        name == "docker0"
            || name == "docker_gwbridge"
            || name.starts_with("br-")
            || name.starts_with("skein")
    }
}

/// The outcome: where to listen and what to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub listen: SocketAddr,
    /// `None`: a joining node that has nothing to say; the address it calls from counts.
    pub advertise: Option<SocketAddr>,
    /// Where the overlay's packets come to.
    pub data_path: Option<IpAddr>,
    /// The interface that has what is advertised; see [`moved`].
    pub interface: Option<String>,
}

impl Addresses {
    /// Advertises `ip`, which is the machine's own.
    pub fn advertise_own(&mut self, ip: IpAddr, interfaces: &[Interface]) {
        let advertised = SocketAddr::new(ip, self.listen.port());
        self.advertise = Some(advertised);
        self.interface = followed(self.listen, advertised, interfaces);
    }
}

/// What is asked for, as it was written; "" where nothing is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub listen: &'a str,
    pub advertise: &'a str,
    pub data_path: &'a str,
    /// What the daemon is to advertise where the request says nothing.
    pub default_advertise: &'a str,
}

impl Asked<'_> {
    /// What is to be advertised, by the request or else by the daemon's default; `None`: neither says.
    fn advertised(
        &self,
        listen: SocketAddr,
        interfaces: &[Interface],
    ) -> Option<Result<SocketAddr, NodeError>> {
        let port = listen.port();
        if !self.advertise.is_empty() {
            return Some(advertise_address(self.advertise, port, interfaces));
        }
        if self.default_advertise.is_empty() {
            return None;
        }
        let ip = without_port(
            self.default_advertise,
            "default advertise address",
            interfaces,
        );
        Some(ip.map(|ip| SocketAddr::new(ip, port)))
    }
}

/// What `init` asks for.
pub(super) fn for_init(asked: Asked<'_>, interfaces: &[Interface]) -> Result<Addresses, NodeError> {
    let listen = listen_address(asked.listen, interfaces)?;
    let advertised = match asked.advertised(listen, interfaces) {
        Some(advertised) => advertised?,
        None if is_for_others(listen.ip()) => listen,
        None => SocketAddr::new(system_address(interfaces)?, listen.port()),
    };
    if listen.ip().is_unspecified() && !is_own(advertised.ip(), interfaces) {
        system_address(interfaces).map_err(|_| {
            NodeError::invalid(
                "must specify a listening address because the address to advertise is not \
                 recognized as a system address, and a system's IP address to use could not be \
                 uniquely identified",
            )
        })?;
    }
    Ok(Addresses {
        listen,
        advertise: Some(advertised),
        data_path: data_path_address(asked.data_path, interfaces)?,
        interface: followed(listen, advertised, interfaces),
    })
}

/// What `join` asks for. An address to advertise that cannot be used is passed over: the managers
/// then see where the node calls from.
pub(super) fn for_join(asked: Asked<'_>, interfaces: &[Interface]) -> Result<Addresses, NodeError> {
    let listen = listen_address(asked.listen, interfaces)?;
    let named = asked.advertised(listen, interfaces).and_then(Result::ok);
    let bound = is_for_others(listen.ip()).then_some(listen);
    let advertise = named.or(bound);
    Ok(Addresses {
        listen,
        advertise,
        data_path: data_path_address(asked.data_path, interfaces)?,
        interface: advertise.and_then(|advertised| followed(listen, advertised, interfaces)),
    })
}

/// The interface whose address is advertised. None is followed where the node listens on one address alone, which
/// it would not hear another one by, nor where the address is one that others alone reach it by (NAT).
fn followed(
    listen: SocketAddr,
    advertised: SocketAddr,
    interfaces: &[Interface],
) -> Option<String> {
    let has = |interface: &&Interface| interface.addresses.contains(&advertised.ip());
    let interface = interfaces.iter().find(has)?;
    listen.ip().is_unspecified().then(|| interface.name.clone())
}

/// What to advertise instead of an address that the machine has no more: the one that the interface has now which
/// had it. `None`: there is no reason to change it, or not one such address.
pub(super) fn moved(
    advertised: SocketAddr,
    interface: &str,
    interfaces: &[Interface],
) -> Option<SocketAddr> {
    if is_own(advertised.ip(), interfaces) {
        return None;
    }
    let interface = interfaces.iter().find(|found| found.name == interface)?;
    let mut others = interface.addresses.iter();
    let is_like_it = |ip: &&IpAddr| ip.is_ipv4() == advertised.is_ipv4() && is_global_unicast(ip);
    let ip = others.find(is_like_it)?;
    let is_only = !others.any(|ip| is_like_it(&ip));
    is_only.then(|| SocketAddr::new(*ip, advertised.port()))
}

/// The UDP port of the overlay; 0 asks for the default.
pub(super) fn data_path_port(asked: u32) -> Result<u16, NodeError> {
    if asked == 0 {
        return Ok(DATA_PATH_PORT_DEFAULT);
    }
    let port = DATA_PATH_PORTS.contains(&asked).then_some(asked);
    port.and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| {
            NodeError::internal(format!(
                "Datapath port number is not in valid range (1024-49151) : {asked}"
            ))
        })
}

/// `host:port` of a manager to join at.
pub(super) fn remote_address(address: &str) -> Result<String, NodeError> {
    let (host, port) = split(address).map_err(|reason| {
        NodeError::invalid(format!("invalid remoteAddr {address:?}: {reason}"))
    })?;
    let port = port.unwrap_or(DEFAULT_PORT);
    Ok(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

fn listen_address(address: &str, interfaces: &[Interface]) -> Result<SocketAddr, NodeError> {
    if address.is_empty() {
        return Err(NodeError::invalid(
            "invalid ListenAddr \"\": invalid empty address",
        ));
    }
    let unparsable = || NodeError::invalid(format!("could not parse listen address {address}"));
    let (host, port) = split(address).map_err(|_| unparsable())?;
    let ip = match of_interface(&host, interfaces) {
        Some(found) => found?,
        None => host.parse().map_err(|_| {
            NodeError::invalid(
                "listen address must be an IP address or network interface (with optional port \
                 number)",
            )
        })?,
    };
    Ok(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT)))
}

fn advertise_address(
    address: &str,
    default_port: u16,
    interfaces: &[Interface],
) -> Result<SocketAddr, NodeError> {
    let invalid = || {
        NodeError::invalid(
            "advertise address must be a non-zero IP address or network interface (with optional \
             port number)",
        )
    };
    let (host, port) = split(address).map_err(|_| invalid())?;
    let ip = named_or_given(&host, interfaces).unwrap_or_else(|| Err(invalid()))?;
    Ok(SocketAddr::new(ip, port.unwrap_or(default_port)))
}

fn data_path_address(address: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>, NodeError> {
    if address.is_empty() {
        return Ok(None);
    }
    without_port(address, "data path address", interfaces).map(Some)
}

/// An address, or an interface's, of something that has no port.
fn without_port(address: &str, what: &str, interfaces: &[Interface]) -> Result<IpAddr, NodeError> {
    let invalid = || {
        NodeError::invalid(format!(
            "{what} must be a non-zero IP address or network interface (without a port number)"
        ))
    };
    named_or_given(address, interfaces).unwrap_or_else(|| Err(invalid()))
}

/// The address of the interface of that name, else the address itself if it is a usable one.
fn named_or_given(host: &str, interfaces: &[Interface]) -> Option<Result<IpAddr, NodeError>> {
    of_interface(host, interfaces).or_else(|| {
        let ip = host.parse::<IpAddr>().ok()?;
        (!ip.is_unspecified()).then_some(Ok(ip))
    })
}

/// The one address of an interface, IPv4 before IPv6; `None` if there is no such interface.
fn of_interface(name: &str, interfaces: &[Interface]) -> Option<Result<IpAddr, NodeError>> {
    let interface = interfaces.iter().find(|found| found.name == name)?;
    let several = |family: &str, a: &IpAddr, b: &IpAddr| {
        Err(NodeError::invalid(format!(
            "interface {name} has more than one {family} address ({a} and {b})"
        )))
    };
    let usable = |ip: &&IpAddr| interface.loopback || is_global_unicast(ip);
    let v4: Vec<_> = interface
        .addresses
        .iter()
        .filter(|ip| ip.is_ipv4())
        .collect();
    let v6 = interface.addresses.iter().filter(|ip| ip.is_ipv6());
    let v6: Vec<_> = v6.filter(usable).collect();
    Some(match (&v4[..], &v6[..]) {
        ([a, b, ..], _) => several("IPv4", a, b),
        (_, [a, b, ..]) => several("IPv6", a, b),
        ([ip], _) | ([], [ip]) => Ok(**ip),
        ([], []) => Err(NodeError::invalid(format!(
            "interface {name} has no usable IPv4 or IPv6 address"
        ))),
    })
}

/// The one address that the machine has towards others.
fn system_address(interfaces: &[Interface]) -> Result<IpAddr, NodeError> {
    let up = || interfaces.iter().filter(|interface| interface.up);
    let has_address = |interface: &&Interface| interface.addresses.iter().any(is_global_unicast);
    let devices: Vec<_> = up().filter(|i| i.device).filter(has_address).collect();
    if !devices.is_empty() {
        return only_address(&devices);
    }
    // In a container or a network namespace, nothing is a device.
    let others = up().filter(|interface| !interface.loopback && !interface.is_managed());
    only_address(&others.filter(has_address).collect::<Vec<_>>())
}

fn only_address(interfaces: &[&Interface]) -> Result<IpAddr, NodeError> {
    let mut chosen: Option<(&str, IpAddr)> = None;
    for interface in interfaces {
        let name = interface.name.as_str();
        let of = |v4: bool| {
            let family = interface.addresses.iter().copied();
            family.filter(move |ip| ip.is_ipv4() == v4 && is_global_unicast(ip))
        };
        for v4 in [true, false] {
            let mut family = of(v4);
            if let (Some(a), Some(b)) = (family.next(), family.next()) {
                return Err(NodeError::invalid(format!(
                    "could not choose an IP address to advertise since this system has multiple \
                     addresses on interface {name} ({a} and {b})"
                )));
            }
        }
        let Some(ip) = of(true).chain(of(false)).next() else {
            continue;
        };
        if let Some((other, first)) = chosen {
            return Err(NodeError::invalid(format!(
                "could not choose an IP address to advertise since this system has multiple \
                 addresses on different interfaces ({first} on {other} and {ip} on {name})"
            )));
        }
        chosen = Some((name, ip));
    }
    let none = || NodeError::invalid("could not find the system's IP address");
    chosen.map(|(_, ip)| ip).ok_or_else(none)
}

/// Whether other nodes may come to an address that is listened on: they could not to one of loopback.
fn is_for_others(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback()
}

fn is_own(ip: IpAddr, interfaces: &[Interface]) -> bool {
    // All of 127/8 is the machine's own.
    ip.is_loopback() || interfaces.iter().any(|i| i.addresses.contains(&ip))
}

/// Neither loopback, nor link-local, nor multicast, nor unspecified.
fn is_global_unicast(ip: &IpAddr) -> bool {
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn split(address: &str) -> Result<(String, Option<u16>), &'static str> {
    let port = |text: &str| text.parse().map(Some).map_err(|_| "invalid port");
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("missing ']' in address")?;
        match rest.strip_prefix(':') {
            Some(text) => (host, port(text)?),
            None if rest.is_empty() => (host, None),
            None => return Err("invalid address"),
        }
    } else if address.matches(':').count() > 1 {
        (address, None)
    } else {
        match address.split_once(':') {
            Some((host, text)) => (host, port(text)?),
            None => (address, None),
        }
    };
    if host.is_empty() {
        return Err("invalid empty address");
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests;
