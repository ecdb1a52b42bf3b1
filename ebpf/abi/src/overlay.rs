//! Overlays: endpoints, where addresses are, VIPs.

use crate::{Addr, pod};

/// An endpoint on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Host's end of its veth pair; 0: no such endpoint.
    pub ifindex: u32,
    /// Its overlay.
    pub vni: u32,
    /// Its address; its MAC address is [`crate::mac`] of it.
    pub addr: Addr,
    /// The address that the host knows it by: unique on the node.
    pub internal: Addr,
    /// Mask of its subnet of the overlay.
    pub mask: Addr,
    /// Gateway of its subnet: whatever reaches the endpoint comes from its MAC address.
    pub gateway: Addr,
}

/// An overlay that this node has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// How many subnets it has, at most [`crate::limits::SUBNETS_OF_NETWORK_MAX`].
    pub subnets: u32,
    /// Of [`NETWORK_INTERNAL`] and [`NETWORK_ENCRYPTED`].
    pub flags: u32,
}

/// A subnet of an overlay.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    /// Which overlay.
    pub vni: u32,
    /// Which of its subnets, from 0.
    pub nth: u32,
}

/// What addresses are in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// Network address.
    pub net: Addr,
    /// Mask.
    pub mask: Addr,
    /// Gateway: answers ARP and ping.
    pub gateway: Addr,
}

/// Nothing leaves the network but to Skein's DNS server.
pub const NETWORK_INTERNAL: u32 = 1;
/// What nodes send to each other is encrypted: it is taken from the secure device alone.
pub const NETWORK_ENCRYPTED: u32 = 2;

/// An address in an overlay.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OverlayKey {
    /// Which overlay.
    pub vni: u32,
    /// Which address.
    pub addr: Addr,
}

/// Where an address of an overlay is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Data path address of its node, or the secure one, if the overlay is encrypted; 0: here.
    pub node: Addr,
    /// If it is here: the index of its endpoint. Else 0, or [`NO_KEY`].
    pub endpoint: u32,
}

/// [`Location::endpoint`] of an address on another node: nothing is sent there, as the overlay is encrypted, and
/// the node's key is not known.
pub const NO_KEY: u32 = 1;

/// A VIP, balanced at the veth of whoever calls it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// Which list of backends.
    pub list: u32,
    /// Which edition of it: a new one is written whole before this changes.
    pub edition: u32,
    /// How many backends it has; 0: connections are refused.
    pub len: u32,
    /// Number of its [`crate::sight::Meter`]; 0: none.
    pub meter: u32,
}

/// One backend of a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipSlot {
    /// [`Vip::list`]
    pub list: u32,
    /// [`Vip::edition`]
    pub edition: u32,
    /// 0 to [`Vip::len`] - 1.
    pub slot: u32,
}

pod!(
    Endpoint, Network, SubnetKey, Subnet, OverlayKey, Location, Vip, VipSlot
);
