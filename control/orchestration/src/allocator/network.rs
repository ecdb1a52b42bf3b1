//! What an overlay gets: its subnets, each with a VNI and a gateway.

use super::tunnel::SECURE_NET;
use ipnet::Ipv4Net;
use skein_model::{
    Cluster, IpamConfig, Network, NetworkAllocation, NetworkSpec, State, SubnetAllocation,
};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// The first VNI of overlays. Lower ones are the mesh's own.
pub const VNI_MIN: u32 = 4096;
/// The last: a VNI has 24 bits.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// The option that pins the VNIs of a network's subnets, as Docker's overlay driver has it.
pub const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// The longest prefix of a subnet that still has room for a gateway, a VIP and some tasks: Swarm's
/// limit.
pub const PREFIX_MAX: u8 = 29;

/// What nodes' dataplanes have for themselves; see `INTERNAL_NET` of `skein-abi`.
pub const INTERNAL_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 65, 0, 0), 16);

/// Ranges that no subnet may have a part of, as no host has an address of them, or another one has.
const KEPT: [(Ipv4Net, &str); 5] = [
    (
        Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
        "no network (RFC 791)",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
        "every host's own (RFC 1122)",
    ),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
        "for multicast, or reserved (RFC 1112)",
    ),
    (INTERNAL_NET, "used by each node itself"),
    (SECURE_NET, "used by the tunnels between the nodes"),
];

/// Subnets of one overlay: a node's kernel has as many to look through for an address that nobody has.
pub const SUBNETS_MAX: usize = 16;

/// Why a network cannot be had as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error(
        "invalid {VNI_OPTION} '{0}': different numbers between {VNI_MIN} and {VNI_MAX} are expected, one for \
         each subnet, with commas between them; lower ones are kept for the mesh itself"
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
    #[error("no free VNI for network {0}: remove another network")]
    NoVni(String),
    #[error(
        "ipam configuration: {0} subnets are given, and a network has at most {SUBNETS_MAX}: ask for fewer, \
         larger ones"
    )]
    Subnets(usize),
    #[error(
        "ipam configuration: {0} is given without its subnet: give the subnet as well, or leave the choice of all to \
         the cluster"
    )]
    Subnetless(&'static str),
    #[error(
        "ipam configuration: range {range} of subnet {subnet} has no address for a task: all that there are in it are the \
         subnet's own and the gateway's"
    )]
    NoRoom { subnet: Ipv4Net, range: Ipv4Net },
    #[error("ipam configuration: gateway {gateway} of subnet {subnet} is the address of no host")]
    NoHost { subnet: Ipv4Net, gateway: Ipv4Addr },
    #[error("ipam configuration: subnet {subnet} cannot be used: {range} is {what}")]
    Kept {
        subnet: Ipv4Net,
        range: Ipv4Net,
        what: &'static str,
    },
    #[error("ipam configuration: subnets {0} and {1} of the network overlap")]
    Overlap(Ipv4Net, Ipv4Net),
    #[error(
        "ipam configuration: invalid subnet {0}: a prefix of at most {PREFIX_MAX} bits is expected"
    )]
    Prefix(Ipv4Net),
    #[error("ipam configuration: subnet {subnet} does not contain range {range}")]
    Range { subnet: Ipv4Net, range: Ipv4Net },
    #[error("ipam configuration: subnet {subnet} does not contain gateway {gateway}")]
    Gateway { subnet: Ipv4Net, gateway: Ipv4Addr },
    #[error(
        "no free subnet of /{size} for network {network} in the default address pools ({pools}): give it a subnet of its \
         own, or remove another network"
    )]
    NoSubnet {
        network: String,
        size: u8,
        pools: String,
    },
}

/// Checks what can be said of a network before it exists. The API calls this; the allocator checks
/// again, against the state of that moment.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_network(state: &State, spec: &NetworkSpec) -> Result<(), NetworkError> {
    asked_subnets(spec)?;
    for vni in pinned_vnis(spec)? {
        let has_it = |network: &Network| {
            let allocation = network.allocation.iter();
            allocation.flat_map(|a| &a.subnets).any(|s| s.vni == vni)
        };
        if let Some(other) = state.networks().find(|network| has_it(network)) {
            let name = other.spec.name.clone();
            return Err(match other.pending_deletion {
                true => NetworkError::VniEnding { vni, name },
                false => NetworkError::VniTaken { vni, name },
            });
        }
    }
    Ok(())
}

/// What other networks have.
pub(super) struct Taken {
    vnis: BTreeSet<u32>,
    subnets: Vec<Ipv4Net>,
}

impl Taken {
    pub(super) fn of(state: &State) -> Self {
        let allocations = || state.networks().filter_map(|n| n.allocation.as_ref());
        let subnets = || allocations().flat_map(|a| &a.subnets);
        Self {
            vnis: subnets().map(|s| s.vni).collect(),
            subnets: subnets().map(|s| s.subnet).collect(),
        }
    }

    /// Allocates for one network, and notes it as taken. `last_vni` is the one that was chosen last: those that
    /// are pinned are not in the row. A subnet that the user asked for may overlap
    /// others: overlays are apart by VNI. Those that are chosen never do.
    pub(super) fn allocate(
        &mut self,
        state: &State,
        cluster: &Cluster,
        network: &Network,
        last_vni: &mut Option<u32>,
    ) -> Result<NetworkAllocation, NetworkError> {
        check_network(state, &network.spec)?;
        let mut configs: Vec<_> = asked_subnets(&network.spec)?.into_iter().cloned().collect();
        if configs.is_empty() {
            configs.push(IpamConfig {
                subnet: Some(self.free_subnet(cluster, &network.spec.name)?),
                ..IpamConfig::default()
            });
        }
        // All that are pinned first: none that is chosen may be one of them.
        let pinned = pinned_vnis(&network.spec)?;
        let mut vnis = self.vnis.clone();
        vnis.extend(&pinned);
        let mut subnets = Vec::with_capacity(configs.len());
        for (nth, config) in configs.iter().enumerate() {
            let vni = match pinned.get(nth) {
                Some(vni) => *vni,
                None => {
                    let none = || NetworkError::NoVni(network.spec.name.clone());
                    let next = free_vni(&vnis, *last_vni).ok_or_else(none)?;
                    *last_vni = Some(next);
                    next
                }
            };
            vnis.insert(vni);
            subnets.push(subnet_of(config, vni));
        }
        self.vnis = vnis;
        self.subnets.extend(subnets.iter().map(|s| s.subnet));
        Ok(NetworkAllocation { subnets })
    }

    /// The first subnet of the pools that overlaps no other network; `name` is that of the one that it is for.
    fn free_subnet(&self, cluster: &Cluster, name: &str) -> Result<Ipv4Net, NetworkError> {
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
            network: name.to_owned(),
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

/// The next free VNI after the last given, as Swarm gives them.
fn free_vni(taken: &BTreeSet<u32>, last: Option<u32>) -> Option<u32> {
    let last = last.or_else(|| taken.last().copied());
    let start = last.map_or(VNI_MIN, |last| last.saturating_add(1).max(VNI_MIN));
    let free = |vni: &u32| !taken.contains(vni);
    (start..=VNI_MAX)
        .find(free)
        .or_else(|| (VNI_MIN..start.min(VNI_MAX)).find(free))
}

fn subnet_of(config: &IpamConfig, vni: u32) -> SubnetAllocation {
    let whole = SubnetAllocation::whole(vni, config.subnet.unwrap_or_default());
    SubnetAllocation {
        gateway: config.gateway.unwrap_or(whole.gateway),
        range: config.ip_range.unwrap_or(whole.range).trunc(),
        ..whole
    }
}

/// First and last address.
fn bounds(net: &Ipv4Net) -> (u64, u64) {
    (
        net.network().to_bits().into(),
        net.broadcast().to_bits().into(),
    )
}

/// Those of the first subnets, in their order.
fn pinned_vnis(spec: &NetworkSpec) -> Result<Vec<u32>, NetworkError> {
    let Some(text) = spec.options.get(VNI_OPTION) else {
        return Ok(Vec::new());
    };
    let wrong = || NetworkError::Vni(text.clone());
    let vnis = text.split(',').map(|vni| match vni.trim().parse() {
        Ok(vni) if (VNI_MIN..=VNI_MAX).contains(&vni) => Ok(vni),
        _ => Err(wrong()),
    });
    let vnis: Vec<u32> = vnis.collect::<Result<_, _>>()?;
    let different: BTreeSet<_> = vnis.iter().collect();
    if different.len() < vnis.len() || vnis.len() > asked_subnets(spec)?.len().max(1) {
        return Err(wrong());
    }
    Ok(vnis)
}

/// What of the addresses is asked for, each with a subnet; nothing, where the choice is the cluster's.
fn asked_subnets(spec: &NetworkSpec) -> Result<Vec<&IpamConfig>, NetworkError> {
    let configs = spec.ipam.config.iter();
    let (asked, others): (Vec<_>, Vec<_>) = configs.partition(|c| c.subnet.is_some());
    for config in others {
        if config.gateway.is_some() {
            return Err(NetworkError::Subnetless("a gateway"));
        }
        if config.ip_range.is_some() {
            return Err(NetworkError::Subnetless("a range"));
        }
    }
    if asked.len() > SUBNETS_MAX {
        return Err(NetworkError::Subnets(asked.len()));
    }
    let mut before: Vec<Ipv4Net> = Vec::with_capacity(asked.len());
    for config in &asked {
        let subnet = config.subnet.unwrap_or_default();
        if subnet.prefix_len() > PREFIX_MAX {
            return Err(NetworkError::Prefix(subnet));
        }
        match (config.ip_range, config.gateway) {
            (Some(range), _) if !subnet.contains(&range) => {
                return Err(NetworkError::Range { subnet, range });
            }
            (_, Some(gateway)) if !subnet.contains(&gateway) => {
                return Err(NetworkError::Gateway { subnet, gateway });
            }
            (_, Some(gateway)) if [subnet.network(), subnet.broadcast()].contains(&gateway) => {
                return Err(NetworkError::NoHost { subnet, gateway });
            }
            _ => {}
        }
        if let Some(range) = config.ip_range
            && range.hosts().all(|address| is_kept_back(config, address))
        {
            return Err(NetworkError::NoRoom { subnet, range });
        }
        if let Some((range, what)) = KEPT.into_iter().find(|(range, _)| overlap(range, &subnet)) {
            return Err(NetworkError::Kept {
                subnet,
                range,
                what,
            });
        }
        if let Some(other) = before.iter().find(|other| overlap(other, &subnet)) {
            return Err(NetworkError::Overlap(*other, subnet));
        }
        before.push(subnet);
    }
    Ok(asked)
}

/// Whether an address of an asked subnet is no task's.
fn is_kept_back(config: &IpamConfig, address: Ipv4Addr) -> bool {
    let subnet = subnet_of(config, 0);
    [
        subnet.gateway,
        subnet.subnet.network(),
        subnet.subnet.broadcast(),
    ]
    .contains(&address)
}

/// Whether two subnets have an address in common.
pub(super) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(subnets: &[&str], vni: Option<&str>) -> NetworkSpec {
        let mut spec = NetworkSpec::default();
        let config = |subnet: &&str| IpamConfig {
            subnet: Some(subnet.parse().unwrap()),
            ..IpamConfig::default()
        };
        spec.ipam.config = subnets.iter().map(config).collect();
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
        check_network(&state, &spec(&[], Some("4096"))).unwrap();
        for bad in ["4095", "16777216", "5000,5001", "x"] {
            let error = check_network(&state, &spec(&[], Some(bad))).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        let two = |vnis| spec(&["10.5.0.0/24", "10.6.0.0/24"], Some(vnis));
        check_network(&state, &two("5000,5001")).unwrap();
        check_network(&state, &two("5000")).unwrap();
        check_network(&state, &two("5000,5000")).unwrap_err();
        check_network(&state, &two("5000,5001,5002")).unwrap_err();
    }

    #[test]
    fn each_subnet_has_an_identifier() {
        let state = State::default();
        let mut taken = Taken {
            vnis: BTreeSet::from([4097]),
            subnets: Vec::new(),
        };
        let subnets = ["10.7.0.0/24", "10.5.0.9/24", "10.6.0.0/16"];
        let mut network = Network {
            spec: spec(&subnets, Some("70000")),
            ..Network::default()
        };
        network.spec.ipam.config[1].gateway = Some("10.5.0.7".parse().unwrap());
        let mut last = Some(4096);
        let mut allocate = |network: &Network| {
            let cluster = cluster("10.0.0.0/8", 24);
            let given = taken.allocate(&state, &cluster, network, &mut last);
            let given = given.unwrap();
            let shown = |s: &SubnetAllocation| format!("{} {} {}", s.vni, s.subnet, s.gateway);
            (
                given.vni(),
                given.subnets.iter().map(shown).collect::<Vec<_>>(),
            )
        };
        let first = [
            "70000 10.7.0.0/24 10.7.0.1",
            "4098 10.5.0.0/24 10.5.0.7",
            "4099 10.6.0.0/16 10.6.0.1",
        ];
        assert_eq!(
            allocate(&network),
            (70_000, first.map(String::from).to_vec())
        );
        let (vni, _) = allocate(&Network::default());
        assert_eq!(vni, 4100, "after those that were chosen");
    }

    #[test]
    fn subnets_of_one_network_may_not_overlap_and_not_be_too_many() {
        let state = State::default();
        let refused = |subnets: &[&str]| {
            let error = check_network(&state, &spec(subnets, None)).unwrap_err();
            error.to_string()
        };
        let overlapping = refused(&["10.5.0.0/16", "10.6.0.0/24", "10.5.9.0/24"]);
        assert!(
            overlapping.ends_with("subnets 10.5.0.0/16 and 10.5.9.0/24 of the network overlap")
        );
        let all: Vec<_> = (0..=SUBNETS_MAX)
            .map(|n| format!("10.{n}.0.0/24"))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        check_network(&state, &spec(&all[1..], None)).unwrap();
        assert!(refused(&all).contains("17 subnets are given, and a network has at most 16"));
    }

    #[test]
    fn bad_subnets_are_refused_in_swarms_words() {
        let state = State::default();
        let mut wrong = spec(&["10.5.0.0/24"], None);
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
        check_network(&state, &spec(&["10.5.0.0/30"], None)).unwrap_err();
        for kept in [
            "0.0.0.0/0",
            "127.0.1.0/24",
            "224.0.0.0/8",
            "100.65.3.0/24",
            "100.66.0.0/24",
            "100.64.0.0/10",
        ] {
            let error = check_network(&state, &spec(&[kept], None)).unwrap_err();
            assert!(matches!(error, NetworkError::Kept { .. }), "{error}");
        }
        let mut wrong = spec(&["10.5.0.0/24"], None);
        wrong.ipam.config[0].gateway = Some("10.5.0.255".parse().unwrap());
        let error = check_network(&state, &wrong).unwrap_err();
        assert!(error.to_string().contains("no host"), "{error}");
        wrong.ipam.config[0].subnet = None;
        let error = check_network(&state, &wrong).unwrap_err();
        assert_eq!(error, NetworkError::Subnetless("a gateway"));
        let mut narrow = spec(&["10.5.0.0/24"], None);
        for (range, has_room) in [
            ("10.5.0.0/31", false),
            ("10.5.0.1/32", false),
            ("10.5.0.0/30", true),
        ] {
            narrow.ipam.config[0].ip_range = Some(range.parse().unwrap());
            let checked = check_network(&state, &narrow);
            assert_eq!(checked.is_ok(), has_room, "{range}: {checked:?}");
        }
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
                    taken.allocate(&State::default(), &cluster, &Network::default(), &mut None)
                else { break };
                let given = given.subnets[0];
                prop_assert!(cluster.default_addr_pool[0].contains(&given.subnet));
                prop_assert!(given.vni >= VNI_MIN);
                for other in before {
                    prop_assert!(!other.contains(&given.subnet) && !given.subnet.contains(&other));
                }
            }
        }
    }
}
