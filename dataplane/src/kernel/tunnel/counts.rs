//! What became of the packets of the userspace tunnels.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $($(#[$doc])* $variant,)*
        }

        impl Count {
            /// All of them, each at its index.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

counts! {
    /// Encrypted, and sent.
    Sent = "sent";
    /// Received, decrypted, and handed to the kernel.
    Received = "received";
    /// From the kernel, to an address that is no node's.
    NoPeer = "drop_no_peer";
    /// The kernel took no more to send: its buffers are full, or there is no way to the node.
    SendFailed = "drop_send_failed";
    /// From an address that is no node's.
    Stranger = "drop_stranger";
    /// What a node's address sent, and that node's key has not encrypted, or not now: forged, sent twice, or of a
    /// session that the other side has not given up yet.
    Invalid = "drop_invalid";
    /// Encrypted by a node, and from or to another address than the tunnel's ends.
    Misaddressed = "drop_misaddressed";
    /// The kernel did not take what was received.
    NotTaken = "drop_not_taken";
}

/// See the module. Since the process started.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Count::ALL.len()]);

impl Counts {
    /// Adds packets.
    pub fn add(&self, what: Count, packets: u64) {
        self.0[what as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self, what: Count) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_for_itself_under_a_name_of_its_own() {
        let counts = Counts::default();
        for (nth, count) in (1..).zip(Count::ALL) {
            counts.add(*count, nth);
        }
        for (nth, count) in (1..).zip(Count::ALL) {
            assert_eq!(counts.get(*count), nth);
            let same = Count::ALL.iter().filter(|of| of.name() == count.name());
            assert_eq!(same.count(), 1);
        }
    }
}
