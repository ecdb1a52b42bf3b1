//! The twins of the swarm's networks on this engine.

use super::{
    Engine, EngineError,
    twin::{TWIN_LABEL, TwinSpec},
};
use bollard::{models::NetworkInspect, query_parameters::ListNetworksOptionsBuilder};
use futures::future::BoxFuture;
use std::collections::{BTreeSet, HashMap};

impl Engine {
    /// The engine's own ID of the twin of a network of the swarm, if there is one.
    pub async fn twin(&self, network_id: &str) -> Result<Option<String>, EngineError> {
        let twins = self.labelled(format!("{TWIN_LABEL}={network_id}")).await?;
        Ok(twins.into_iter().next().map(|(id, _)| id))
    }

    /// The engine's own ID of a network's twin, which is made if need be. Twins of several networks are made at a
    /// time, each by one of those who need it.
    pub async fn ensure_twin(&self, spec: &TwinSpec) -> Result<String, EngineError> {
        let (engine, wanted) = (self.clone(), spec.clone());
        let begin = || -> BoxFuture<'static, Result<String, EngineError>> {
            Box::pin(async move { engine.find_or_make_twin(&wanted).await })
        };
        let making = self.making.join(spec.network_id.clone(), begin);
        // The engine goes on with what it was asked for, whoever waits: until it has answered nobody may ask again.
        tokio::spawn(making.clone());
        making.await
    }

    async fn find_or_make_twin(&self, spec: &TwinSpec) -> Result<String, EngineError> {
        let _none_goes = self.twins.read().await;
        if let Some(twin) = self.twin(&spec.network_id).await? {
            return Ok(twin);
        }
        let config = match spec.config_from() {
            Some(name) => Some(self.configuration(name).await?),
            None => None,
        };
        let made = self
            .change("making a network", |docker| {
                docker.create_network(spec.request(config))
            })
            .await?;
        tracing::info!(
            network = spec.name,
            id = spec.network_id,
            "made the twin of a network"
        );
        Ok(made.id)
    }

    /// A network of the engine's that only says what others are made of.
    async fn configuration(&self, name: &str) -> Result<NetworkInspect, EngineError> {
        let found = self
            .read("looking at a network", |docker| {
                docker.inspect_network(name, None)
            })
            .await;
        match found {
            Ok(network) if network.config_only == Some(true) => Ok(network),
            Err(error) if !error.is_not_found() => Err(error),
            Ok(_) | Err(_) => Err(EngineError::Refused {
                status: 404,
                message: format!("configuration network \"{name}\" does not exist"),
            }),
        }
    }

    /// Networks of the swarm whose twins have no endpoint.
    pub async fn idle_twins(&self) -> Result<BTreeSet<String>, EngineError> {
        let mut idle = BTreeSet::new();
        for (twin, network_id) in self.labelled(TWIN_LABEL.to_owned()).await? {
            let inspected = self
                .read("looking at a network", |docker| {
                    docker.inspect_network(&twin, None)
                })
                .await;
            match inspected {
                Ok(network) if network.containers.as_ref().is_none_or(HashMap::is_empty) => {
                    idle.insert(network_id);
                }
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(idle)
    }

    /// Removes the twin of a network that nobody needs; whether it did. An engine that still has endpoints
    /// on it refuses. Who needs it from then on must [ensure](Self::ensure_twin) it.
    pub async fn remove_twin_unless(
        &self,
        network_id: &str,
        is_needed: impl Fn() -> bool,
    ) -> Result<bool, EngineError> {
        let _turn = self.twins.write().await;
        // Asked now: whoever was given the twin needed it before, and who needs it later has a later turn.
        if is_needed() {
            return Ok(false);
        }
        let Some(twin) = self.twin(network_id).await? else {
            return Ok(false);
        };
        self.remove_network(&twin).await?;
        Ok(true)
    }

    /// Removes the twins of all networks. What fails is logged.
    pub async fn remove_all_twins(&self) -> Result<(), EngineError> {
        let _turn = self.twins.write().await;
        for (twin, network_id) in self.labelled(TWIN_LABEL.to_owned()).await? {
            if let Err(error) = self.remove_network(&twin).await {
                tracing::warn!(%error, network_id, "could not remove a network of the swarm");
            }
        }
        Ok(())
    }

    async fn remove_network(&self, twin: &str) -> Result<(), EngineError> {
        let removed = self
            .change("removing a network", |docker| docker.remove_network(twin))
            .await;
        match removed {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Networks with a label: their own IDs, and the networks of the swarm that they stand for.
    pub(super) async fn labelled(
        &self,
        label: String,
    ) -> Result<Vec<(String, String)>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = self
            .read("listing networks", |docker| {
                docker.list_networks(Some(options))
            })
            .await?;
        let twins = found.into_iter().filter_map(|network| {
            let network_id = network.labels?.remove(TWIN_LABEL)?;
            Some((network.id?, network_id))
        });
        Ok(twins.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use http::Method;
    use parking_lot::Mutex;
    use serde_json::json;
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        time::Duration,
    };
    use tokio::sync::Semaphore;

    /// An engine that makes networks one by one, as `go` lets it, and says how many it has made.
    fn slow_engine(
        socket: &Path,
        made: &Arc<Mutex<Vec<String>>>,
        go: &Arc<Semaphore>,
    ) -> testing::Server {
        let (made, go) = (made.clone(), go.clone());
        testing::engine_that_reads(socket, move |method, path, body| {
            let (made, go) = (made.clone(), go.clone());
            async move {
                if path == "/version" {
                    return (200, testing::VERSION.to_owned());
                }
                if method == Method::POST {
                    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let id = asked["Labels"][TWIN_LABEL].as_str().unwrap().to_owned();
                    let of = format!("twin-of-{id}");
                    made.lock().push(id);
                    go.acquire().await.unwrap().forget();
                    return (201, json!({"Id": of, "Warning": ""}).to_string());
                }
                (200, "[]".to_owned())
            }
        })
    }

    fn spec(network_id: &str) -> TwinSpec {
        TwinSpec::local(network_id, &skein_model::NetworkSpec::default())
    }

    #[tokio::test]
    async fn those_who_need_a_twin_at_once_share_it_and_other_networks_do_not_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let (made, go) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let _engine = slow_engine(&path, &made, &go);
        let engine = Engine::at(&path).unwrap();
        let ensure = |id: &'static str| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.ensure_twin(&spec(id)).await })
        };
        let until_made = async |count: usize| {
            let seen = async {
                while made.lock().len() < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
            assert!(seen.is_ok(), "{:?} of {count}", made.lock());
        };
        let front: Vec<_> = (0..5).map(|_| ensure("front")).collect();
        until_made(1).await;
        let back = ensure("back");
        until_made(2).await;
        // Nobody who began it waits any more; the engine makes it all the same.
        for waiting in &front[..4] {
            waiting.abort();
        }
        let late = ensure("front");
        front[4].abort();
        tokio::time::sleep(Duration::from_millis(50)).await;
        go.add_permits(2);
        assert_eq!(late.await.unwrap().unwrap(), "twin-of-front");
        assert_eq!(back.await.unwrap().unwrap(), "twin-of-back");
        assert_eq!(*made.lock(), ["front", "back"]);
    }

    #[tokio::test]
    async fn a_twin_that_is_needed_by_its_turn_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let removed = Arc::new(AtomicUsize::new(0));
        let count = removed.clone();
        let twins = json!([{"Id": "ffff", "Labels": {TWIN_LABEL: "n1"}}]).to_string();
        let _engine = testing::engine(&path, move |method, path| {
            let answer = match &*path {
                "/version" => (200, testing::VERSION.to_owned()),
                _ if method == Method::DELETE => {
                    count.fetch_add(1, Ordering::Relaxed);
                    (204, String::new())
                }
                _ => (200, twins.clone()),
            };
            std::future::ready(answer)
        });
        let engine = Engine::at(&path).unwrap();
        let needed = AtomicBool::new(false);
        let turn = engine.twins.write().await;
        let is_needed = || needed.load(Ordering::Relaxed);
        let removing = engine.remove_twin_unless("n1", is_needed);
        let starting = async {
            // The removal has begun, and waits.
            tokio::task::yield_now().await;
            needed.store(true, Ordering::Relaxed);
            drop(turn);
        };
        let (kept, ()) = tokio::join!(removing, starting);
        assert_eq!(kept, Ok(false));
        assert_eq!(removed.load(Ordering::Relaxed), 0);
        needed.store(false, Ordering::Relaxed);
        assert_eq!(engine.remove_twin_unless("n1", is_needed).await, Ok(true));
        assert_eq!(removed.load(Ordering::Relaxed), 1);
    }
}
