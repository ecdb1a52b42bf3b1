//! tc ingress of the secure device: what the tunnels from other nodes have brought, decrypted and of the node that
//! its source address says. It has no Ethernet header.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use skein_abi::addresses::SECURE_MARK;

/// See [`skein_abi::names::PROG_SECURE`]. The mark stays on the packet while the kernel takes the outer headers off:
/// so the hook of the vxlan device knows where it came from, whatever is in it.
#[classifier]
pub fn skein_secure(ctx: TcContext) -> i32 {
    ctx.set_mark(SECURE_MARK);
    TC_ACT_OK as i32
}
