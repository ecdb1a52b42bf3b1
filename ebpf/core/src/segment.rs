//! Forwarding by l2: what members on one segment send each other not in VXLAN, but in frames of their own.
//!
//! Who sends chooses, by the lease that the dataplane gives ([`choose`]). Who receives takes both forwardings
//! at any time: two nodes may disagree on which they use.
//!
//! A frame that is forwarded so has both the MAC address and, as its destination, the data path address of
//! one member; an answer comes from the MAC address of a member, and has this node's own address as its
//! source. No other frame has either: nobody sends to itself by a wire. So nothing that a member routes for
//! others, or that its programs send, is taken for one.

use crate::{
    Action, Verdict, Work, answers, fragments, ingress::published, subprogram::subprogram,
    tables::Tables,
};
use skein_abi::{
    Addr, UDP, VNI_FORWARD, VNI_REPLY,
    flow::place_of_vni,
    segment::{PEER_ANSWERED, PROBE_ADDR, Sender},
    verdict::Counter,
};

subprogram! {
    /// A frame that came in by an uplink. Not decided: it is nothing that members send each other by l2.
    pub fn from_segment(t, w, ifindex: u32) -> bool {
        let own = t.config().node_addr;
        if own == 0 {
            return false;
        }
        match w.packet.tuple.src == own {
            true => returned(t, w, ifindex),
            false => arrived(t, w, ifindex),
        }
    }

    /// A packet whose source is this node's own address.
    fn returned(t, w, ifindex: u32) -> bool {
        let client = w.packet.tuple.reversed();
        let sender = sender(t, w, ifindex);
        if sender == 0 {
            let is_answer = published(t, &client).is_some();
            return is_answer && dropped(w, Counter::DropForged);
        }
        if is_overlay_port(t, w, client.dport) && client.src == PROBE_ADDR {
            return answered(t, w, sender);
        }
        let is_complete = fragments::complete(t, w, place_of_vni(VNI_REPLY));
        let client = w.packet.tuple.reversed();
        let may_be_answer = is_complete
            && (t.affinity(&client).is_some() || t.is_flooded() && published(t, &client).is_some());
        if !may_be_answer && sender == client.src {
            // A program of this node called that one, which sends the packet back here, to the task.
            return taken(t, w);
        }
        if !is_complete {
            return dropped(w, Counter::DropFragment);
        }
        w.entry = sender;
        w.vni = VNI_REPLY;
        answers::replied(t, w)
    }

    /// A packet from elsewhere, perhaps to a member's address.
    fn arrived(t, w, ifindex: u32) -> bool {
        let member = w.packet.tuple.dst;
        let Some(peer) = t.peer(member) else {
            return false;
        };
        if sender(t, w, ifindex) != member {
            // The stack would send it on to that node, which might send it here again, by l2.
            let may_be_forwarded = peer.ifindex == ifindex
                && w.packet.macs[0] == peer.own_mac
                && published(t, &w.packet.tuple).is_some();
            return may_be_forwarded && dropped(w, Counter::DropForged);
        }
        if w.packet.tuple.src == PROBE_ADDR && is_overlay_port(t, w, w.packet.tuple.dport) {
            return asked(t, w, ifindex);
        }
        taken(t, w)
    }

    /// A packet that its destination, the node that a client has called, has sent here.
    fn taken(t, w) -> bool {
        if !fragments::complete(t, w, place_of_vni(VNI_FORWARD)) {
            return dropped(w, Counter::DropFragment);
        }
        w.client = w.packet.tuple;
        w.entry = w.client.dst;
        w.vni = VNI_FORWARD;
        w.verdict = Verdict::forwarded(&w.client);
        true
    }

    /// A probe of the member that it is addressed to. It is answered by the way that answers to clients have.
    fn asked(t, w, ifindex: u32) -> bool {
        w.verdict = Verdict::drop(&w.packet.tuple, Counter::L2Probe);
        let Some(peer) = t.peer(w.packet.tuple.dst) else {
            return true;
        };
        let is_that_way = peer.ifindex == ifindex && peer.mac == w.packet.macs[1];
        if !is_that_way || peer.flags & PEER_ANSWERED == 0 {
            return true;
        }
        if let Some(heard) = t.heard(peer.index) {
            heard.set_asked_port(w.packet.tuple.sport);
            heard.set_asked(t.now());
        }
        t.count(Counter::L2Probe);
        w.verdict = Verdict::echo(&w.packet.tuple.reversed());
        true
    }

    /// The answer of a member to a probe of this node's.
    fn answered(t, w, member: Addr) -> bool {
        if let Some(peer) = t.peer(member)
            && let Some(heard) = t.heard(peer.index)
        {
            heard.set_answered_port(w.packet.tuple.dport);
            heard.set_answered(t.now());
        }
        dropped(w, Counter::L2Probe)
    }

    /// Looks at a verdict that is whole: what goes to another node goes by l2, where the dataplane found that
    /// this works. Only such packets do as it was tried with: requests of others to this node's own address,
    /// answers from the other's, and what the device carries in one piece. The second hop never does.
    pub fn choose(t, w) -> bool {
        if w.verdict.action != Action::Tunnel {
            return false;
        }
        let (own, node, to) = (t.config().node_addr, w.verdict.node, w.verdict.to);
        let is_request = w.verdict.vni == VNI_FORWARD && to.dst == own && to.src != own;
        let is_answer = w.verdict.vni == VNI_REPLY && to.src == node && to.dst != node;
        if !is_request && !is_answer {
            return false;
        }
        let Some(peer) = t.peer(node) else {
            return false;
        };
        let Some(lease) = t.lease(peer.index) else {
            return false;
        };
        let until = match is_request {
            true => lease.requests_until,
            false => lease.replies_until,
        };
        if until <= t.now() || w.packet.len > peer.mtu {
            return false;
        }
        w.peer = peer;
        w.verdict.action = Action::Segment;
        true
    }
}

/// The member whose MAC address the frame has as its source; 0: none that shares this segment.
#[inline(always)]
fn sender<T: Tables>(t: &T, w: &Work, ifindex: u32) -> Addr {
    let [to, from] = w.packet.macs;
    let sender = Sender { ifindex, to, from };
    t.sender(&sender).unwrap_or(0)
}

/// Whether `port` of the packet is UDP's of the overlay. Probes are in one piece.
#[inline(always)]
fn is_overlay_port<T: Tables>(t: &T, w: &Work, port: u16) -> bool {
    w.packet.tuple.proto == UDP
        && port == t.config().vxlan_port
        && w.packet.fragment == 0
        && !w.packet.is_error()
}

#[inline(always)]
fn dropped(w: &mut Work, reason: Counter) -> bool {
    w.verdict = Verdict::drop(&w.packet.tuple, reason);
    true
}
