//! What other nodes send by the external vxlan device, told apart by its VNI.

use crate::{Verdict, answers, fragments, overlay, subprogram::subprogram};
use skein_abi::{
    Addr, VNI_FORWARD, VNI_OVERLAY_MIN, VNI_REPLY, VNI_SECOND_HOP, flow::place_of_vni,
    ingress::MEMBER_SECURE, verdict::Counter,
};

subprogram! {
    /// A packet that came by the external vxlan device: in `vni`, with the outer source `remote`.
    /// `entry` is the address in the inner source MAC address, if that has the form of
    /// [`skein_abi::mac`]; else 0. Encrypted overlays are taken from secure addresses alone, all else from data
    /// path addresses; and secure addresses only of what came by the secure device ([`Work::secure`](crate::Work)),
    /// as anybody could put one into a packet.
    pub fn from_tunnel(t, w, vni: u32, remote: Addr, entry: Addr) -> bool {
        let is_complete = fragments::complete(t, w, place_of_vni(vni));
        w.client = w.packet.tuple;
        w.vni = vni;
        w.entry = match vni {
            VNI_SECOND_HOP => entry,
            _ => remote,
        };
        let is_secure = w.secure != 0;
        match t.member(remote) {
            // (Who is no member is not told what is encrypted.)
            Some(flags) if is_secure == (flags & MEMBER_SECURE != 0) => {}
            Some(_) if !is_secure => {
                w.verdict = Verdict::drop(&w.client, Counter::DropCleartext);
                return true;
            }
            _ => {
                w.verdict = Verdict::drop(&w.client, Counter::DropNotMember);
                return true;
            }
        }
        if t.member(w.entry).is_none() {
            w.verdict = Verdict::drop(&w.client, Counter::DropNotMember);
            return true;
        }
        if is_secure && vni < VNI_OVERLAY_MIN {
            // No node sends the mesh's own packets so.
            w.verdict = Verdict::drop(&w.client, Counter::DropUnknownVni);
            return true;
        }
        if !is_complete {
            w.verdict = Verdict::drop(&w.client, Counter::DropFragment);
            return true;
        }
        match vni {
            VNI_FORWARD | VNI_SECOND_HOP => {
                w.verdict = Verdict::forwarded(&w.client);
                true
            }
            VNI_REPLY => answers::replied(t, w),
            VNI_OVERLAY_MIN.. => overlay::arrived(t, w, vni),
            _ => {
                w.verdict = Verdict::drop(&w.client, Counter::DropUnknownVni);
                true
            }
        }
    }
}
