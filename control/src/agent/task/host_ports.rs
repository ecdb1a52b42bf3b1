//! Numbers of ports in host mode that were asked for without one.
//!
//! The node chooses them, as it alone knows what its programs listen on; they are reported with the task's
//! status, by which the managers know them, and the dataplane in turn. A choice is looked at again whenever
//! its task is: if the port has become somebody else's meanwhile, it is made anew.

use super::listening;
use crate::agent::network::NetworkState;
use parking_lot::Mutex;
use skein_model::{PortConfig, PortProtocol, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

/// A port of the node.
pub type HostPort = (PortProtocol, u16);

/// The ports that are chosen from: those that Linux and the engine choose from by default. They are above
/// those that managers choose for ports of every node, and below those of translated sources.
const CHOICE: RangeInclusive<u16> = *skein_orchestration::allocator::DYNAMIC_PORTS.end() + 1
    ..=skein_abi::addresses::NAT_PORTS.0 - 1;

/// The ports in host mode of the node's tasks. Clones share them.
#[derive(Clone, Default)]
pub struct HostPorts(Arc<Mutex<Given>>);

#[derive(Default)]
struct Given {
    /// By task ID. A number that is not chosen yet is 0.
    by_task: BTreeMap<String, Vec<PortConfig>>,
    /// The number given last: one that was just freed is not given again soon, for clients that know it.
    last: Option<u16>,
}

impl HostPorts {
    /// A task that has not ended has its ports, as far as they are known.
    pub fn keep(&self, task: &Task) {
        let ports = task.host_ports();
        if !ports.is_empty() && !task.status.state.is_terminal() {
            self.0.lock().by_task.insert(task.id.clone(), ports);
        }
    }

    /// A task has ended.
    pub fn release(&self, task_id: &str) {
        self.0.lock().by_task.remove(task_id);
    }

    /// The ports of a task as they are to be reported: of those in host mode that the dataplane serves, with
    /// the number that they have; 0 where none is free.
    pub async fn of(&self, task: &Task, networks: &NetworkState) -> Vec<PortConfig> {
        let asks = |port: &PortConfig| port.is_of_node() && port.published_port == 0;
        if task.status.state.is_terminal() || !task.ports.iter().any(asks) {
            return task.ports.clone();
        }
        let listening = tokio::task::spawn_blocking(listening::in_use).await;
        // What broke shows nothing: the dataplane says so if the port is a program's.
        let listening = listening.unwrap_or_default();
        let published = networks.published_ports();
        let mut chosen = self
            .0
            .lock()
            .choose(task, &listening, &published)
            .into_iter();
        let ports = task.ports.iter().map(|port| match port.is_of_node() {
            true => chosen.next().unwrap_or_else(|| port.clone()),
            false => port.clone(),
        });
        ports.collect()
    }
}

impl Given {
    /// The task's ports in host mode. What it has stays unless it is another's by now: a port that is
    /// `published` on every node, or another task's. No new one is what a program is `listening` on.
    fn choose(
        &mut self,
        task: &Task,
        listening: &BTreeSet<HostPort>,
        published: &BTreeSet<HostPort>,
    ) -> Vec<PortConfig> {
        let known = self.by_task.remove(&task.id);
        let mut ports = known.unwrap_or_else(|| task.host_ports());
        let others = self.by_task.values().flatten().map(key);
        let mut taken: BTreeSet<HostPort> = others.chain(published.iter().copied()).collect();
        let asked = |port: &PortConfig| task.ports.contains(port) && port.published_port != 0;
        taken.extend(ports.iter().filter(|port| asked(port)).map(key));
        let mut lacking = Vec::new();
        for port in ports.iter_mut().filter(|port| !asked(port)) {
            if port.published_port == 0 || !taken.insert(key(port)) {
                lacking.push(port);
            }
        }
        for port in lacking {
            let is_free = |number: &u16| {
                let key = (port.protocol, *number);
                !taken.contains(&key) && !listening.contains(&key)
            };
            port.published_port = match from(self.last).find(is_free) {
                Some(number) => {
                    self.last = Some(number);
                    taken.insert((port.protocol, number));
                    number
                }
                None => {
                    let (first, last) = (CHOICE.start(), CHOICE.end());
                    tracing::error!(
                        task = task.id,
                        "no port between {first} and {last} is free for target port {} in host mode: publish it by a number, or remove tasks of this node",
                        port.target_port
                    );
                    0
                }
            };
        }
        self.by_task.insert(task.id.clone(), ports.clone());
        ports
    }
}

fn key(port: &PortConfig) -> HostPort {
    (port.protocol, port.published_port)
}

/// All that may be chosen, those after the `last` one first.
fn from(last: Option<u16>) -> impl Iterator<Item = u16> {
    let next = last.filter(|last| last < CHOICE.end());
    let next = next.map_or(*CHOICE.start(), |last| last + 1);
    (next..=*CHOICE.end()).chain(*CHOICE.start()..next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::PublishMode;

    fn port(published_port: u16) -> PortConfig {
        PortConfig {
            target_port: 80,
            published_port,
            publish_mode: PublishMode::Host,
            ..PortConfig::default()
        }
    }

    fn task(id: &str, ports: &[u16]) -> Task {
        Task {
            id: id.into(),
            ports: ports.iter().map(|published| port(*published)).collect(),
            ..Task::default()
        }
    }

    fn tcp(ports: &[u16]) -> BTreeSet<HostPort> {
        ports
            .iter()
            .map(|port| (PortProtocol::Tcp, *port))
            .collect()
    }

    fn chosen(given: &mut Given, task: &Task, listening: &[u16], published: &[u16]) -> Vec<u16> {
        let ports = given.choose(task, &tcp(listening), &tcp(published));
        ports.iter().map(|port| port.published_port).collect()
    }

    #[test]
    fn a_choice_stays_and_is_nobody_elses() {
        let mut given = Given::default();
        let (web, other) = (task("web", &[0, 32_768, 0]), task("other", &[0]));
        let first = chosen(&mut given, &web, &[32_769], &[32_770]);
        assert_eq!(first, [32_771, 32_768, 32_772]);
        assert_eq!(chosen(&mut given, &other, &[], &[]), [32_773]);
        // Its own socket, the dataplane's or a client's: what it has it keeps.
        assert_eq!(chosen(&mut given, &web, &first, &[]), first);
        // It became a port of every node.
        let anew = chosen(&mut given, &web, &[], &[32_771]);
        assert_eq!(anew, [32_774, 32_768, 32_772]);
        // A task that asks for it by number came to the node.
        let ports = HostPorts(Arc::new(Mutex::new(given)));
        ports.keep(&task("fixed", &[32_774]));
        let mut given = ports.0.lock();
        let anew = chosen(&mut given, &web, &[], &[]);
        assert_eq!(anew, [32_775, 32_768, 32_772]);
    }

    #[test]
    fn a_restarted_agent_goes_by_what_it_reported() {
        let mut web = task("web", &[0]);
        web.status.port_status.ports = vec![port(40_000)];
        let ports = HostPorts::default();
        ports.keep(&web);
        let mut given = ports.0.lock();
        given.last = Some(39_999);
        assert_eq!(chosen(&mut given, &task("new", &[0]), &[], &[]), [40_001]);
        assert_eq!(chosen(&mut given, &web, &[40_000], &[]), [40_000]);
        drop(given);
        ports.release("web");
        let mut given = ports.0.lock();
        given.last = Some(39_999);
        assert_eq!(chosen(&mut given, &task("next", &[0]), &[], &[]), [40_000]);
    }

    #[test]
    fn the_search_goes_round_and_ends() {
        let mut given = Given {
            last: Some(*CHOICE.end()),
            ..Given::default()
        };
        assert_eq!(chosen(&mut given, &task("a", &[0]), &[], &[]), [32_768]);
        let all: Vec<u16> = CHOICE.collect();
        assert_eq!(chosen(&mut given, &task("b", &[0]), &all, &[]), [0]);
        assert_eq!(from(Some(50_000)).count(), all.len());
    }
}
