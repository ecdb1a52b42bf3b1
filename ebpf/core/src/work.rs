//! A packet's way through the decisions, where the stack is too small.

use crate::{Packet, Verdict};
use skein_abi::{
    Addr,
    flow::*,
    segment::Peer,
    sight::{EVENT_CLOSED, EVENT_OPENED, METER_IN, METER_OUT},
};

/// One packet on its way through the decisions: what came in, what is decided so far, and room for
/// what is looked up on the way.
///
/// In the kernel it lies in a per-CPU map, because the stack of a program is too small for it. So the
/// parts below are shared by all functions: whoever calls one that fills in a part names it.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The packet as it arrived.
    pub packet: Packet,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Published ports: the packet's tuple as it is at the node that the client came in by.
    pub(crate) client: Tuple,
    /// Data path address of that node; 0 for this one.
    pub(crate) entry: Addr,
    /// What the packet came in, if it came from another node; else 0. What came by l2 has that of VXLAN.
    pub(crate) vni: u32,
    /// 1: it came by the secure device: decrypted, from the node that the outer source address says.
    pub secure: u32,
    /// A tuple to go on with: result of translations, argument of routing.
    pub(crate) to: Tuple,
    pub(crate) key: CtKey,
    pub(crate) ct: Ct,
    pub(crate) nat_key: NatKey,
    pub(crate) nat: Nat,
    pub(crate) affinity: Affinity,
    pub(crate) fragment_key: FragmentKey,
    pub(crate) fragment: Fragment,
    /// [`Action::Segment`](crate::Action::Segment): who gets the frame.
    pub peer: Peer,
    /// What there is to tell of it, and to count.
    pub told: Told,
}

/// What there is to tell of a packet beside its verdict, for those who watch. Decisions note it, hooks tell it at the
/// end, if at all.
///
/// In one word: it is cleared for every packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// 1 and the index of the endpoint that sent it; else 0.
    pub sender: u32,
    /// The published port or VIP that it is of, by number; 0: not known.
    pub meter: u16,
    /// [`EVENT_OPENED`]: its flow was not known; [`EVENT_CLOSED`]: it ends its connection; else 0.
    pub event: u8,
    /// [`METER_IN`], [`METER_OUT`]: to be counted there; 0: not here. And [`ANSWER`].
    way: u8,
}

/// [`Told::way`]: it goes from the server to the client.
const ANSWER: u8 = 4;
const _: () =
    assert!(size_of::<Told>() == size_of::<u64>() && ANSWER & (METER_IN | METER_OUT) == 0);

impl Told {
    /// Forgets all of it, by one store: of a value field by field the compiler makes a loop over bytes.
    #[inline(always)]
    pub fn clear(&mut self) {
        // SAFETY: as large as that word and aligned like it; all zero is a value.
        unsafe { (&raw mut *self).cast::<u64>().write(0) }
    }

    /// [`METER_IN`], [`METER_OUT`]: to be counted there; 0: not here.
    #[inline(always)]
    pub const fn metered(&self) -> u8 {
        self.way & !ANSWER
    }

    /// It goes from the server to the client.
    #[inline(always)]
    pub const fn is_answer(&self) -> bool {
        self.way & ANSWER != 0
    }

    /// A packet that changed the marks of its connection so. Most change none.
    #[inline(always)]
    pub(crate) fn ends(&mut self, before: u8, after: u8) {
        if before != after && !is_closed(before) && is_closed(after) {
            self.event = EVENT_CLOSED;
        }
    }

    /// The first packet of a flow.
    #[inline(always)]
    pub(crate) fn opens(&mut self) {
        self.event = EVENT_OPENED;
    }

    /// The first packet of a flow that is counted here.
    #[inline(always)]
    pub(crate) fn opens_here(&mut self) {
        self.opens();
        self.way = METER_IN;
    }

    /// A packet from the client of the published port or VIP `meter`.
    #[inline(always)]
    pub(crate) fn request(&mut self, meter: u16, before: u8, after: u8) {
        self.meter = meter;
        self.way = METER_IN;
        self.ends(before, after);
    }

    /// A packet to the client of the published port or VIP `meter`.
    #[inline(always)]
    pub(crate) fn answer(&mut self, meter: u16, before: u8, after: u8) {
        self.meter = meter;
        self.way = METER_OUT | ANSWER;
        self.ends(before, after);
    }

    /// A packet to the client that is counted elsewhere.
    #[inline(always)]
    pub(crate) fn answer_elsewhere(&mut self, before: u8, after: u8) {
        self.way = ANSWER;
        self.ends(before, after);
    }
}

impl Work {
    /// A packet of which nothing is decided.
    pub fn new(packet: Packet) -> Self {
        Self {
            packet,
            verdict: Verdict::pass(&packet.tuple),
            client: packet.tuple,
            entry: 0,
            vni: 0,
            secure: 0,
            to: packet.tuple,
            key: CtKey::default(),
            ct: Ct::default(),
            nat_key: NatKey::default(),
            nat: Nat::default(),
            affinity: Affinity::default(),
            fragment_key: FragmentKey::default(),
            fragment: Fragment::default(),
            peer: Peer::default(),
            told: Told::default(),
        }
    }
}
