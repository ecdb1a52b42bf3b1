//! Nodes in the order in which a service's tasks go to them: the branches of its placement
//! preferences with the fewest of its tasks first, and in a branch the nodes with the fewest.

use skein_model::{Node, TaskSpec};
use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap};

/// A node that may be chosen. The least is the best: failures of the service first, then how many
/// tasks of the service are there, then how many tasks at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) failures: usize,
    pub(super) of_service: u64,
    pub(super) tasks: u64,
    /// Which of the rooms it is.
    pub(super) room: usize,
}

/// The label over whose values tasks are spread.
pub(super) enum Spread<'a> {
    Node(&'a str),
    Engine(&'a str),
}

impl<'a> Spread<'a> {
    /// The preferences of a spec, outermost first. What is none is passed over, as in Swarm.
    pub(super) fn all(spec: &'a TaskSpec) -> Vec<Self> {
        let placement = spec.placement.iter();
        let preferences = placement.flat_map(|placement| &placement.preferences);
        preferences
            .filter_map(|preference| preference.spread.as_ref())
            .filter_map(|spread| Self::parse(&spread.spread_descriptor))
            .collect()
    }

    fn parse(descriptor: &'a str) -> Option<Self> {
        let after = |prefix: &str| {
            let (head, label) = descriptor.split_at_checked(prefix.len())?;
            (head.eq_ignore_ascii_case(prefix) && !label.is_empty()).then_some(label)
        };
        after("node.labels.")
            .map(Self::Node)
            .or_else(|| after("engine.labels.").map(Self::Engine))
    }

    /// The node's branch; nodes without the label are in one of their own.
    fn branch_of<'n>(&self, node: &'n Node) -> &'n str {
        let label = match self {
            Self::Node(label) => node.spec.labels.get(*label),
            Self::Engine(label) => node.description.engine.labels.get(*label),
        };
        label.map_or("", String::as_str)
    }
}

/// A branch of the tree, or all of it.
#[derive(Default)]
pub(super) struct Tree {
    /// Tasks of the service in it, on nodes that cannot be chosen too.
    tasks: u64,
    candidates: BinaryHeap<Reverse<Candidate>>,
    branches: BTreeMap<String, Tree>,
}

impl Tree {
    /// Adds a node with this many tasks of the service; `candidate` if it can be chosen.
    pub(super) fn add(
        &mut self,
        spreads: &[Spread<'_>],
        node: &Node,
        of_service: u64,
        candidate: Option<Candidate>,
    ) {
        self.tasks += of_service;
        match spreads.split_first() {
            Some((spread, inner)) => {
                let branch = spread.branch_of(node);
                if !self.branches.contains_key(branch) {
                    self.branches.insert(branch.to_owned(), Self::default());
                }
                if let Some(branch) = self.branches.get_mut(branch) {
                    branch.add(inner, node, of_service, candidate);
                }
            }
            None => self.candidates.extend(candidate.map(Reverse)),
        }
    }

    /// The best node for one more task, which then counts as there. `admits` says whether a node can
    /// take it; one that cannot is not asked again, as it fills up only.
    pub(super) fn next(&mut self, admits: &mut impl FnMut(&Candidate) -> bool) -> Option<usize> {
        while let Some(Reverse(mut best)) = self.candidates.pop() {
            if admits(&best) {
                let room = best.room;
                best.of_service += 1;
                best.tasks += 1;
                self.candidates.push(Reverse(best));
                self.tasks += 1;
                return Some(room);
            }
        }
        loop {
            let fewest = self.branches.iter().min_by_key(|(_, branch)| branch.tasks);
            let value = fewest.map(|(value, _)| value.clone())?;
            if let Some(room) = self.branches.get_mut(&value)?.next(admits) {
                self.tasks += 1;
                return Some(room);
            }
            self.branches.remove(&value);
        }
    }
}
