//! Carries verdicts out at XDP hooks: what goes to another node in VXLAN gets its outer headers here, what
//! comes back from one loses them here.
//!
//! Every function returns `None` for what it leaves to the hook behind, with the frame untouched.

use crate::{
    maps::{Maps, Scratch},
    parse::{ETH_LEN, ETH_P_IP, Frame as _, IP_CSUM, IP_TTL, XdpFrame},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
        xdp_action::{XDP_DROP, XDP_REDIRECT, XDP_TX},
    },
    helpers::{bpf_fib_lookup, bpf_get_prandom_u32, bpf_redirect, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use skein_abi::{
    UDP, VNI_FORWARD, VXLAN_OVERHEAD,
    flow::Tuple,
    ingress::{DEVICE_PAIR, DEVICE_XDP},
    verdict::Counter,
};
use skein_packet::{
    Action, Tables as _, Verdict, hash,
    path_mtu::{MSS_OPTION, clamped},
    vxlan::{self, OUTER_WORDS, Outer},
};

const AF_INET: u8 = 2;
/// Bytes of the outer headers.
pub const OUTER_LEN: usize = VXLAN_OVERHEAD as usize;
/// Of a frame with outer headers: the IPv4 header, and those behind it.
const IP: usize = ETH_LEN;
const UDP_VXLAN: usize = ETH_LEN + 20;

/// Where a packet leaves the node.
struct Hop {
    ifindex: u32,
    /// Back by the device that it came in by, without a detour.
    is_back: bool,
    /// Destination and source.
    macs: [[u8; 6]; 2],
}

/// The verdict on a packet that came in by the uplink as it is.
#[inline(always)]
pub fn act(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    let verdict = &scratch.work.verdict;
    match verdict.action {
        Action::Drop => Some(drop(maps, verdict.reason)),
        Action::Tunnel if verdict.vni == VNI_FORWARD && is_unchanged(scratch) => {
            forward(maps, ctx, scratch)
        }
        Action::Segment if verdict.vni == VNI_FORWARD && is_unchanged(scratch) => {
            forward_by_l2(maps, ctx, scratch)
        }
        // An answer that came by l2.
        Action::Out if is_unchanged(scratch) => reply::<0>(maps, ctx, scratch),
        _ => None,
    }
}

/// The verdict on a packet that came in the outer headers which are still there.
#[inline(always)]
pub fn act_on_reply(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    let verdict = &scratch.work.verdict;
    match verdict.action {
        Action::Drop => Some(drop(maps, verdict.reason)),
        Action::Out if is_unchanged(scratch) => reply::<OUTER_LEN>(maps, ctx, scratch),
        _ => None,
    }
}

/// The network identifier of a packet, of which `scratch` has the outer headers'
/// view, if it is one from another node to this one.
#[inline(always)]
pub fn outer_of(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    let (tuple, config) = (&scratch.work.packet.tuple, maps.config());
    if tuple.proto != UDP || tuple.dport != config.vxlan_port || tuple.dst != config.node_addr {
        return None;
    }
    let frame = XdpFrame::<0>(ctx);
    if usize::from(scratch.layout.len) + ETH_LEN > frame.len() {
        return None;
    }
    vxlan::vni_of(&frame.read(IP)?, &frame.read(UDP_VXLAN)?)
}

/// Whether the packet itself goes on, with the tuple that it has.
#[inline(always)]
fn is_unchanged(scratch: &Scratch) -> bool {
    let verdict: &Verdict = &scratch.work.verdict;
    verdict.reset == 0 && verdict.too_big == 0 && verdict.to == scratch.work.packet.tuple
}

/// To another node, in VXLAN, as the other hooks and the kernel's vxlan device would make it.
#[inline(always)]
fn forward(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    let (verdict, config) = (&scratch.work.verdict, maps.config());
    if scratch.layout.ttl <= 1 {
        return None;
    }
    let frame = XdpFrame::<0>(ctx);
    let mss = announced(&frame, verdict)?;
    let len = frame.len() as u16;
    let [_, tos]: [u8; 2] = frame.read(IP)?;
    let way = Tuple {
        src: config.node_addr,
        dst: verdict.node,
        sport: vxlan::source_port(hash(&verdict.to)),
        dport: config.vxlan_port,
        proto: UDP,
        pad: [0; 3],
    };
    let hop = next_hop(maps, ctx, &way, vxlan::packet_len(len))?;
    if !move_head(ctx, -(OUTER_LEN as i32)) {
        return None;
    }
    let outer = Outer {
        macs: hop.macs,
        src: way.src,
        dst: way.dst,
        sport: way.sport,
        dport: way.dport,
        // SAFETY: takes nothing.
        id: unsafe { bpf_get_prandom_u32() } as u16,
        tos,
        len,
        vni: verdict.vni,
    };
    let inner = XdpFrame::<OUTER_LEN>(ctx);
    let (headers, from) = (frame.at::<[u16; OUTER_WORDS]>(0), inner.at::<[u16; 3]>(6));
    let (Some(headers), Some(from)) = (headers, from) else {
        return Some(drop(maps, Counter::DropMalformed as u32));
    };
    // SAFETY: within the packet; see `XdpFrame`.
    unsafe {
        headers.write(outer.headers());
        from.write(vxlan::mac_words(verdict.entry));
    }
    if lower_ttl(&inner).is_none() || clamp(&inner, mss).is_none() {
        return Some(drop(maps, Counter::DropMalformed as u32));
    }
    Some(send(maps, &hop))
}

/// To another node, in a frame of its own.
#[inline(always)]
fn forward_by_l2(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    if scratch.layout.ttl <= 1 {
        return None;
    }
    let (peer, frame) = (&scratch.work.peer, XdpFrame::<0>(ctx));
    let mss = announced(&frame, &scratch.work.verdict)?;
    let hop = hop(maps, ctx, peer.ifindex, [peer.mac, peer.own_mac])?;
    let macs = frame.at::<[[u8; 6]; 2]>(0)?;
    // SAFETY: within the packet; see `XdpFrame`.
    unsafe { macs.write(hop.macs) };
    if lower_ttl(&frame).is_none() || clamp(&frame, mss).is_none() {
        return Some(drop(maps, Counter::DropMalformed as u32));
    }
    maps.count_now(Counter::L2Sent as u32);
    Some(send(maps, &hop))
}

/// Out to the client, without the `AT` bytes of outer headers.
#[inline(always)]
fn reply<const AT: usize>(maps: &Maps, ctx: &XdpContext, scratch: &Scratch) -> Option<u32> {
    if scratch.layout.ttl <= 1 {
        return None;
    }
    let verdict = &scratch.work.verdict;
    let mss = announced(&XdpFrame::<AT>(ctx), verdict)?;
    let to = &verdict.to;
    let hop = next_hop(maps, ctx, to, scratch.layout.len)?;
    if AT != 0 && !move_head(ctx, AT as i32) {
        return None;
    }
    let frame = XdpFrame::<0>(ctx);
    let (Some(macs), Some(ethertype)) = (frame.at::<[[u8; 6]; 2]>(0), frame.at::<u16>(12)) else {
        return Some(drop(maps, Counter::DropMalformed as u32));
    };
    // SAFETY: as above.
    unsafe {
        macs.write(hop.macs);
        ethertype.write(ETH_P_IP);
    }
    if lower_ttl(&frame).is_none() || clamp(&frame, mss).is_none() {
        return Some(drop(maps, Counter::DropMalformed as u32));
    }
    Some(send(maps, &hop))
}

/// By the routing table, as if the packet had come in by a device of Skein's own, on which forwarding
/// is on. `None`: there is no such way, it is too narrow for `len` bytes, the neighbour is to be asked
/// first, or its device has no XDP.
#[inline(always)]
fn next_hop(maps: &Maps, ctx: &XdpContext, way: &Tuple, len: u16) -> Option<Hop> {
    let mut hop = Hop {
        ifindex: 0,
        is_back: false,
        macs: [[0; 6]; 2],
    };
    match core::hint::black_box(find_hop(maps, ctx, way, len, &mut hop)) {
        0 => None,
        _ => Some(hop),
    }
}

/// Not part of its caller, which has too little stack for what the kernel is asked with. 0: there is none.
#[inline(never)]
fn find_hop(maps: &Maps, ctx: &XdpContext, way: &Tuple, len: u16, found: &mut Hop) -> u32 {
    let hop = try_find_hop(maps, ctx, way, len);
    let is_found = hop.is_some();
    if let Some(hop) = hop {
        *found = hop;
    }
    core::hint::black_box(u32::from(is_found))
}

#[inline(always)]
fn try_find_hop(maps: &Maps, ctx: &XdpContext, way: &Tuple, len: u16) -> Option<Hop> {
    // SAFETY: plain data, all zero is a value of it.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.family = AF_INET;
    fib.l4_protocol = way.proto;
    fib.sport = way.sport;
    fib.dport = way.dport;
    fib.__bindgen_anon_1.tot_len = len;
    fib.ifindex = maps.config().local_peer_ifindex;
    fib.__bindgen_anon_3.ipv4_src = way.src;
    fib.__bindgen_anon_4.ipv4_dst = way.dst;
    // SAFETY: the parameters live through the call.
    let found =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut fib, size_of::<FibLookup>() as i32, 0) };
    // SAFETY: the helper wrote the IPv4 form: the next hop's address.
    let neighbour = unsafe { fib.__bindgen_anon_4.ipv4_dst };
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return None;
    }
    let hop = hop(maps, ctx, fib.ifindex, [fib.dmac, fib.smac])?;
    (!maps.must_confirm(neighbour)).then_some(hop)
}

/// By a device, if it takes frames from here.
#[inline(always)]
fn hop(maps: &Maps, ctx: &XdpContext, ifindex: u32, macs: [[u8; 6]; 2]) -> Option<Hop> {
    let device = maps.device(ifindex);
    let is_back = ifindex == ctx.ingress_ifindex() as u32 && device & DEVICE_PAIR == 0;
    let is_way = is_back || device & DEVICE_XDP != 0;
    is_way.then_some(Hop {
        ifindex,
        is_back,
        macs,
    })
}

/// Moves the beginning of the frame; false: there is no room.
#[inline(always)]
fn move_head(ctx: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is this program's own; pointers into the frame are made anew after this.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, by) == 0 }
}

#[inline(always)]
fn lower_ttl<const AT: usize>(frame: &XdpFrame<'_, AT>) -> Option<()> {
    let (ttl, csum) = (frame.at::<u8>(IP_TTL)?, frame.at::<u16>(IP_CSUM)?);
    // SAFETY: within the packet; see `XdpFrame`.
    unsafe {
        ttl.write(ttl.read().wrapping_sub(1));
        csum.write(vxlan::with_lower_ttl(csum.read()));
    }
    Some(())
}

/// Offsets of TCP's in a frame without IPv4 options.
const TCP_DATA_OFFSET: usize = ETH_LEN + 20 + 12;
const TCP_CSUM: usize = ETH_LEN + 20 + 16;
const TCP_OPTION: usize = ETH_LEN + 20 + 20;

/// A change of the MSS that a packet announces; both are 0 for none.
#[derive(Clone, Copy)]
struct Mss {
    before: u16,
    after: u16,
}

/// What becomes of the MSS that a packet announces. `None`: it is not the first option, as all systems
/// have it.
#[inline(always)]
fn announced<const AT: usize>(frame: &XdpFrame<'_, AT>, verdict: &Verdict) -> Option<Mss> {
    const NONE: Mss = Mss {
        before: 0,
        after: 0,
    };
    if verdict.mss == 0 || frame.read::<u8>(TCP_DATA_OFFSET)? >> 4 == 5 {
        return Some(NONE);
    }
    if frame.read::<[u8; 2]>(TCP_OPTION)? != MSS_OPTION {
        return None;
    }
    let before = frame.read(TCP_OPTION + 2)?;
    Some(match clamped(before, verdict.mss as u16) {
        Some(after) => Mss { before, after },
        None => NONE,
    })
}

#[inline(always)]
fn clamp<const AT: usize>(frame: &XdpFrame<'_, AT>, mss: Mss) -> Option<()> {
    if mss.before != mss.after {
        let (option, csum) = (frame.at::<u16>(TCP_OPTION + 2)?, frame.at::<u16>(TCP_CSUM)?);
        // SAFETY: within the packet; see `XdpFrame`.
        unsafe {
            option.write(mss.after);
            csum.write(vxlan::replaced(csum.read(), mss.before, mss.after));
        }
    }
    Some(())
}

#[inline(always)]
fn send(maps: &Maps, hop: &Hop) -> u32 {
    maps.commit();
    maps.count_now(Counter::XdpSent as u32);
    if hop.is_back {
        return XDP_TX;
    }
    // SAFETY: takes numbers only.
    match unsafe { bpf_redirect(hop.ifindex, 0) } as u32 {
        XDP_REDIRECT => XDP_REDIRECT,
        _ => drop(maps, Counter::DropNoRoute as u32),
    }
}

#[inline(always)]
fn drop(maps: &Maps, reason: u32) -> u32 {
    maps.refuse(reason);
    XDP_DROP
}
