//! How far the nodes' kernels are with the network state, as this leader has it from the nodes.
//!
//! Not in the store: each node says it anew to each leader.

use super::sessions::Session;
use parking_lot::Mutex;
use skein_orchestration::drain::Programmed;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Notify;

/// What the nodes were told, and what they have made of it. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Kernels {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<KernelTable>,
    news: Notify,
}

#[derive(Default)]
struct KernelTable {
    by_node: BTreeMap<String, Kernel>,
    /// The nodes' networks are to be the same in all states of the store from the first to the second.
    same: (u64, u64),
}

impl KernelTable {
    /// Up to which state of the store holds what holds for one.
    fn holds_to(&self, index: u64) -> u64 {
        let (from, to) = self.same;
        if index >= from { index.max(to) } else { index }
    }
}

/// One node, in one session.
#[derive(Default)]
struct Kernel {
    session_id: String,
    told: Option<Told>,
    /// The version that its kernel has as a whole.
    programmed: Option<u64>,
}

/// How far a node's kernel is with the network state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest version that the node was told; 0: none by this leader.
    pub told: u64,
    /// The newest that its kernel has as a whole; 0: it has not said so to this leader.
    pub programmed: u64,
    /// What keeps its dataplane from more, as its node says; "" if nothing.
    pub problem: String,
}

/// What a node was told of the network.
#[derive(Clone, Copy)]
struct Told {
    /// The first version of this session: of earlier ones, this leader knows nothing.
    first: u64,
    /// The newest.
    version: u64,
    /// Up to this state of the store, the newest version is what the node is to have.
    holds_to: u64,
}

impl Kernel {
    /// The state of the store that the kernel is right for; 0: none is known.
    fn index(&self) -> u64 {
        match (self.told, self.programmed) {
            (Some(told), Some(programmed)) if programmed >= told.version => told.holds_to,
            (Some(told), Some(programmed)) if programmed >= told.first => programmed,
            _ => 0,
        }
    }
}

impl Kernels {
    /// A node was told a version: that of the state of the store it is made of.
    pub(super) fn told(&self, session: &Session, version: u64) {
        self.change(session, version, |kernel, holds_to| {
            let first = kernel.told.map_or(version, |told| told.first);
            kernel.told = Some(Told {
                first,
                version,
                holds_to,
            });
        });
    }

    /// The newest version that a node was told holds for a later state of the store, too.
    pub(super) fn holds(&self, session: &Session, index: u64) {
        self.change(session, index, |kernel, holds_to| {
            if let Some(told) = &mut kernel.told {
                told.holds_to = told.holds_to.max(holds_to);
            }
        });
    }

    /// The networks of all nodes are to be the same in all states of the store from one to another.
    pub(super) fn same(&self, from: u64, to: u64) {
        let mut known = self.shared.known.lock();
        known.same = (from, to);
        let mut is_further = false;
        for kernel in known.by_node.values_mut() {
            let before = kernel.index();
            if let Some(told) = kernel.told.as_mut().filter(|told| told.holds_to >= from) {
                told.holds_to = told.holds_to.max(to);
            }
            is_further |= kernel.index() > before;
        }
        if is_further {
            self.shared.news.notify_one();
        }
    }

    /// A node's kernel has a version, the whole of it.
    pub(super) fn report(&self, session: &Session, version: u64) {
        self.change(session, version, |kernel, _| {
            kernel.programmed = Some(version);
        });
    }

    /// A node was removed; its session has ended.
    pub(super) fn forget_node(&self, node_id: &str) {
        self.shared.known.lock().by_node.remove(node_id);
    }

    /// This manager leads no more: the nodes say it to another.
    pub(super) fn forget(&self) {
        *self.shared.known.lock() = KernelTable::default();
    }

    /// Up to which state each node's kernel is right.
    pub(super) fn programmed(&self) -> Programmed {
        let known = self.shared.known.lock();
        let nodes = known.by_node.iter();
        nodes
            .map(|(node, kernel)| (node.clone(), kernel.index()))
            .collect()
    }

    /// How far each node is, for people to see.
    pub(super) fn progress(&self) -> BTreeMap<String, Progress> {
        let known = self.shared.known.lock();
        let nodes = known.by_node.iter().map(|(node, kernel)| {
            let progress = Progress {
                told: kernel.told.map_or(0, |told| told.version),
                programmed: kernel.programmed.unwrap_or(0),
                problem: String::new(),
            };
            (node.clone(), progress)
        });
        nodes.collect()
    }

    /// Ends once a kernel has got further.
    pub(super) async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// Changes what is known of a node; `change` is told up to which state holds what holds for `index`.
    fn change(&self, session: &Session, index: u64, change: impl FnOnce(&mut Kernel, u64)) {
        let mut known = self.shared.known.lock();
        // One that has ended has nothing more to say.
        if session.ended.is_cancelled() {
            return;
        }
        let holds_to = known.holds_to(index);
        let kernel = known.by_node.entry(session.node_id.clone()).or_default();
        if kernel.session_id != session.id {
            *kernel = Kernel {
                session_id: session.id.clone(),
                ..Kernel::default()
            };
        }
        let before = kernel.index();
        change(kernel, holds_to);
        if kernel.index() > before {
            self.shared.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str) -> Session {
        Session::new("a", id.to_owned())
    }

    fn known(kernels: &Kernels, index: u64) -> bool {
        let expected: Programmed = [("a".to_owned(), index)].into_iter().collect();
        kernels.programmed() == expected
    }

    #[test]
    fn a_kernel_is_right_for_all_states_that_its_version_holds_for() {
        let (kernels, session) = (Kernels::default(), session("s"));
        kernels.told(&session, 10);
        assert!(known(&kernels, 0));
        kernels.report(&session, 10);
        assert!(known(&kernels, 10));
        kernels.holds(&session, 14);
        assert!(known(&kernels, 14));
        kernels.told(&session, 15);
        kernels.holds(&session, 17);
        assert!(known(&kernels, 10), "not what it was told, but what it has");
        let behind = Progress {
            told: 15,
            programmed: 10,
            ..Progress::default()
        };
        assert_eq!(kernels.progress()["a"], behind);
        kernels.report(&session, 15);
        assert!(known(&kernels, 17));
    }

    #[test]
    fn a_session_knows_nothing_of_the_one_before() {
        let (kernels, first, second) = (Kernels::default(), session("1"), session("2"));
        kernels.told(&first, 10);
        kernels.report(&first, 10);
        // The node says what it has before it is told anything.
        kernels.report(&second, 10);
        assert!(known(&kernels, 0));
        kernels.told(&second, 12);
        assert!(known(&kernels, 0), "10 was another's");
        kernels.report(&second, 12);
        first.ended.cancel();
        kernels.told(&first, 20);
        kernels.report(&first, 20);
        assert!(known(&kernels, 12));
        kernels.forget();
        assert_eq!(kernels.programmed(), Programmed::default());
    }

    #[test]
    fn states_that_are_the_same_to_networks_hold_for_all_who_know_the_first_of_them() {
        let (kernels, session) = (Kernels::default(), session("s"));
        kernels.told(&session, 10);
        kernels.report(&session, 10);
        kernels.same(11, 13);
        assert!(known(&kernels, 10), "it has not been told of 11");
        kernels.holds(&session, 11);
        assert!(known(&kernels, 13));
        kernels.same(11, 14);
        assert!(known(&kernels, 14));
        kernels.same(15, 17);
        assert!(known(&kernels, 14));
        kernels.told(&session, 15);
        kernels.report(&session, 15);
        assert!(known(&kernels, 17));
    }

    #[test]
    fn of_a_node_that_was_removed_nothing_is_left_nor_comes() {
        let (kernels, session) = (Kernels::default(), session("s"));
        kernels.told(&session, 10);
        kernels.report(&session, 10);
        session.ended.cancel();
        kernels.forget_node("a");
        kernels.report(&session, 11);
        assert_eq!(kernels.programmed(), Programmed::default());
        assert!(kernels.progress().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_progress_is_news() {
        let (kernels, session) = (Kernels::default(), session("s"));
        let silent = std::time::Duration::from_secs(1);
        kernels.told(&session, 10);
        kernels.same(10, 11);
        let none = tokio::time::timeout(silent, kernels.news()).await;
        assert!(none.is_err());
        kernels.report(&session, 10);
        kernels.news().await;
        kernels.same(10, 12);
        kernels.news().await;
    }
}
