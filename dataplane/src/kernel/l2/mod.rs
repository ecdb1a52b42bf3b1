//! Forwarding by l2: to which members packets go in frames of their own instead of VXLAN.
//!
//! A network may deliver such frames or not: they have the source addresses of others (see
//! [`skein_abi::segment`]). So it is tried, for each member that shares a segment with this node, before and
//! as long as it is used. The other node's programs answer by themselves, whatever its dataplane does.
//!
//! MAC addresses are the kernel's own neighbours, which keeps them true as long as they are used: by the echoes of
//! [`super::probe`], to every member all the time.
//!
//! - [`segment`]: who shares a segment with this node, and by which MAC address (pure).
//! - [`pairs`]: what is sent to whom by l2, from how probes were answered (pure).
//! - [`frame`]: the probe (pure).
//! - `prober`: asks the kernel and the others, tells the programs.

mod frame;
mod pairs;
mod prober;
mod segment;

pub use prober::{Prober, monotonic};

use crate::config::Forwarding;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Whom packets are forwarded to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Data path address of this node; `None`: it is no member itself.
    pub own: Option<Ipv4Addr>,
    /// UDP port of the overlay.
    pub port: u16,
    /// Data path addresses of the others.
    pub others: Vec<Ipv4Addr>,
}

/// How packets go to one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Requests: what clients of this node send.
    pub requests: By,
    /// The answers to what it has sent here.
    pub replies: By,
    /// Of requests: why so.
    pub reason: String,
}

/// A forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// In frames of their own.
    L2,
    /// Encapsulated.
    Vxlan,
}

impl By {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Vxlan => "vxlan",
        }
    }
}

/// By data path address.
pub type Ways = BTreeMap<Ipv4Addr, Way>;

impl Way {
    /// Of a member that nothing is known of.
    fn vxlan(reason: String) -> Self {
        Self {
            requests: By::Vxlan,
            replies: By::Vxlan,
            reason,
        }
    }
}

/// What the operator wants, in words.
const fn wish(forwarding: Forwarding) -> &'static str {
    match forwarding {
        Forwarding::Auto => "--forwarding auto",
        Forwarding::L2 => "--forwarding l2",
        Forwarding::Vxlan => "--forwarding vxlan",
    }
}
