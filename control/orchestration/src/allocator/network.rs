//! What an overlay gets: its VNI, subnet and gateway.

use ipnet::Ipv4Net;
use skein_model::{Cluster, IpamConfig, Network, NetworkAllocation, NetworkSpec, State};
use std::collections::BTreeSet;

/// The first VNI of overlays. Lower ones are the mesh's own.
pub const VNI_MIN: u32 = 4096;
/// The last: a VNI has 24 bits.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// The option that pins the VNI of a network, as Docker's overlay driver has it.
pub const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// The longest prefix of a subnet that still has room for a gateway, a VIP and some tasks: Swarm's
/// limit.
pub const PREFIX_MAX: u8 = 29;

/// Why a network cannot be had as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error(
        "invalid {VNI_OPTION} '{0}': one number between {VNI_MIN} and {VNI_MAX} is expected; lower \
         ones are kept for the mesh itself"
    )]
    Vni(String),
    #[error(
        "VNI {vni} is already in use by network {name}: choose another, or leave the choice to the cluster"
    )]
    VniTaken { vni: u32, name: String },
    #[error(
        "VNI {vni} is still in use by tasks of network {name}, which was removed: choose another, or try \
         again once they have ended"
    )]
    VniEnding { vni: u32, name: String },
    #[error("no free VNI: remove a network")]
    NoVni,
    #[error("ipam configuration: only one subnet per network is supported, {0} are given")]
    Subnets(usize),
    #[error(
        "ipam configuration: invalid subnet {0}: a prefix of at most {PREFIX_MAX} bits is expected"
    )]
    Prefix(Ipv4Net),
    #[error("ipam configuration: subnet {subnet} does not contain range {range}")]
    Range { subnet: Ipv4Net, range: Ipv4Net },
    #[error("ipam configuration: subnet {subnet} does not contain gateway {gateway}")]
    Gateway {
        subnet: Ipv4Net,
        gateway: std::net::Ipv4Addr,
    },
    #[error(
        "no free subnet of /{size} in the default address pools ({pools}): give the network a subnet of its own, or remove a network"
    )]
    NoSubnet { size: u8, pools: String },
}

/// Checks what can be said of a network before it exists. The API calls this; the allocator checks
/// again, against the state of that moment.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_network(state: &State, spec: &NetworkSpec) -> Result<(), NetworkError> {
    if let Some(vni) = pinned_vni(spec)? {
        let mut networks = state.networks();
        if let Some(other) = networks.find(|n| n.allocation.is_some_and(|a| a.vni == vni)) {
            let name = other.spec.name.clone();
            return Err(match other.pending_deletion {
                true => NetworkError::VniEnding { vni, name },
                false => NetworkError::VniTaken { vni, name },
            });
        }
    }
    asked_subnet(spec).map(drop)
}

/// What other networks have.
pub(super) struct Taken {
    vnis: BTreeSet<u32>,
    subnets: Vec<Ipv4Net>,
}

impl Taken {
    pub(super) fn of(state: &State) -> Self {
        let allocations = || state.networks().filter_map(|network| network.allocation);
        Self {
            vnis: allocations().map(|a| a.vni).collect(),
            subnets: allocations().map(|a| a.subnet).collect(),
        }
    }

    /// Allocates for one network, and notes it as taken. A subnet that the user asked for may overlap
    /// others: overlays are apart by VNI. Those that are chosen never do.
    pub(super) fn allocate(
        &mut self,
        state: &State,
        cluster: &Cluster,
        network: &Network,
        last_vni: Option<u32>,
    ) -> Result<NetworkAllocation, NetworkError> {
        check_network(state, &network.spec)?;
        let vni = match pinned_vni(&network.spec)? {
            Some(vni) => vni,
            None => self.free_vni(last_vni).ok_or(NetworkError::NoVni)?,
        };
        let config = match asked_subnet(&network.spec)? {
            Some(config) => config.clone(),
            None => IpamConfig {
                subnet: Some(self.free_subnet(cluster)?),
                ..IpamConfig::default()
            },
        };
        let subnet = config.subnet.unwrap_or_default().trunc();
        let allocation = NetworkAllocation {
            vni,
            subnet,
            gateway: config
                .gateway
                .or_else(|| subnet.hosts().next())
                .unwrap_or(subnet.network()),
            range: config.ip_range.unwrap_or(subnet).trunc(),
        };
        self.vnis.insert(vni);
        self.subnets.push(subnet);
        Ok(allocation)
    }

    /// The next free VNI after the last given, as Swarm gives them.
    fn free_vni(&self, last: Option<u32>) -> Option<u32> {
        let last = last.or_else(|| self.vnis.last().copied());
        let start = last.map_or(VNI_MIN, |last| last.saturating_add(1).max(VNI_MIN));
        let free = |vni: &u32| !self.vnis.contains(vni);
        (start..=VNI_MAX)
            .find(free)
            .or_else(|| (VNI_MIN..start.min(VNI_MAX)).find(free))
    }

    /// The first subnet of the pools that overlaps no other network.
    fn free_subnet(&self, cluster: &Cluster) -> Result<Ipv4Net, NetworkError> {
        let size = cluster.subnet_size;
        let mut taken: Vec<_> = self.subnets.iter().map(bounds).collect();
        taken.sort_unstable();
        for pool in &cluster.default_addr_pool {
            if size < pool.prefix_len() {
                continue;
            }
            let step = 1u64 << (32 - size);
            let (first, last) = bounds(pool);
            let mut candidate = first;
            // Each taken subnet can only push the candidate on, so one pass is enough.
            for (start, end) in &taken {
                if *end >= candidate && *start < candidate + step {
                    candidate = (end + 1).next_multiple_of(step);
                }
            }
            if candidate + step - 1 <= last {
                let network = u32::try_from(candidate).unwrap_or(u32::MAX);
                return Ok(Ipv4Net::new_assert(network.into(), size));
            }
        }
        Err(NetworkError::NoSubnet {
            size,
            pools: cluster
                .default_addr_pool
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// First and last address.
fn bounds(net: &Ipv4Net) -> (u64, u64) {
    (
        net.network().to_bits().into(),
        net.broadcast().to_bits().into(),
    )
}

fn pinned_vni(spec: &NetworkSpec) -> Result<Option<u32>, NetworkError> {
    let Some(text) = spec.options.get(VNI_OPTION) else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(vni) if (VNI_MIN..=VNI_MAX).contains(&vni) => Ok(Some(vni)),
        _ => Err(NetworkError::Vni(text.clone())),
    }
}

fn asked_subnet(spec: &NetworkSpec) -> Result<Option<&IpamConfig>, NetworkError> {
    let asked: Vec<_> = spec
        .ipam
        .config
        .iter()
        .filter(|c| c.subnet.is_some())
        .collect();
    let config = match asked[..] {
        [] => return Ok(None),
        [config] => config,
        _ => return Err(NetworkError::Subnets(asked.len())),
    };
    let subnet = config.subnet.unwrap_or_default();
    if subnet.prefix_len() > PREFIX_MAX {
        return Err(NetworkError::Prefix(subnet));
    }
    match (config.ip_range, config.gateway) {
        (Some(range), _) if !subnet.contains(&range) => Err(NetworkError::Range { subnet, range }),
        (_, Some(gateway)) if !subnet.contains(&gateway) => {
            Err(NetworkError::Gateway { subnet, gateway })
        }
        _ => Ok(Some(config)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(subnet: Option<&str>, vni: Option<&str>) -> NetworkSpec {
        let mut spec = NetworkSpec::default();
        spec.ipam.config.extend(subnet.map(|subnet| IpamConfig {
            subnet: Some(subnet.parse().unwrap()),
            ..IpamConfig::default()
        }));
        let option = vni.map(|vni| (VNI_OPTION.into(), vni.into()));
        spec.options.extend(option);
        spec
    }

    fn cluster(pool: &str, size: u8) -> Cluster {
        Cluster {
            default_addr_pool: vec![pool.parse().unwrap()],
            subnet_size: size,
            ..Cluster::default()
        }
    }

    #[test]
    fn pins_are_honoured_and_those_of_the_mesh_refused() {
        let state = State::default();
        check_network(&state, &spec(None, Some("4096"))).unwrap();
        for bad in ["4095", "16777216", "5000,5001", "x"] {
            let error = check_network(&state, &spec(None, Some(bad))).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn bad_subnets_are_refused_in_swarms_words() {
        let state = State::default();
        let mut wrong = spec(Some("10.5.0.0/24"), None);
        wrong.ipam.config[0].gateway = Some("10.6.0.1".parse().unwrap());
        assert_eq!(
            check_network(&state, &wrong).unwrap_err().to_string(),
            "ipam configuration: subnet 10.5.0.0/24 does not contain gateway 10.6.0.1"
        );
        wrong.ipam.config[0].ip_range = Some("10.6.0.0/25".parse().unwrap());
        assert_eq!(
            check_network(&state, &wrong).unwrap_err().to_string(),
            "ipam configuration: subnet 10.5.0.0/24 does not contain range 10.6.0.0/25"
        );
        check_network(&state, &spec(Some("10.5.0.0/30"), None)).unwrap_err();
    }

    proptest! {
        #[test]
        fn chosen_subnets_lie_in_the_pool_and_never_overlap(
            asked in prop::collection::vec((0u32..1024, 16u8..=29), 0..8),
            wanted in 1usize..40,
        ) {
            let cluster = cluster("10.0.0.0/20", 24);
            let subnets = asked.iter().map(|(block, size)| {
                Ipv4Net::new_assert((0x0a00_0000 + (block << 6)).into(), *size).trunc()
            });
            let mut taken = Taken { vnis: BTreeSet::new(), subnets: subnets.collect() };
            for _ in 0..wanted {
                let before = taken.subnets.clone();
                let Ok(given) =
                    taken.allocate(&State::default(), &cluster, &Network::default(), None)
                else { break };
                prop_assert!(cluster.default_addr_pool[0].contains(&given.subnet));
                prop_assert!(given.vni >= VNI_MIN);
                for other in before {
                    prop_assert!(!other.contains(&given.subnet) && !given.subnet.contains(&other));
                }
            }
        }
    }
}
