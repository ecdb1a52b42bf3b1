//! Published ports, and who answers on them.

use crate::{Port, limits::LOCAL_BACKENDS_MAX, pod};

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

/// A program of the host listens on the port: whoever calls this node by it gets the program. What
/// other nodes send here is delivered all the same.
pub const PUBLISHED_TAKEN: u16 = 1;
/// Answers go straight to clients, from the node that the task is on (return mode `dsr`).
pub const PUBLISHED_DSR: u16 = 2;
/// Tasks see the node that a client came in by in its place (return mode `snat`).
pub const PUBLISHED_SNAT: u16 = 4;

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
    /// [`PUBLISHED_TAKEN`], and [`PUBLISHED_DSR`] or [`PUBLISHED_SNAT`]; of these neither: answers go back by
    /// the node that the client came in by, and tasks see the client (`symmetric`). Of new flows; one that
    /// there is keeps what it began with.
    pub flags: u16,
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

pod!(PublishedKey, Published, LocalBackends);
