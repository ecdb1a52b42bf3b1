//! What happened in a world, as all its invariants see it.

use crate::{
    executor,
    invariants::{self, Invariant},
    network::Host,
};
use parking_lot::Mutex;
use skein_control::raft::foundation::Peer;
use skein_model::{Event, State, Task, TaskState};
use skein_proto::view::View;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

/// Lines that are kept for whoever looks into a failure.
const KEPT_MAX: usize = 60;

/// Who the members of the group are.
type Membership = openraft::Membership<u64, Peer>;

/// One thing that was seen.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The cluster's state moved on: the first member has applied an entry. As the state is what the
    /// log makes of it, this is seen once, and the other members are held to it.
    Changed {
        /// When, in virtual time since the world began.
        at: Duration,
        /// The state before.
        before: &'a State,
        /// The state after.
        after: &'a State,
    },
    /// A member has applied the entry at an index.
    Applied {
        /// Where the member is.
        host: Host,
        /// Which run of it this is: a member that was restarted begins anew.
        run: u32,
        /// The entry's index.
        index: u64,
        /// What the entry is, and what came of it.
        entry: u64,
    },
    /// A member has put the leader's snapshot in the place of its state.
    Installed {
        /// Where the member is.
        host: Host,
        /// Which run of it this is.
        run: u32,
        /// The state that it has now.
        state: &'a State,
        /// What was made of the log at the same index, where that was seen.
        expected: Option<&'a State>,
    },
    /// A client was told that its change is made.
    Acknowledged {
        /// At which index.
        index: u64,
        /// What it changed.
        events: &'a [Event],
        /// The state at that index, where it was seen.
        state: Option<&'a State>,
    },
    /// A client has read, linearizably.
    Read {
        /// The greatest index that was acknowledged when it asked.
        acknowledged: u64,
        /// The index of what it read.
        index: u64,
    },
    /// The group has other members: an entry that says so was applied for the first time.
    Grouped {
        /// Whose majorities it takes to decide anything: those of two sets while one follows the other.
        voters: &'a [BTreeSet<u64>],
        /// All members, and the nodes that they are on.
        members: &'a BTreeMap<u64, String>,
    },
    /// A node has written down that it has a member of the group.
    SeatTaken {
        /// The node.
        node_id: &'a str,
        /// Its member's ID.
        raft_id: u64,
    },
    /// A node has written down that it has it no more: its log is gone.
    SeatGivenUp {
        /// The member's ID.
        raft_id: u64,
    },
    /// A member was started.
    MemberStarted {
        /// Where.
        host: Host,
        /// On which node.
        node_id: &'a str,
        /// Its ID.
        raft_id: u64,
        /// It has a log, or a snapshot.
        has_log: bool,
    },
    /// A manager leads.
    Led {
        /// Where it is.
        host: Host,
        /// In which term.
        term: u64,
    },
    /// An engine has started a task's container.
    Started {
        /// Where.
        host: Host,
        /// Whose.
        task: &'a Task,
    },
    /// A node's kernel has been programmed.
    Programmed {
        /// Which node.
        node_id: &'a str,
        /// What the kernel has now.
        kernel: &'a View,
    },
    /// A node was told that a task is to stop.
    ToldToStop {
        /// When, in virtual time since the world began.
        at: Duration,
        /// The task, as the node was told of it.
        task: &'a Task,
    },
    /// A task's process has ended; said once more when its engine notices.
    Ended {
        /// Where.
        host: Host,
        /// Whose.
        task_id: &'a str,
    },
    /// Faults have stopped, and the time that a cluster may take to settle is over.
    Due(&'a Cluster),
}

/// What there is of a cluster at one moment.
#[derive(Debug, Default)]
pub struct Cluster {
    /// What each manager that runs has applied, by host.
    pub states: BTreeMap<Host, State>,
    /// The managers that say that they lead.
    pub leaders: BTreeSet<Host>,
    /// Which tasks' containers run, by the IDs of the nodes that hosts are. Others are nodes by name only: their hosts
    /// have left, or never heard that they have joined.
    pub running: BTreeMap<String, BTreeSet<String>>,
    /// The nodes that the voters of the group are on, as the leader has them.
    pub voters: BTreeSet<String>,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub seen: String,
    /// When, in virtual time since the world began.
    pub at: Duration,
    /// What happened before, the last line last.
    pub before: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.before {
            writeln!(f, "  {line}")?;
        }
        let (name, at) = (self.invariant, self.at.as_secs_f64());
        write!(f, "invariant broken at {at:.3} s: {name}\n{}", self.seen)
    }
}

/// Virtual time since the world began.
fn now() -> Duration {
    Duration::from_nanos(executor::now())
}

/// Clones share it.
#[derive(Clone)]
pub struct History(Arc<Mutex<Inner>>);

struct Inner {
    invariants: Vec<Box<dyn Invariant>>,
    violation: Option<Violation>,
    /// By index.
    states: BTreeMap<u64, State>,
    acknowledged: u64,
    /// The index at which the group changed last.
    grouped: Option<u64>,
    lines: VecDeque<String>,
    /// Every line is printed as it comes.
    tells: bool,
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    /// Nothing has happened yet. One that `tells` prints all that does.
    pub fn new(tells: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            invariants: invariants::all(),
            violation: None,
            states: BTreeMap::from([(0, State::default())]),
            acknowledged: 0,
            grouped: None,
            lines: VecDeque::new(),
            tells,
            counts: BTreeMap::new(),
        })))
    }

    /// Keeps a line for whoever looks into a failure; counts what is of the same kind.
    pub fn tell(&self, kind: &'static str, line: String) {
        let line = format!("{:>9.3} {kind}: {line}", now().as_secs_f64());
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        executor::note(hasher.finish());
        let mut inner = self.0.lock();
        *inner.counts.entry(kind).or_default() += 1;
        if inner.tells {
            println!("{line}");
        }
        if inner.lines.len() == KEPT_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Shows something to every invariant.
    pub fn see(&self, seen: &Seen<'_>) {
        self.0.lock().see(seen);
    }

    /// A member has applied the entry at `index`, and has this state now.
    pub fn applied(&self, (host, run): (Host, u32), index: u64, entry: u64, state: &State) {
        let mut inner = self.0.lock();
        executor::note(executor::mix(entry, index));
        let (last, before) = match inner.states.last_key_value() {
            Some((last, before)) => (*last, before.clone()),
            None => (0, State::default()),
        };
        if index > last {
            inner.states.insert(index, state.clone());
            let after = state;
            inner.see(&Seen::Changed {
                at: now(),
                before: &before,
                after,
            });
        }
        inner.see(&Seen::Applied {
            host,
            run,
            index,
            entry,
        });
    }

    /// A member has applied an entry that says who the members are.
    pub fn grouped(&self, index: u64, membership: &Membership) {
        let mut inner = self.0.lock();
        if inner.grouped >= Some(index) {
            return;
        }
        inner.grouped = Some(index);
        let nodes = membership.nodes();
        let members = nodes.map(|(id, peer)| (*id, peer.node_id.clone()));
        inner.see(&Seen::Grouped {
            voters: membership.get_joint_config(),
            members: &members.collect(),
        });
    }

    /// The cluster as the log has it at its newest.
    pub fn newest(&self) -> State {
        let inner = self.0.lock();
        let newest = inner.states.last_key_value();
        newest.map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// A member has another state at once: from its disk, or from the leader.
    pub fn installed(&self, (host, run): (Host, u32), state: &State) {
        let mut inner = self.0.lock();
        let expected = inner.states.get(&state.index()).cloned();
        inner.see(&Seen::Installed {
            host,
            run,
            state,
            expected: expected.as_ref(),
        });
    }

    /// A client was told that its change is made.
    pub fn acknowledged(&self, index: u64, events: &[Event]) {
        let mut inner = self.0.lock();
        let state = inner.states.get(&index).cloned();
        inner.acknowledged = inner.acknowledged.max(index);
        inner.see(&Seen::Acknowledged {
            index,
            events,
            state: state.as_ref(),
        });
    }

    /// A node was told that a task is to stop.
    pub fn told_to_stop(&self, task: &Task) {
        self.see(&Seen::ToldToStop { at: now(), task });
    }

    /// The greatest index that a client was told of.
    pub fn greatest_acknowledged(&self) -> u64 {
        self.0.lock().acknowledged
    }

    /// The task, as the store has it at its newest.
    pub fn task_state(&self, task_id: &str) -> Option<TaskState> {
        let inner = self.0.lock();
        let (_, state) = inner.states.last_key_value()?;
        Some(state.task(task_id)?.status.state)
    }

    /// The first invariant that was broken.
    pub fn violation(&self) -> Option<Violation> {
        self.0.lock().violation.clone()
    }

    /// Whether any invariant was broken.
    pub fn is_broken(&self) -> bool {
        self.0.lock().violation.is_some()
    }

    /// How much happened, by kind.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().counts.clone()
    }
}

impl Inner {
    fn see(&mut self, seen: &Seen<'_>) {
        if self.violation.is_some() {
            return;
        }
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(seen) {
                self.violation = Some(Violation {
                    invariant: invariant.name(),
                    seen: what,
                    at: now(),
                    before: self.lines.iter().cloned().collect(),
                });
                return;
            }
        }
    }
}
