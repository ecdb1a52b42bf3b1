//! What is counted, and why packets are dropped.

/// Declares the counters once: index, name for metrics, explanation.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// Counters, per CPU. Reasons for drops are those whose name begins with `drop_`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $text] $variant,)*
        }

        impl Counter {
            /// All of them, in the order of the map.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Why packets are dropped, as it is named where nothing else is told; `None`: it counts others.
            pub fn drop_reason(self) -> Option<&'static str> {
                self.name().strip_prefix("drop_")
            }

            /// What it means, and what to do about it.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

counters! {
    EntryLocal = "entry_local", "Came in on a published port; answered by a task of this node.";
    EntryForwarded = "entry_forwarded", "Came in on a published port; sent to another node.";
    Delivered = "delivered", "Came from the entry node and was given to a task of this node.";
    SecondHop = "second_hop", "Came from the entry node, had no task here, and was sent on once: the tables of two nodes differ for a moment.";
    ReplySent = "reply_sent", "A task's answer, sent back to the node its client came in by.";
    ReplyOut = "reply_out", "A task's answer, sent out to its client by the node that it came in by.";
    ReplyDirect = "reply_direct", "A task's answer, sent out to its client by the task's node (return mode dsr).";
    Overlay = "overlay", "Between two endpoints of an overlay.";
    VipPicked = "vip_picked", "A new flow to a VIP.";
    Egress = "egress", "Left a container for the world outside, by the node's address.";
    FromHost = "from_host", "The host's own client of a published port.";
    DropSpoofed = "drop_spoofed", "A container sent with an address or MAC address that is not its own.";
    DropNotMember = "drop_not_member", "A VXLAN packet from an address that is no member of the cluster.";
    DropUnknownVni = "drop_unknown_vni", "A VXLAN packet of a network that this node does not have.";
    DropUnknownAddress = "drop_unknown_address", "To an address of an overlay that nobody has.";
    DropNoFlow = "drop_no_flow", "An answer for a flow that this node did not forward, or has forgotten.";
    DropNoTask = "drop_no_task", "To a published port or VIP of a service without a ready task; TCP is reset.";
    DropInternal = "drop_internal", "From a network without a way out to the world outside.";
    DropNoRoute = "drop_no_route", "The node has no route to the destination.";
    DropNoPort = "drop_no_port", "No free port to translate a source to: too many flows to one destination.";
    DropMalformed = "drop_malformed", "Headers cut short or contradicting each other.";
    DropTtl = "drop_ttl", "The time to live ran out on the way to another node.";
    DropTableFull = "drop_table_full", "A flow table could not take another entry.";
    DropFragment = "drop_fragment", "A later fragment of a datagram whose first one has not come: out of order, lost, or forged.";
    DropTooBig = "drop_too_big", "Longer than the way to another node or to the client carries in one piece, and not to be fragmented: its sender was told by ICMP.";
    L2Sent = "l2_sent", "Sent to another node by l2, which is not encapsulated; counted by what it was, too.";
    L2Probe = "l2_probe", "Asked by another node, or answered, whether l2 works on the segment that it shares with this one.";
    DropForged = "drop_forged", "A frame as only members send them by l2, from a MAC address that is no member's: forged, or by a router that shares a segment with the node it sends to.";
    DropSource = "drop_source", "To a published port of a service that takes no clients from there (label skein.ingress.sources).";
    DropCleartext = "drop_cleartext", "A VXLAN packet of an encrypted overlay that was not encrypted: injected, or by a node that does not know the overlay to be so.";
    DropNoKey = "drop_no_key", "On an encrypted overlay, to a node whose key is not known here: it has not told it yet, or cannot encrypt.";
    XdpSent = "xdp_sent", "Sent on by XDP, before the kernel's stack saw it; counted by what it was, too.";
}

impl Counter {
    /// How many there are: entries of the map.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_at_its_index_under_a_name_of_its_own() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            let same = Counter::ALL
                .iter()
                .filter(|other| other.name() == counter.name());
            assert_eq!(same.count(), 1);
            let explanation = counter.explanation();
            assert!(explanation.ends_with('.') && explanation.contains(' '));
        }
    }
}
