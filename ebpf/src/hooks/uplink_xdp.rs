//! Native XDP of an uplink.

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};

/// See [`skein_abi::names::PROG_UPLINK_XDP`].
#[xdp]
pub fn skein_uplink_x(_ctx: XdpContext) -> u32 {
    XDP_PASS
}
