//! Which ports lead where: those that every node answers on, and those of one node alone.

use super::{asked_offer, endpoint::endpoint_state};
use crate::occupancy::is_placed;
use skein_model::{PortConfig, PortProtocol, PublishMode, State, Task};
use skein_proto::network as proto;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The ports that a service publishes on every node, as far as their numbers are known.
pub(super) fn published_ports(ports: &[PortConfig]) -> impl Iterator<Item = proto::PublishedPort> {
    ports
        .iter()
        .filter(|port| port.publish_mode == PublishMode::Ingress && port.published_port != 0)
        .map(published_port)
}

fn published_port(port: &PortConfig) -> proto::PublishedPort {
    proto::PublishedPort {
        transport: match port.protocol {
            PortProtocol::Tcp => proto::Transport::Tcp,
            PortProtocol::Udp => proto::Transport::Udp,
            PortProtocol::Sctp => proto::Transport::Sctp,
        }
        .into(),
        published: port.published_port.into(),
        target: port.target_port.into(),
    }
}

/// A published port of a node, whoever's it is: transport and number.
type PortKey = (i32, u32);

fn key(port: &proto::PublishedPort) -> PortKey {
    (port.transport, port.published)
}

/// Whether ports of the task's node may lead to it.
pub(super) fn is_in_host_mode(task: &Task) -> bool {
    is_placed(task) && task.ports.iter().any(PortConfig::is_of_node)
}

/// The ports in host mode of a node's tasks, by task ID.
///
/// Tasks of one service share a port while one takes the other's place. If they listen on different ports,
/// it leads to the newest that takes connections: the others keep those that they have.
pub(super) fn host_ports<'a>(
    state: &'a State,
    node_id: &str,
) -> BTreeMap<&'a str, Vec<proto::PublishedPort>> {
    let on_node = state.tasks_of_node(node_id);
    let mut tasks: Vec<&Arc<Task>> = on_node.filter(|task| is_in_host_mode(task)).collect();
    let is_ready = |task: &Task| endpoint_state(task) == proto::EndpointState::Ready;
    tasks.sort_by_key(|task| (!is_ready(task), Reverse(task.spec_version)));
    let mut leads: BTreeMap<PortKey, (&str, u32)> = BTreeMap::new();
    let mut ports: BTreeMap<&str, Vec<proto::PublishedPort>> = BTreeMap::new();
    for task in tasks {
        let known = task.host_ports().into_iter();
        for port in known.filter(|port| port.published_port != 0) {
            let port = published_port(&port);
            let owner = (task.service_id.as_str(), port.target);
            if *leads.entry(key(&port)).or_insert(owner) == owner {
                ports.entry(&task.id).or_default().push(port);
            }
        }
    }
    ports
}

/// Services that are no more, but whose tasks have not all ended: their connections live on until
/// then. They have the ports that any of these tasks was made with, which an update may have changed; of
/// one port with several targets, the newest. A port that another service has by now is that one's. What narrowed
/// them narrows them still, as the newest task tells it.
pub(super) fn removed_services(state: &State) -> impl Iterator<Item = proto::Service> {
    let ids = state.services_of_tasks();
    let ids = ids.filter(|id| state.service(id).is_none());
    let publishes = |task: &&Arc<Task>| is_placed(task) && !task.ports.is_empty();
    let tasks = ids.flat_map(|id| state.tasks_of_service(id));
    let mut tasks: Vec<&Arc<Task>> = tasks.filter(publishes).collect();
    tasks.sort_by_key(|task| Reverse(task.spec_version));
    let mut removed: BTreeMap<&str, proto::Service> = BTreeMap::new();
    for task in tasks {
        let id = task.service_id.as_str();
        let service = removed.entry(id).or_insert_with(|| proto::Service {
            id: id.to_owned(),
            name: task.service_name.clone(),
            removed: true,
            offer: asked_offer(&task.service_labels),
            ..proto::Service::default()
        });
        service.in_host_mode |= is_in_host_mode(task);
        service.ports.extend(published_ports(&task.ports));
    }
    let mut taken = BTreeSet::new();
    if !removed.is_empty() {
        let present = state.services();
        taken.extend(
            present.flat_map(|s| published_ports(&s.endpoint.ports).map(|port| key(&port))),
        );
    }
    removed.into_values().filter_map(move |mut service| {
        service.ports.retain(|port| taken.insert(key(port)));
        (service.in_host_mode || !service.ports.is_empty()).then_some(service)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        network_state::{network_state, tests::cluster},
        testing::Fixture,
    };
    use skein_model::{EndpointSpec, TaskState};
    use skein_proto::network::object::Object as Kind;

    fn on_host(published_port: u16, target_port: u16) -> PortConfig {
        PortConfig {
            target_port,
            published_port,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        }
    }

    /// `back`, on its overlay, with two ports in host mode; its tasks `back1` on `b`, `back2` on `c`.
    fn with_host_ports() -> Fixture {
        let mut fixture = cluster();
        let ports = vec![on_host(8080, 80), on_host(0, 81)];
        fixture.service("back", |service| {
            service.spec.endpoint_spec.get_or_insert_default().ports = ports.clone();
        });
        for (id, node) in [("back1", "b"), ("back2", "c")] {
            let service = fixture.state.service("back").unwrap().clone();
            fixture.task(id, |task| {
                task.service_id = service.id.clone();
                task.spec = service.spec.task_template.clone();
                task.spec_version = Some(service.spec_version);
                task.endpoint_spec = service.spec.endpoint_spec.clone();
                task.status = skein_model::TaskStatus::default();
                task.node_id.clear();
            });
            let mut draft = fixture.draft();
            crate::allocator::Allocator::default().run(&mut draft);
            fixture.commit(draft);
            fixture.task(id, |task| {
                task.node_id = node.into();
                task.status.state = TaskState::Running;
            });
        }
        fixture
    }

    /// Which tasks a node is to send what comes to its own ports: (published, target, task).
    fn host_ports_on(fixture: &Fixture, node: &str) -> Vec<(u32, u32, String)> {
        let mut ports = Vec::new();
        for object in network_state(&fixture.state, node) {
            if let Some(Kind::Endpoint(endpoint)) = object.object {
                assert!(endpoint.network_id == "ingress" || endpoint.host_ports.is_empty());
                // Every node hears of the ports of the others, and leaves them to them.
                if endpoint.node_id != node {
                    continue;
                }
                let of_task =
                    |p: &proto::PublishedPort| (p.published, p.target, endpoint.task_id.clone());
                ports.extend(endpoint.host_ports.iter().map(of_task));
            }
        }
        ports.sort();
        ports
    }

    fn publishing(published: u16) -> EndpointSpec {
        EndpointSpec {
            ports: vec![PortConfig {
                target_port: 80,
                published_port: published,
                ..PortConfig::default()
            }],
            ..EndpointSpec::default()
        }
    }

    #[test]
    fn a_removed_service_keeps_its_ports_until_its_tasks_have_ended() {
        let mut fixture = cluster();
        let published = |fixture: &Fixture| -> Vec<(String, u32)> {
            let objects = network_state(&fixture.state, "c");
            let services = objects.iter().filter_map(|object| match &object.object {
                Some(Kind::Service(service)) => Some(service),
                _ => None,
            });
            let ports = services.flat_map(|service| {
                let ports = service.ports.iter();
                ports.map(|port| (service.id.clone(), port.published))
            });
            ports.collect()
        };
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "web");
        fixture.commit(draft);
        assert_eq!(published(&fixture), [("web".into(), 30_000)]);
        fixture.service("next", |service| {
            let ports = publishing(30_000);
            service.spec.endpoint_spec = Some(ports.clone());
            service.endpoint.spec = ports.clone();
            service.endpoint.ports = ports.ports;
        });
        assert_eq!(published(&fixture), [("next".into(), 30_000)]);
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "next");
        fixture.commit(draft);
        fixture.task("web1", |task| task.status.state = TaskState::Shutdown);
        assert_eq!(published(&fixture), []);
    }

    #[test]
    fn a_removed_service_has_the_ports_of_all_its_tasks() {
        let mut fixture = cluster();
        let port = |target_port, published_port| PortConfig {
            target_port,
            published_port,
            ..PortConfig::default()
        };
        // Updates took port 81 to another target, and then away.
        let tasks = [
            ("web1", 1, vec![port(80, 80), port(80, 81)]),
            ("web2", 2, vec![port(80, 80), port(90, 81)]),
            ("web3", 3, vec![port(80, 80), port(80, 82)]),
        ];
        let first = fixture.state.task("web1").unwrap().clone();
        for (id, index, ports) in tasks {
            fixture.task(id, |task| {
                *task = Task::clone(&first);
                task.id = id.into();
                task.spec_version = Some(skein_model::Version { index });
                task.ports = ports;
            });
        }
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "web");
        fixture.commit(draft);
        let services: Vec<_> = removed_services(&fixture.state).collect();
        let [web] = &services[..] else {
            panic!("{services:?}")
        };
        let ports = web.ports.iter().map(|port| (port.published, port.target));
        let ports: BTreeMap<u32, u32> = ports.collect();
        assert_eq!(ports, [(80, 80), (81, 90), (82, 80)].into());
        assert_eq!(web.ports.len(), 3);
    }

    #[test]
    fn ports_in_host_mode_are_of_the_task_s_node_alone() {
        let mut fixture = with_host_ports();
        assert_eq!(host_ports_on(&fixture, "a"), []);
        assert_eq!(host_ports_on(&fixture, "b"), [(8080, 80, "back1".into())]);
        assert_eq!(host_ports_on(&fixture, "c"), [(8080, 80, "back2".into())]);
        // The node has chosen a number for the other.
        fixture.task("back1", |task| {
            task.status.port_status.ports = vec![on_host(8080, 80), on_host(40_000, 81)];
        });
        let both = [(8080, 80, "back1".into()), (40_000, 81, "back1".into())];
        assert_eq!(host_ports_on(&fixture, "b"), both);
        // Removed, but not ended.
        let mut draft = fixture.draft();
        draft.remove(skein_model::Kind::Service, "back");
        fixture.commit(draft);
        assert_eq!(host_ports_on(&fixture, "b"), both);
        fixture.task("back1", |task| task.status.state = TaskState::Shutdown);
        assert_eq!(host_ports_on(&fixture, "b"), []);
    }

    #[test]
    fn tasks_share_a_port_unless_they_listen_on_different_ones() {
        let mut fixture = with_host_ports();
        let (old, new) = ("back1".to_owned(), "back2".to_owned());
        let update = |fixture: &mut Fixture, target, state| {
            fixture.task("back2", |task| {
                task.node_id = "b".into();
                task.spec_version = Some(skein_model::Version { index: 99 });
                task.ports = vec![on_host(8080, target)];
                task.status.state = state;
            });
            host_ports_on(fixture, "b")
        };
        let both = [(8080, 80, old.clone()), (8080, 80, new.clone())];
        assert_eq!(update(&mut fixture, 80, TaskState::Starting), both);
        assert_eq!(update(&mut fixture, 80, TaskState::Running), both);
        let of_old = [(8080, 80, old)];
        assert_eq!(update(&mut fixture, 90, TaskState::Starting), of_old);
        let of_new = [(8080, 90, new)];
        assert_eq!(update(&mut fixture, 90, TaskState::Running), of_new);
    }
}
