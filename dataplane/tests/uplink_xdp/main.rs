//! The uplink's programs in the kernel, one packet at a time (BPF_PROG_TEST_RUN), in a network
//! namespace of its own: node 198.18.0.1 with the device v0. Needs root.
//!
//! - [`bench`]: the node, its maps and its programs. [`frames`]: what is sent to it.
//! - [`forwarding`]: what becomes of a packet. [`sight`]: what is told and counted of it, and what that costs.

mod bench;
mod forwarding;
mod frames;
mod sight;
