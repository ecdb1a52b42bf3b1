//! tc ingress of `skein1`: what the host itself sends into the local pair.

use crate::{
    act::act,
    maps::{Maps, Scratch, scratch},
    parse::parse,
};
use aya_ebpf::{EbpfContext as _, bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use skein_packet::{from_host, settle};

/// See [`skein_abi::names::PROG_LOCAL`].
#[classifier]
pub fn skein_local(ctx: TcContext) -> i32 {
    const DROP: i32 = TC_ACT_SHOT as i32;
    let Some(maps) = Maps::open(ctx.as_ptr()) else {
        return DROP;
    };
    let Some(scratch) = scratch() else {
        return DROP;
    };
    if !parse(&ctx, &mut scratch.parsed) {
        return DROP;
    }
    let Scratch { parsed, verdict } = scratch;
    *verdict = from_host(&maps, &parsed.packet);
    *verdict = settle(&maps, &parsed.packet, *verdict);
    act(&maps, &ctx, parsed, verdict)
}
