//! tc ingress of `skein1`: what the host itself sends into the local pair.

use super::parsed;
use crate::{act::act, maps::Maps};
use aya_ebpf::{EbpfContext as _, bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use skein_abi::sight::SEEN_LOCAL;
use skein_packet::{from_host, settle};

/// See [`skein_abi::names::PROG_LOCAL`].
#[classifier]
pub fn skein_local(ctx: TcContext) -> i32 {
    const DROP: i32 = TC_ACT_SHOT as i32;
    let Some(maps) = Maps::open(ctx.as_ptr()) else {
        return DROP;
    };
    let Some(scratch) = parsed(&maps, &ctx, SEEN_LOCAL) else {
        return DROP;
    };
    from_host(&maps, &mut scratch.work);
    settle(&maps, &mut scratch.work);
    act(&maps, &ctx, scratch)
}
