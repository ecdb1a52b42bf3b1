//! Network devices, by rtnetlink: Skein's own, containers' veth pairs, and what the host has.

use super::tunnel::SECURE;
use anyhow::Context as _;
use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{
        InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
        XdpAttached,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleUidRange},
};
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, LinkVxlan, LinkWireguard, RouteMessageBuilder, RuleAddRequest,
};
use skein_abi::addresses::{DNS_ADDRESS, INTERNAL_PREFIX, SECURE_NET, SECURE_PREFIX};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

/// The external vxlan device of the overlay and the mesh.
pub const VXLAN: &str = "skein-vxlan";
/// The host's end of the local pair: has the DNS server's address.
pub const LOCAL: &str = "skein0";
/// The far end of the local pair, where the host's packets are picked up.
pub const LOCAL_PEER: &str = "skein1";
/// A device of the kernel's WireGuard that is made to see whether it can be.
const SECURE_TRIAL: &str = "skein-wg-trial";
/// Metric of the route that leads what is meant for tunnels nowhere: any other one is better.
const LAST_METRIC: u32 = u32::MAX;
/// The table of routes by the device of the tunnels, and the rule that leads to it: before those of the main table.
/// Numbers that nobody else is known to use.
const SECURE_TABLE: u32 = 0x5ec0;
const SECURE_RULE: u32 = 1_066;
/// Length of the prefix of one address.
const HOST_PREFIX: u8 = 32;
/// Host ends of containers' veth pairs begin with this.
pub const VETH_PREFIX: &str = "skv";
/// Their other ends begin with this, until the engine takes them.
pub const CONTAINER_PREFIX: &str = "skc";

/// A device of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Frames have Ethernet headers.
    pub is_ethernet: bool,
    /// What it carries is seen at its bridge or bond.
    pub is_port: bool,
    /// A bridge.
    pub is_bridge: bool,
    /// One end of a veth pair.
    pub is_veth: bool,
    /// Of the kernel's WireGuard.
    pub is_wireguard: bool,
    /// ID of the XDP program that it has; 0: the kernel does not say which.
    pub xdp_program: Option<u32>,
}

impl Device {
    /// Whether one of Skein's own.
    pub fn is_own(&self) -> bool {
        [VXLAN, LOCAL, LOCAL_PEER, SECURE, SECURE_TRIAL].contains(&self.name.as_str())
            || self.name.starts_with(VETH_PREFIX)
            || self.name.starts_with(CONTAINER_PREFIX)
    }

    /// Whether what other hosts send may come in by it.
    pub fn is_uplink(&self) -> bool {
        !self.is_own() && !self.is_port && self.is_ethernet
    }

    /// A bridge of the container engine: addresses behind it mean nothing on other nodes.
    pub fn is_engine_bridge(&self) -> bool {
        let is_generated = |name: &str| {
            name.strip_prefix("br-")
                .is_some_and(|id| id.len() == 12 && id.bytes().all(|c| c.is_ascii_hexdigit()))
        };
        self.is_bridge
            && (matches!(self.name.as_str(), "docker0" | "docker_gwbridge")
                || is_generated(&self.name))
    }
}

/// An IPv4 address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its subnet's prefix.
    pub prefix: u8,
    /// The device that has it.
    pub ifindex: u32,
}

impl Address {
    /// Whether another host's address is of its subnet.
    pub fn has_in_subnet(&self, other: Ipv4Addr) -> bool {
        ipnet::Ipv4Net::new(self.address, self.prefix)
            .is_ok_and(|subnet| other != self.address && subnet.contains(&other))
    }
}

/// A host whose MAC address the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device by which it is reached.
    pub ifindex: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// What Skein sends and receives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnDevices {
    /// [`VXLAN`]; 0 while the node is no member.
    pub vxlan: u32,
    /// [`LOCAL`]
    pub local: u32,
    /// [`LOCAL_PEER`]
    pub local_peer: u32,
}

/// A connection to the kernel's routing interface.
#[derive(Clone)]
pub struct Devices {
    handle: Handle,
}

impl Devices {
    /// Opens the connection; it lives as long as this runtime.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn open() -> anyhow::Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All devices, by index.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn list(&self) -> anyhow::Result<BTreeMap<u32, Device>> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("cannot list the network devices")?;
        let devices = links.iter().map(device);
        Ok(devices.map(|device| (device.ifindex, device)).collect())
    }

    /// All IPv4 addresses of the host.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn addresses(&self) -> anyhow::Result<Vec<Address>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .context("cannot list the network addresses")?;
        let mut addresses = Vec::new();
        for message in messages {
            for attribute in &message.attributes {
                // The address itself; `Address` would be the far end of a point-to-point link.
                if let AddressAttribute::Local(std::net::IpAddr::V4(address)) = attribute {
                    addresses.push(Address {
                        address: *address,
                        prefix: message.header.prefix_len,
                        ifindex: message.header.index,
                    });
                }
            }
        }
        Ok(addresses)
    }

    /// All IPv4 hosts whose MAC addresses are known.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn neighbours(&self) -> anyhow::Result<Vec<Neighbour>> {
        let request = self.handle.neighbours().get();
        let messages: Vec<NeighbourMessage> = request
            .set_address_family(AddressFamily::Inet)
            .execute()
            .try_collect()
            .await
            .context("cannot list the neighbours")?;
        Ok(messages.iter().filter_map(neighbour).collect())
    }

    /// A device by its name.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn find(&self, name: &str) -> anyhow::Result<Option<Device>> {
        let devices = self.list().await?;
        Ok(devices.into_values().find(|device| device.name == name))
    }

    async fn add(&self, message: LinkMessage, name: &str) -> anyhow::Result<()> {
        let added = self.handle.link().add(message).execute().await;
        added.with_context(|| format!("cannot make the device {name}"))
    }

    async fn set(&self, message: LinkMessage, name: &str) -> anyhow::Result<()> {
        let set = self.handle.link().set(message).execute().await;
        set.with_context(|| format!("cannot configure the device {name}"))
    }

    /// Makes the local pair, if it is not there, and sets it up. The indices of its two ends.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn make_local_pair(&self) -> anyhow::Result<(u32, u32)> {
        if self.find(LOCAL).await?.is_none() {
            self.add(LinkVeth::new(LOCAL, LOCAL_PEER).build(), LOCAL)
                .await?;
        }
        let find = async |name: &str| {
            let found = self.find(name).await?;
            found.with_context(|| format!("the device {name} is gone: another program removes it"))
        };
        let (local, peer) = (find(LOCAL).await?, find(LOCAL_PEER).await?);
        for (device, address) in [(&local, DNS_ADDRESS), (&peer, Ipv4Addr::UNSPECIFIED)] {
            forbid_ipv6(&device.name);
            // The kernel takes frames that the programs send in for the host by this address.
            let mac = skein_abi::mac(skein_abi::addr(address));
            let message = LinkUnspec::new_with_index(device.ifindex)
                .address(mac.to_vec())
                .arp(false)
                .up()
                .build();
            self.set(message, &device.name).await?;
        }
        let address = self
            .handle
            .address()
            .add(local.ifindex, DNS_ADDRESS.into(), INTERNAL_PREFIX)
            .replace()
            .execute()
            .await;
        address.with_context(|| format!("cannot give {DNS_ADDRESS} to {LOCAL}"))?;
        // Routes are looked up as if packets came in here, which the kernel refuses without this.
        set_sysctl(&format!("net/ipv4/conf/{LOCAL_PEER}/forwarding"), "1")?;
        Ok((local.ifindex, peer.ifindex))
    }

    /// Makes the external vxlan device with a UDP port; one with another port is replaced.
    ///
    /// # Errors
    /// The kernel refuses: above all, another program has the port.
    pub async fn make_vxlan(&self, port: u16, replace: bool) -> anyhow::Result<u32> {
        if let Some(present) = self.find(VXLAN).await? {
            if !replace {
                return Ok(present.ifindex);
            }
            let deleted = self.handle.link().del(present.ifindex).execute().await;
            deleted.with_context(|| format!("cannot remove the device {VXLAN}"))?;
        }
        let message = LinkVxlan::new(VXLAN, 0)
            .collect_metadata(true)
            .port(port)
            .learning(false)
            .build();
        self.add(message, VXLAN).await.with_context(|| {
            format!("is another VXLAN on UDP port {port}? Give the cluster another data path port")
        })?;
        let found = self.find(VXLAN).await?;
        let ifindex = found.context("the vxlan device vanished")?.ifindex;
        forbid_ipv6(VXLAN);
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.set(message, VXLAN).await?;
        Ok(ifindex)
    }

    /// Keeps what is meant for the nodes' addresses in the tunnels from any other way, by a route that leads nowhere:
    /// it stays when the device goes. A rule in front of it lets in what this host itself sends, as root: so nothing
    /// that containers send, or that is routed by way of this node, comes into a tunnel in the node's name.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn forbid_secure(&self) -> anyhow::Result<()> {
        let what =
            || format!("cannot keep {SECURE_NET}/{SECURE_PREFIX} from other ways than the tunnels");
        let added = self
            .handle
            .route()
            .add(secure_nowhere())
            .replace()
            .execute();
        added.await.with_context(what)?;
        match self.secure_rule().execute().await {
            Err(rtnetlink::Error::NetlinkError(refused)) if refused.raw_code() == -libc::EEXIST => {
                Ok(())
            }
            done => done.with_context(what),
        }
    }

    fn secure_rule(&self) -> RuleAddRequest<Ipv4Addr> {
        let rule = self.handle.rule().add().v4();
        let mut rule = rule
            // What comes in by none.
            .input_interface("lo")
            .destination_prefix(SECURE_NET, SECURE_PREFIX)
            .table_id(SECURE_TABLE)
            .priority(SECURE_RULE)
            .action(RuleAction::ToTable);
        // The kernel's own tunnels count as root's.
        let root = RuleUidRange { start: 0, end: 0 };
        rule.message_mut()
            .attributes
            .push(RuleAttribute::UidRange(root));
        rule
    }

    /// Takes that back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn allow_secure(&self) -> anyhow::Result<()> {
        // Where there was none, there is nothing to take back.
        let unless_gone = |done: Result<(), rtnetlink::Error>| match done {
            Err(rtnetlink::Error::NetlinkError(refused))
                if [-libc::ESRCH, -libc::ENOENT].contains(&refused.raw_code()) =>
            {
                Ok(())
            }
            done => done,
        };
        let rule = self.secure_rule().message_mut().clone();
        unless_gone(self.handle.rule().del(rule).execute().await)?;
        unless_gone(self.handle.route().del(secure_nowhere()).execute().await)?;
        Ok(())
    }

    /// Makes the device of the tunnels one of the kernel's WireGuard. False: the kernel has none; then nothing has
    /// changed.
    ///
    /// # Errors
    /// The kernel has it, and refuses.
    pub async fn make_secure_of_kernel(&self) -> anyhow::Result<bool> {
        let present = self.find(SECURE).await?;
        if present.as_ref().is_some_and(|device| device.is_wireguard) {
            return Ok(true);
        }
        // Under another name first: the device that is there carries packets, maybe.
        let trial = LinkWireguard::new(SECURE_TRIAL).build();
        match self.handle.link().add(trial).execute().await {
            Ok(()) => self.remove(SECURE_TRIAL).await?,
            Err(rtnetlink::Error::NetlinkError(refused))
                if refused.raw_code() == -libc::EOPNOTSUPP =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error).context("cannot make a device of WireGuard's"),
        }
        self.remove(SECURE).await?;
        self.add(LinkWireguard::new(SECURE).build(), SECURE).await?;
        Ok(true)
    }

    /// Removes the device of the tunnels, if it is one of the kernel's WireGuard.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_secure_of_kernel(&self) -> anyhow::Result<()> {
        match self.find(SECURE).await? {
            Some(device) if device.is_wireguard => self.remove(SECURE).await,
            _ => Ok(()),
        }
    }

    /// Gives the device of the tunnels its address, and no other, and its size, and sets it up. Its index.
    ///
    /// # Errors
    /// The kernel refuses, or the device is not there.
    pub async fn set_up_secure(&self, address: Ipv4Addr, mtu: u32) -> anyhow::Result<u32> {
        let found = self.find(SECURE).await?;
        let ifindex = found
            .with_context(|| format!("the device {SECURE} is gone: another program removes it"))?
            .ifindex;
        forbid_ipv6(SECURE);
        let of_device = self.handle.address().get().set_link_index_filter(ifindex);
        let present: Vec<_> = of_device.execute().try_collect().await?;
        for message in present {
            let local = message.attributes.iter().find_map(|of| match of {
                AddressAttribute::Local(local) => Some(*local),
                _ => None,
            });
            if local != Some(address.into()) {
                self.handle.address().del(message).execute().await?;
            }
        }
        // Without the others' addresses: those are routed to by a table of their own.
        let addresses = self.handle.address();
        let given = addresses.add(ifindex, address.into(), HOST_PREFIX);
        let given = given.replace().execute().await;
        given.with_context(|| format!("cannot give {address} to {SECURE}"))?;
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).up().build();
        self.set(message, SECURE).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(SECURE_NET, SECURE_PREFIX)
            .output_interface(ifindex)
            .pref_source(address)
            .scope(RouteScope::Link)
            .table_id(SECURE_TABLE)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.with_context(|| format!("cannot route to the other nodes by {SECURE}"))?;
        Ok(ifindex)
    }

    /// Makes a container's veth pair, or what an earlier try has left out; both ends still lie in the
    /// host's namespace. Nothing happens if the container has its end. The index of the host's end.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn make_veth(&self, pair: &VethPair<'_>) -> anyhow::Result<u32> {
        let ifindex = match self.find(pair.host).await? {
            Some(host) if self.find(pair.container).await?.is_none() => return Ok(host.ifindex),
            Some(host) => host.ifindex,
            None => {
                self.add(LinkVeth::new(pair.host, pair.container).build(), pair.host)
                    .await?;
                let made = self.find(pair.host).await?;
                made.context("a veth pair vanished")?.ifindex
            }
        };
        forbid_ipv6(pair.host);
        let container = LinkUnspec::new_with_name(pair.container)
            .address(pair.mac.to_vec())
            .mtu(pair.mtu)
            .build();
        self.set(container, pair.container).await?;
        let host = LinkUnspec::new_with_index(ifindex)
            .mtu(pair.mtu)
            .up()
            .build();
        self.set(host, pair.host).await?;
        Ok(ifindex)
    }

    /// Removes a device; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let Some(device) = self.find(name).await? else {
            return Ok(());
        };
        let deleted = self.handle.link().del(device.ifindex).execute().await;
        deleted.with_context(|| format!("cannot remove the device {name}"))
    }
}

/// The route that leads what is meant for tunnels nowhere.
fn secure_nowhere() -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(SECURE_NET, SECURE_PREFIX)
        .kind(RouteType::BlackHole)
        .priority(LAST_METRIC)
        .build()
}

/// A container's veth pair.
pub struct VethPair<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Name of the container's end, until the engine renames it.
    pub container: &'a str,
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// Of both ends, bytes.
    pub mtu: u32,
}

/// A neighbour whose MAC address is known, and not known to be wrong.
fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let is_known = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(*found);
            }
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address.filter(|_| is_known)?,
        mac: mac?,
    })
}

fn device(message: &LinkMessage) -> Device {
    let mut device = Device {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether
            && !message.header.flags.contains(LinkFlags::Loopback),
        is_port: false,
        is_bridge: false,
        is_veth: false,
        is_wireguard: false,
        xdp_program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(mac) => device.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Controller(_) => device.is_port = true,
            LinkAttribute::LinkInfo(infos) => {
                let is = |kind| infos.contains(&LinkInfo::Kind(kind));
                device.is_bridge = is(InfoKind::Bridge);
                device.is_veth = is(InfoKind::Veth);
                device.is_wireguard = is(InfoKind::Wireguard);
            }
            LinkAttribute::Xdp(xdp) => device.xdp_program = xdp_program(xdp),
            _ => {}
        }
    }
    device
}

/// The ID of the XDP program that a device has, if it has one.
fn xdp_program(xdp: &[LinkXdp]) -> Option<u32> {
    let is_attached = |xdp: &LinkXdp| match xdp {
        LinkXdp::Attached(attached) => *attached != XdpAttached::None,
        _ => false,
    };
    let id = xdp.iter().find_map(|xdp| match xdp {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    xdp.iter().any(is_attached).then(|| id.unwrap_or(0))
}

/// Keeps the kernel from sending router solicitations and the like where nobody answers.
fn forbid_ipv6(device: &str) {
    // A kernel without IPv6 has no such file, and needs none.
    let _ = set_sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
}

/// Sets a kernel parameter of this network namespace.
pub fn set_sysctl(name: &str, value: &str) -> anyhow::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value)
        .with_context(|| format!("cannot write {value:?} to {}", path.display()))
}
