use super::*;
use crate::{network_state::network_state, return_mode::RETURN_MODE_LABEL};
use proptest::prelude::*;
use skein_model::{
    Cluster, ClusterSpec, Draft, EndpointSpec, Kind, Network, NetworkAttachmentConfig, Node,
    NodeState, Object, PortConfig, Proposal, PublishMode, ResolutionMode, Runtime, Service,
    SubnetAllocation, Task, TaskNetwork, TaskState, Timestamp, Version, VirtualIp,
};
use skein_proto::view::View;

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const NETWORKS: [&str; 4] = ["ingress", "net1", "net2", "net3"];

/// The store, the states of all nodes as they were made step by step, and what the nodes know.
#[derive(Default)]
struct World {
    state: State,
    states: Arc<NetworkStates>,
    nodes: BTreeMap<&'static str, (Told, View)>,
}

impl World {
    /// Changes what the store allows to be changed.
    fn change(&mut self, change: impl FnOnce(&mut Draft)) {
        let at = Timestamp::from_unix_nanos(1);
        let mut draft = Draft::new(self.state.clone(), at);
        change(&mut draft);
        for actions in draft.into_proposals() {
            let index = self.state.index() + 1;
            // What is in use stays.
            let _ = self.state.apply(index, &Proposal { at, actions });
        }
    }

    fn put(&mut self, object: impl Into<Object>) {
        self.change(|draft| draft.put(object));
    }

    fn remove(&mut self, kind: Kind, id: &str) {
        self.change(|draft| draft.remove(kind, id));
    }

    fn node(&mut self, change: Change) {
        let id = NODES[change.which % NODES.len()];
        if change.removes() {
            return self.remove(Kind::Node, id);
        }
        let mut node = Node {
            id: id.into(),
            ..Node::default()
        };
        if !change.a.is_multiple_of(3) {
            node.data_path_addr = format!("198.18.0.{}", change.b % 2);
        }
        if change.b.is_multiple_of(3) {
            node.status.state = NodeState::Down;
        }
        self.put(node);
    }

    fn network(&mut self, change: Change) {
        let id = NETWORKS[change.which % NETWORKS.len()];
        if change.removes() {
            return self.remove(Kind::Network, id);
        }
        let mut network = Network {
            id: id.into(),
            ..Network::default()
        };
        network.spec.name = id.into();
        network.spec.ingress = id == "ingress";
        network.spec.internal = change.b.is_multiple_of(2);
        network.allocation = (!change.a.is_multiple_of(4))
            .then(|| SubnetAllocation::whole(4096, "10.0.0.0/24".parse().unwrap()).into());
        self.put(network);
    }

    fn service(&mut self, change: Change) {
        let id = format!("s{}", change.which % 3);
        if change.removes() {
            return self.remove(Kind::Service, &id);
        }
        let mut service = Service {
            id: id.clone(),
            ..Service::default()
        };
        service.spec.name.clone_from(&id);
        for (n, network) in NETWORKS.iter().enumerate().skip(1) {
            if change.a & (1 << n) != 0 {
                let networks = &mut service.spec.task_template.networks;
                networks.push(NetworkAttachmentConfig {
                    target: (*network).into(),
                    ..NetworkAttachmentConfig::default()
                });
            }
        }
        for (n, network) in NETWORKS.iter().enumerate() {
            if change.b & (1 << n) != 0 {
                service.endpoint.virtual_ips.push(VirtualIp {
                    network_id: (*network).into(),
                    addr: Some("10.0.0.2/24".parse().unwrap()),
                });
            }
        }
        if change.b & 16 != 0 {
            service.endpoint.spec.mode = ResolutionMode::Dnsrr;
        }
        if change.a & 16 != 0 {
            service.endpoint.ports = ports(change);
            service.spec.endpoint_spec = Some(EndpointSpec {
                ports: ports(change),
                ..EndpointSpec::default()
            });
        }
        service.spec.labels = return_mode(change);
        self.put(service);
    }

    fn task(&mut self, change: Change) {
        let id = format!("t{}", change.which % 8);
        if change.removes() {
            return self.remove(Kind::Task, &id);
        }
        let mut task = Task {
            id: id.clone(),
            service_id: format!("s{}", change.which % 3),
            node_id: NODES[change.a % NODES.len()].into(),
            spec_version: Some(Version {
                index: u64::from(change.b.is_multiple_of(2)),
            }),
            desired_state: TaskState::Running,
            ..Task::default()
        };
        if change.which % 8 == 7 {
            task.service_id.clear();
            task.spec.runtime = Runtime::Attachment;
        }
        task.status.state = match change.b % 8 {
            0 => TaskState::Pending,
            1 => TaskState::Assigned,
            2 => TaskState::Shutdown,
            _ => TaskState::Running,
        };
        if change.b & 8 != 0 {
            task.desired_state = TaskState::Shutdown;
        }
        if change.a & 32 != 0 && !task.service_id.is_empty() {
            task.ports = ports(change);
        }
        for (n, network) in NETWORKS.iter().enumerate() {
            let is_there = self.state.network(network).is_some();
            if is_there && (change.a >> 2) & (1 << n) != 0 {
                task.networks_attachments.push(TaskNetwork {
                    network_id: (*network).into(),
                    address: (change.b & 16 == 0).then(|| "10.0.0.3/24".parse().unwrap()),
                    ..TaskNetwork::default()
                });
            }
        }
        self.put(task);
    }

    fn cluster(&mut self, change: Change) {
        let cluster = Cluster {
            id: "cluster".into(),
            data_path_port: 4789 + u16::from(change.a.is_multiple_of(2)),
            spec: ClusterSpec {
                labels: return_mode(change),
                ..ClusterSpec::default()
            },
            ..Cluster::default()
        };
        self.put(cluster);
    }

    /// A node hears what is new to it; what it knows then.
    fn tell(&mut self, id: &'static str) -> (usize, View) {
        let known = self.nodes.remove(id);
        let (told, update) = self.states.update(id, known.as_ref().map(|of| &of.0));
        let view = known.map(|of| of.1).unwrap_or_default();
        let size = update
            .as_ref()
            .map_or(0, |of| of.upsert.len() + of.remove.len());
        let view = match update {
            Some(update) => view.after(update.try_into().unwrap()),
            None => view,
        };
        self.nodes.insert(id, (told, view.clone()));
        (size, view)
    }
}

/// Labels with one of the return modes, or none.
fn return_mode(change: Change) -> BTreeMap<String, String> {
    let modes = [None, Some("symmetric"), Some("dsr"), Some("snat")];
    let mode = modes[change.b / 4 % modes.len()].map(str::to_owned);
    let label = mode.map(|mode| (RETURN_MODE_LABEL.to_owned(), mode));
    label.into_iter().collect()
}

fn ports(change: Change) -> Vec<PortConfig> {
    let first = 80 + u16::from(change.b.is_multiple_of(2));
    let port = |published_port, publish_mode| PortConfig {
        target_port: u16::try_from(change.a % 4).unwrap() + 1,
        published_port,
        publish_mode,
        ..PortConfig::default()
    };
    let in_host_mode = port(first, PublishMode::Host);
    if change.b & 4 != 0 {
        return vec![in_host_mode];
    }
    vec![
        port(first, PublishMode::Ingress),
        port(first + 1, PublishMode::Ingress),
        in_host_mode,
    ]
}

/// A change of something, as numbers that decide what it is.
#[derive(Clone, Copy, Debug)]
struct Change {
    kind: usize,
    which: usize,
    a: usize,
    b: usize,
    /// Which nodes hear of it, as bits; the others skip it.
    heard_by: usize,
    /// Whether the states are made after it, or only after one of the next.
    made: bool,
}

impl Change {
    fn removes(self) -> bool {
        self.a.is_multiple_of(5)
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (
        0..10_usize,
        0..8_usize,
        0..64_usize,
        0..32_usize,
        0..16_usize,
    );
    let change = (change, proptest::bool::weighted(0.8));
    let change = change.prop_map(|((kind, which, a, b, heard_by), made)| Change {
        kind,
        which,
        a,
        b,
        heard_by,
        made,
    });
    proptest::collection::vec(change, 1..80)
}

proptest! {
    #[test]
    fn every_node_knows_what_it_is_to_have(changes in changes()) {
        let mut world = World::default();
        for change in changes {
            match change.kind {
                0 => world.cluster(change),
                1 => world.node(change),
                2 => world.network(change),
                3 | 4 => world.service(change),
                _ => world.task(change),
            }
            if !change.made {
                continue;
            }
            world.states = Arc::new(world.states.after(&world.state));
            let anew = NetworkStates::default().after(&world.state);
            prop_assert_eq!(&world.states.nodes, &anew.nodes);
            prop_assert_eq!(&world.states.services, &anew.services);
            prop_assert_eq!(&world.states.removed, &anew.removed);
            prop_assert_eq!(&world.states.networks, &anew.networks);
            for (n, id) in NODES.into_iter().enumerate() {
                if change.heard_by & (1 << n) != 0 {
                    let (_, known) = world.tell(id);
                    let wanted = View::new(world.state.index(), network_state(&world.state, id));
                    prop_assert_eq!(known.objects, wanted.objects);
                    prop_assert_eq!(world.tell(id).0, 0);
                }
            }
        }
    }
}

/// Networks, a published service, and two running tasks of it on nodes of their own.
fn cluster() -> World {
    let mut world = World::default();
    let change = |which, a, b| Change {
        kind: 0,
        which,
        a,
        b,
        heard_by: 0,
        made: true,
    };
    world.cluster(change(0, 1, 0));
    for n in 0..4 {
        world.node(change(n, 1, 1));
        world.network(change(n, 1, 1));
    }
    // On net1, VIPs everywhere, published.
    world.service(change(0, 18, 15));
    // t0 on n1, t3 on n2: running, on ingress and net1.
    for (which, node) in [(0, 1), (3, 2)] {
        world.task(change(which, node | 12, 3));
    }
    world.states = Arc::new(world.states.after(&world.state));
    world
}

fn upsert(update: &Option<EncodedUpdate>, kind: proto::Kind) -> Vec<&Encoded> {
    use prost::Message as _;
    let all = update.iter().flat_map(|update| &update.upsert);
    all.filter(|encoded| {
        let object = proto::Object::decode(&encoded[..]).unwrap();
        skein_proto::view::reference(&object).unwrap().kind() == kind
    })
    .collect()
}

#[test]
fn nodes_share_what_they_are_told() {
    let world = cluster();
    let (_, one) = world.states.update("n1", None);
    let (_, other) = world.states.update("n2", None);
    for (kind, count) in [
        (proto::Kind::Node, 4),
        (proto::Kind::Network, 2),
        (proto::Kind::Endpoint, 4),
    ] {
        let (one, other) = (upsert(&one, kind), upsert(&other, kind));
        assert_eq!((one.len(), other.len()), (count, count), "{kind:?}");
        for (one, other) in one.iter().zip(other) {
            assert_eq!(one.as_ptr(), other.as_ptr(), "{kind:?}");
        }
    }
}

#[test]
fn a_change_of_a_task_is_news_of_its_endpoints_alone_where_they_are_known() {
    let mut world = cluster();
    for id in NODES {
        world.tell(id);
    }
    let task = world.state.task("t0").unwrap();
    let mut task = Task::clone(task);
    task.desired_state = TaskState::Shutdown;
    world.put(task);
    let before = world.states.clone();
    world.states = Arc::new(before.after(&world.state));
    assert!(before.nodes.ptr_eq(&world.states.nodes));
    assert!(before.services.ptr_eq(&world.states.services));
    let news = NODES.map(|id| world.tell(id).0);
    assert_eq!(
        news,
        [1, 2, 2, 1],
        "those without a task have ingress alone"
    );
}

#[test]
fn what_is_no_matter_of_networks_changes_nothing() {
    let mut world = cluster();
    let task = world.state.task("t0").unwrap();
    let mut task = Task::clone(task);
    task.status.message = "still running".into();
    world.put(task);
    let after = world.states.after(&world.state);
    assert!(world.states.networks.ptr_eq(&after.networks));
    assert_eq!(after.index(), world.state.index());
}

#[test]
fn services_and_tasks_on_no_network_are_nothing_new_to_nodes() {
    let mut world = cluster();
    world.put(Service {
        id: "quiet".into(),
        ..Service::default()
    });
    world.put(Task {
        id: "quiet1".into(),
        service_id: "quiet".into(),
        node_id: "n3".into(),
        ..Task::default()
    });
    let after = world.states.after(&world.state);
    assert!(after.says_nothing_new(&world.states));
    world.remove(Kind::Task, "quiet1");
    world.remove(Kind::Service, "quiet");
    let after = after.after(&world.state);
    assert!(after.says_nothing_new(&world.states));

    // Its node has another network now, though nothing is on that yet.
    let task = world.state.task("t0").unwrap();
    let mut without_address = Task::clone(task);
    without_address.id = "t9".into();
    for attachment in &mut without_address.networks_attachments {
        attachment.address = None;
    }
    without_address.meta = skein_model::Meta::default();
    world.put(without_address);
    let after = world.states.after(&world.state);
    assert!(world.states.networks.ptr_eq(&after.networks));
    assert!(!after.says_nothing_new(&world.states));
}
