//! A packet's way through the decisions, where the stack is too small.

use crate::{Packet, Verdict};
use skein_abi::{Addr, flow::*, segment::Peer};

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
        }
    }
}
