//! Fragments: the first one of a datagram has the ports, the later ones follow it.
//!
//! What is remembered is the ports alone, by datagram: with them a later fragment has the tuple of its
//! flow, and all tables that the first one went by say the same of it.

use crate::{FIRST_FRAGMENT, LATER_FRAGMENT, subprogram::subprogram};
use skein_abi::flow::{Fragment, FragmentKey};

subprogram! {
    /// A packet seen at `place` (see [`FragmentKey::place`]): a later fragment gets what only the first
    /// one had. False: the first one has not come by.
    pub fn complete(t, w, place: u32) -> bool {
        w.fragment_key = FragmentKey {
            place,
            src: w.packet.tuple.src,
            dst: w.packet.tuple.dst,
            id: w.packet.id,
            proto: w.packet.tuple.proto,
            pad: 0,
        };
        if w.packet.fragment != LATER_FRAGMENT {
            return true;
        }
        let Some(first) = t.fragment(&w.fragment_key) else {
            return false;
        };
        if t.now().saturating_sub(first.seen) >= t.config().timeouts.fragment {
            return false;
        }
        w.packet.tuple.sport = first.sport;
        w.packet.tuple.dport = first.dport;
        w.packet.icmp_type = first.icmp_type;
        true
    }

    /// Lets later fragments follow a first one, of which `complete` was asked.
    pub fn remember(t, w) -> bool {
        if w.packet.fragment != FIRST_FRAGMENT {
            return false;
        }
        w.fragment = Fragment {
            seen: t.now(),
            sport: w.packet.tuple.sport,
            dport: w.packet.tuple.dport,
            icmp_type: w.packet.icmp_type,
            pad: [0; 3],
        };
        t.insert_fragment(&w.fragment_key, &w.fragment);
        true
    }
}
