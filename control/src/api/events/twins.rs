//! The engine's events about the twins of the swarm's networks, told as of the networks themselves.

use crate::{
    agent::engine::DRIVER,
    api::{Local, networks},
};
use serde_json::Value;
use skein_model::OVERLAY;
use std::collections::HashMap;

/// Twins that a stream remembers, by the engine's ID of each: once one is removed, the engine cannot be
/// asked of it. A node has at most a few hundred.
const KNOWN_MAX: usize = 4096;

/// What a stream knows of twins.
#[derive(Default)]
pub struct Twins(HashMap<String, String>);

impl Twins {
    /// A line of the engine's events, as clients are to see it.
    pub async fn translate(&mut self, local: &Local, line: &str) -> Option<String> {
        let mut event: Value = serde_json::from_str(line).ok()?;
        if event["Type"] != "network" {
            return None;
        }
        let id = event["Actor"]["ID"].as_str()?.to_owned();
        let name = event["Actor"]["Attributes"]["name"].as_str()?;
        // Twins of the nodes' own networks have the engine's drivers, as its other networks do.
        let is_overlay = event["Actor"]["Attributes"]["type"] == DRIVER;
        let network = match self.0.get(&id) {
            Some(network) => network.clone(),
            None if is_overlay => local.network_of_twin(&id, name).await?,
            None => local.labelled_twin(&id).await?,
        };
        if self.0.len() < KNOWN_MAX {
            self.0.insert(id, network.clone());
        }
        event["Actor"]["ID"] = network.into();
        if is_overlay {
            event["Actor"]["Attributes"]["type"] = OVERLAY.into();
        }
        serde_json::to_string(&event).ok()
    }
}

impl Local {
    /// The ID of the swarm's network that a network of the engine stands for, if that is there.
    async fn labelled_twin(&self, engines_id: &str) -> Option<String> {
        let network = self.engines_network(engines_id).await.ok()??;
        networks::twin_of(&network).map(str::to_owned)
    }

    /// The same of an overlay's, which may be gone.
    async fn network_of_twin(&self, engines_id: &str, name: &str) -> Option<String> {
        if let Some(network) = self.labelled_twin(engines_id).await {
            return Some(network);
        }
        // It is gone. A twin has its network's name, which managers know.
        let state = self.member.store()?.state();
        let network = state.networks().find(|network| network.spec.name == name)?;
        Some(network.id.clone())
    }
}
