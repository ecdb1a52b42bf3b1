//! Native XDP of an uplink: sends on what only passes through this node. Everything else goes on to
//! the tc hook behind, which decides the same by the same maps.

use crate::{
    maps::{Maps, Scratch, scratch},
    parse::{XdpFrame, try_parse},
    tell,
    xdp::{OUTER_LEN, act, act_on_reply, outer_of},
};
use aya_ebpf::{
    EbpfContext as _, bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext,
};
use skein_abi::VNI_REPLY;
use skein_packet::{Action, from_tunnel, path_mtu, settle, uplink};

/// See [`skein_abi::names::PROG_UPLINK_XDP`].
#[xdp]
pub fn skein_uplink_x(ctx: XdpContext) -> u32 {
    decide(&ctx).unwrap_or(XDP_PASS)
}

/// `None`: for the hook behind.
#[inline(always)]
fn decide(ctx: &XdpContext) -> Option<u32> {
    let maps = Maps::open_in_front(ctx.as_ptr())?;
    let scratch = scratch()?;
    try_parse(&XdpFrame::<0>(ctx), scratch)?;
    // No device with native XDP has sources that are to be translated: those are bridges.
    uplink(&maps, &mut scratch.work, ctx.ingress_ifindex() as u32, 0);
    settle(&maps, &mut scratch.work);
    let done = carry_out(&maps, ctx, scratch);
    let action = done.unwrap_or(XDP_PASS);
    // Also of what is for the hook behind: that finds the flow as it is left here.
    if tell::is_wanted(scratch, action) {
        tell::at_xdp(ctx, scratch, action, maps.counted());
    }
    Some(action)
}

#[inline(always)]
fn carry_out(maps: &Maps, ctx: &XdpContext, scratch: &mut Scratch) -> Option<u32> {
    if scratch.work.verdict.action != Action::Pass {
        return act(maps, ctx, scratch);
    }
    // What is for tasks of this node goes by the vxlan device.
    if outer_of(maps, ctx, scratch)? != VNI_REPLY {
        return None;
    }
    let remote = scratch.work.packet.tuple.src;
    try_parse(&XdpFrame::<OUTER_LEN>(ctx), scratch)?;
    scratch.work.secure = 0;
    from_tunnel(maps, &mut scratch.work, VNI_REPLY, remote, 0);
    // All that is left of settling what came back.
    path_mtu::fit(maps, &mut scratch.work);
    act_on_reply(maps, ctx, scratch)
}
