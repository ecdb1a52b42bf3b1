//! Networks of swarm scope, and their address pools.

use crate::Meta;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Label of the networks that the swarm itself makes of what every engine has.
pub const PREDEFINED_LABEL: &str = "com.docker.swarm.predefined";

/// The driver of networks that the swarm itself carries from node to node.
pub const OVERLAY: &str = "overlay";

/// The option by which an overlay is encrypted between nodes, as Docker's driver has it.
pub const ENCRYPTED_OPTION: &str = "encrypted";

/// The driver of addresses that the swarm itself gives.
pub const DEFAULT_IPAM: &str = "default";

/// A network of swarm scope.
///
/// Its JSON is the store's own; the API shows networks in the form of `GET /networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    #[serde(rename = "ID")]
    #[allow(missing_docs, reason = "the name says it")]
    pub id: String,
    #[serde(flatten)]
    #[allow(missing_docs, reason = "see the type")]
    pub meta: Meta,
    /// As the user asked for it.
    pub spec: NetworkSpec,
    /// What the allocator gave it; `None` until then.
    pub allocation: Option<NetworkAllocation>,
    /// Why it could not be allocated, for the user's eyes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub allocation_error: String,
    /// Its user has removed it while tasks were on it that had not ended: it is there for these alone, and
    /// goes with the last of them. Its name is free. Never taken back.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub pending_deletion: bool,
}

/// A network as asked for (`POST /networks/create`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NetworkSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// `overlay`; or one whose networks are each node's own: see [`NetworkSpec::is_node_local`].
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    /// Of a network of the nodes: that of each of them which has what it is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_from: Option<NetworkReference>,
    /// The local networks `bridge` and `host` of every node, as the swarm sees them: hidden from
    /// lists, and never removed.
    pub predefined: bool,
}

impl NetworkSpec {
    /// Whether each node has a network of its own by this name, on which it gives the addresses itself;
    /// the managers give none, and carry nothing between the nodes.
    pub fn is_node_local(&self) -> bool {
        self.driver != OVERLAY
    }

    /// Whether what goes between nodes is encrypted: asked for by [`ENCRYPTED_OPTION`], whatever its value.
    pub fn is_encrypted(&self) -> bool {
        self.driver == OVERLAY && self.options.contains_key(ENCRYPTED_OPTION)
    }

    /// The `--config-only` network of the nodes that it is made of, if it names one.
    pub fn config_from(&self) -> Option<&str> {
        let reference = self.config_from.as_ref()?;
        (!reference.network.is_empty()).then_some(&reference.network)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct NetworkReference {
    pub network: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct Ipam {
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub config: Vec<IpamConfig>,
}

impl Ipam {
    /// Whether no other driver of addresses is asked for than the swarm's.
    pub fn is_of_swarm(&self) -> bool {
        matches!(self.driver.as_str(), "" | DEFAULT_IPAM)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "fields of the Docker Engine API")]
pub struct IpamConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Ipv4Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, Ipv4Addr>,
}

/// What the allocator gives an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkAllocation {
    /// At least one, in the order in which they were asked for; they do not overlap.
    pub subnets: Vec<SubnetAllocation>,
}

/// A subnet of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SubnetAllocation {
    /// VXLAN network identifier, 4096 to 2^24-1: of no other subnet of the cluster's. See
    /// [`NetworkAllocation::vni`].
    pub vni: u32,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The first address of the subnet unless asked otherwise.
    pub gateway: Ipv4Addr,
    /// The part of the subnet that addresses are given from.
    pub range: Ipv4Net,
}

impl SubnetAllocation {
    /// All of a subnet, whose first address is the gateway.
    pub fn whole(vni: u32, subnet: Ipv4Net) -> Self {
        let subnet = subnet.trunc();
        Self {
            vni,
            subnet,
            gateway: subnet.hosts().next().unwrap_or(subnet.network()),
            range: subnet,
        }
    }
}

impl From<SubnetAllocation> for NetworkAllocation {
    fn from(subnet: SubnetAllocation) -> Self {
        Self {
            subnets: vec![subnet],
        }
    }
}

impl NetworkAllocation {
    /// The identifier that all packets of the network have, from whichever subnet: the first one's. The
    /// others are shown, and pinned, as Swarm has one for each subnet.
    pub fn vni(&self) -> u32 {
        self.subnets.first().map_or(0, |subnet| subnet.vni)
    }
}
