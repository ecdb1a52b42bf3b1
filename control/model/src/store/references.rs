//! What services name of other objects is there, and stays for as long as they name it. Part of the
//! transaction: whoever checked before it was proposed may have seen an older state.

use super::{Rejection, State};
use crate::{
    Action, Config, ContainerSpec, Kind, Network, Object, Secret, ServiceSpec, Task, TaskState,
};

impl State {
    /// Whether all that a service is to name is there. What its spec named `before` is not asked for
    /// again: nothing else about a service could change any more if that were missing.
    ///
    /// # Errors
    /// [`Rejection::NetworkMissing`], [`Rejection::PayloadsMissing`], [`Rejection::IngressMissing`]
    pub fn check_references(
        &self,
        before: Option<&ServiceSpec>,
        spec: &ServiceSpec,
    ) -> Result<(), Rejection> {
        for attachment in &spec.task_template.networks {
            let id = &attachment.target;
            if !before.is_some_and(|before| is_on(before, id)) {
                self.check_network(id)?;
            }
        }
        let before_container = before.map(|before| &before.task_template.container_spec);
        let new = |has: &dyn Fn(&ContainerSpec) -> bool| !before_container.is_some_and(has);
        let container = &spec.task_template.container_spec;
        let secrets = container.secrets.iter().filter(|reference| {
            let present = self.secret(&reference.secret_id);
            present.map(|secret| &secret.spec.name) != Some(&reference.secret_name)
                && new(&|before| before.secrets.contains(reference))
        });
        missing(Kind::Secret, secrets.map(|secret| &secret.secret_name))?;
        let configs = container.configs.iter().filter(|reference| {
            let present = self.config(&reference.config_id);
            present.map(|config| &config.spec.name) != Some(&reference.config_name)
                && new(&|before| before.configs.contains(reference))
        });
        missing(Kind::Config, configs.map(|config| &config.config_name))?;
        if spec.needs_ingress()
            && !before.is_some_and(ServiceSpec::needs_ingress)
            && self.ingress_network().is_none()
        {
            return Err(Rejection::IngressMissing);
        }
        Ok(())
    }

    /// Whether a network may go.
    ///
    /// # Errors
    /// It is predefined, or somebody needs it: [`Rejection::NetworkPredefined`],
    /// [`Rejection::IngressInUse`], [`Rejection::NetworkInUse`]
    pub fn check_network_removal(&self, network: &Network) -> Result<(), Rejection> {
        let id = &network.id;
        if network.spec.predefined {
            return Err(Rejection::NetworkPredefined {
                id: id.clone(),
                name: network.spec.name.clone(),
            });
        }
        let in_use = |by: Kind, user: &str| Rejection::NetworkInUse {
            id: id.clone(),
            by,
            user: user.to_owned(),
        };
        for service in self.services() {
            if network.spec.ingress && service.spec.needs_ingress() {
                return Err(Rejection::IngressInUse {
                    service: service.id.clone(),
                });
            }
            if is_on(&service.spec, id) {
                return Err(in_use(Kind::Service, &service.id));
            }
        }
        let user = self.tasks().find(|task| {
            // A container of a user's that has no address yet; a service's tasks come and go with it.
            let mut asked = task.spec.networks.iter();
            let is_to_be = task.is_attachment() && asked.any(|network| network.target == *id);
            (task.is_on(id) || is_to_be) && self.is_wanted(task)
        });
        user.map_or(Ok(()), |task| Err(in_use(Kind::Task, &task.id)))
    }

    /// Whether a task that has not ended is on a network: its connections are to live on.
    pub fn has_tasks_on(&self, network_id: &str) -> bool {
        let mut tasks = self.tasks();
        tasks.any(|task| task.holds_addresses() && task.is_on(network_id))
    }

    fn check_network(&self, id: &str) -> Result<(), Rejection> {
        match self.network(id) {
            Some(network) if !network.pending_deletion => Ok(()),
            _ => Err(Rejection::NetworkMissing { id: id.to_owned() }),
        }
    }

    /// Whether a task comes to no network that is gone, or about to go: who gave it its address may not have
    /// known.
    fn check_places(&self, task: &Task) -> Result<(), Rejection> {
        let before = self.task(&task.id);
        let ids = task.networks_attachments.iter().map(|on| &on.network_id);
        let mut new = ids.filter(|id| !before.is_some_and(|before| before.is_on(id)));
        new.try_for_each(|id| self.check_network(id))
    }

    /// Whether a task runs or will, and is to. One whose service is gone is as good as stopped: a
    /// stack's networks are removed right after its services, while their containers still end.
    fn is_wanted(&self, task: &Task) -> bool {
        let live =
            task.status.state <= TaskState::Running && task.desired_state <= TaskState::Running;
        live && (task.service_id.is_empty() || self.service(&task.service_id).is_some())
    }

    /// Whether an action leaves no service, and nobody on a network, without what it needs.
    pub(super) fn check_integrity(&self, action: &Action) -> Result<(), Rejection> {
        match action {
            Action::Create(Object::Service(service)) => self.check_references(None, &service.spec),
            Action::Update(Object::Service(service)) => {
                let before = self.service(&service.id).map(|before| &before.spec);
                self.check_references(before, &service.spec)
            }
            Action::Create(Object::Network(network)) if network.spec.ingress => {
                match self.ingress_network() {
                    Some(present) => Err(Rejection::IngressPresent {
                        id: present.id.clone(),
                    }),
                    None => Ok(()),
                }
            }
            Action::Create(Object::Task(task)) | Action::Update(Object::Task(task)) => {
                self.check_places(task)
            }
            Action::Create(_) | Action::Update(_) | Action::Expect { .. } => Ok(()),
            Action::Remove { kind, id, .. } => match self.get(*kind, id) {
                Some(Object::Network(network)) => self.check_network_removal(&network),
                Some(Object::Secret(secret)) => self.check_secret_removal(&secret),
                Some(Object::Config(config)) => self.check_config_removal(&config),
                _ => Ok(()),
            },
        }
    }

    fn check_secret_removal(&self, secret: &Secret) -> Result<(), Rejection> {
        self.check_payload_removal(Kind::Secret, &secret.spec.name, |spec| {
            let mut secrets = spec.secrets.iter();
            secrets.any(|reference| reference.secret_id == secret.id)
        })
    }

    fn check_config_removal(&self, config: &Config) -> Result<(), Rejection> {
        self.check_payload_removal(Kind::Config, &config.spec.name, |spec| {
            let mut configs = spec.configs.iter();
            configs.any(|reference| reference.config_id == config.id)
        })
    }

    fn check_payload_removal(
        &self,
        kind: Kind,
        name: &str,
        uses: impl Fn(&ContainerSpec) -> bool,
    ) -> Result<(), Rejection> {
        let services: Vec<String> = self
            .services()
            .filter(|service| uses(&service.spec.task_template.container_spec))
            .map(|service| service.spec.name.clone())
            .collect();
        match services.is_empty() {
            true => Ok(()),
            false => Err(Rejection::PayloadInUse {
                kind,
                name: name.to_owned(),
                services,
            }),
        }
    }
}

fn is_on(spec: &ServiceSpec, network_id: &str) -> bool {
    let mut networks = spec.task_template.networks.iter();
    networks.any(|attachment| attachment.target == network_id)
}

fn missing<'a>(kind: Kind, names: impl Iterator<Item = &'a String>) -> Result<(), Rejection> {
    let names: Vec<String> = names.cloned().collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Rejection::PayloadsMissing { kind, names }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ConfigReference, EndpointSpec, NetworkAttachmentConfig, PortConfig, Proposal, PublishMode,
        Runtime, SecretReference, Service, TaskNetwork, Timestamp,
    };

    fn propose(state: &mut State, actions: Vec<Action>) -> Result<(), String> {
        let index = state.index() + 1;
        let at = Timestamp::from_unix_nanos(i128::from(index));
        let applied = state.apply(index, &Proposal { at, actions });
        applied.map(drop).map_err(|rejection| rejection.to_string())
    }

    fn network(id: &str, change: impl FnOnce(&mut Network)) -> Action {
        let mut network = Network {
            id: id.into(),
            ..Network::default()
        };
        network.spec.name = format!("name-of-{id}");
        change(&mut network);
        Action::Create(network.into())
    }

    fn service(id: &str, change: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut service = Service {
            id: id.into(),
            ..Service::default()
        };
        service.spec.name = format!("{id}-name");
        change(&mut service.spec);
        service
    }

    fn on(spec: &mut ServiceSpec, network: &str) {
        spec.task_template.networks.push(NetworkAttachmentConfig {
            target: network.into(),
            ..NetworkAttachmentConfig::default()
        });
    }

    fn with_secret(spec: &mut ServiceSpec, id: &str, name: &str) {
        let container = &mut spec.task_template.container_spec;
        container.secrets.push(SecretReference {
            secret_id: id.into(),
            secret_name: name.into(),
            ..SecretReference::default()
        });
    }

    fn with_config(spec: &mut ServiceSpec, id: &str, name: &str) {
        let container = &mut spec.task_template.container_spec;
        container.configs.push(ConfigReference {
            config_id: id.into(),
            config_name: name.into(),
            ..ConfigReference::default()
        });
    }

    fn publishing(spec: &mut ServiceSpec) {
        let port = PortConfig {
            publish_mode: PublishMode::Ingress,
            ..PortConfig::default()
        };
        spec.endpoint_spec = Some(EndpointSpec {
            ports: vec![port],
            ..EndpointSpec::default()
        });
    }

    fn remove(kind: Kind, id: &str) -> Vec<Action> {
        let (id, version) = (id.to_owned(), None);
        vec![Action::Remove { kind, id, version }]
    }

    fn create(service: Service) -> Vec<Action> {
        vec![Action::Create(service.into())]
    }

    /// Networks `front` and `ingress`, secret `s1` named `key`, config `c1` named `conf`.
    fn state() -> State {
        let mut state = State::default();
        let mut secret = Secret {
            id: "s1".into(),
            ..Secret::default()
        };
        secret.spec.name = "key".into();
        let mut config = Config {
            id: "c1".into(),
            ..Config::default()
        };
        config.spec.name = "conf".into();
        let actions = vec![
            network("front", |_| {}),
            network("ingress", |network| network.spec.ingress = true),
            Action::Create(secret.into()),
            Action::Create(config.into()),
        ];
        propose(&mut state, actions).unwrap();
        state
    }

    #[test]
    fn a_service_that_names_what_is_not_there_is_refused() {
        type Change = fn(&mut ServiceSpec);
        let refusals: [(Change, &str); 5] = [
            (|s| on(s, "back"), "network back not found"),
            (|s| with_secret(s, "s1", "Key"), "secret not found: Key"),
            (|s| with_secret(s, "s2", "key"), "secret not found: key"),
            (
                |s| {
                    with_config(s, "c8", "p");
                    with_config(s, "c1", "conf");
                    with_config(s, "c9", "q");
                },
                "configs not found: p, q",
            ),
            (
                publishing,
                "service needs ingress network, but no ingress network is present",
            ),
        ];
        let mut state = state();
        propose(&mut state, remove(Kind::Network, "ingress")).unwrap();
        propose(&mut state, create(service("old", |_| {}))).unwrap();
        let old = state.service("old").unwrap().clone();
        for (change, said) in refusals {
            let created = propose(&mut state, create(service("new", change)));
            assert_eq!(created.unwrap_err(), said);
            let mut updated = Service::clone(&old);
            change(&mut updated.spec);
            let updated = propose(&mut state, vec![Action::Update(updated.into())]);
            assert_eq!(updated.unwrap_err(), said);
        }
        let good = service("new", |spec| {
            on(spec, "front");
            with_secret(spec, "s1", "key");
            with_config(spec, "c1", "conf");
        });
        propose(&mut state, create(good)).unwrap();
    }

    #[test]
    fn what_a_service_names_is_not_removed_whatever_the_proposer_saw() {
        let mut state = state();
        for id in ["db", "web"] {
            let user = service(id, |spec| {
                on(spec, "front");
                with_secret(spec, "s1", "key");
            });
            propose(&mut state, create(user)).unwrap();
        }
        let user = service("x", |spec| with_config(spec, "c1", "conf"));
        propose(&mut state, create(user)).unwrap();
        propose(&mut state, create(service("y", publishing))).unwrap();
        propose(
            &mut state,
            vec![network("host", |network| network.spec.predefined = true)],
        )
        .unwrap();
        let cases = [
            (
                Kind::Network,
                "front",
                "network front is in use by service db",
            ),
            (
                Kind::Network,
                "ingress",
                "ingress network cannot be removed because service y depends on it",
            ),
            (
                Kind::Network,
                "host",
                "network host (name-of-host) is a swarm predefined network and cannot be removed",
            ),
            (
                Kind::Secret,
                "s1",
                "secret 'key' is in use by the following services: db-name, web-name",
            ),
            (
                Kind::Config,
                "c1",
                "config 'conf' is in use by the following service: x-name",
            ),
        ];
        for (kind, id, said) in cases {
            let removed = propose(&mut state, remove(kind, id));
            assert_eq!(removed.unwrap_err(), said);
        }
        for id in ["db", "web", "x", "y"] {
            propose(&mut state, remove(Kind::Service, id)).unwrap();
        }
        for (kind, id, _) in cases.into_iter().filter(|(_, id, _)| *id != "host") {
            propose(&mut state, remove(kind, id)).unwrap();
        }
    }

    #[test]
    fn a_network_is_free_once_its_tasks_are_to_go() {
        let cases = [
            ("web", TaskState::Running, TaskState::Running, true),
            ("web", TaskState::New, TaskState::Running, true),
            ("web", TaskState::Running, TaskState::Remove, false),
            ("web", TaskState::Failed, TaskState::Running, false),
            // A container that was attached by hand has no service; others' services went before them.
            ("", TaskState::Running, TaskState::Running, true),
            ("gone", TaskState::Running, TaskState::Running, false),
        ];
        for (of, now, desired, used) in cases {
            let mut state = state();
            let mut task = Task {
                id: "t".into(),
                service_id: of.into(),
                desired_state: desired,
                ..Task::default()
            };
            task.status.state = now;
            task.networks_attachments.push(TaskNetwork {
                network_id: "front".into(),
                ..TaskNetwork::default()
            });
            let mut actions = create(service("web", |_| {}));
            actions.push(Action::Create(task.into()));
            propose(&mut state, actions).unwrap();
            let refused = propose(&mut state, remove(Kind::Network, "front")).err();
            let expected = used.then(|| "network front is in use by task t".to_owned());
            assert_eq!(refused, expected, "{of:?} {now} {desired}");
        }
    }

    #[test]
    fn a_removed_network_stays_for_the_tasks_on_it_and_for_nobody_else() {
        let mut state = state();
        let on_front = |id: &str| {
            let mut task = Task {
                id: id.into(),
                service_id: "gone".into(),
                ..Task::default()
            };
            task.status.state = TaskState::Running;
            task.networks_attachments.push(TaskNetwork {
                network_id: "front".into(),
                ..TaskNetwork::default()
            });
            task
        };
        let idle = Task {
            id: "idle".into(),
            ..Task::default()
        };
        let tasks = [on_front("t"), idle].map(|task| Action::Create(task.into()));
        propose(&mut state, tasks.to_vec()).unwrap();
        propose(&mut state, remove(Kind::Network, "front")).unwrap();
        assert!(state.network("front").unwrap().pending_deletion);

        let is_gone = |state: &State| {
            let mut present = state.present_networks();
            present.all(|network| network.id != "front")
                && state.find_network("front").is_err()
                && state.find_network("fro").is_err()
                && state.find_network("name-of-front").is_err()
        };
        assert!(is_gone(&state));
        let gone = "network front not found";
        let again = propose(&mut state, remove(Kind::Network, "front"));
        assert_eq!(again.unwrap_err(), gone);
        let named = propose(&mut state, create(service("new", |spec| on(spec, "front"))));
        assert_eq!(named.unwrap_err(), gone);
        let mut late = on_front("idle");
        late.meta = state.task("idle").unwrap().meta.clone();
        let late = propose(&mut state, vec![Action::Update(late.into())]);
        assert_eq!(late.unwrap_err(), gone);

        // The name is another's at once, whatever becomes of the first.
        let same_name = |id| network(id, |network| network.spec.name = "name-of-front".into());
        propose(&mut state, vec![same_name("front2")]).unwrap();
        assert_eq!(state.find_network("name-of-front").unwrap().id, "front2");
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&stored).unwrap(), state);

        let mut ended = Task::clone(state.task("t").unwrap());
        ended.status.state = TaskState::Shutdown;
        propose(&mut state, vec![Action::Update(ended.into())]).unwrap();
        propose(&mut state, remove(Kind::Network, "front")).unwrap();
        assert!(state.network("front").is_none());
        propose(&mut state, vec![same_name("front3")]).unwrap_err();
    }

    #[test]
    fn a_place_that_has_no_address_yet_keeps_its_network() {
        for (runtime, used) in [(Runtime::Attachment, true), (Runtime::Container, false)] {
            let mut state = state();
            let mut task = Task {
                id: "t".into(),
                desired_state: TaskState::Running,
                ..Task::default()
            };
            task.spec.runtime = runtime;
            task.spec.networks.push(NetworkAttachmentConfig {
                target: "front".into(),
                ..NetworkAttachmentConfig::default()
            });
            propose(&mut state, vec![Action::Create(task.into())]).unwrap();
            let refused = propose(&mut state, remove(Kind::Network, "front")).err();
            let expected = used.then(|| "network front is in use by task t".to_owned());
            assert_eq!(refused, expected, "{runtime:?}");
        }
    }

    #[test]
    fn there_is_one_ingress_network() {
        let mut state = state();
        let second = vec![network("other", |network| network.spec.ingress = true)];
        assert_eq!(
            propose(&mut state, second.clone()).unwrap_err(),
            "ingress network (ingress) is already present"
        );
        propose(&mut state, remove(Kind::Network, "ingress")).unwrap();
        propose(&mut state, second).unwrap();
    }

    /// As a log may hold that was written before the store asked.
    #[test]
    fn a_service_that_lacks_something_already_can_still_change() {
        let mut state = state();
        let user = service("web", |spec| {
            on(spec, "front");
            with_secret(spec, "s1", "key");
        });
        propose(&mut state, create(user)).unwrap();
        drop(state.take(Kind::Network, "front"));
        drop(state.take(Kind::Secret, "s1"));
        let mut web = Service::clone(state.service("web").unwrap());
        web.spec.labels.insert("a".into(), "b".into());
        propose(&mut state, vec![Action::Update(web.into())]).unwrap();
    }
}
