//! Attachments: places on overlays for containers that are no task's.
//!
//! One is a task of its own, which its node has from the start. The allocator gives its address; the
//! node's agent reports what becomes of its container; the reaper takes it away when that has ended.
//! Orchestrators, updater, restart and scheduler have no part in it, nor has a drain.

use skein_model::{
    LookupError, Network, NetworkAttachmentConfig, Runtime, State, Task, TaskSpec, TaskState,
    Timestamp,
};
use std::net::Ipv4Addr;

/// Further names that a container may have on a network: more than anybody gives one by hand.
const ALIASES_MAX: usize = 64;
/// The longest name that DNS knows.
const ALIAS_LENGTH_MAX: usize = 253;

/// A place on a network, as a node asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The network: ID, name, or prefix of the ID.
    pub network: String,
    /// The address that the container is to have; `None`: any.
    pub address: Option<Ipv4Addr>,
    /// Further names of the container on the network.
    pub aliases: Vec<String>,
}

/// Why a container cannot have a place on a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AttachError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("network {0} not manually attachable")]
    NotAttachable(String),
    #[error("network {0} is each node's own: only services come to it")]
    NodeLocal(String),
    #[error(
        "invalid network aliases: at most {ALIASES_MAX} of at most {ALIAS_LENGTH_MAX} characters \
         are possible"
    )]
    Aliases,
}

/// The attachment that a node gets for its request, and its network; not yet with an address.
///
/// # Errors
/// The network is not there, or is not for containers of users.
pub fn attach<'a>(
    state: &'a State,
    node_id: &str,
    request: &Request,
    id: String,
    now: Timestamp,
) -> Result<(Task, &'a Network), AttachError> {
    let network = state.find_network(&request.network)?;
    if !network.spec.attachable || network.spec.ingress || network.spec.predefined {
        return Err(AttachError::NotAttachable(request.network.clone()));
    }
    if network.spec.is_node_local() {
        return Err(AttachError::NodeLocal(request.network.clone()));
    }
    let is_possible = |alias: &String| !alias.is_empty() && alias.len() <= ALIAS_LENGTH_MAX;
    if request.aliases.len() > ALIASES_MAX || !request.aliases.iter().all(is_possible) {
        return Err(AttachError::Aliases);
    }
    let task = Task {
        id,
        node_id: node_id.to_owned(),
        spec: TaskSpec {
            runtime: Runtime::Attachment,
            networks: vec![NetworkAttachmentConfig {
                target: network.id.clone(),
                aliases: request.aliases.clone(),
                address: request.address,
                ..NetworkAttachmentConfig::default()
            }],
            ..TaskSpec::default()
        },
        status: crate::task::created(now),
        desired_state: TaskState::Running,
        ..Task::default()
    };
    Ok((task, network))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{orchestration::Orchestration, testing::Fixture};
    use skein_model::{Availability, IpamConfig};

    fn cluster() -> Fixture {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.network("front", |network| {
            network.spec.attachable = true;
            network.spec.ipam.config.push(IpamConfig {
                subnet: Some("10.9.0.0/24".parse().unwrap()),
                ..IpamConfig::default()
            });
        });
        fixture.network("plain", |_| {});
        fixture.network("lan", |network| {
            network.spec.driver = "macvlan".into();
            network.spec.attachable = true;
        });
        decide(&mut fixture);
        fixture
    }

    fn decide(fixture: &mut Fixture) {
        let mut draft = fixture.draft();
        let programmed = fixture.programmed();
        Orchestration::default().run(&mut draft, &programmed, &mut fixture.rng);
        fixture.commit(draft);
    }

    fn ask(
        fixture: &mut Fixture,
        id: &str,
        network: &str,
        address: Option<&str>,
    ) -> Result<(), AttachError> {
        let request = Request {
            network: network.into(),
            address: address.map(|address| address.parse().unwrap()),
            aliases: vec!["db".into()],
        };
        let task = attach(&fixture.state, "a", &request, id.into(), fixture.now)?.0;
        fixture.put(task);
        decide(fixture);
        Ok(())
    }

    fn address(fixture: &Fixture, id: &str) -> Option<String> {
        let task = fixture.state.task(id)?;
        Some(
            task.networks_attachments
                .first()?
                .address?
                .addr()
                .to_string(),
        )
    }

    #[test]
    fn an_attachment_is_its_nodes_at_once_with_the_address_that_was_asked_for() {
        let mut fixture = cluster();
        ask(&mut fixture, "t1", "front", None).unwrap();
        ask(&mut fixture, "t2", "front", None).unwrap();
        ask(&mut fixture, "t3", "front", Some("10.9.0.77")).unwrap();
        let given = ["t1", "t2", "t3"].map(|id| address(&fixture, id).unwrap());
        assert_eq!(given, ["10.9.0.2", "10.9.0.3", "10.9.0.77"]);
        let task = fixture.state.task("t3").unwrap();
        assert_eq!(
            (task.status.state, &*task.node_id),
            (TaskState::Assigned, "a")
        );
        assert_eq!(task.networks_attachments[0].aliases, ["db"]);
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let mut fixture = cluster();
        for (network, expected) in [
            ("absent", "network absent not found"),
            ("plain", "network plain not manually attachable"),
            ("ingress", "network ingress not manually attachable"),
            (
                "lan",
                "network lan is each node's own: only services come to it",
            ),
        ] {
            let error = ask(&mut fixture, "t", network, None).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        ask(&mut fixture, "first", "front", Some("10.9.0.5")).unwrap();
        for (address, expected) in [
            (
                "10.9.0.5",
                "address 10.9.0.5 of network front is already in use",
            ),
            // The gateway's.
            (
                "10.9.0.1",
                "address 10.9.0.1 of network front is already in use",
            ),
            (
                "10.8.0.9",
                "address 10.8.0.9 is not in subnet 10.9.0.0/24 of network front",
            ),
        ] {
            ask(&mut fixture, "second", "front", Some(address)).unwrap();
            let second = &fixture.state.task("second").unwrap().status;
            assert_eq!((second.state, &*second.err), (TaskState::New, expected));
            let mut draft = fixture.draft();
            draft.remove(skein_model::Kind::Task, "second");
            fixture.commit(draft);
        }
    }

    #[test]
    fn drain_and_decisions_leave_attachments_alone_and_an_ended_one_gives_its_address_back() {
        let mut fixture = cluster();
        ask(&mut fixture, "t", "front", Some("10.9.0.5")).unwrap();
        fixture.report("t", TaskState::Running);
        fixture.node("a", |node| node.spec.availability = Availability::Drain);
        for _ in 0..3 {
            decide(&mut fixture);
        }
        let task = fixture.state.task("t").unwrap();
        assert_eq!(
            (task.status.state, task.desired_state),
            (TaskState::Running, TaskState::Running)
        );
        fixture.report("t", TaskState::Shutdown);
        decide(&mut fixture);
        assert!(fixture.state.task("t").is_none());
        ask(&mut fixture, "next", "front", Some("10.9.0.5")).unwrap();
        assert_eq!(address(&fixture, "next").unwrap(), "10.9.0.5");
    }

    #[test]
    fn a_network_with_an_attachment_is_in_use() {
        let mut fixture = cluster();
        ask(&mut fixture, "t", "front", None).unwrap();
        let network = fixture.state.network("front").unwrap();
        let error = fixture.state.check_network_removal(network).unwrap_err();
        assert_eq!(error.to_string(), "network front is in use by task t");
    }
}
