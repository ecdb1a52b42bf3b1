//! What a device's driver can do with XDP, by the kernel's generic netlink family "netdev".

use super::generic::Family;
use anyhow::Context as _;
use netlink_packet_core::DefaultNla;

// include/uapi/linux/netdev.h
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// What XDP can do on a device, as bits of the kernel's (enum netdev_xdp_act).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Programs run in the driver, and send frames back by the device.
    pub const BASIC: u64 = 1;
    /// They redirect frames to other devices.
    pub const REDIRECT: u64 = 2;
    /// The device sends what the programs of other devices redirect to it.
    pub const NDO_XMIT: u64 = 4;

    /// Whether the device has all of these.
    pub fn has(self, features: u64) -> bool {
        self.0 & features == features
    }
}

/// Asks for the features of devices.
pub struct Netdev(Family);

impl Netdev {
    /// # Errors
    /// The kernel has no such family: it is older than 6.3.
    pub fn open() -> anyhow::Result<Self> {
        Family::open("netdev").map(Self)
    }

    /// What XDP can do on a device.
    ///
    /// # Errors
    /// The device is gone.
    pub fn features(&self, ifindex: u32) -> anyhow::Result<Features> {
        let device = DefaultNla::new(DEV_IFINDEX, ifindex.to_ne_bytes().to_vec());
        let answer = self
            .0
            .ask(DEV_GET, vec![device])
            .with_context(|| format!("cannot ask for the XDP features of device {ifindex}"))?;
        let features = answer.value(DEV_XDP_FEATURES).map(u64::from_ne_bytes);
        Ok(Features(features.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_its_devices() {
        let netdev = Netdev::open().expect("kernel 6.3 or later");
        // Loopback, which has no XDP.
        assert_eq!(netdev.features(1).expect("there is one"), Features(0));
        assert!(netdev.features(u32::from(u16::MAX)).is_err());
    }
}
