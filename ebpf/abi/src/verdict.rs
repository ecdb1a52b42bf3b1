//! What is counted, and why packets are dropped.

/// Declares the counters once: index, name for metrics, explanation, and what users can do about a drop.
macro_rules! counters {
    ($($variant:ident = $name:literal, $text:literal $(, $advice:literal)?;)*) => {
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

            /// The reasons why packets are dropped.
            pub fn drops() -> impl Iterator<Item = Self> {
                let all = Self::ALL.iter().copied();
                all.filter(|counter| counter.drop_reason().is_some())
            }

            /// The reason for a drop with a number, as records of the programs have it.
            pub fn of_drop(number: u32) -> Option<Self> {
                Self::drops().find(|counter| *counter as u32 == number)
            }

            /// What it means: what has happened.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// What users can do about drops for this reason; "" for what is no drop.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => concat!($($advice)?)),* }
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
    DropSpoofed = "drop_spoofed", "A container sent with an address or MAC address that is not its own.",
        "Let the program in the container use the address that the container has. A container that is to route for others cannot do that on an overlay.";
    DropNotMember = "drop_not_member", "A VXLAN packet from an address that is no member of the cluster.",
        "See by `skein status` whether the sender is a member by the address that it sends from: `docker swarm init` and `join` take `--data-path-addr` for that. If it is none, keep it off the data path port.";
    DropUnknownVni = "drop_unknown_vni", "A VXLAN packet of a network that this node does not have.",
        "Nothing, where a task has just ended or not begun yet. If it goes on, compare the versions of the network state by `skein status` on both nodes.";
    DropUnknownAddress = "drop_unknown_address", "To an address of an overlay that nobody has.",
        "See by `docker service ps` whether the task that had the address still runs; clients should ask for names again instead of keeping addresses.";
    DropNoFlow = "drop_no_flow", "An answer for a flow that this node did not forward, or has forgotten.",
        "A few are answers that came late. If they go on, look whether requests and answers take different ways: a front that spreads the packets of one flow over several nodes, or a client that keeps a connection longer idle than its flow is remembered.";
    DropNoTask = "drop_no_task", "To a published port or VIP of a service without a ready task; TCP is reset.",
        "See by `docker service ps` why no task of the service is ready, and by `skein status` whether this node knows of them.";
    DropInternal = "drop_internal", "From a network without a way out to the world outside.",
        "Attach the task to a network that is not internal, too, if it is to reach the world outside.";
    DropNoRoute = "drop_no_route", "The node has no route to the destination.",
        "Look into the routing table of the node: `ip route get ADDRESS`.";
    DropNoPort = "drop_no_port", "No free port to translate a source to: too many flows to one destination.",
        "Spread the clients over more nodes, or let them keep their connections instead of opening new ones.";
    DropMalformed = "drop_malformed", "Headers cut short or contradicting each other.",
        "Nothing, if they are few: networks damage packets, and scanners send such. If they go on, look at them by `skein capture --reason malformed`.";
    DropTtl = "drop_ttl", "The time to live ran out on the way to another node.",
        "A few are from traceroute. If they go on, look for a loop between the routers in front of the nodes.";
    DropTableFull = "drop_table_full", "A flow table could not take another entry.",
        "See by `skein status` which map is full, and who opens so many flows by `skein flows`; spread the clients over more nodes.";
    DropFragment = "drop_fragment", "A later fragment of a datagram whose first one has not come: out of order, lost, or forged.",
        "Let the sender send smaller datagrams, that need no fragments, or avoid networks that reorder or lose them.";
    DropTooBig = "drop_too_big", "Longer than the way to another node or to the client carries in one piece, and not to be fragmented: its sender was told by ICMP.",
        "Nothing, where path MTU discovery works: the sender has been told. If they go on, let ICMP through on the way to the sender, or lower its MTU.";
    L2Sent = "l2_sent", "Sent to another node by l2, which is not encapsulated; counted by what it was, too.";
    L2Probe = "l2_probe", "Asked by another node, or answered, whether l2 works on the segment that it shares with this one.";
    DropForged = "drop_forged", "A frame as only members send them by l2, from a MAC address that is no member's: forged, or by a router that shares a segment with the node it sends to.",
        "Look which host or router has the MAC address by `skein capture --reason forged`. A router on the segment must not route to a node what comes from that same segment.";
    DropSource = "drop_source", "To a published port of a service that takes no clients from there (label skein.ingress.sources).",
        "Nothing, where the client is to be kept out. Else add its range to the service's label skein.ingress.sources.";
    DropCleartext = "drop_cleartext", "A VXLAN packet of an encrypted overlay that was not encrypted: injected, or by a node that does not know the overlay to be so.",
        "Look by `skein capture --reason cleartext` who sends it. If it is a node, compare the versions of the network state by `skein status`; if it is none, keep it off the data path port.";
    DropNoKey = "drop_no_key", "On an encrypted overlay, to a node whose key is not known here: it has not told it yet, or cannot encrypt.",
        "Nothing, where the node has just joined. If it goes on, see by `skein status` on that node whether its tunnel is there, and that it runs the same version.";
    XdpSent = "xdp_sent", "Sent on by XDP, before the kernel's stack saw it; counted by what it was, too.";
    DropNotIpv4 = "drop_not_ipv4", "A container sent what is neither IPv4 nor ARP: overlays carry nothing else.",
        "Nothing, where services answer by IPv4: kernels send a little IPv6 by themselves. To have none, run the container with `--sysctl net.ipv6.conf.all.disable_ipv6=1`.";
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
            let advice = counter.advice();
            assert_eq!(advice.ends_with('.'), counter.drop_reason().is_some());
            let of_drop = Counter::of_drop(*counter as u32);
            assert_eq!(of_drop.is_some(), counter.drop_reason().is_some());
        }
    }

    /// What users read is what the programs have: rewrite the table from here after a change.
    #[test]
    fn every_reason_is_explained_in_the_manual() {
        let manual = include_str!("../../../docs/drop-reasons.md");
        let mut lines = manual.lines().filter(|line| line.starts_with("| `"));
        for counter in Counter::drops() {
            let (reason, text) = (
                counter.drop_reason().unwrap_or_default(),
                counter.explanation(),
            );
            let expected = std::format!("| `{reason}` | {text} | {} |", counter.advice());
            assert_eq!(lines.next(), Some(expected.as_str()));
        }
        assert_eq!(lines.next(), None, "a reason that there is not");
    }
}
