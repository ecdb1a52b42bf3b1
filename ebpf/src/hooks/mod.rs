//! The places where packets are seen, one file each. Program names: `skein_abi::names`.

use crate::tell::{Seen, unread};
use crate::{
    maps::{Maps, Scratch, scratch},
    parse::parse,
};
use aya_ebpf::programs::TcContext;
use skein_abi::verdict::Counter;
use skein_packet::Tables as _;

mod local;
mod secure;
mod socket;
mod uplink;
mod uplink_xdp;
mod veth;
mod vxlan;

/// The packet of a hook that lets nothing pass that it cannot read. `None`: it is to be dropped.
#[inline(always)]
fn parsed(maps: &Maps, ctx: &TcContext, place: u8) -> Option<&'static mut Scratch> {
    let scratch = scratch()?;
    scratch.seen = Seen::at_tc(ctx, place);
    if !parse(ctx, scratch) {
        maps.count(Counter::DropMalformed);
        unread(scratch, Counter::DropMalformed);
        return None;
    }
    Some(scratch)
}
