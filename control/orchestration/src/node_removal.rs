//! What goes with a node that is removed from the swarm.

use crate::{node_failure::given_up_with_node, occupancy::is_bound};
use skein_model::{Cluster, Draft, Kind, Task};
use std::{sync::Arc, time::Duration};

/// How long a removed node's ID is kept after its last certificate has expired: Swarm's time.
const REMOVED_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The node goes, its certificate is no longer good, and its tasks are nobody's.
pub fn remove_node(draft: &mut Draft, node_id: &str) {
    let now = draft.now();
    if let Some(cluster) = draft.cluster() {
        let mut cluster = Cluster::clone(cluster);
        cluster.managers.remove(node_id);
        let longest = u64::try_from(cluster.longest_cert_expiry).unwrap_or_default();
        let until = now + Duration::from_nanos(longest) + REMOVED_KEPT;
        cluster.removed_nodes.insert(node_id.to_owned(), until);
        draft.put(cluster);
    }
    let tasks: Vec<Arc<Task>> = draft
        .state()
        .tasks_of_node(node_id)
        .filter(|task| is_bound(task))
        .cloned()
        .collect();
    for task in tasks {
        draft.put(given_up_with_node(&task, now));
    }
    draft.remove(Kind::Node, node_id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;
    use skein_model::{RaftMember, TaskState};

    #[test]
    fn neither_node_nor_seat_nor_certificate_nor_tasks_are_left() {
        let mut fixture = Fixture::default();
        fixture.node("a", |_| {});
        fixture.node("b", |_| {});
        let mut cluster = Cluster::clone(fixture.state.cluster().unwrap());
        for node in ["a", "b"] {
            cluster.managers.insert(node.into(), RaftMember::default());
        }
        fixture.put(cluster);
        for (id, node, state) in [
            ("runs", "a", TaskState::Running),
            ("ended", "a", TaskState::Complete),
            ("elsewhere", "b", TaskState::Running),
        ] {
            fixture.task(id, |task| {
                task.node_id = node.into();
                task.status.state = state;
            });
        }
        let mut draft = fixture.draft();
        remove_node(&mut draft, "a");
        fixture.commit(draft);
        let state = &fixture.state;
        assert!(state.node("a").is_none() && state.node("b").is_some());
        let cluster = state.cluster().unwrap();
        assert!(cluster.removed_nodes.keys().eq(["a"]));
        assert!(cluster.managers.keys().eq(["b"]));
        let of = |id: &str| state.task(id).unwrap().status.state;
        assert_eq!(of("runs"), TaskState::Orphaned);
        assert_eq!(of("ended"), TaskState::Complete);
        assert_eq!(of("elsewhere"), TaskState::Running);
    }
}
