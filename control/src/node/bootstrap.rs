//! What a new swarm begins with.

use super::{
    NodeError,
    address::data_path_port,
    request::{InitRequest, merge_spec},
};
use crate::identity::{SpecError, create_root, normalize_external_cas, rotate_tokens, tls_info};
use ipnet::Ipv4Net;
use rand::Rng;
use skein_model::{
    Action, Availability, Cluster, ClusterSpec, DEFAULT_IPAM, Ipam, Network, NetworkSpec, Node,
    NodeDescription, NodeRole, NodeSpec, NodeState, NodeStatus, OVERLAY, PREDEFINED_LABEL,
    Platform, RaftMember, Timestamp, new_id,
};
use skein_orchestration::allocator::PREFIX_MAX;
use std::{collections::BTreeMap, net::SocketAddr};

/// Raft ID of the first manager.
pub(super) const FOUNDER_RAFT_ID: u64 = 1;
const POOL_DEFAULT: &str = "10.0.0.0/8";
const SUBNET_SIZE_DEFAULT: u8 = 24;
const SUBNET_SIZE_MAX: u32 = PREFIX_MAX as u32;

/// What the user may choose of a new swarm, checked.
#[derive(Debug)]
pub(super) struct Choices {
    pools: Vec<Ipv4Net>,
    subnet_size: u8,
    data_path_port: u16,
    pub spec: ClusterSpec,
    availability: Availability,
}

/// Checks the name that a request gives the swarm: there is only one.
pub(super) fn check_name(request: &InitRequest) -> Result<(), NodeError> {
    let name = request.spec.get("Name").and_then(|name| name.as_str());
    if matches!(name.unwrap_or_default(), "" | "default") {
        return Ok(());
    }
    Err(NodeError::invalid("swarm spec must be named \"default\""))
}

/// What the managers would say of a spec that does not come into force.
pub(super) fn refused(error: &SpecError) -> NodeError {
    let message = format!(
        "error updating cluster settings: rpc error: code = {:?} desc = {error}",
        error.code()
    );
    match error {
        SpecError::Invalid(_) => NodeError::invalid(message),
        SpecError::Failed(_) => NodeError::internal(message),
    }
}

/// Checks the choices of a request.
pub(super) fn check(request: &InitRequest) -> Result<Choices, NodeError> {
    check_name(request)?;
    let mut spec = merge_spec(&request.spec)
        .map_err(|error| NodeError::invalid(format!("invalid swarm spec: {error}")))?;
    spec.encryption_config.auto_lock_managers |= request.auto_lock_managers;
    normalize_external_cas(&mut spec.ca_config)
        .map_err(|error| NodeError::invalid(error.to_string()))?;
    let subnet_size = match request.subnet_size {
        0 => SUBNET_SIZE_DEFAULT,
        1..=SUBNET_SIZE_MAX => u8::try_from(request.subnet_size).unwrap_or(SUBNET_SIZE_DEFAULT),
        n => {
            let message = format!("subnet size is out of range: {n}");
            return Err(NodeError::internal(message));
        }
    };
    let default_pool = [POOL_DEFAULT.to_owned()];
    let asked = if request.default_addr_pool.is_empty() {
        &default_pool[..]
    } else {
        &request.default_addr_pool
    };
    let pool = |text: &String| {
        let pool = text.parse::<Ipv4Net>().map_err(|_| {
            NodeError::internal(format!("invalid CIDR: {text:?}: an IPv4 subnet is needed"))
        })?;
        if pool.prefix_len() > subnet_size {
            return Err(NodeError::internal(format!(
                "invalid CIDR: {text:?}. Subnet size is too small for pool: {subnet_size}"
            )));
        }
        Ok(pool.trunc())
    };
    Ok(Choices {
        pools: asked.iter().map(pool).collect::<Result<_, _>>()?,
        subnet_size,
        data_path_port: data_path_port(request.data_path_port)?,
        spec,
        availability: request.availability,
    })
}

/// What the founder knows of itself before its agent registers.
pub(super) struct Founder {
    pub advertise: SocketAddr,
    pub hostname: String,
    /// As `uname -m` says it.
    pub architecture: String,
}

/// The objects of a new swarm whose only node is the founder; its spec is not in force yet.
pub(super) fn found(
    choices: &Choices,
    founder: Founder,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Result<(Cluster, Node, Vec<Network>), NodeError> {
    let failed = |error: &dyn std::error::Error| NodeError::internal(error.to_string());
    let root_ca = create_root(now).map_err(|error| failed(&error))?;
    let node_id = new_id(rng);
    let member = RaftMember {
        raft_id: FOUNDER_RAFT_ID,
        addr: founder.advertise.to_string(),
    };
    let node = Node {
        id: node_id.clone(),
        spec: NodeSpec {
            role: NodeRole::Manager,
            availability: choices.availability,
            ..NodeSpec::default()
        },
        role: NodeRole::Manager,
        description: NodeDescription {
            hostname: founder.hostname,
            platform: Platform {
                architecture: founder.architecture,
                os: "linux".into(),
            },
            tls_info: tls_info(&root_ca.cert_pem).map_err(|error| failed(&error))?,
            ..NodeDescription::default()
        },
        status: NodeStatus {
            state: NodeState::Ready,
            addr: founder.advertise.ip().to_string(),
            ..NodeStatus::default()
        },
        ..Node::default()
    };
    let mut cluster = Cluster {
        id: new_id(rng),
        default_addr_pool: choices.pools.clone(),
        subnet_size: choices.subnet_size,
        data_path_port: choices.data_path_port,
        root_ca,
        next_raft_id: FOUNDER_RAFT_ID + 1,
        managers: BTreeMap::from([(node_id, member)]),
        ..Cluster::default()
    };
    rotate_tokens(&mut cluster, true, true);
    let mut network = |spec| Network {
        id: new_id(rng),
        spec,
        ..Network::default()
    };
    let ingress = NetworkSpec {
        name: "ingress".into(),
        driver: OVERLAY.into(),
        ingress: true,
        ipam: Ipam {
            driver: DEFAULT_IPAM.into(),
            ..Ipam::default()
        },
        ..NetworkSpec::default()
    };
    let local = |name: &str| NetworkSpec {
        name: name.into(),
        driver: name.into(),
        labels: BTreeMap::from([(PREDEFINED_LABEL.into(), "true".into())]),
        predefined: true,
        ..NetworkSpec::default()
    };
    let networks = [ingress, local("bridge"), local("host")].map(&mut network);
    Ok((cluster, node, networks.into()))
}

/// The transaction that puts the objects in the store.
pub(super) fn actions(cluster: Cluster, node: Node, networks: Vec<Network>) -> Vec<Action> {
    [cluster.into(), node.into()]
        .into_iter()
        .chain(networks.into_iter().map(Into::into))
        .map(Action::Create)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::JoinToken, node::NodeErrorKind};
    use rand::{SeedableRng as _, rngs::StdRng};
    use skein_model::{Proposal, State};
    use std::collections::BTreeSet;

    #[test]
    fn a_new_swarm_has_the_references_objects() {
        let choices = check(&InitRequest::default()).unwrap();
        let founder = || Founder {
            advertise: "10.0.0.1:2377".parse().unwrap(),
            hostname: "one".into(),
            architecture: "x86_64".into(),
        };
        let at = Timestamp::from_unix_nanos(1);
        let mut rng = StdRng::seed_from_u64(1);
        let (cluster, node, networks) = found(&choices, founder(), at, &mut rng).unwrap();
        let ids = |cluster: &Cluster, node: &Node, networks: &[Network]| {
            let networks = networks.iter().map(|network| network.id.clone());
            [cluster.id.clone(), node.id.clone()]
                .into_iter()
                .chain(networks)
                .collect::<Vec<_>>()
        };
        let mut same = StdRng::seed_from_u64(1);
        let again = found(&choices, founder(), at, &mut same).unwrap();
        let given = ids(&cluster, &node, &networks);
        assert_eq!(ids(&again.0, &again.1, &again.2), given);
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
        let actions = actions(cluster, node, networks);
        let mut state = State::default();
        state.apply(1, &Proposal { at, actions }).unwrap();
        let cluster = state.cluster().unwrap();
        assert_eq!(cluster.default_addr_pool, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!((cluster.subnet_size, cluster.data_path_port), (24, 4789));
        assert_eq!(cluster.spec, ClusterSpec::default());
        for token in [&cluster.join_tokens.worker, &cluster.join_tokens.manager] {
            assert!(
                JoinToken::parse(token)
                    .unwrap()
                    .matches_root(&cluster.root_ca.cert_pem)
            );
        }
        let node = state.nodes().next().unwrap();
        assert_eq!(cluster.managers[&node.id].addr, "10.0.0.1:2377");
        assert_eq!(state.ingress_network().unwrap().spec.name, "ingress");
        let predefined = state.networks().filter(|network| network.spec.predefined);
        assert_eq!(predefined.count(), 2);
    }

    #[test]
    fn bad_choices_are_refused_in_the_references_words() {
        let refused = |change: &dyn Fn(&mut InitRequest)| {
            let mut request = InitRequest::default();
            change(&mut request);
            check(&request).unwrap_err()
        };
        let size = refused(&|request| request.subnet_size = 30);
        assert_eq!(size.message, "subnet size is out of range: 30");
        assert_eq!(size.kind, NodeErrorKind::Internal);
        let pool = refused(&|request| request.default_addr_pool = vec!["10.1.0.0/28".into()]);
        assert_eq!(
            pool.message,
            "invalid CIDR: \"10.1.0.0/28\". Subnet size is too small for pool: 24"
        );
        let name = refused(&|request| drop(request.spec.insert("Name".into(), "x".into())));
        assert_eq!(name.message, "swarm spec must be named \"default\"");
        assert_eq!(name.kind, NodeErrorKind::Invalid);
        let external = serde_json::json!({"ExternalCAs": [{"Protocol": "x"}]});
        let external = refused(&|request| {
            request.spec.insert("CAConfig".into(), external.clone());
        });
        assert_eq!(external.message, "invalid protocol: \"x\"");
    }
}
