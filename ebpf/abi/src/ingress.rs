//! Published ports, and who answers on them.

use crate::{Addr, Port, limits::LOCAL_BACKENDS_MAX, pod};

/// Sources that come in by this device are not unique in the cluster: they are translated to the
/// node's address before they are balanced.
pub const DEVICE_TRANSLATE: u32 = 1;
/// The device has the XDP program, and sends what the XDP program of another device redirects to it.
pub const DEVICE_XDP: u32 = 2;
/// The device is one end of a veth pair. What is redirected to it is handed to the other end at once;
/// what a program returns to it (XDP_TX) stays in a queue until something else is sent, if the other
/// end has no program of its own.
pub const DEVICE_PAIR: u32 = 4;

/// The member answers: flows may be sent to it. Without the flag it is only listened to.
pub const MEMBER_UP: u32 = 1;
/// Not a data path address, but one of [`crate::addresses::SECURE_NET`]: what comes from it counts only if it
/// came by the secure device.
pub const MEMBER_SECURE: u32 = 2;

/// A program of the host listens on the port: whoever calls this node by it gets the program. What
/// other nodes send here is delivered all the same.
pub const PUBLISHED_TAKEN: u16 = 1;
/// Answers go straight to clients, from the node that the task is on (return mode `dsr`).
pub const PUBLISHED_DSR: u16 = 2;
/// Tasks see the node that a client came in by in its place (return mode `snat`).
pub const PUBLISHED_SNAT: u16 = 4;

/// Only by the addresses in `BOUND` is the port this one: by others it is the node's own.
pub const PUBLISHED_BOUND: u16 = 8;
/// Only clients in `SOURCES` begin flows.
pub const PUBLISHED_LIMITED: u16 = 16;
/// A client's address alone picks node and task: so all of its flows come to one task.
pub const PUBLISHED_AFFINE: u16 = 32;

/// What users call the return mode of a published port with these flags.
pub const fn return_mode_name(flags: u16) -> &'static str {
    match flags & (PUBLISHED_DSR | PUBLISHED_SNAT) {
        PUBLISHED_DSR => "dsr",
        PUBLISHED_SNAT => "snat",
        _ => "symmetric",
    }
}

/// A published port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedKey {
    /// As in the packet.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// One of the addresses that a port is bound to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoundKey {
    /// An address of the node, or of its loopback.
    pub addr: Addr,
    /// The published port.
    pub port: PublishedKey,
}

/// Clients that may begin flows to a service: those whose addresses begin as this one does. A key of a trie of
/// prefixes, behind the length of the prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// [`Published::service`]; always part of the prefix.
    pub service: u32,
    /// The address.
    pub addr: Addr,
}

impl Source {
    /// Bits of a prefix that has `len` bits of the address.
    pub const fn prefix_bits(len: u8) -> u32 {
        32 + len as u32
    }
}

/// What a published port leads to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Index of the service in `NODE_TABLES`, `OLD_TABLES` and `LOCAL_BACKENDS`.
    pub service: u32,
    /// Slots in its node table; 0: no task anywhere.
    pub slots: u32,
    /// Slots in its previous node table.
    pub old_slots: u32,
    /// The port that its tasks listen on.
    pub target: Port,
    /// [`PUBLISHED_TAKEN`], [`PUBLISHED_BOUND`], [`PUBLISHED_LIMITED`], [`PUBLISHED_AFFINE`], and
    /// [`PUBLISHED_DSR`] or [`PUBLISHED_SNAT`]; of these neither: answers go back by the node that the client
    /// came in by, and tasks see the client (`symmetric`). But for where a port is bound, of new flows; one that
    /// there is keeps what it began with.
    pub flags: u16,
    /// Number of its [`crate::sight::Meter`]; 0: none.
    pub meter: u32,
}

/// The tasks of one service on this node, by endpoint index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalBackends {
    /// How many of `ready` count.
    pub ready_len: u32,
    /// How many of `draining` count.
    pub draining_len: u32,
    /// Take new flows.
    pub ready: [u32; LOCAL_BACKENDS_MAX],
    /// Keep the flows they have.
    pub draining: [u32; LOCAL_BACKENDS_MAX],
}

impl Default for LocalBackends {
    fn default() -> Self {
        Self {
            ready_len: 0,
            draining_len: 0,
            ready: [0; LOCAL_BACKENDS_MAX],
            draining: [0; LOCAL_BACKENDS_MAX],
        }
    }
}

pod!(PublishedKey, BoundKey, Source, Published, LocalBackends);
