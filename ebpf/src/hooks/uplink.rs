//! tc ingress of every device that can carry a packet to an address of the node.

use crate::{
    act::act,
    maps::{Maps, scratch},
    parse::parse,
    tell::Seen,
};
use aya_ebpf::{EbpfContext as _, bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use skein_abi::sight::SEEN_UPLINK;
use skein_packet::{settle, uplink};

/// See [`skein_abi::names::PROG_UPLINK`].
#[classifier]
pub fn skein_uplink(ctx: TcContext) -> i32 {
    const PASS: i32 = TC_ACT_OK as i32;
    let Some(maps) = Maps::open(ctx.as_ptr()) else {
        return PASS;
    };
    let Some(scratch) = scratch() else {
        return PASS;
    };
    scratch.seen = Seen::at_tc(&ctx, SEEN_UPLINK);
    if !parse(&ctx, scratch) {
        return PASS;
    }
    // SAFETY: the context's own device.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let device = maps.device(ifindex);
    uplink(&maps, &mut scratch.work, ifindex, device);
    settle(&maps, &mut scratch.work);
    act(&maps, &ctx, scratch)
}
