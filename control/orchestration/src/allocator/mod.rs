//! Gives out what must be unique in the cluster: VNIs, subnets, addresses, the nodes' addresses in
//! their tunnels, and published ports.
//!
//! What is taken is read from the store each time, so that a new leader can give nothing twice.
//! Only where to go on (the last address of each network, the last VNI) is remembered outside it.

mod attachment;
mod network;
mod pool;
mod port_conflicts;
mod ports;
mod service;
mod tunnel;

pub use network::{
    INTERNAL_NET, NetworkError, PREFIX_MAX, SUBNETS_MAX, VNI_MAX, VNI_MIN, VNI_OPTION,
    check_network,
};
pub use port_conflicts::{PortConflict, check_ports};
pub use ports::DYNAMIC_PORTS;
pub use tunnel::SECURE_NET;

use crate::{settled::Scope, task};
use pool::AddressPool;
use skein_model::{
    Draft, EndpointSpec, NetworkAttachmentConfig, Rejection, Service, State, Task, TaskNetwork,
    TaskSpec, TaskState,
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

/// The allocator's memory between steps: nothing that matters for uniqueness.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    last_vni: Option<u32>,
    /// The address given last, by network.
    last_addresses: BTreeMap<String, u32>,
}

impl Allocator {
    /// Gives networks, services and new tasks what they lack. Tasks that have everything go on to
    /// PENDING, attachments to ASSIGNED; the others, and their services, say what is missing.
    pub fn run(&mut self, draft: &mut Draft) {
        let scope = Scope::all(draft);
        self.run_within(draft, &scope);
    }

    /// The same, where it is known that only these services and their tasks can lack something.
    pub(crate) fn run_within(&mut self, draft: &mut Draft, scope: &Scope) {
        self.networks(draft);
        tunnel::allocate(draft);
        let mut pools = Pools::default();
        service::allocate_all(draft, &mut pools, &self.last_addresses);
        tasks(draft, scope, &mut pools, &self.last_addresses);
        for (network, pool) in pools.pools {
            self.last_addresses.insert(network, pool.last());
        }
        self.last_addresses
            .retain(|network, _| draft.network(network).is_some());
    }

    fn networks(&mut self, draft: &mut Draft) {
        let waiting: Vec<_> = draft
            .networks()
            .filter(|network| network.allocation.is_none() && !network.spec.is_node_local())
            .cloned()
            .collect();
        let Some(cluster) = draft.cluster().cloned() else {
            return;
        };
        // The ingress network first: it gets the first subnet of the pool.
        let (ingress, others): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|network| network.spec.ingress);
        for network in ingress.into_iter().chain(others) {
            let mut taken = network::Taken::of(draft);
            let mut network = (*network).clone();
            match taken.allocate(draft, &cluster, &network, &mut self.last_vni) {
                Ok(allocation) => {
                    network.allocation = Some(allocation);
                    network.allocation_error.clear();
                }
                Err(error) => network.allocation_error = error.to_string(),
            }
            draft.put(network);
        }
    }
}

/// The pools of the networks that something is given from in this step.
#[derive(Default)]
struct Pools {
    pools: BTreeMap<String, AddressPool>,
    /// What is in use, by network; gathered when the first address is needed.
    in_use: Option<BTreeMap<String, BTreeSet<std::net::Ipv4Addr>>>,
}

impl Pools {
    /// The pool of a network, or why it has none; `None` for networks whose addresses nodes give.
    fn of(
        &mut self,
        state: &State,
        network_id: &str,
        last: &BTreeMap<String, u32>,
    ) -> Result<Option<&mut AddressPool>, String> {
        let network = state
            .network(network_id)
            .filter(|network| !network.pending_deletion)
            .ok_or_else(|| format!("network {network_id} not found: it was removed"))?;
        if network.spec.is_node_local() {
            return Ok(None);
        }
        let Some(allocation) = &network.allocation else {
            let (name, error) = (&network.spec.name, &network.allocation_error);
            return Err(match error.is_empty() {
                true => format!("network {name} waits for its subnet"),
                false => format!("network {name} has no subnet: {error}"),
            });
        };
        let pool = match self.pools.entry(network_id.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let in_use = self.in_use.get_or_insert_with(|| addresses_in_use(state));
                let mut pool = AddressPool::new(network, allocation);
                for address in in_use.get(network_id).into_iter().flatten() {
                    pool.take(*address);
                }
                pool.start_after(last.get(network_id).copied());
                entry.insert(pool)
            }
        };
        Ok(Some(pool))
    }
}

/// The addresses of all services and of all tasks that may still run, by network.
fn addresses_in_use(state: &State) -> BTreeMap<String, BTreeSet<std::net::Ipv4Addr>> {
    let mut in_use: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    let vips = state
        .services()
        .flat_map(|service| &service.endpoint.virtual_ips)
        .filter_map(|vip| Some((&vip.network_id, vip.addr?)));
    let tasks = state
        .tasks()
        .filter(|task| task.holds_addresses())
        .flat_map(|task| &task.networks_attachments)
        .filter_map(|attachment| Some((&attachment.network_id, attachment.address?)));
    for (network, address) in vips.chain(tasks) {
        let network = in_use.entry(network.clone()).or_default();
        network.insert(address.addr());
    }
    in_use
}

/// A network that tasks are to be on.
struct Joined<'a> {
    network_id: &'a str,
    /// As the spec asks for it; `None` for the ingress network, which no spec names.
    asked: Option<&'a NetworkAttachmentConfig>,
}

/// The networks of the service's tasks in the order of attachment; the ingress network is first.
fn networks_of<'a>(
    state: &'a State,
    spec: &'a TaskSpec,
    endpoint: Option<&EndpointSpec>,
) -> Result<Vec<Joined<'a>>, String> {
    let mut networks = Vec::with_capacity(spec.networks.len() + 1);
    if endpoint.is_some_and(EndpointSpec::needs_ingress) {
        let ingress = state
            .ingress_network()
            .ok_or_else(|| Rejection::IngressMissing.to_string())?;
        networks.push(Joined {
            network_id: &ingress.id,
            asked: None,
        });
    }
    networks.extend(spec.networks.iter().map(|network| Joined {
        network_id: &network.target,
        asked: Some(network),
    }));
    Ok(networks)
}

/// NEW tasks get their addresses and go on to PENDING.
fn tasks(draft: &mut Draft, scope: &Scope, pools: &mut Pools, last: &BTreeMap<String, u32>) {
    let new: Vec<Arc<Task>> = scope
        .tasks(draft)
        .filter(|task| task.status.state == TaskState::New && crate::slot::is_live(task))
        .cloned()
        .collect();
    for task in new {
        if task.is_attachment() {
            let now = draft.now();
            draft.put(attachment::allocate(draft, &task, pools, last, now));
            continue;
        }
        let Some(service) = draft.service(&task.service_id).cloned() else {
            continue;
        };
        let mut task = (*task).clone();
        match attach(draft, &service, &task, pools, last) {
            Ok(attachments) => {
                task.networks_attachments = attachments;
                task.ports = ports_for(&service, &task);
                let message = "pending task scheduling";
                task::say(&mut task.status, TaskState::Pending, message, draft.now());
                task.status.err.clear();
            }
            Err(error) => task.status.err = error,
        }
        draft.put(task);
    }
}

/// The ports of the service as they hold for this task: those of its own spec while an update is on
/// its way.
fn ports_for(service: &Service, task: &Task) -> Vec<skein_model::PortConfig> {
    let own = task.endpoint_spec.as_ref();
    if own == service.spec.endpoint_spec.as_ref() {
        service.endpoint.ports.clone()
    } else {
        own.map(|spec| spec.ports.clone()).unwrap_or_default()
    }
}

fn attach(
    state: &State,
    service: &Service,
    task: &Task,
    pools: &mut Pools,
    last: &BTreeMap<String, u32>,
) -> Result<Vec<TaskNetwork>, String> {
    if !service.allocation_error.is_empty() {
        return Err(service.allocation_error.clone());
    }
    let networks = networks_of(state, &task.spec, task.endpoint_spec.as_ref())?;
    for Joined { network_id, .. } in &networks {
        if let Some(pool) = pools.of(state, network_id, last)? {
            pool.find()?;
        }
    }
    let mut attachments = Vec::with_capacity(networks.len());
    for Joined { network_id, asked } in networks {
        let address = match pools.of(state, network_id, last)? {
            Some(pool) => Some(pool.next()?),
            None => None,
        };
        attachments.push(TaskNetwork {
            network_id: network_id.to_owned(),
            address,
            aliases: asked.map(|asked| asked.aliases.clone()).unwrap_or_default(),
            driver_opts: asked
                .map(|asked| asked.driver_opts.clone())
                .unwrap_or_default(),
            local_network: match (address, state.network(network_id)) {
                (None, Some(network)) => Some(Box::new(network.spec.clone())),
                _ => None,
            },
        });
    }
    Ok(attachments)
}

#[cfg(test)]
mod tests;
