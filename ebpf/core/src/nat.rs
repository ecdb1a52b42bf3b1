//! Sources that are not unique in the cluster leave by the node's address and a port of a range of
//! its own: what containers send to the world outside, and local clients of published ports.

use crate::{Tables, Verdict, conntrack::is_alive, hash, subprogram::subprogram};
use skein_abi::{Addr, Port, flow::*, verdict::Counter};

/// Ports that are tried for one flow. With the range half full, 16 misses in a row happen to one
/// flow in 65,536.
const PORT_TRIES: u32 = 16;

subprogram! {
    /// The tuple by which a flow leaves the node, towards `dst`; `None`: no port was free.
    pub fn translate(t, scope: u32, tuple: &Tuple, dst: Addr) -> Option<Tuple> {
        let now = t.now();
        let key = NatKey {
            scope,
            tuple: *tuple,
        };
        if let Some(mut out) = t.nat(&key) {
            let back_key = NatKey {
                scope: NAT_INCOMING,
                tuple: out.to.reversed(),
            };
            if let Some(mut back) = t.nat(&back_key)
                && back.scope == scope
                && back.to.reversed() == *tuple
            {
                out.seen = now;
                back.seen = now;
                t.set_nat(&key, &out);
                t.set_nat(&back_key, &back);
                return Some(out.to);
            }
        }
        let config = t.config();
        let range = u32::from(config.nat_port_max.saturating_sub(config.nat_port_min)) + 1;
        let spread = hash(tuple);
        for attempt in 0..PORT_TRIES {
            let nth = spread.wrapping_add(attempt.wrapping_mul(40_503)) % range;
            let port: Port = (config.nat_port_min + nth as u16).to_be();
            // The identifier of an echo stands in for both ports.
            let dport = if tuple.proto == skein_abi::ICMP {
                port
            } else {
                tuple.dport
            };
            let to = Tuple {
                src: config.node_addr,
                dst,
                sport: port,
                dport,
                ..*tuple
            };
            let back_key = NatKey {
                scope: NAT_INCOMING,
                tuple: to.reversed(),
            };
            if let Some(other) = t.nat(&back_key)
                && is_alive(&config.timeouts, tuple.proto, ESTABLISHED, other.seen, now)
            {
                continue;
            }
            let back = Nat {
                seen: now,
                to: tuple.reversed(),
                scope,
            };
            let out = Nat {
                seen: now,
                to,
                scope,
            };
            return (t.set_nat(&back_key, &back) && t.set_nat(&key, &out)).then_some(to);
        }
        None
    }
}

/// Whether a port (as in a packet) is of the range that translated sources have.
#[inline(always)]
pub fn is_nat_port<T: Tables>(t: &T, port: Port) -> bool {
    let (config, port) = (t.config(), u16::from_be(port));
    config.nat_port_min <= port && port <= config.nat_port_max
}

subprogram! {
    /// An answer to a translated source: back to whom it belongs; `None`: to nobody that we know.
    pub fn untranslate(t, tuple: &Tuple) -> Option<Verdict> {
        if !is_nat_port(t, tuple.dport) {
            return None;
        }
        let key = NatKey {
            scope: NAT_INCOMING,
            tuple: *tuple,
        };
        let mut back = t.nat(&key)?;
        back.seen = t.now();
        t.set_nat(&key, &back);
        Some(match back.scope {
            NAT_HOST => Verdict::host(&back.to),
            NAT_ROUTED => Verdict::out(&back.to),
            scope => {
                let endpoint = scope - scope_of(0);
                match t.endpoint(endpoint) {
                    Some(found) if found.addr == back.to.dst => Verdict::endpoint(&back.to, endpoint),
                    _ => Verdict::drop(tuple, Counter::DropNoFlow),
                }
            }
        })
    }
}
