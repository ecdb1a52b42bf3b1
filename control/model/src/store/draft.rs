//! Changes that are not proposed yet, over a state.

use super::{Action, PROPOSAL_ACTIONS_MAX, PROPOSAL_BYTES_MAX, State};
use crate::{Kind, Object, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

/// A state with changes that are not proposed yet.
///
/// Reads see the changes. Several components write one draft after the other; what comes of it in
/// the end is one action per object, however often the object changed.
#[derive(Clone, Debug)]
pub struct Draft {
    base: State,
    work: State,
    now: Timestamp,
    /// In the order in which changes are proposed: what others depend on first.
    touched: BTreeSet<(u8, Kind, String)>,
    /// What the changes of an object rest on, by its kind and ID.
    expected: BTreeMap<(Kind, String), BTreeSet<(Kind, String)>>,
}

impl Draft {
    /// A draft without changes. `now` stamps the objects it creates, until the store does.
    pub fn new(base: State, now: Timestamp) -> Self {
        Self {
            work: base.clone(),
            base,
            now,
            touched: BTreeSet::new(),
            expected: BTreeMap::new(),
        }
    }

    /// The moment for which the draft is made.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The state without the changes: what has been agreed on.
    pub fn base(&self) -> &State {
        &self.base
    }

    /// The state with the changes so far.
    pub fn state(&self) -> &State {
        &self.work
    }

    /// Creates an object, or puts it in place of the one with its ID. An object equal to the one it
    /// would replace changes nothing.
    pub fn put(&mut self, object: impl Into<Object>) {
        let mut object: Object = object.into();
        match self.work.get(object.kind(), object.id()) {
            Some(present) if present == object => return,
            Some(_) => {}
            None => {
                let now = self.now;
                let meta = object.meta_mut();
                meta.created_at = now;
                meta.updated_at = now;
            }
        }
        self.touch(object.kind(), object.id());
        self.work.insert(object);
    }

    /// Takes an object away, if it is there.
    pub fn remove(&mut self, kind: Kind, id: &str) {
        if self.work.take(kind, id).is_some() {
            self.touch(kind, id);
        }
    }

    /// Lets the change of one object rest on another one: it is made only if that is still as it is in the
    /// base. For decisions that a report under way may overturn.
    pub fn rest_on(&mut self, (kind, id): (Kind, &str), on: (Kind, &str)) {
        let expected = self.expected.entry((kind, id.to_owned())).or_default();
        expected.insert((on.0, on.1.to_owned()));
    }

    /// The changes, in proposals of at most [`PROPOSAL_ACTIONS_MAX`] actions and
    /// [`PROPOSAL_BYTES_MAX`] bytes; one action alone may be longer.
    pub fn into_proposals(self) -> Vec<Vec<Action>> {
        let mut proposals: Vec<Vec<Action>> = Vec::new();
        let mut bytes = 0;
        for (_, kind, id) in &self.touched {
            let action = match (self.base.get(*kind, id), self.work.get(*kind, id)) {
                (None, None) => continue,
                (None, Some(object)) => Action::Create(object),
                (Some(before), Some(after)) if before == after => continue,
                (Some(before), Some(mut after)) => {
                    *after.meta_mut() = before.meta().clone();
                    Action::Update(after)
                }
                (Some(before), None) => Action::Remove {
                    kind: *kind,
                    id: id.clone(),
                    version: Some(before.meta().version),
                },
            };
            let mut expected = self.expectations(*kind, id);
            let more = expected.iter().map(Action::bytes).sum::<usize>() + action.bytes();
            let fits = |last: &&mut Vec<Action>| {
                last.len() + expected.len() < PROPOSAL_ACTIONS_MAX
                    && bytes + more <= PROPOSAL_BYTES_MAX
            };
            match proposals.last_mut().filter(fits) {
                Some(last) => {
                    // First: what is expected may be changed by the same proposal.
                    last.splice(0..0, expected);
                    last.push(action);
                    bytes += more;
                }
                None => {
                    expected.push(action);
                    proposals.push(expected);
                    bytes = more;
                }
            }
        }
        proposals
    }

    fn expectations(&self, kind: Kind, id: &str) -> Vec<Action> {
        let expected = self.expected.get(&(kind, id.to_owned()));
        let each = expected.into_iter().flatten();
        let in_base = each.filter_map(|(kind, id)| Some((*kind, self.base.get(*kind, id)?)));
        in_base
            .map(|(kind, object)| Action::Expect {
                kind,
                id: object.id().to_owned(),
                version: object.meta().version,
            })
            .collect()
    }

    fn touch(&mut self, kind: Kind, id: &str) {
        let order = match kind {
            Kind::Cluster => 0,
            Kind::Network | Kind::Secret | Kind::Config => 1,
            Kind::Node => 2,
            Kind::Service => 3,
            Kind::Task => 4,
        };
        self.touched.insert((order, kind, id.to_owned()));
    }
}

impl Deref for Draft {
    type Target = State;
    fn deref(&self) -> &State {
        &self.work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ACTION_BYTES_MAX, Proposal, Rejection, Service, Task, check_size};

    fn state(objects: Vec<Object>) -> State {
        let mut state = State::default();
        let actions = objects.into_iter().map(Action::Create).collect();
        let at = Timestamp::from_unix_nanos(1);
        state.apply(1, &Proposal { at, actions }).unwrap();
        state
    }

    fn task(id: &str) -> Task {
        Task {
            id: id.into(),
            ..Task::default()
        }
    }

    #[test]
    fn many_changes_of_one_object_are_one_action() {
        let base = state(vec![task("a").into(), task("b").into()]);
        let mut draft = Draft::new(base.clone(), Timestamp::from_unix_nanos(2));
        for slot in 1..4 {
            let mut a = (**draft.task("a").unwrap()).clone();
            a.slot = slot;
            draft.put(a);
        }
        draft.put(task("c"));
        draft.remove(Kind::Task, "c");
        draft.remove(Kind::Task, "b");
        draft.put(Service {
            id: "s".into(),
            ..Service::default()
        });
        let proposals = draft.into_proposals();
        let [actions] = &proposals[..] else {
            panic!("{proposals:?}")
        };
        assert!(matches!(&actions[0], Action::Create(Object::Service(_))));
        assert!(matches!(&actions[1], Action::Update(Object::Task(t)) if t.slot == 3));
        assert!(matches!(&actions[2], Action::Remove { id, .. } if id == "b"));
        assert_eq!(actions.len(), 3);
        let (at, actions) = (Timestamp::from_unix_nanos(2), actions.clone());
        base.clone().apply(2, &Proposal { at, actions }).unwrap();
    }

    #[test]
    fn a_change_and_its_undoing_are_no_action() {
        let base = state(vec![task("a").into()]);
        let mut draft = Draft::new(base, Timestamp::from_unix_nanos(2));
        let before = (**draft.task("a").unwrap()).clone();
        let mut after = before.clone();
        after.slot = 9;
        draft.put(before.clone());
        draft.put(after);
        draft.put(before);
        assert!(draft.into_proposals().is_empty());
    }

    #[test]
    fn a_change_that_rests_on_an_object_is_not_made_once_that_has_changed() {
        let base = state(vec![task("a").into(), task("b").into()]);
        let at = Timestamp::from_unix_nanos(2);
        let mut draft = Draft::new(base.clone(), at);
        draft.put(task("new"));
        draft.rest_on((Kind::Task, "new"), (Kind::Task, "a"));
        // The draft itself may change it.
        let mut a = (**draft.task("a").unwrap()).clone();
        a.slot = 7;
        draft.put(a.clone());
        let proposals = draft.into_proposals();
        let [actions] = &proposals[..] else {
            panic!("{proposals:?}")
        };
        let actions = actions.clone();
        let mut state = base.clone();
        let proposal = |actions| Proposal { at, actions };
        let applied = state.apply(2, &proposal(actions.clone()));
        assert_eq!(applied.unwrap().events.len(), 2);
        assert!(state.task("new").is_some());

        let mut state = base;
        a.slot = 8;
        let meanwhile = vec![Action::Update(a.into())];
        state.apply(2, &proposal(meanwhile)).unwrap();
        let rejected = state.apply(3, &proposal(actions));
        assert_eq!(rejected, Err(Rejection::OutOfSequence));
        assert!(state.task("new").is_none());
    }

    #[test]
    fn large_changes_are_split() {
        let mut draft = Draft::new(State::default(), Timestamp::from_unix_nanos(2));
        for n in 0..PROPOSAL_ACTIONS_MAX * 2 + 1 {
            draft.put(task(&format!("{n:05}")));
        }
        let sizes: Vec<_> = draft.into_proposals().iter().map(Vec::len).collect();
        assert_eq!(sizes, [PROPOSAL_ACTIONS_MAX, PROPOSAL_ACTIONS_MAX, 1]);
    }

    #[test]
    fn long_changes_are_split_and_the_longest_go_alone() {
        let mut draft = Draft::new(State::default(), Timestamp::from_unix_nanos(2));
        for (n, bytes) in [400_000, 400_000, 400_000, 400_000, 2_000_000, 10]
            .into_iter()
            .enumerate()
        {
            let mut task = task(&n.to_string());
            task.spec.container_spec.image = "x".repeat(bytes);
            draft.put(task);
        }
        let proposals = draft.into_proposals();
        let sizes: Vec<_> = proposals.iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 1, 1, 1]);
        assert!(proposals.iter().all(|actions| check_size(actions).is_ok()));
    }

    #[test]
    fn what_no_entry_may_hold_is_refused() {
        let task = |bytes: usize| {
            let mut task = task("a");
            task.spec.container_spec.image = "x".repeat(bytes);
            Action::Create(task.into())
        };
        let bytes = task(1000).bytes();
        assert_eq!(
            bytes,
            serde_json::to_vec(&task(1000)).unwrap().len(),
            "the length is that of the JSON"
        );
        assert!(check_size(&[task(ACTION_BYTES_MAX - bytes)]).is_ok());
        let refused = |actions: &[Action]| match check_size(actions) {
            Err(Rejection::TooLarge { limit, .. }) => limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[task(ACTION_BYTES_MAX)]), ACTION_BYTES_MAX);
        let two = [task(PROPOSAL_BYTES_MAX), task(1)];
        assert_eq!(refused(&two), PROPOSAL_BYTES_MAX);
    }
}
