//! Entries of flow tables, shared by all CPUs.

use skein_abi::{Addr, Port, flow::*, segment::Heard};

/// An entry of a flow table, in place. Several CPUs may write one at the same time: each field is
/// written whole, and readers bear any mixture of two versions.
pub struct Live<V>(*mut V);

macro_rules! field {
    ($($(#[$meta:meta])* $get:ident, $set:ident: $type:ty;)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        pub fn $get(&self) -> $type {
            // SAFETY: see `Live::new`; the projection stays within the entry.
            unsafe { (&raw const (*self.0).$get).read() }
        }

        /// Writes that.
        #[inline(always)]
        pub fn $set(&self, value: $type) {
            // SAFETY: as above.
            unsafe { (&raw mut (*self.0).$get).write(value) }
        }
    )*};
}

impl<V> Live<V> {
    /// # Safety
    /// The entry must stay readable and writable as long as this lives: in the kernel, until the
    /// program ends (RCU); nobody may hold a Rust reference to it.
    #[inline(always)]
    pub unsafe fn new(entry: *mut V) -> Self {
        Self(entry)
    }
}

impl Live<Ct> {
    field! {
        /// [`Ct::seen`]
        seen, set_seen: u64;
        /// [`Ct::to`]
        to, set_to: Tuple;
        /// [`Ct::route`]
        route, set_route: Route;
        /// [`Ct::endpoint`]
        endpoint, set_endpoint: u32;
        /// [`Ct::return_node`]
        return_node, set_return_node: Addr;
        /// [`Ct::marks`]
        marks, set_marks: u8;
        /// [`Ct::meter`]
        meter, set_meter: u16;
    }
}

impl Live<Nat> {
    field! {
        /// [`Nat::seen`]
        seen, set_seen: u64;
        /// [`Nat::to`]
        to, set_to: Tuple;
        /// [`Nat::scope`]
        scope, set_scope: u32;
        /// [`Nat::marks`]
        marks, set_marks: u8;
    }
}

impl Live<Heard> {
    field! {
        /// [`Heard::answered`]
        answered, set_answered: u64;
        /// [`Heard::asked`]
        asked, set_asked: u64;
        /// [`Heard::answered_port`]
        answered_port, set_answered_port: Port;
        /// [`Heard::asked_port`]
        asked_port, set_asked_port: Port;
    }
}

impl Live<Affinity> {
    field! {
        /// [`Affinity::seen`]
        seen, set_seen: u64;
        /// [`Affinity::node`]
        node, set_node: Addr;
        /// [`Affinity::marks`]
        marks, set_marks: u8;
        /// [`Affinity::meter`]
        meter, set_meter: u16;
    }
}
