//! What a container of the user's own gets: its address.

use super::Pools;
use crate::task;
use skein_model::{State, Task, TaskNetwork, TaskState, Timestamp};
use std::collections::BTreeMap;

/// The attachment with its address: it is its node's at once, as no scheduler has a say in it. One that
/// cannot have one says why; whoever asked for it takes it back.
pub(super) fn allocate(
    state: &State,
    task: &Task,
    pools: &mut Pools,
    last: &BTreeMap<String, u32>,
    now: Timestamp,
) -> Task {
    let mut task = task.clone();
    match addresses(state, &task, pools, last) {
        Ok(networks) => {
            task.networks_attachments = networks;
            let status = &mut task.status;
            task::say(status, TaskState::Assigned, "network attached", now);
            status.err.clear();
        }
        Err(error) => task.status.err = error,
    }
    task
}

fn addresses(
    state: &State,
    task: &Task,
    pools: &mut Pools,
    last: &BTreeMap<String, u32>,
) -> Result<Vec<TaskNetwork>, String> {
    let networks = task.spec.networks.iter().map(|config| {
        let id = &config.target;
        let pool = pools
            .of(state, id, last)?
            .ok_or_else(|| format!("network {id} is no overlay"))?;
        let address = match config.address {
            Some(address) => pool.fixed(address)?,
            None => pool.next()?,
        };
        Ok(TaskNetwork {
            network_id: id.clone(),
            address: Some(address),
            aliases: config.aliases.clone(),
            ..TaskNetwork::default()
        })
    });
    networks.collect()
}
