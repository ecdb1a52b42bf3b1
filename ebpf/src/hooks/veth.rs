//! tc ingress of the host's end of a container's veth pair: what the container sends.

use super::parsed;
use crate::{
    act::{act, answer_by_device},
    maps::{Maps, VETHS, scratch},
    parse::{ETH_LEN, ETH_P_ARP, ETH_P_IP, ethertype},
    tell::{Seen, capture, dropped, unread},
};
use aya_ebpf::{EbpfContext as _, bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use skein_abi::{mac, overlay::Endpoint, sight::SEEN_VETH, verdict::Counter};
use skein_packet::{Tables as _, Verdict, from_container, settle};

const DROP: i32 = TC_ACT_SHOT as i32;

/// See [`skein_abi::names::PROG_VETH`].
#[classifier]
pub fn skein_veth(ctx: TcContext) -> i32 {
    let Some(maps) = Maps::open(ctx.as_ptr()) else {
        return DROP;
    };
    // SAFETY: the context's own device; the index is copied at once.
    let index = unsafe {
        let ifindex = (*ctx.skb.skb).ifindex;
        VETHS.get(&ifindex).copied()
    };
    let Some((index, endpoint)) = index.and_then(|index| Some((index, maps.endpoint(index)?)))
    else {
        return drop_unread(&maps, &ctx, Counter::DropSpoofed);
    };
    match ethertype(&ctx) {
        Some(ETH_P_IP) => {}
        Some(ETH_P_ARP) => return arp(&ctx, &endpoint),
        _ => return drop_unread(&maps, &ctx, Counter::DropNotIpv4),
    }
    let Some(scratch) = parsed(&maps, &ctx, SEEN_VETH) else {
        return DROP;
    };
    scratch.work.told.sender = index + 1;
    let own_mac = ctx.load::<[u8; 6]>(6) == Ok(mac(endpoint.addr));
    let packet = &scratch.work.packet;
    if packet.sender != endpoint.addr || packet.tuple.src != endpoint.addr || !own_mac {
        maps.count(Counter::DropSpoofed);
        scratch.work.verdict = Verdict::drop(&scratch.work.packet.tuple, Counter::DropSpoofed);
        dropped(scratch, Counter::DropSpoofed as u32);
        capture(&ctx, scratch, Counter::DropSpoofed as u32);
        return DROP;
    }
    from_container(&maps, &mut scratch.work, index, &endpoint);
    settle(&maps, &mut scratch.work);
    act(&maps, &ctx, scratch)
}

/// What is not looked into.
#[inline(never)]
fn drop_unread(maps: &Maps, ctx: &TcContext, reason: Counter) -> i32 {
    maps.count(reason);
    if let Some(scratch) = scratch() {
        scratch.seen = Seen::at_tc(ctx, SEEN_VETH);
        unread(scratch, reason);
    }
    core::hint::black_box(DROP)
}

/// An ARP packet for Ethernet and IPv4 (RFC 826), behind the Ethernet header.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_mac: [u8; 6],
    sender: u32,
    target_mac: [u8; 6],
    target: u32,
}

const REQUEST: u16 = 1_u16.to_be();
const REPLY: u16 = 2_u16.to_be();

/// Answers for every other address of the endpoint's subnet: nothing is ever flooded.
fn arp(ctx: &TcContext, endpoint: &Endpoint) -> i32 {
    let Ok(request) = ctx.load::<Arp>(ETH_LEN) else {
        return DROP;
    };
    // No answer is the answer for the own address: that is how duplicates are looked for (RFC 5227).
    if request.operation != REQUEST || request.target == endpoint.addr {
        return DROP;
    }
    if (request.target ^ endpoint.addr) & endpoint.mask != 0 {
        return DROP;
    }
    let target_mac = mac(request.target);
    let reply = Arp {
        operation: REPLY,
        sender_mac: target_mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
        ..request
    };
    let sent = ctx
        .store(ETH_LEN, &reply, 0)
        .and_then(|()| ctx.store(0, &target_mac, 0))
        .map_err(crate::act::Failed::from)
        .and_then(|()| answer_by_device(ctx));
    sent.unwrap_or(DROP)
}
