//! The boundary to the maps.

use crate::Live;
use skein_abi::{
    Addr, config::Config, flow::*, ingress::*, overlay::*, segment::*, verdict::Counter,
};

/// Everything that decisions look up or remember.
///
/// The methods mirror the maps of [`skein_abi::names`]; each is one map operation.
pub trait Tables {
    /// Monotonic time, ns.
    fn now(&self) -> u64;
    /// The node's own settings.
    fn config(&self) -> &Config;
    /// Whether an address is one of this node's.
    fn is_local(&self, address: Addr) -> bool;
    /// Flags of a member by its data path address; `None`: not a member.
    fn member(&self, address: Addr) -> Option<u32>;
    /// A member that shares a segment with this node.
    fn peer(&self, member: Addr) -> Option<Peer>;
    /// The member that a frame comes from.
    fn sender(&self, sender: &Sender) -> Option<Addr>;
    /// How long l2 is used to a peer, by its index.
    fn lease(&self, peer: u32) -> Option<Lease>;
    /// What was heard of a peer, by its index.
    fn heard(&self, peer: u32) -> Option<Live<Heard>>;
    /// What a published port leads to.
    fn published(&self, key: PublishedKey) -> Option<Published>;
    /// Whether a port is bound to an address.
    fn is_bound(&self, key: BoundKey) -> bool;
    /// Whether a service takes a client.
    fn is_source(&self, source: Source) -> bool;
    /// Data path address in one slot of a service's node table (or of its previous one).
    fn table_node(&self, service: u32, slot: u32, previous: bool) -> Option<Addr>;
    /// The local task number `hash` modulo their count: of the ready ones, or of the draining ones.
    fn local_backend(&self, service: u32, hash: u32, draining: bool) -> Option<u32>;
    /// A local endpoint.
    fn endpoint(&self, index: u32) -> Option<Endpoint>;
    /// The endpoint that has an internal address.
    fn internal(&self, address: Addr) -> Option<u32>;
    /// An overlay that this node has.
    fn network(&self, vni: u32) -> Option<Network>;
    /// A subnet of an overlay.
    fn subnet(&self, key: SubnetKey) -> Option<Subnet>;
    /// Where an address of an overlay is.
    fn location(&self, key: OverlayKey) -> Option<Location>;
    /// A VIP.
    fn vip(&self, key: OverlayKey) -> Option<Vip>;
    /// A backend of a VIP.
    fn vip_backend(&self, slot: VipSlot) -> Option<Addr>;

    /// The node that a flow was sent to.
    fn affinity(&self, tuple: &Tuple) -> Option<Live<Affinity>>;
    /// Remembers it; `opening` flows are kept apart, and not at all in a flood.
    fn insert_affinity(&self, tuple: &Tuple, affinity: &Affinity, opening: bool);
    /// Whether opening flows were not remembered lately, as they came too fast.
    fn is_flooded(&self) -> bool;
    /// One direction of a known flow.
    fn conntrack(&self, key: &CtKey) -> Option<Live<Ct>>;
    /// Remembers it; those of `opening` flows are kept apart. False: there was no room.
    fn insert_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool;
    /// Remembers it unless there is an entry already: of several CPUs that try at once, one does.
    fn claim_conntrack(&self, key: &CtKey, ct: &Ct, opening: bool) -> bool;
    /// Forgets it.
    fn remove_conntrack(&self, key: &CtKey);
    /// A translated source.
    fn nat(&self, key: &NatKey) -> Option<Live<Nat>>;
    /// Remembers it; false: there was no room.
    fn insert_nat(&self, key: &NatKey, nat: &Nat) -> bool;
    /// What the first fragment of a datagram had.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers it.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// Whether a socket of the host already has this connection: its packets are not Skein's.
    fn host_has(&self, tuple: &Tuple) -> bool;
    /// Counts a packet.
    #[inline(always)]
    fn count(&self, counter: Counter) {
        self.count_index(counter as u32);
    }
    /// The same, by its index.
    fn count_index(&self, counter: u32);
}
