//! The endpoints of this node's containers, by the engine's IDs.

use super::{Asker, Askers, Attachment, plan::Places, tables::internal_address};
use crate::desired::Desired;
use std::{collections::BTreeMap, sync::Arc};

/// See the module.
pub struct Endpoints {
    by_id: BTreeMap<String, Endpoint>,
    /// The DNS server's view of them.
    askers: Askers,
}

/// A container's place on a network, as the kernel has it.
pub struct Endpoint {
    /// As the engine asked for it.
    pub attachment: Attachment,
    /// The host's end of its veth pair.
    pub ifindex: u32,
    /// Its number in the kernel's maps.
    pub index: u32,
}

impl Endpoints {
    /// None yet. `askers`: what to keep the DNS server's view in.
    pub fn new(askers: Askers) -> Self {
        Self {
            by_id: BTreeMap::new(),
            askers,
        }
    }

    /// Adds one; one with its ID is replaced.
    pub fn add(&mut self, endpoint: Endpoint) {
        let id = endpoint.attachment.endpoint_id.clone();
        self.by_id.insert(id, endpoint);
    }

    /// Removes one.
    pub fn remove(&mut self, id: &str) -> Option<Endpoint> {
        self.by_id.remove(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values()
    }

    /// Where they are.
    pub fn places(&self) -> Places {
        let places = self.by_id.values().map(|endpoint| {
            let attachment = &endpoint.attachment;
            let at = (attachment.network_id.clone(), attachment.address);
            (at, endpoint.index)
        });
        places.collect()
    }

    /// Tells the DNS server which networks the container behind each internal address is on: its
    /// questions may leave by any of its endpoints.
    pub fn tell_askers(&self, desired: &Desired) {
        let is_named = |network: &String| {
            let network = desired.networks.get(network);
            network.is_some_and(|network| !network.ingress)
        };
        let mut networks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Endpoint { attachment, .. } in self.by_id.values() {
            let of_sandbox = networks.entry(&attachment.sandbox).or_default();
            if is_named(&attachment.network_id) {
                of_sandbox.push(attachment.network_id.clone());
            }
        }
        // The same network counts first each time.
        let sorted = networks.into_iter().map(|(sandbox, mut networks)| {
            networks.sort_unstable();
            (sandbox, Arc::from(networks))
        });
        let networks: BTreeMap<&str, Arc<[String]>> = sorted.collect();
        let askers = self.by_id.values().map(|endpoint| {
            let of_sandbox = &networks[endpoint.attachment.sandbox.as_str()];
            let network_ids = Arc::clone(of_sandbox);
            (internal_address(endpoint.index), Asker { network_ids })
        });
        self.askers.store(Arc::new(askers.collect()));
    }
}
