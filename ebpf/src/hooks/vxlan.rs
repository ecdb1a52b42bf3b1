//! tc ingress of the external vxlan device: what other nodes send.

use super::parsed;
use crate::{act::act, maps::Maps, tell::dropped};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, bpf_tunnel_key},
    helpers::bpf_skb_get_tunnel_key,
    macros::classifier,
    programs::TcContext,
};
use skein_abi::{addresses::SECURE_MARK, sight::SEEN_VXLAN, verdict::Counter};
use skein_packet::{Tables as _, from_tunnel, settle};

/// See [`skein_abi::names::PROG_VXLAN`].
#[classifier]
pub fn skein_vxlan(ctx: TcContext) -> i32 {
    const DROP: i32 = TC_ACT_SHOT as i32;
    let Some(maps) = Maps::open(ctx.as_ptr()) else {
        return DROP;
    };
    let Some(scratch) = parsed(&maps, &ctx, SEEN_VXLAN) else {
        return DROP;
    };
    // SAFETY: plain data, all zero is a value of it.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the key lives through the call.
    if unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, size, 0) } != 0 {
        maps.count(Counter::DropMalformed);
        dropped(scratch, Counter::DropMalformed as u32);
        return DROP;
    }
    // SAFETY: the helper filled in the IPv4 form, in host byte order.
    let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be();
    // `mac(entry)` stands in the source of the frame.
    let entry = match ctx.load::<[u8; 6]>(6) {
        Ok([0x02, 0x42, a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]),
        _ => 0,
    };
    // SAFETY: the context's own field.
    let is_secure = unsafe { (*ctx.skb.skb).mark } == SECURE_MARK;
    scratch.work.secure = u32::from(is_secure);
    if is_secure {
        // It is told; nobody else is to take it for a mark of the host's.
        ctx.set_mark(0);
    }
    from_tunnel(&maps, &mut scratch.work, key.tunnel_id, remote, entry);
    settle(&maps, &mut scratch.work);
    act(&maps, &ctx, scratch)
}
