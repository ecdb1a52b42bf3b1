//! The tunnels between the nodes, by which encrypted overlays go.
//!
//! Every node has an end of them: a key pair ([`keys`]), a UDP port, and an address inside, which the managers give.
//! The kernel routes what the vxlan device sends to such an address into one device, [`SECURE`]; WireGuard, the
//! kernel's ([`wireguard`]) or this process's ([`userspace`]), encrypts it for the node that has the address, and
//! what it decrypts comes in by that device, if it is from the address of the node whose key has encrypted it. The
//! program there marks it, and the one of the vxlan device takes encrypted overlays by that mark alone.
//!
//! Nothing goes to such an address otherwise: a route of its own leads all of them nowhere, for when the device is
//! not there.

mod choice;
mod counts;
mod ends;
mod keys;
mod tun;
mod userspace;
mod wireguard;

pub use choice::Mode;
pub use counts::{Count, Counts};
pub use ends::{Ends, address_of, ends};

use super::devices::Devices;
use crate::config::Config;
use anyhow::Context as _;
use choice::{Choice, Kernel, asks_kernel, choose};
use keys::Keys;
use skein_proto::network::TunnelEnd;
use std::{collections::BTreeSet, net::SocketAddrV4, sync::Arc};

/// The device of the tunnels.
pub const SECURE: &str = "skein-wg";
/// What the tunnels add to a packet: IPv4 20 bytes, UDP 8, WireGuard's header 16, and its seal 16.
pub const OVERHEAD: u32 = 60;

/// This node's end. See the module.
pub struct Tunnel {
    keys: Keys,
    config: Config,
    counts: Arc<Counts>,
    /// Made once: what the kernel has it has until the next start.
    choice: Option<Choice>,
    open: Option<Open>,
}

struct Open {
    ifindex: u32,
    mtu: u32,
    ends: Ends,
    engine: Engine,
}

enum Engine {
    Kernel(wireguard::Interface),
    Userspace(userspace::Engine),
}

/// How it is now, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLook {
    /// Who encrypts.
    pub mode: Mode,
    /// Why so.
    pub reason: String,
    /// See [`Tunnel::end`].
    pub end: TunnelEnd,
    /// How many others there are.
    pub peers: usize,
}

impl Tunnel {
    /// Nothing is made before it is needed but the key, of which the others are to know before.
    ///
    /// # Errors
    /// The key cannot be read or written.
    pub fn open(config: &Config, counts: Arc<Counts>) -> anyhow::Result<Self> {
        Ok(Self {
            keys: Keys::open(&config.state_dir.join(keys::FILE))?,
            config: config.clone(),
            counts,
            choice: None,
            open: None,
        })
    }

    /// What the others must know of this end. Its address is the managers' to say.
    pub fn end(&self) -> TunnelEnd {
        TunnelEnd {
            public_key: self.keys.public.as_bytes().to_vec(),
            port: self.config.wireguard_port.into(),
            address: String::new(),
        }
    }

    /// What was made last.
    pub fn look(&self) -> Option<TunnelLook> {
        let (open, choice) = (self.open.as_ref()?, self.choice.as_ref()?);
        Some(TunnelLook {
            mode: choice.mode,
            reason: choice.reason.clone(),
            end: TunnelEnd {
                address: open.ends.address.to_string(),
                ..self.end()
            },
            peers: open.ends.peers.len(),
        })
    }

    /// Makes the device and what it carries. `mtu`: the largest IP packet of the node's own network, bytes. The
    /// device's index.
    ///
    /// # Errors
    /// The kernel refuses, or another program has the port. Nothing is to be sent to other nodes' addresses then.
    pub async fn make(&mut self, devices: &Devices, ends: &Ends, mtu: u32) -> anyhow::Result<u32> {
        let mtu = mtu.saturating_sub(OVERHEAD);
        if let Some(open) = &mut self.open
            && (open.ends.node, open.ends.address) == (ends.node, ends.address)
            && open.engine.is_alive()
        {
            if open.mtu != mtu {
                open.ifindex = devices.set_up_secure(ends.address, mtu).await?;
                open.mtu = mtu;
            }
            if open.ends != *ends {
                open.engine.set_peers(ends, &BTreeSet::new())?;
                open.ends = ends.clone();
            }
            return Ok(open.ifindex);
        }
        // Its port and its device are wanted anew.
        self.open = None;
        devices.forbid_secure().await?;
        let choice = self.choose(devices).await?;
        let tun = match choice.mode {
            Mode::Kernel => None,
            Mode::Userspace => {
                devices.remove_secure_of_kernel().await?;
                Some(tun::open(SECURE)?)
            }
        };
        let ifindex = devices.set_up_secure(ends.address, mtu).await?;
        let mut engine = match tun {
            None => {
                let port = self.config.wireguard_port;
                let (mut interface, found) =
                    wireguard::Interface::start(ifindex, &self.keys, port)?;
                interface.set_peers(ends, &found)?;
                Engine::Kernel(interface)
            }
            Some(tun) => Engine::Userspace(userspace::Engine::start(
                self.keys.clone(),
                tun,
                SocketAddrV4::new(ends.node, self.config.wireguard_port),
                ends.address,
                Arc::clone(&self.counts),
            )?),
        };
        engine.set_peers(ends, &BTreeSet::new())?;
        self.open = Some(Open {
            ifindex,
            mtu,
            ends: ends.clone(),
            engine,
        });
        Ok(ifindex)
    }

    async fn choose(&mut self, devices: &Devices) -> anyhow::Result<Choice> {
        if let Some(choice) = &self.choice {
            // It may have been removed since.
            if choice.mode == Mode::Kernel {
                devices.make_secure_of_kernel().await?;
            }
            return Ok(choice.clone());
        }
        let wanted = self.config.wireguard;
        let kernel = match asks_kernel(wanted) {
            false => Kernel::Lacks,
            true => match devices.make_secure_of_kernel().await {
                Ok(true) => Kernel::Has,
                Ok(false) => Kernel::Lacks,
                Err(error) => Kernel::Refused(format!("{error:#}")),
            },
        };
        let choice = choose(wanted, &kernel).map_err(anyhow::Error::msg)?;
        let (mode, reason) = (choice.mode.name(), &choice.reason);
        tracing::info!("encrypted networks go by WireGuard, {mode}: {reason}");
        self.choice = Some(choice.clone());
        Ok(choice)
    }

    /// Whether the device is not there any more, or nobody works on it.
    pub async fn is_lost(&self, devices: &Devices) -> anyhow::Result<bool> {
        let Some(open) = &self.open else {
            return Ok(false);
        };
        let found = devices.find(SECURE).await?;
        let is_there = found.is_some_and(|device| device.ifindex == open.ifindex);
        Ok(!is_there || !open.engine.is_alive())
    }

    /// Sees to it that nothing has another way than the tunnels, if somebody has changed that.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn guard(&self, devices: &Devices) -> anyhow::Result<()> {
        match &self.open {
            Some(_) => devices.forbid_secure().await,
            None => Ok(()),
        }
    }

    /// Gives up what is there, so that the next [`Self::make`] makes it anew.
    pub fn give_up(&mut self) {
        self.open = None;
    }

    /// Removes the device, where no overlay is encrypted any more; and what an earlier process has left of it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn close(&mut self, devices: &Devices) -> anyhow::Result<()> {
        self.open = None;
        devices.remove(SECURE).await?;
        devices
            .allow_secure()
            .await
            .context("cannot remove the route of encrypted networks")
    }
}

impl Engine {
    fn is_alive(&self) -> bool {
        match self {
            Self::Kernel(_) => true,
            Self::Userspace(engine) => engine.is_alive(),
        }
    }

    fn set_peers(&mut self, ends: &Ends, found: &BTreeSet<[u8; 32]>) -> anyhow::Result<()> {
        match self {
            Self::Kernel(interface) => interface.set_peers(ends, found),
            Self::Userspace(engine) => {
                engine.set_peers(ends);
                Ok(())
            }
        }
    }
}
