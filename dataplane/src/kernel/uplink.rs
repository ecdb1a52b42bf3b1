//! Which hook serves an uplink: native XDP, where the driver has it and it gains, else tc alone. Pure.

use super::netdev::Features;
use crate::config::Attach;
use std::borrow::Cow;

/// Native XDP has a packet, with room before and behind it, in one page: veth takes so much at most,
/// other drivers much the same, and refuse what is above theirs.
const XDP_MTU_MAX: u32 = 3_506;

/// What the choice depends on, of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// One end of a pair.
    pub is_veth: bool,
    /// What XDP can do on it.
    pub features: Features,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// ID of an XDP program there that is not Skein's.
    pub foreign: Option<u32>,
    /// Why the kernel refused Skein's program there before.
    pub refused: Option<String>,
}

/// Which hook, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// XDP, with tc behind it for what XDP leaves; else tc alone.
    pub xdp: bool,
    /// For the log.
    pub reason: Cow<'static, str>,
}

/// The hook of an uplink.
pub fn choose(attach: Attach, facts: &Facts) -> Choice {
    let tc = |reason: Cow<'static, str>| Choice { xdp: false, reason };
    if attach == Attach::Tc {
        return tc("--attach tc".into());
    }
    if let Some(id) = facts.foreign {
        return tc(format!(
            "another XDP program is attached (bpftool prog show id {id}), and is left alone"
        )
        .into());
    }
    if !facts.features.has(Features::BASIC | Features::REDIRECT) {
        return tc("its driver has no native XDP".into());
    }
    // Until then what XDP sends there is lost without a trace.
    if facts.is_veth && !facts.features.has(Features::NDO_XMIT) {
        return tc(
            "the other end of the veth pair takes no frames from XDP: `ethtool -K <other end> gro on` lets it"
                .into(),
        );
    }
    if facts.mtu > XDP_MTU_MAX {
        return tc(format!(
            "its MTU of {} bytes is above the {XDP_MTU_MAX} that fit native XDP",
            facts.mtu
        )
        .into());
    }
    if let Some(error) = &facts.refused {
        return tc(format!("the kernel refused XDP: {error}").into());
    }
    let reason = match (attach, facts.is_veth) {
        (Attach::Auto, true) => {
            return tc(
                "a veth pair carries bulk in segments of up to 64 KiB, which XDP would end".into(),
            );
        }
        (Attach::Auto, false) => "its driver has native XDP",
        _ => "--attach xdp",
    };
    Choice {
        xdp: true,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: u64 = Features::BASIC | Features::REDIRECT;

    fn nic() -> Facts {
        Facts {
            features: Features(NIC),
            mtu: 1_500,
            ..Facts::default()
        }
    }

    fn veth(features: u64) -> Facts {
        Facts {
            is_veth: true,
            features: Features(features),
            ..nic()
        }
    }

    #[test]
    fn xdp_only_where_it_works_and_gains() {
        let full = NIC | Features::NDO_XMIT;
        let jumbo = Facts {
            mtu: 9_000,
            ..nic()
        };
        let foreign = Facts {
            foreign: Some(7),
            ..nic()
        };
        let refused = Facts {
            refused: Some("no queues left".to_owned()),
            ..nic()
        };
        let old = Facts {
            features: Features(0),
            ..nic()
        };
        let one_way = Facts {
            features: Features(Features::BASIC),
            ..nic()
        };
        for (attach, facts, xdp, reason) in [
            (Attach::Auto, nic(), true, "native XDP"),
            (Attach::Xdp, nic(), true, "--attach xdp"),
            (Attach::Tc, nic(), false, "--attach tc"),
            (Attach::Auto, veth(full), false, "64 KiB"),
            (Attach::Xdp, veth(full), true, "--attach xdp"),
            (Attach::Xdp, veth(NIC), false, "gro on"),
            (Attach::Auto, jumbo.clone(), false, "9000"),
            (Attach::Xdp, jumbo, false, "9000"),
            (Attach::Auto, foreign.clone(), false, "id 7"),
            (Attach::Xdp, foreign, false, "id 7"),
            (Attach::Auto, refused.clone(), false, "no queues left"),
            (Attach::Xdp, refused, false, "no queues left"),
            (Attach::Auto, old.clone(), false, "no native XDP"),
            (Attach::Xdp, old, false, "no native XDP"),
            (Attach::Xdp, one_way, false, "no native XDP"),
        ] {
            let choice = choose(attach, &facts);
            assert_eq!(choice.xdp, xdp, "{attach:?} {facts:?}");
            assert!(choice.reason.contains(reason), "{}", choice.reason);
        }
    }

    #[test]
    fn the_operator_hears_of_what_he_can_change_first() {
        // Whatever else speaks against it.
        let facts = Facts {
            foreign: Some(7),
            mtu: 9_000,
            ..veth(0)
        };
        assert!(choose(Attach::Xdp, &facts).reason.contains("id 7"));
    }
}
