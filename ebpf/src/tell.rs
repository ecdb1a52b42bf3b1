//! Tells those who watch: records of flows and drops, meters of services, copies of packets.
//!
//! A packet of a flow that goes on is not told of: the records cost nothing where nothing begins, ends, or is
//! dropped. What is told is bounded, by CPU and kind of record ([`skein_packet::spend`]); the rest is only counted. Nobody
//! is woken: the dataplane reads the ring several times a second.

use crate::{
    maps::{BUDGETS, CAPTURED, LOST, METER_DROPS, METERS, RECORDS, Scratch, WATCH},
    parse::ETH_LEN,
    xdp::OUTER_LEN,
};
use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_RB_NO_WAKEUP,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    helpers::bpf_ktime_get_ns,
    programs::{TcContext, XdpContext},
};
use skein_abi::{
    sight::{
        EVENT_DROPPED, EVENT_OPENED, EVENT_PACKET, LOST_DROPS, LOST_FLOWS, LOST_ROOM, MeterDrop,
        RECORD_ANSWER, RECORD_UNREAD, Record, SEEN_XDP,
    },
    verdict::Counter,
};
use skein_packet::{Action, Packet, Verdict, spend};

/// Where a packet is seen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    ifindex: u32,
    /// `SEEN_*`
    place: u32,
    /// Bytes of the frame.
    frame: u32,
    /// 1: the packet could not be read.
    is_unread: u32,
}

impl Seen {
    #[inline(always)]
    pub fn at_tc(ctx: &TcContext, place: u8) -> Self {
        // SAFETY: the context is this program's own.
        let (ifindex, frame) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).len) };
        Self {
            ifindex,
            place: place.into(),
            frame,
            is_unread: 0,
        }
    }

    /// With `outer` bytes in front that the frame did not have when it came.
    #[inline(always)]
    fn at_xdp(ctx: &XdpContext, outer: u32) -> Self {
        // First one from the other, which is all that the verifier lets be done with an end.
        let len = core::hint::black_box((ctx.data_end() - ctx.data()) as u32);
        Self {
            ifindex: ctx.ingress_ifindex() as u32,
            place: SEEN_XDP.into(),
            frame: len.wrapping_sub(outer),
            is_unread: 0,
        }
    }
}

/// Tells of a flow's beginning or end, if the packet is that, and is not dropped all the same.
#[inline(always)]
pub fn flow(scratch: &Scratch) {
    if scratch.work.told.event != 0 && scratch.work.verdict.action != Action::Drop {
        record(scratch, scratch.work.told.event.into(), 0);
    }
}

/// Tells of a packet that is dropped, or refused, and counts it of its service.
#[inline(always)]
pub fn dropped(scratch: &Scratch, reason: u32) {
    drop_told(scratch, reason);
}

/// The same for a packet that could not be read.
#[inline(always)]
pub fn unread(scratch: &mut Scratch, reason: Counter) {
    scratch.work.packet = Packet::nothing();
    scratch.work.verdict = Verdict::drop(&scratch.work.packet.tuple, reason);
    scratch.work.told.clear();
    scratch.seen.is_unread = 1;
    record(scratch, EVENT_DROPPED.into(), reason as u32);
}

#[inline(never)]
fn drop_told(scratch: &Scratch, reason: u32) -> u32 {
    let meter = u32::from(scratch.work.told.meter);
    if meter != 0 {
        let key = MeterDrop { meter, reason };
        match METER_DROPS.get_ptr_mut(&key) {
            // SAFETY: per CPU, and programs are not preempted by themselves.
            Some(packets) => unsafe { *packets += 1 },
            // Without room for it the packet is counted by its reason alone.
            None => _ = METER_DROPS.insert(&key, &1, 0),
        }
    }
    record(scratch, EVENT_DROPPED.into(), reason)
}

/// What could not be told, by kind.
#[inline(always)]
fn lost(kind: u32) {
    if let Some(records) = LOST.get_ptr_mut(kind) {
        // SAFETY: as above.
        unsafe { *records += 1 };
    }
}

#[inline(never)]
fn record(scratch: &Scratch, event: u32, reason: u32) -> u32 {
    core::hint::black_box(try_record(scratch, event, reason).is_some() as u32)
}

#[inline(always)]
fn try_record(scratch: &Scratch, event: u32, reason: u32) -> Option<()> {
    let watch = WATCH.get(0)?;
    let kind = match event == u32::from(EVENT_DROPPED) {
        true => LOST_DROPS,
        false => LOST_FLOWS,
    };
    // SAFETY: takes nothing, always allowed.
    let now = unsafe { bpf_ktime_get_ns() };
    let spent = BUDGETS.get_ptr_mut(kind)?;
    // SAFETY: per CPU, as above.
    let next = spend(
        unsafe { *spent },
        now,
        watch.record_cost,
        watch.record_burst,
    );
    if next == 0 {
        if watch.record_cost != 0 {
            lost(kind);
        }
        return None;
    }
    // SAFETY: as above.
    unsafe { *spent = next };
    let Some(mut entry) = RECORDS.reserve_untyped::<Record>(0) else {
        lost(LOST_ROOM);
        return None;
    };
    // SAFETY: the entry has room for a record.
    unsafe { fill(entry.as_mut_ptr(), scratch, now, event, reason) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    Some(())
}

/// # Safety
/// There is room for a record.
#[inline(always)]
unsafe fn fill(record: *mut Record, scratch: &Scratch, at: u64, event: u32, reason: u32) {
    let Scratch { work, seen, .. } = scratch;
    let (packet, verdict, told) = (&work.packet, &work.verdict, &work.told);
    let answer = match told.is_answer() {
        false => 0,
        true => RECORD_ANSWER,
    };
    let unread = match seen.is_unread {
        0 => 0,
        _ => RECORD_UNREAD,
    };
    // SAFETY: the caller's.
    unsafe {
        record.write(Record {
            at,
            packet: packet.tuple,
            to: verdict.to,
            ifindex: seen.ifindex,
            reason,
            endpoint: verdict.endpoint,
            sender: told.sender,
            node: verdict.node,
            vni: verdict.vni,
            frame: seen.frame,
            meter: told.meter,
            outer: 0,
            event: event as u8,
            place: seen.place as u8,
            action: verdict.action.number() as u8,
            tcp_flags: packet.tcp_flags,
            flags: answer | unread,
            pad: [0; 7],
        });
    }
}

/// Counts a packet that is carried of its service.
#[inline(always)]
pub fn carried(ctx: &TcContext, scratch: &Scratch) {
    let told = &scratch.work.told;
    if told.metered() == 0 {
        return;
    }
    let Some(meter) = METERS.get_ptr_mut(told.meter.into()) else {
        return;
    };
    // SAFETY: the context is this program's own.
    let (size, segments) = unsafe { ((*ctx.skb.skb).gso_size, (*ctx.skb.skb).gso_segs) };
    let mut bytes = u32::from(scratch.layout.len);
    let mut packets = 1;
    if size != 0 && segments > 1 {
        // Each that the kernel has joined here has headers of its own on a wire.
        packets = segments;
        let headers = u32::from(scratch.work.packet.len).wrapping_sub(size);
        bytes = (scratch.seen.frame - ETH_LEN as u32) + (segments - 1) * headers;
    }
    let way = (usize::from(told.metered()) - 1) & 1;
    // SAFETY: per CPU, and programs are not preempted by themselves.
    unsafe {
        (*meter).packets[way] += u64::from(packets);
        (*meter).bytes[way] += u64::from(bytes);
        if told.event == EVENT_OPENED {
            (*meter).flows += 1;
        }
    }
}

/// Counts a flow that begins here with a packet that the hook behind carries, and counts: it finds the flow known.
#[inline(always)]
fn begun(scratch: &Scratch) {
    let told = &scratch.work.told;
    if told.event == EVENT_OPENED
        && told.metered() != 0
        && let Some(meter) = METERS.get_ptr_mut(told.meter.into())
    {
        // SAFETY: as above.
        unsafe { (*meter).flows += 1 };
    }
}

/// Whether packets are captured, as far as that is told without a look at the clock.
#[inline(always)]
fn may_capture() -> bool {
    WATCH.get(0).is_some_and(|watch| watch.capture_until != 0)
}

/// Captures a packet as it came in, if anybody wants it.
#[inline(always)]
pub fn capture(ctx: &TcContext, scratch: &mut Scratch, reason: u32) {
    if may_capture() && scratch.work.verdict.action != Action::Pass {
        capture_at_tc(ctx, scratch, reason);
    }
}

#[inline(never)]
fn capture_at_tc(ctx: &TcContext, scratch: &mut Scratch, reason: u32) -> u32 {
    // SAFETY: the context is this program's own.
    scratch.seen.frame = unsafe { (*ctx.skb.skb).len };
    output(ctx, scratch, reason, 0)
}

/// Whether there is anything to tell of a packet that XDP has decided on: next to never of those that pass most often.
#[inline(always)]
pub fn is_wanted(scratch: &Scratch, action: u32) -> bool {
    scratch.work.told.event != 0 || action == XDP_DROP || (action != XDP_PASS && may_capture())
}

/// Tells of a packet that XDP has decided on, with `counted`: its flow's beginning or end, that it is dropped, the
/// packet itself. What goes on to the hook behind is captured there. A function of its own, as its caller has no stack to
/// spare.
#[inline(never)]
pub fn at_xdp(ctx: &XdpContext, scratch: &mut Scratch, action: u32, counted: u32) -> u32 {
    // What was sent on to another node in VXLAN has its outer headers from here.
    let is_tunnelled = scratch.work.verdict.action == Action::Tunnel;
    let outer = match is_tunnelled && action != XDP_PASS && action != XDP_DROP {
        true => OUTER_LEN as u32,
        false => 0,
    };
    scratch.seen = Seen::at_xdp(ctx, outer);
    flow(scratch);
    match action {
        XDP_DROP => dropped(scratch, counted),
        XDP_PASS => begun(scratch),
        _ => {}
    }
    if action == XDP_PASS || !may_capture() {
        return core::hint::black_box(0);
    }
    let reason = if action == XDP_DROP { counted } else { 0 };
    output(ctx, scratch, reason, outer)
}

#[inline(always)]
fn output<C: EbpfContext>(ctx: &C, scratch: &mut Scratch, reason: u32, outer: u32) -> u32 {
    core::hint::black_box(try_output(ctx, scratch, reason, outer).is_some() as u32)
}

/// The packet with the `outer` bytes in front of it.
#[inline(always)]
fn try_output<C: EbpfContext>(
    ctx: &C,
    scratch: &mut Scratch,
    reason: u32,
    outer: u32,
) -> Option<()> {
    let watch = WATCH.get(0)?;
    // SAFETY: takes nothing, always allowed.
    let now = unsafe { bpf_ktime_get_ns() };
    let (packet, to) = (&scratch.work.packet.tuple, &scratch.work.verdict.to);
    if now >= watch.capture_until || !watch.may_want(packet, to) {
        return None;
    }
    let len = scratch.seen.frame + outer;
    let record = &raw mut scratch.captured;
    // SAFETY: the record is this program's until it ends.
    unsafe {
        fill(record, scratch, now, EVENT_PACKET.into(), reason);
        (*record).frame = len;
        (*record).outer = outer as u16;
        let copied = watch.capture_len + outer;
        let copied = match len < copied {
            true => len,
            false => copied,
        };
        CAPTURED.output(ctx, &*record, copied);
    }
    Some(())
}
