//! What the plugin must know after a restart: the engine does not tell again.

use crate::kernel::Attachment;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

/// See the module.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    state: Stored,
}

/// The file's contents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The engine's ID of a network -> the cluster's.
    pub networks: BTreeMap<String, String>,
    /// By the engine's ID of the endpoint.
    pub endpoints: BTreeMap<String, StoredEndpoint>,
}

/// An endpoint that the engine has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEndpoint {
    /// The cluster's ID of its network.
    pub network_id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where its container lives; "" until it joins.
    pub sandbox: String,
    /// The task's default route, or the one to its DNS server, leads through it.
    pub has_default_route: bool,
    /// Of a container that is no task's: how long the prefix of its route to the DNS server is that leads
    /// through this endpoint, if one does.
    #[serde(default)]
    pub dns_prefix: Option<u8>,
    /// Another network of the container leads out.
    #[serde(default)]
    pub no_gateway: bool,
}

impl StoredEndpoint {
    /// What the kernel's side makes of it.
    pub fn attachment(&self, endpoint_id: &str) -> Attachment {
        Attachment {
            endpoint_id: endpoint_id.to_owned(),
            sandbox: self.sandbox.clone(),
            network_id: self.network_id.clone(),
            address: self.address,
        }
    }
}

impl Store {
    /// Reads the file; starts anew if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not ours.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let state = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self { path, state })
    }

    /// What is stored.
    pub(super) fn state(&self) -> &Stored {
        &self.state
    }

    /// The endpoints whose containers have joined.
    pub fn joined(&self) -> Vec<Attachment> {
        let joined = self.state.endpoints.iter();
        let joined = joined.filter(|(_, endpoint)| !endpoint.sandbox.is_empty());
        joined
            .map(|(id, endpoint)| endpoint.attachment(id))
            .collect()
    }

    /// Changes what is stored, on disk before in memory. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; nothing is changed.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Stored) -> T) -> anyhow::Result<T> {
        let mut next = self.state.clone();
        let answer = change(&mut next);
        if next != self.state {
            crate::files::replace(&self.path, &serde_json::to_vec(&next)?)?;
            self.state = next;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_joined_endpoints_are_attached_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin.json");
        let endpoint = |sandbox: &str| StoredEndpoint {
            network_id: "net".into(),
            address: Ipv4Addr::new(10, 0, 1, 5),
            sandbox: sandbox.into(),
            has_default_route: false,
            dns_prefix: None,
            no_gateway: false,
        };
        let mut store = Store::open(path.clone()).unwrap();
        store
            .change(|state| {
                state.endpoints.insert("made".into(), endpoint(""));
                state.endpoints.insert("joined".into(), endpoint("/run/x"));
            })
            .unwrap();
        let joined = Store::open(path).unwrap().joined();
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].endpoint_id, "joined");
    }
}
