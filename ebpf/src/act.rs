//! Carries verdicts out at tc hooks.

use crate::{
    maps::Scratch,
    parse::{ETH_LEN, ICMP_LEN, IP_CSUM, IP_DST, IP_SRC, IP_TTL, Layout},
    tell::{capture, carried, dropped, flow},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_OK, TC_ACT_SHOT, bpf_fib_lookup as FibLookup,
        bpf_tunnel_key,
    },
    helpers::{
        bpf_csum_diff, bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_change_tail, bpf_skb_set_tunnel_key,
    },
    programs::TcContext,
};
use core::ffi::c_long;
use skein_abi::{
    ICMP, SCTP, TCP, UDP, VNI_FORWARD, VNI_SECOND_HOP, flow::Tuple, mac, segment::Peer,
    verdict::Counter,
};
use skein_packet::{
    Action, Packet, Tables, Verdict,
    path_mtu::{self, MSS_OPTION, clamped},
    sctp,
};

const AF_INET: u8 = 2;
/// The packet is for this host (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// Time to live of what Skein itself sends: the Internet's usual value.
const TTL: u8 = 64;
const ICMP_ECHO_REPLY: u8 = 0;
/// "Fragmentation needed and don't fragment set", a destination unreachable (RFC 792).
const ICMP_TOO_BIG: [u8; 2] = [3, 4];
/// Options of TCP that end a header, and that fill a byte (RFC 9293, section 3.2).
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
/// Options that are looked at for the MSS: 40 bytes hold as many of two bytes.
const OPTIONS_MAX: usize = 20;

/// How a packet leaves by the routing table.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    /// The device; 0: there is none for it.
    ifindex: u32,
    /// Not 0: the largest packet that it carries, bytes, which is less than this one.
    mtu: u32,
}

/// Why a verdict could not be carried out: a [`Counter`], as a number (see [`Verdict`]).
pub struct Failed(u32);

impl Failed {
    const fn because(counter: Counter) -> Self {
        Self(counter as u32)
    }
}

/// A helper refused: the packet is malformed, or the kernel is out of memory.
impl From<c_long> for Failed {
    #[inline(always)]
    fn from(_: c_long) -> Self {
        Self::because(Counter::DropMalformed)
    }
}

/// Carries a verdict out and returns the program's own.
#[inline(never)]
pub fn act<T: Tables>(t: &T, ctx: &TcContext, scratch: &mut Scratch) -> i32 {
    flow(scratch);
    let is_refused = scratch.work.verdict.reset != 0;
    if scratch.work.verdict.action != Action::Drop {
        let reason = if is_refused {
            Counter::DropNoTask as u32
        } else {
            0
        };
        capture(ctx, scratch, reason);
    }
    match try_act(t, ctx, scratch) {
        Ok(code) => {
            if !is_refused && scratch.work.verdict.too_big == 0 {
                carried(ctx, scratch);
            }
            code
        }
        Err(Failed(counter)) => {
            t.count_index(counter);
            dropped(scratch, counter);
            capture(ctx, scratch, counter);
            TC_ACT_SHOT as i32
        }
    }
}

#[inline(always)]
fn try_act<T: Tables>(t: &T, ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, Failed> {
    if scratch.work.verdict.action == Action::Out {
        find_way(t, ctx, scratch);
        if scratch.way.mtu != 0 && scratch.work.packet.exceeds(scratch.way.mtu as u16) {
            path_mtu::too_big(t, &mut scratch.work, scratch.way.mtu);
            // The message is for somebody else.
            find_way(t, ctx, scratch);
        }
    }
    if scratch.work.verdict.reset != 0 {
        dropped(scratch, Counter::DropNoTask as u32);
        done(make_reset(ctx, scratch))?;
    }
    if scratch.work.verdict.too_big != 0 {
        dropped(scratch, Counter::DropTooBig as u32);
        done(make_too_big(ctx, scratch))?;
    }
    if scratch.work.verdict.mss != 0 {
        done(clamp_mss(ctx, scratch))?;
    }
    let config = t.config();
    let Scratch {
        layout, work, way, ..
    } = scratch;
    let (from, verdict) = (&work.packet.tuple, &work.verdict);
    match verdict.action {
        Action::Pass => Ok(TC_ACT_OK as i32),
        Action::Echo => {
            done(rewrite(ctx, layout, from, &verdict.to))?;
            if layout.is_tail == 0 && from.proto == ICMP {
                ctx.l4_csum_replace(layout.l4 + 2, 8_u64, u64::from(ICMP_ECHO_REPLY), 2)?;
                ctx.store(layout.l4, &ICMP_ECHO_REPLY, 0)?;
            }
            answer_by_device(ctx)
        }
        Action::Endpoint => {
            done(rewrite(ctx, layout, from, &verdict.to))?;
            let Some(endpoint) = t.endpoint(verdict.endpoint) else {
                return Err(Failed::because(Counter::DropUnknownAddress));
            };
            ctx.store(0, &mac(endpoint.addr), 0)?;
            ctx.store(6, &mac(endpoint.gateway), 0)?;
            ctx.change_type(PACKET_HOST)?;
            // SAFETY: takes numbers only.
            Ok(unsafe { bpf_redirect_peer(endpoint.ifindex, 0) } as i32)
        }
        Action::Host => {
            done(rewrite(ctx, layout, from, &verdict.to))?;
            ctx.store(0, &mac(config.dns_addr), 0)?;
            // SAFETY: takes numbers only.
            Ok(unsafe { bpf_redirect(config.local_ifindex, u64::from(BPF_F_INGRESS)) } as i32)
        }
        Action::Segment => {
            if verdict.vni == VNI_FORWARD {
                lower_ttl(ctx, layout)?;
            }
            done(rewrite(ctx, layout, from, &verdict.to))?;
            let Peer {
                mac,
                own_mac,
                ifindex,
                ..
            } = work.peer;
            ctx.store(0, &[mac, own_mac], 0)?;
            t.count(Counter::L2Sent);
            // SAFETY: takes numbers only.
            Ok(unsafe { bpf_redirect(ifindex, 0) } as i32)
        }
        Action::Tunnel => {
            if matches!(verdict.vni, VNI_FORWARD | VNI_SECOND_HOP) {
                lower_ttl(ctx, layout)?;
            }
            done(rewrite(ctx, layout, from, &verdict.to))?;
            done(set_tunnel(ctx, verdict))?;
            // SAFETY: takes numbers only.
            Ok(unsafe { bpf_redirect(config.vxlan_ifindex, 0) } as i32)
        }
        Action::Out => {
            if way.mtu != 0 {
                return Err(Failed::because(Counter::DropTooBig));
            }
            if way.ifindex == 0 {
                return Err(Failed::because(Counter::DropNoRoute));
            }
            lower_ttl(ctx, layout)?;
            done(rewrite(ctx, layout, from, &verdict.to))?;
            // SAFETY: no parameters: the kernel finds the neighbour, and resolves it if need be.
            Ok(unsafe { bpf_redirect_neigh(way.ifindex, core::ptr::null_mut(), 0, 0) } as i32)
        }
        _ => Err(Failed(verdict.reason)),
    }
}

/// What functions that only may fail return: 0 for a failure. (A number that the optimiser cannot
/// foresee: see `subprogram` in `skein-packet`.)
#[inline(always)]
fn outcome(result: Result<(), c_long>) -> u32 {
    core::hint::black_box(result.is_ok() as u32)
}

#[inline(always)]
fn done(outcome: u32) -> Result<(), Failed> {
    match core::hint::black_box(outcome) {
        0 => Err(Failed::because(Counter::DropMalformed)),
        _ => Ok(()),
    }
}

/// Sends a frame back by the device that it came in by.
#[inline(always)]
pub fn answer_by_device(ctx: &TcContext) -> Result<i32, Failed> {
    let [to, from]: [[u8; 6]; 2] = ctx.load(0)?;
    ctx.store(0, &[from, to], 0)?;
    // SAFETY: the context's own device.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: takes numbers only.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as i32)
}

/// Puts `to` in place of the packet's tuple, checksums included.
#[inline(never)]
fn rewrite(ctx: &TcContext, layout: &Layout, from: &Tuple, to: &Tuple) -> u32 {
    outcome(match layout.quoted {
        0 => try_rewrite(ctx, layout, from, to),
        _ => rewrite_error(ctx, layout, from, to),
    })
}

/// The same for an ICMP error: `from` and `to` are tuples of the packet that it quotes, turned round. What
/// it quotes gets addresses and ports as whoever sent that knows them; not its transport's checksum,
/// which may be cut off, and which no receiver looks at.
#[inline(always)]
fn rewrite_error(ctx: &TcContext, layout: &Layout, from: &Tuple, to: &Tuple) -> Result<(), c_long> {
    // Of one end of a flow: it shows itself as what the flow shows of it. Routers show themselves.
    let sender: u32 = ctx.load(IP_SRC)?;
    let shown = if sender == from.src { to.src } else { sender };
    for (offset, from, to) in [(IP_SRC, sender, shown), (IP_DST, from.dst, to.dst)] {
        ctx.l3_csum_replace(IP_CSUM, from.into(), to.into(), 4)?;
        ctx.store(offset, &to, 0)?;
    }
    // (A header and its checksum add up to the same, whatever its addresses are: ICMP's own checksum
    // stays right.)
    let ip = layout.l4 + ICMP_LEN;
    for (offset, from, to) in [(12, from.dst, to.dst), (16, from.src, to.src)] {
        ctx.l3_csum_replace(ip + 10, from.into(), to.into(), 4)?;
        ctx.store(ip + offset, &to, 0)?;
    }
    let quoted = layout.quoted;
    let ports = match from.proto {
        // The identifier of an echo.
        ICMP => [(quoted + 4, from.dport, to.dport), (0, 0, 0)],
        _ => [
            (quoted, from.dport, to.dport),
            (quoted + 2, from.sport, to.sport),
        ],
    };
    for (offset, from, to) in ports {
        if from != to {
            ctx.l4_csum_replace(layout.l4 + 2, from.into(), to.into(), 2)?;
            ctx.store(offset, &to, 0)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn try_rewrite(ctx: &TcContext, layout: &Layout, from: &Tuple, to: &Tuple) -> Result<(), c_long> {
    let l4 = layout.l4;
    // Offset of the checksum that covers addresses and ports (0: there is none), and the flags to
    // change it with.
    let (csum, flags) = match from.proto {
        _ if layout.is_tail != 0 => (0, 0),
        TCP => (l4 + 16, 0),
        // A checksum of zero is none (RFC 768), and stays.
        UDP => (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
        _ => (0, 0),
    };
    for (offset, from, to) in [(IP_SRC, from.src, to.src), (IP_DST, from.dst, to.dst)] {
        if from == to {
            continue;
        }
        if csum != 0 {
            let flags = flags | u64::from(BPF_F_PSEUDO_HDR) | 4;
            ctx.l4_csum_replace(csum, from.into(), to.into(), flags)?;
        }
        ctx.l3_csum_replace(IP_CSUM, from.into(), to.into(), 4)?;
        ctx.store(offset, &to, 0)?;
    }
    if from.proto == ICMP && from.sport != to.sport && layout.is_tail == 0 {
        // The identifier of an echo; ICMP's checksum covers no addresses.
        ctx.l4_csum_replace(l4 + 2, from.sport.into(), to.sport.into(), 2)?;
        ctx.store(l4 + 4, &to.sport, 0)?;
    }
    if from.proto == SCTP && layout.is_tail == 0 {
        return rewrite_sctp(ctx, layout, from, to);
    }
    if csum == 0 {
        return Ok(());
    }
    for (offset, from, to) in [(l4, from.sport, to.sport), (l4 + 2, from.dport, to.dport)] {
        if from != to {
            ctx.l4_csum_replace(csum, from.into(), to.into(), flags | 2)?;
            ctx.store(offset, &to, 0)?;
        }
    }
    Ok(())
}

/// Replaces ports, and the checksum, which covers them and no addresses.
#[inline(always)]
fn rewrite_sctp(ctx: &TcContext, layout: &Layout, from: &Tuple, to: &Tuple) -> Result<(), c_long> {
    let (before, after) = ([from.sport, from.dport], [to.sport, to.dport]);
    if before == after {
        return Ok(());
    }
    let at = layout.l4 + sctp::CHECKSUM;
    let len = layout.len.wrapping_sub((layout.l4 - ETH_LEN) as u16);
    let checksum = sctp::replaced(ctx.load(at)?, before, after, len);
    ctx.store(layout.l4, &after, 0)?;
    ctx.store(at, &checksum, 0)
}

#[inline(always)]
fn lower_ttl(ctx: &TcContext, layout: &Layout) -> Result<(), Failed> {
    if layout.ttl <= 1 {
        return Err(Failed::because(Counter::DropTtl));
    }
    // TTL and protocol share a checksum word; on a little-endian machine TTL is its low byte.
    let word = |ttl: u8| u64::from(u16::from_ne_bytes([ttl, layout.proto]));
    ctx.l3_csum_replace(IP_CSUM, word(layout.ttl), word(layout.ttl - 1), 2)?;
    Ok(ctx.store(IP_TTL, &(layout.ttl - 1), 0)?)
}

#[inline(never)]
fn set_tunnel(ctx: &TcContext, verdict: &Verdict) -> u32 {
    outcome(try_set_tunnel(ctx, verdict))
}

#[inline(always)]
fn try_set_tunnel(ctx: &TcContext, verdict: &Verdict) -> Result<(), c_long> {
    if verdict.entry != 0 {
        ctx.store(6, &mac(verdict.entry), 0)?;
    }
    // SAFETY: plain data, all zero is a value of it.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = verdict.vni;
    key.tunnel_ttl = TTL;
    // The helper wants host byte order.
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be(verdict.node);
    let size = size_of::<bpf_tunnel_key>() as u32;
    let flags = u64::from(BPF_F_ZERO_CSUM_TX);
    // SAFETY: the key lives through the call.
    match unsafe { bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, size, flags) } {
        0 => Ok(()),
        refused => Err(refused),
    }
}

/// The way by the routing table, as if the packet had come in by a device of Skein's own, on which
/// forwarding is on.
#[inline(never)]
fn find_way<T: Tables>(t: &T, ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    let Scratch { way, work, .. } = scratch;
    *way = Way { ifindex: 0, mtu: 0 };
    let to = &work.verdict.to;
    // SAFETY: plain data, all zero is a value of it.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.family = AF_INET;
    fib.l4_protocol = to.proto;
    fib.ifindex = t.config().local_peer_ifindex;
    fib.__bindgen_anon_3.ipv4_src = to.src;
    fib.__bindgen_anon_4.ipv4_dst = to.dst;
    if work.verdict.too_big == 0 && work.verdict.reset == 0 && work.packet.dont_fragment != 0 {
        // Without it the kernel asks the device alone, not the route.
        fib.__bindgen_anon_1.tot_len = work.packet.len;
    }
    // SAFETY: the parameters live through the call.
    let found =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut fib, size_of::<FibLookup>() as i32, 0) };
    if found == i64::from(BPF_FIB_LKUP_RET_SUCCESS) || found == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
    {
        way.ifindex = fib.ifindex;
    } else if found == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        // SAFETY: the helper wrote the MTU here.
        way.mtu = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
    }
    outcome(Ok(()))
}

/// Bytes of headers without options: IPv4, and IPv4 with the next one's beginning, which ICMP quotes.
const IP_LEN: usize = 20;
const QUOTED_LEN: usize = IP_LEN + 8;
const TOO_BIG_LEN: usize = IP_LEN + ICMP_LEN + QUOTED_LEN;

/// Turns a packet into the ICMP message that it is too long (RFC 1191, section 4), with the verdict's
/// tuple. It is shorter than any packet that it answers: nobody gains by having it sent to others.
#[inline(never)]
fn make_too_big(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    outcome(try_make_too_big(ctx, scratch))
}

#[inline(always)]
fn try_make_too_big(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), c_long> {
    let Scratch { layout, work, .. } = scratch;
    if layout.l4 != ETH_LEN + IP_LEN {
        // With options it is longer than what is quoted; they are next to never used.
        return Err(-1);
    }
    let to = &work.verdict.to;
    let word = |a: u8, b: u8, c: u8, d: u8| u32::from_ne_bytes([a, b, c, d]);
    let [high, low] = (work.verdict.too_big as u16).to_be_bytes();
    let [kind, code] = ICMP_TOO_BIG;
    let mut quoted: [u32; QUOTED_LEN / 4] = ctx.load(ETH_LEN)?;
    let mut icmp = [word(kind, code, 0, 0), word(0, 0, high, low)];
    let seed = sum(&mut quoted, 0);
    icmp[0] |= u32::from(fold(sum(&mut icmp, seed))) << 16;
    // SAFETY: takes numbers only.
    let resized = unsafe { bpf_skb_change_tail(ctx.skb.skb, (ETH_LEN + TOO_BIG_LEN) as u32, 0) };
    if resized != 0 {
        return Err(resized);
    }
    let mut ip = [
        word(0x45, 0, 0, TOO_BIG_LEN as u8),
        0,
        word(TTL, ICMP, 0, 0),
        to.src,
        to.dst,
    ];
    ip[2] |= u32::from(fold(sum(&mut ip, 0))) << 16;
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    ctx.store(ETH_LEN, &ip, flags)?;
    ctx.store(ETH_LEN + IP_LEN, &icmp, flags)?;
    ctx.store(ETH_LEN + IP_LEN + ICMP_LEN, &quoted, flags)?;
    work.packet = Packet {
        tuple: *to,
        sender: to.src,
        len: TOO_BIG_LEN as u16,
        ..Packet::nothing()
    };
    *layout = Layout::of(TOO_BIG_LEN as u16, TTL, ICMP);
    Ok(())
}

/// Lowers the MSS that the first packets of a TCP connection announce.
#[inline(never)]
fn clamp_mss(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    outcome(try_clamp_mss(ctx, scratch))
}

#[inline(always)]
fn try_clamp_mss(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), c_long> {
    let (l4, limit) = (scratch.layout.l4, scratch.work.verdict.mss as u16);
    let data_offset: u8 = ctx.load(l4 + 12)?;
    let end = l4 + usize::from(data_offset >> 4) * 4;
    let mut at = l4 + 20;
    for _ in 0..OPTIONS_MAX {
        if at + MSS_OPTION.len() + 2 > end {
            break;
        }
        let option: [u8; 2] = ctx.load(at)?;
        match option {
            [OPTION_END, _] => break,
            [OPTION_NONE, _] => at += 1,
            MSS_OPTION => {
                let mss: u16 = ctx.load(at + 2)?;
                if let Some(lower) = clamped(mss, limit) {
                    ctx.l4_csum_replace(l4 + 16, mss.into(), lower.into(), 2)?;
                    ctx.store(at + 2, &lower, 0)?;
                }
                break;
            }
            [_, len] => at += usize::from(len.max(2)),
        }
    }
    Ok(())
}

/// Bytes of IPv4 and TCP headers without options.
const RST_LEN: usize = 40;

/// Turns a TCP packet into the reset that answers it (RFC 9293, section 3.5.2), with the verdict's
/// tuple.
#[inline(never)]
fn make_reset(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    outcome(try_make_reset(ctx, scratch))
}

#[inline(always)]
fn try_make_reset(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), c_long> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let Scratch { layout, work, .. } = scratch;
    let (to, flags) = (&work.verdict.to, work.packet.tcp_flags);
    let [seq, ack]: [u32; 2] = ctx.load(layout.l4 + 4)?;
    let data_offset: u8 = ctx.load(layout.l4 + 12)?;
    let headers = (layout.l4 - ETH_LEN) as u32 + u32::from(data_offset >> 4) * 4;
    let payload = u32::from(layout.len).wrapping_sub(headers);
    let consumed = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (seq, ack, flags) = match flags & ACK != 0 {
        true => (ack, 0, RST),
        false => (
            0,
            u32::from_be(seq).wrapping_add(consumed).to_be(),
            RST | ACK,
        ),
    };
    // SAFETY: takes numbers only.
    let resized = unsafe { bpf_skb_change_tail(ctx.skb.skb, (ETH_LEN + RST_LEN) as u32, 0) };
    if resized != 0 {
        return Err(resized);
    }
    let word = |a: u8, b: u8, c: u8, d: u8| u32::from_ne_bytes([a, b, c, d]);
    let [s0, s1] = to.sport.to_ne_bytes();
    let [d0, d1] = to.dport.to_ne_bytes();
    let mut ip = [
        word(0x45, 0, 0, RST_LEN as u8),
        0,
        word(TTL, TCP, 0, 0),
        to.src,
        to.dst,
    ];
    let mut tcp = [word(s0, s1, d0, d1), seq, ack, word(5 << 4, flags, 0, 0), 0];
    let mut pseudo = [to.src, to.dst, word(0, TCP, 0, 20)];
    ip[2] |= u32::from(fold(sum(&mut ip, 0))) << 16;
    let pseudo = sum(&mut pseudo, 0);
    tcp[4] = u32::from(fold(sum(&mut tcp, pseudo)));
    ctx.store(ETH_LEN, &ip, 0)?;
    ctx.store(ETH_LEN + 20, &tcp, 0)?;
    work.packet = Packet {
        tuple: *to,
        sender: to.src,
        tcp_flags: flags,
        len: RST_LEN as u16,
        ..Packet::nothing()
    };
    *layout = Layout::of(RST_LEN as u16, TTL, TCP);
    Ok(())
}

#[inline(always)]
fn sum<const N: usize>(words: &mut [u32; N], seed: u32) -> u32 {
    // SAFETY: the words live through the call.
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            words.as_mut_ptr(),
            (N * 4) as u32,
            seed,
        ) as u32
    }
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}
