//! Answers to the clients of published ports, on the way back by the node that they came in by.

use crate::{Verdict, ingress::published, nat, subprogram::subprogram};
use skein_abi::{VNI_REPLY, verdict::Counter};

subprogram! {
    /// Nobody takes the flow: TCP is reset, by the node that the client came in by; the rest is dropped.
    pub fn refuse(t, w) -> bool {
        if !w.packet.may_be_reset() {
            w.verdict = Verdict::drop(&w.client, Counter::DropNoTask);
            return true;
        }
        t.count(Counter::DropNoTask);
        w.to = w.client.reversed();
        match w.entry {
            0 => {
                out(t, w);
            }
            node => w.verdict = Verdict::tunnel(&w.to, node, VNI_REPLY, 0),
        }
        w.verdict.reset = 1;
        true
    }

    /// A finished answer, back at the node that its client came in by.
    pub fn replied(t, w) -> bool {
        w.to = w.packet.tuple;
        w.client = w.packet.tuple.reversed();
        if let Some(affinity) = t.affinity(&w.client) {
            let before = affinity.marks();
            let marks = before | w.packet.marks(false);
            affinity.set_seen(t.now());
            affinity.set_marks(marks);
            w.told.answer_elsewhere(before, marks);
            w.told.meter = affinity.meter();
        } else if !t.is_flooded() || !t.is_local(w.client.dst) || published(t, &w.client).is_none() {
            // (In a flood, opening flows are not remembered: that the client can have called must do.)
            w.verdict = Verdict::drop(&w.to, Counter::DropNoFlow);
            return true;
        }
        out(t, w)
    }

    /// Sends a finished answer, `to`, to the client that came in by this node.
    pub fn out(t, w) -> bool {
        t.count(Counter::ReplyOut);
        if !t.is_local(w.to.dst) {
            w.verdict = Verdict::out(&w.to);
        } else if !nat::untranslate(t, w) {
            // The client is a socket of this node's own.
            w.verdict = Verdict::host(&w.to);
        }
        true
    }
}
