//! Sources that are not unique in the cluster leave by the node's address and a port of a range of
//! its own: what containers send to the world outside, and local clients of published ports.

use crate::{Packet, Tables, Verdict, Work, conntrack::is_alive, hash, subprogram::subprogram};
use skein_abi::{Addr, ICMP, Port, flow::*, verdict::Counter};

/// Ports that are tried for one flow. With the range half full, 16 misses in a row happen to one
/// flow in 65,536.
const PORT_TRIES: u32 = 16;

subprogram! {
    /// Fills in `to`: the tuple by which the packet leaves the node, towards `dst`; false: no port was
    /// free.
    pub fn translate(t, w, scope: u32, dst: Addr) -> bool {
        let now = t.now();
        w.nat_key.scope = scope;
        w.nat_key.tuple = w.packet.tuple;
        let mut known = false;
        if let Some(out) = t.nat(&w.nat_key) {
            w.to = out.to();
            out.set_seen(now);
            known = true;
        }
        if known && answers_come_back(t, w, scope, now) {
            return true;
        }
        if w.packet.is_error() {
            return false;
        }
        let (min, max) = (t.config().nat_port_min, t.config().nat_port_max);
        let range = u32::from(max.saturating_sub(min)) + 1;
        let spread = hash(&w.packet.tuple);
        for attempt in 0..PORT_TRIES {
            let nth = spread.wrapping_add(attempt.wrapping_mul(40_503)) % range;
            let port: Port = (min + nth as u16).to_be();
            w.to = w.packet.tuple;
            w.to.src = t.config().node_addr;
            w.to.dst = dst;
            w.to.sport = port;
            if w.to.proto == ICMP {
                // The identifier of an echo stands in for both ports.
                w.to.dport = port;
            }
            if claim(t, w, scope, now) {
                w.told.opens();
                return true;
            }
        }
        false
    }

    /// Whether the answers to `to` are (still) this flow's.
    fn answers_come_back(t, w, scope: u32, now: u64) -> bool {
        w.nat_key.scope = NAT_INCOMING;
        w.nat_key.tuple = w.to.reversed();
        let Some(back) = t.nat(&w.nat_key) else {
            return false;
        };
        if back.scope() != scope || back.to().reversed() != w.packet.tuple {
            return false;
        }
        let marks = match back.marks() {
            before if w.packet.is_syn() && is_closed(before) => 0,
            before => before,
        };
        let after = marks | w.packet.marks(true);
        w.told.ends(marks, after);
        back.set_marks(after);
        back.set_seen(now);
        true
    }

    /// Takes `to` for this flow, if nobody has it.
    fn claim(t, w, scope: u32, now: u64) -> bool {
        w.nat_key.scope = NAT_INCOMING;
        w.nat_key.tuple = w.to.reversed();
        if let Some(other) = t.nat(&w.nat_key)
            && is_alive(&t.config().timeouts, w.to.proto, other.marks(), other.seen(), now)
        {
            return false;
        }
        w.nat.seen = now;
        w.nat.scope = scope;
        w.nat.marks = w.packet.marks(true);
        w.nat.pad = [0; 3];
        w.nat.to = w.packet.tuple.reversed();
        let back = t.insert_nat(&w.nat_key, &w.nat);
        w.nat.to = w.to;
        w.nat_key.scope = scope;
        w.nat_key.tuple = w.packet.tuple;
        back && t.insert_nat(&w.nat_key, &w.nat)
    }

    /// `to` is an answer as it arrives at the node's address: decided if it belongs to a translated
    /// source.
    pub fn untranslate(t, w) -> bool {
        if !is_nat_port(t, w.to.dport) {
            return false;
        }
        w.nat_key.scope = NAT_INCOMING;
        w.nat_key.tuple = w.to;
        let Some(back) = t.nat(&w.nat_key) else {
            return false;
        };
        let (before, now) = (back.marks(), t.now());
        if !is_alive(&t.config().timeouts, w.to.proto, before, back.seen(), now) {
            return false;
        }
        let after = before | w.packet.marks(false);
        w.told.answer_elsewhere(before, after);
        back.set_marks(after);
        back.set_seen(now);
        w.to = back.to();
        give_back(t, w, back.scope());
        true
    }
}

/// Why a packet could not be translated.
#[inline(always)]
pub const fn refusal(packet: &Packet) -> Counter {
    match packet.is_error() {
        true => Counter::DropNoFlow,
        false => Counter::DropNoPort,
    }
}

/// Decides where the answer `to` of a translated source of `scope` goes.
#[inline(always)]
fn give_back<T: Tables>(t: &T, w: &mut Work, scope: u32) {
    w.verdict = match scope {
        NAT_HOST => Verdict::host(&w.to),
        NAT_ROUTED => Verdict::out(&w.to),
        scope => {
            let index = scope.wrapping_sub(scope_of(0));
            match t.endpoint(index) {
                Some(found) if found.addr == w.to.dst => Verdict::endpoint(&w.to, index),
                _ => Verdict::drop(&w.to, Counter::DropNoFlow),
            }
        }
    };
}

/// Whether a port (as in a packet) is of the range that translated sources have.
#[inline(always)]
pub fn is_nat_port<T: Tables>(t: &T, port: Port) -> bool {
    let (config, port) = (t.config(), u16::from_be(port));
    config.nat_port_min <= port && port <= config.nat_port_max
}
