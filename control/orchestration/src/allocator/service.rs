//! What a service gets: its VIPs and published ports.

use super::{
    Joined, Pools, network::overlap, networks_of, port_conflicts::check_given, ports::TakenPorts,
};
use skein_model::{Draft, ResolutionMode, Service, ServiceEndpoint, State, VirtualIp};
use std::{collections::BTreeMap, sync::Arc};

/// Allocates for every service whose spec is newer than what it has.
pub(super) fn allocate_all(draft: &mut Draft, pools: &mut Pools, last: &BTreeMap<String, u32>) {
    let waiting: Vec<Arc<Service>> = draft
        .services()
        .filter(|service| service.allocated_version != Some(service.spec_version))
        .cloned()
        .collect();
    for service in waiting {
        let mut service = (*service).clone();
        match allocate(draft, &service, pools, last) {
            Ok(endpoint) => {
                service.endpoint = endpoint;
                service.allocated_version = Some(service.spec_version);
                service.allocation_error.clear();
            }
            Err(error) => service.allocation_error = error,
        }
        draft.put(service);
    }
}

fn allocate(
    state: &State,
    service: &Service,
    pools: &mut Pools,
    last: &BTreeMap<String, u32>,
) -> Result<ServiceEndpoint, String> {
    let spec = service.spec.endpoint_spec.clone().unwrap_or_default();
    check_given(state, &service.id, &spec).map_err(|conflict| conflict.to_string())?;
    let ports = TakenPorts::except(state, &service.id).fill(&spec, &service.endpoint.ports)?;
    let networks = networks_of(state, &service.spec.task_template, Some(&spec))?;
    check_overlap(state, &networks)?;
    let mut virtual_ips = Vec::new();
    if spec.mode == ResolutionMode::Vip {
        let ingress = state.ingress_network().map(|network| network.id.as_str());
        // What is published on the nodes of the tasks alone needs no balancing.
        let balanced = |id: &str| Some(id) != ingress || spec.publishes_ingress();
        let kept = |network_id: &str| {
            let mut before = service.endpoint.virtual_ips.iter();
            before.find(|vip| vip.network_id == network_id)?.addr
        };
        let balanced: Vec<&str> = networks
            .iter()
            .map(|joined| joined.network_id)
            .filter(|id| balanced(id))
            .collect();
        for network_id in balanced.iter().filter(|id| kept(id).is_none()) {
            if let Some(pool) = pools.of(state, network_id, last)? {
                pool.find()?;
            }
        }
        for network_id in balanced {
            let addr = match (kept(network_id), pools.of(state, network_id, last)?) {
                (Some(kept), Some(_)) => Some(kept),
                (None, Some(pool)) => Some(pool.next()?),
                (_, None) => None,
            };
            virtual_ips.push(VirtualIp {
                network_id: network_id.to_owned(),
                addr,
            });
        }
    }
    Ok(ServiceEndpoint {
        spec,
        ports,
        virtual_ips,
    })
}

/// Networks may overlap each other, but not those of one task: its kernel could not tell them apart.
fn check_overlap(state: &State, networks: &[Joined<'_>]) -> Result<(), String> {
    let subnets: Vec<_> = networks
        .iter()
        .filter_map(|joined| state.network(joined.network_id))
        .filter_map(|network| Some((&network.spec.name, network.allocation.as_ref()?)))
        .flat_map(|(name, allocation)| allocation.subnets.iter().map(move |s| (name, s.subnet)))
        .collect();
    for (position, (name, subnet)) in subnets.iter().enumerate() {
        for (other, before) in &subnets[..position] {
            if overlap(before, subnet) {
                return Err(format!(
                    "networks {other} ({before}) and {name} ({subnet}) of the service overlap: one \
                     task cannot be on both"
                ));
            }
        }
    }
    Ok(())
}
