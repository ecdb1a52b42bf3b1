//! The decisions of Skein's packet path, free of any hook.
//!
//! A hook parses a packet into [`Work`], calls one of the functions below, which fills in the
//! [`Verdict`], and carries that out. All they know comes through [`Tables`]: kernel maps in the programs, plain maps in
//! the tests on the host.
//!
//! | packet seen at | function |
//! |---|---|
//! | an uplink, a bridge of the engine | [`uplink`] |
//! | the external vxlan device | [`from_tunnel`] |
//! | the host's end of a container's veth pair | [`from_container`] |
//! | `skein1`, coming from the host itself | [`from_host`] |
//!
//! Then comes [`settle`], which goes on where a verdict is half a decision.
//!
//! # A packet to a published port, and its reply
//!
//! The functions that decide, in order; the same at tc and at XDP but where it says so.
//!
//! | where | request | reply |
//! |---|---|---|
//! | the client's node, uplink (XDP or tc) | [`uplink`], [`settle`] → `enter`: `conntrack::follow`, `follow_affinity`, `pick`, `forward_first` | |
//! | the task's node, vxlan device (tc) | [`from_tunnel`] → `conntrack::follow`, else [`settle`] → `conntrack::begin`, `elsewhere` | |
//! | the task's node, veth (tc) | | [`from_container`] → `follow`: `conntrack::answer`, `reply` |
//! | the client's node, uplink (XDP) or vxlan device (tc) | | [`from_tunnel`] → `answers::replied`, `out` |
//!
//! Where the two nodes share a segment and l2 works there, [`settle`] ends with `segment::choose`, and the
//! other node's [`uplink`] (XDP or tc) has what [`from_tunnel`] has otherwise: `segment::from_segment` goes on
//! with the same functions.
//!
//! XDP finishes what goes on by VXLAN and what comes back by it; a packet for a task of its own node
//! it passes on, untouched, to tc, which decides it anew. If the task is on the client's node, `enter`
//! ends with `conntrack::begin`, and `reply` with `out`.
//!
//! That is the return mode `symmetric`. By `dsr`, `reply` ends with the answer on its way to the client, and the
//! client's node sees none. By `snat`, `conntrack::begin` puts the client's node in the client's place, and the
//! rest is as ever: it is a tuple like any other. A flow keeps the mode that it began with, as its entry of
//! conntrack says; the task's node alone decides.
//!
//! Before any of this, `fragments` gives later fragments the ports of their first one; [`settle`] ends
//! with what it takes for that.
//!
//! An ICMP error goes the way of the flow that it is about: see [`Packet::tuple`]. [`path_mtu`] has those
//! that Skein sends.
//!
//! [`vxlan`] has the outer headers for hooks that make them themselves.
//!
//! Decisions also note what there is to tell of a packet ([`Told`]): that it begins a flow, or ends one, and whose
//! it is. Nothing is decided by that. [`spend`] says how much of it is told.
//!
//! Translation never changes a packet step by step: every function carries a whole [`Tuple`]
//! forward, and the hook replaces the packet's own once, at the end.
#![no_std]

#[cfg(any(test, feature = "testing"))]
#[cfg_attr(test, macro_use)]
extern crate std;

mod answers;
mod budget;
mod conntrack;
mod fragments;
mod ingress;
mod live;
mod nat;
mod overlay;
mod packet;
pub mod path_mtu;
pub mod sctp;
mod segment;
mod subprogram;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tunnel;
pub mod vxlan;
mod work;

pub use budget::spend;
pub use conntrack::is_alive;
pub use ingress::{from_host, offered, settle, uplink};
pub use live::Live;
pub use overlay::from_container;
pub use packet::{Action, FIRST_FRAGMENT, LATER_FRAGMENT, Packet, Verdict};
pub use tables::Tables;
pub use tunnel::from_tunnel;
pub use work::{Told, Work};

use skein_abi::flow::Tuple;

/// A hash of a tuple, the same on every node: it picks the slot of a node table.
///
/// Three rounds of a 32-bit finalizer (multiply, xor-shift), enough to spread neighbouring ports.
#[inline(always)]
pub const fn hash(tuple: &Tuple) -> u32 {
    const fn mix(mut h: u32, v: u32) -> u32 {
        h ^= v;
        h ^= h >> 16;
        h = h.wrapping_mul(0x7feb_352d);
        h ^= h >> 15;
        h = h.wrapping_mul(0x846c_a68b);
        h ^ (h >> 16)
    }
    let ports = ((tuple.sport as u32) << 16) | tuple.dport as u32;
    mix(mix(mix(tuple.proto as u32, tuple.src), tuple.dst), ports)
}

#[cfg(test)]
mod tests;
