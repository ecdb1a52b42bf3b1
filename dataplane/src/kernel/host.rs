//! The host's own devices and addresses: the uplink program is on every device that can carry a packet to
//! one of them.

use super::{
    devices::{Address, Device, Devices},
    netdev::{Features, Netdev},
    plan::HostAddress,
    programs::{Hook, Programs},
    tables::Tables,
    uplink::{Choice, Facts, choose},
};
use crate::config::Attach;
use anyhow::{Context as _, ensure};
use skein_abi::{
    VXLAN_OVERHEAD, addr,
    ingress::{DEVICE_PAIR, DEVICE_TRANSLATE, DEVICE_XDP},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Largest packet of the Internet at large, for when no uplink has the node's address.
const DEFAULT_MTU: u32 = 1_500;

/// See the module.
pub struct Host {
    attach: Attach,
    netdev: Netdev,
    uplinks: BTreeMap<u32, Uplink>,
    addresses: BTreeSet<HostAddress>,
    mtu: u32,
}

/// A device that has the uplink program.
#[derive(Default)]
struct Uplink {
    /// What was chosen last.
    choice: Option<Choice>,
    /// Why the kernel refused XDP: it is not asked again, as each attempt may reset the device.
    refused: Option<String>,
}

impl Host {
    /// # Errors
    /// The kernel does not tell what drivers can do.
    pub fn open(attach: Attach) -> anyhow::Result<Self> {
        Ok(Self {
            attach,
            netdev: Netdev::open()?,
            uplinks: BTreeMap::new(),
            addresses: BTreeSet::new(),
            mtu: DEFAULT_MTU,
        })
    }

    /// Largest IP packet that the device with the node's address carries to another node in one piece,
    /// bytes.
    pub fn tunnel_mtu(&self) -> u32 {
        self.mtu.saturating_sub(VXLAN_OVERHEAD.into())
    }

    /// The host's addresses, as they were last: what published ports may be bound to.
    pub fn addresses(&self) -> &BTreeSet<HostAddress> {
        &self.addresses
    }

    /// Largest IP packet of the device with the node's address, bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Why an uplink has the hook that it has; `None`: it is none.
    pub fn reason(&self, ifindex: u32) -> Option<&str> {
        let choice = self.uplinks.get(&ifindex)?.choice.as_ref()?;
        Some(&choice.reason)
    }

    /// Attaches to the devices that are there now, and tells the programs of them and of the host's
    /// addresses. `node`: the address that other nodes know this one by.
    ///
    /// # Errors
    /// What the kernel refuses. One device that refuses keeps neither the others from their programs
    /// nor the host's addresses from the kernel.
    pub async fn follow(
        &mut self,
        devices: &Devices,
        programs: &mut Programs,
        tables: &mut Tables,
        node: Ipv4Addr,
    ) -> anyhow::Result<()> {
        let present = devices.list().await?;
        let mut errors = Vec::new();
        let mut uplinks = BTreeMap::new();
        for device in present.values() {
            if !device.is_uplink() {
                continue;
            }
            let (name, ifindex) = (&device.name, device.ifindex);
            if let Err(error) = programs.attach(Hook::Uplink, name, ifindex) {
                errors.push(format!("{error:#}"));
                continue;
            }
            let mut flags = self.choose_hook(programs, device).unwrap_or_else(|error| {
                errors.push(format!("{error:#}"));
                0
            });
            if device.is_engine_bridge() {
                flags |= DEVICE_TRANSLATE;
            }
            uplinks.insert(device.ifindex, flags);
        }
        // Devices are made before they become ports of a bridge; and they go.
        for ifindex in tables.uplinks() {
            if !uplinks.contains_key(&ifindex) {
                let detached = programs.detach_xdp(ifindex);
                if let Err(error) = detached.and(programs.detach(Hook::Uplink, ifindex)) {
                    errors.push(format!("{error:#}"));
                }
            }
        }
        self.uplinks
            .retain(|ifindex, _| uplinks.contains_key(ifindex));
        let mut addresses = BTreeMap::new();
        self.addresses.clear();
        for Address {
            address, ifindex, ..
        } in devices.addresses().await?
        {
            let own = present.get(&ifindex).is_none_or(Device::is_own);
            if address.is_loopback() || own {
                continue;
            }
            addresses.insert(addr(address), ifindex);
            if let Some(device) = present.get(&ifindex) {
                self.addresses.insert(HostAddress {
                    device: device.name.clone(),
                    address,
                });
            }
            if address == node {
                self.mtu = present[&ifindex].mtu;
            }
        }
        tables.set_host(&addresses, &uplinks, self.tunnel_mtu())?;
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }

    /// Attaches or detaches XDP in front of the tc hook of an uplink. Returns the flags that the other
    /// uplinks' programs know it by.
    fn choose_hook(&mut self, programs: &mut Programs, device: &Device) -> anyhow::Result<u32> {
        let ifindex = device.ifindex;
        let features = match self.netdev.features(ifindex) {
            Ok(features) => features,
            // It is gone since: that will be told.
            Err(_) => return Ok(0),
        };
        let is_ours = programs.has_xdp(ifindex);
        let uplink = self.uplinks.entry(ifindex).or_default();
        let mut facts = Facts {
            is_veth: device.is_veth,
            features,
            mtu: device.mtu,
            foreign: device.xdp_program.filter(|_| !is_ours),
            refused: uplink.refused.clone(),
        };
        let mut choice = choose(self.attach, &facts);
        if choice.xdp
            && let Err(error) = programs.attach_xdp(ifindex)
        {
            uplink.refused = Some(format!("{error:#}"));
            facts.refused.clone_from(&uplink.refused);
            choice = choose(self.attach, &facts);
        }
        if !choice.xdp {
            programs.detach_xdp(ifindex)?;
        }
        let (xdp, reason) = (choice.xdp, choice.reason.clone());
        if uplink.choice.as_ref() != Some(&choice) {
            let hook = if xdp { "XDP" } else { "tc" };
            tracing::info!(device = device.name, "{hook} serves the uplink: {reason}");
            uplink.choice = Some(choice);
        }
        let mut flags = 0;
        if xdp && features.has(Features::NDO_XMIT) {
            flags |= DEVICE_XDP;
        }
        if device.is_veth {
            flags |= DEVICE_PAIR;
        }
        Ok(flags)
    }
}

/// The kernel's number of the host's network namespace.
pub fn netns_cookie() -> anyhow::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot open a socket on loopback: is the device lo up?")?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which lives through the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match got {
        0 => Ok(cookie),
        _ => Err(std::io::Error::last_os_error())
            .context("cannot ask the kernel for the cookie of the network namespace"),
    }
}
