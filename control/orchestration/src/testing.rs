//! Small clusters for the tests of this crate.

use crate::drain::{self, Programmed};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use skein_model::{
    Availability, Cluster, ContainerSpec, Draft, EndpointSpec, Network, NetworkSpec, Node,
    NodeDescription, NodeState, NodeStatus, Object, PortConfig, Proposal, PublishMode,
    ResolutionMode, Service, ServiceMode, ServiceSpec, State, Task, TaskState, TaskStatus,
    Timestamp, Version,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A cluster under test: its state, its clock, and its randomness.
pub(crate) struct Fixture {
    pub state: State,
    pub now: Timestamp,
    pub rng: ChaCha8Rng,
}

impl Default for Fixture {
    /// A cluster with an ingress network and no nodes.
    fn default() -> Self {
        let mut fixture = Self {
            state: State::default(),
            now: Timestamp::from_unix_nanos(1_800_000_000_000_000_000),
            rng: ChaCha8Rng::seed_from_u64(1),
        };
        fixture.put(Cluster {
            id: "cluster".into(),
            default_addr_pool: vec!["10.0.0.0/8".parse().unwrap()],
            subnet_size: 24,
            data_path_port: 4789,
            ..Cluster::default()
        });
        fixture.network("ingress", |network| network.spec.ingress = true);
        fixture
    }
}

impl Fixture {
    pub fn put(&mut self, object: impl Into<Object>) {
        let mut draft = self.draft();
        draft.put(object);
        self.commit(draft);
    }

    pub fn draft(&self) -> Draft {
        Draft::new(self.state.clone(), self.now)
    }

    /// Applies a draft as the store would; the number of its actions.
    pub fn commit(&mut self, draft: Draft) -> usize {
        let mut actions_applied = 0;
        for actions in draft.into_proposals() {
            actions_applied += actions.len();
            let proposal = Proposal {
                at: self.now,
                actions,
            };
            let index = self.state.index() + 1;
            self.state.apply(index, &proposal).unwrap();
        }
        actions_applied
    }

    pub fn pass(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
    }

    /// The leader's clock is set back, or another one leads, whose clock is behind.
    pub fn set_back(&mut self, seconds: u64) {
        let back = i128::from(seconds) * 1_000_000_000;
        self.now = Timestamp::from_unix_nanos(self.now.unix_nanos() - back);
    }

    pub fn network(&mut self, name: &str, change: impl FnOnce(&mut Network)) {
        let mut network = Network {
            id: name.into(),
            spec: NetworkSpec {
                name: name.into(),
                driver: "overlay".into(),
                ..NetworkSpec::default()
            },
            ..Network::default()
        };
        change(&mut network);
        self.put(network);
    }

    /// A node that nobody hears of.
    pub fn down(&mut self, node: &str) {
        self.node(node, |node| node.status.state = NodeState::Down);
    }

    /// A node that takes tasks.
    pub fn up(&mut self, node: &str) {
        self.node(node, |node| {
            node.status.state = NodeState::Ready;
            node.spec.availability = Availability::Active;
        });
    }

    /// A node that is to give its tasks away.
    pub fn drain(&mut self, node: &str) {
        self.node(node, |node| node.spec.availability = Availability::Drain);
    }

    pub fn node(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        let mut node = self.state.node(name).map_or_else(
            || Node {
                id: name.into(),
                description: NodeDescription {
                    hostname: name.into(),
                    ..NodeDescription::default()
                },
                status: NodeStatus {
                    state: NodeState::Ready,
                    ..NodeStatus::default()
                },
                data_path_addr: "198.18.0.1".into(),
                ..Node::default()
            },
            |node| (**node).clone(),
        );
        node.description.resources.nano_cpus = 4_000_000_000;
        node.description.resources.memory_bytes = 8 << 30;
        change(&mut node);
        self.put(node);
    }

    /// Creates a service of one replica, or changes the one there is as a user's update does.
    pub fn service(&mut self, name: &str, change: impl FnOnce(&mut Service)) {
        let mut service = match self.state.service(name) {
            Some(service) => {
                let mut service = (**service).clone();
                service.previous_spec = Some(service.spec.clone());
                service.update_status = None;
                if let Some(status) = &mut service.job_status {
                    status.job_iteration.index += 1;
                }
                service
            }
            None => Service {
                id: name.into(),
                spec: ServiceSpec {
                    name: name.into(),
                    labels: BTreeMap::new(),
                    mode: ServiceMode::default(),
                    ..ServiceSpec::default()
                },
                ..Service::default()
            },
        };
        if service.spec.task_template.container_spec.image.is_empty() {
            service.spec.task_template.container_spec = ContainerSpec {
                image: "demo:1".into(),
                ..ContainerSpec::default()
            };
        }
        service.spec_version = Version {
            index: self.state.index() + 1,
        };
        change(&mut service);
        self.put(service);
    }

    pub fn replicas(&mut self, name: &str, replicas: u64) {
        self.service(name, |s| s.spec.mode = ServiceMode::Replicated { replicas });
    }

    pub fn task(&mut self, id: &str, change: impl FnOnce(&mut Task)) {
        let mut task = self.state.task(id).map_or_else(
            || Task {
                id: id.into(),
                desired_state: TaskState::Running,
                ..Task::default()
            },
            |task| (**task).clone(),
        );
        change(&mut task);
        task.status.applied_at = self.now;
        self.put(task);
    }

    /// What the kernels of nodes have that are up and keep up.
    pub fn programmed(&self) -> Programmed {
        let nodes = self.state.nodes().map(|node| node.id.clone());
        let index = self.state.index();
        nodes.map(|node| (node, index)).collect()
    }

    /// What a node reports of a task, as the store takes it.
    pub fn report(&mut self, id: &str, state: TaskState) {
        let task = self.state.task(id).unwrap().clone();
        let status = TaskStatus {
            state,
            ..task.status.clone()
        };
        self.said(id, status);
    }

    /// The same, word for word.
    pub fn said(&mut self, id: &str, status: TaskStatus) {
        let node_id = self.state.task(id).unwrap().node_id.clone();
        let mut draft = self.draft();
        crate::take_report(&mut draft, &node_id, id, status);
        self.commit(draft);
    }

    /// Brings every task that has a node which is not down to the state that is wanted of it: live
    /// ones to RUNNING (those held back to READY), others to SHUTDOWN once they may stop.
    pub fn agents_obey(&mut self) {
        let tasks: Vec<Arc<Task>> = self.state.tasks().cloned().collect();
        for task in tasks {
            let node = self.state.node(&task.node_id);
            if node.is_none_or(|node| node.status.state == NodeState::Down) {
                continue;
            }
            let state = match task.desired_state {
                TaskState::Ready => TaskState::Ready,
                // A job's task runs, and is done the next time.
                TaskState::Complete if task.status.state == TaskState::Running => {
                    TaskState::Complete
                }
                wanted if wanted > TaskState::Complete && drain::may_stop(&task) => {
                    TaskState::Shutdown
                }
                _ => TaskState::Running,
            };
            if task.status.state >= TaskState::Assigned {
                self.report(&task.id, state);
            }
        }
    }
}

/// A published port; 0 for one that is to be chosen.
pub(crate) fn port(published: u16, target: u16, mode: PublishMode) -> PortConfig {
    PortConfig {
        target_port: target,
        published_port: published,
        publish_mode: mode,
        ..PortConfig::default()
    }
}

/// What a service publishes.
pub(crate) fn published(ports: &[PortConfig]) -> EndpointSpec {
    EndpointSpec {
        mode: ResolutionMode::Vip,
        ports: ports.to_vec(),
    }
}
