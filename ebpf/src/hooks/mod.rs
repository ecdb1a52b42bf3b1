//! The places where packets are seen, one file each. Program names: `skein_abi::names`.

mod local;
mod socket;
mod uplink;
mod uplink_xdp;
mod veth;
mod vxlan;
