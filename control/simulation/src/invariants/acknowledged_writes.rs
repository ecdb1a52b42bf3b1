//! A change of which a client was told that it is made stays made: every member applies the same entry
//! at its index, whatever crashed, and every read that begins later sees it.

use super::Invariant;
use crate::history::Seen;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct AcknowledgedWrites {
    /// What was applied at each index.
    entries: BTreeMap<u64, u64>,
    greatest: u64,
}

impl Invariant for AcknowledgedWrites {
    fn name(&self) -> &'static str {
        "no acknowledged write is lost"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Applied {
                host, index, entry, ..
            } => {
                let present = *self.entries.entry(*index).or_insert(*entry);
                if present != *entry {
                    return Err(format!(
                        "{host:?} applied another entry at index {index} than was applied there \
                         before: acknowledged up to {}",
                        self.greatest
                    ));
                }
            }
            Seen::Installed {
                host,
                state,
                expected: Some(expected),
                ..
            } if state != expected => {
                return Err(format!(
                    "{host:?} took over a state at index {} that is not what the log made there",
                    state.index()
                ));
            }
            Seen::Acknowledged {
                index,
                events,
                state,
            } => {
                self.greatest = self.greatest.max(*index);
                let Some(state) = state else {
                    return Err(format!(
                        "a change was acknowledged at index {index}, where no member applied any"
                    ));
                };
                let undone = events.iter().find(|event| {
                    let (kind, id) = (event.object().kind(), event.object().id());
                    crate::object(state, kind, id) != event.after
                });
                if let Some(event) = undone {
                    let object = event.object();
                    let what = match event.after {
                        Some(_) => "was acknowledged, and is not there as it was",
                        None => "was acknowledged to be removed, and is there",
                    };
                    return Err(format!(
                        "index {index}: {} {} {what}",
                        object.kind(),
                        object.id()
                    ));
                }
            }
            Seen::Read {
                acknowledged,
                index,
            } if index < acknowledged => {
                return Err(format!(
                    "a linearizable read saw index {index}: {acknowledged} was acknowledged before \
                     it began"
                ));
            }
            Seen::Due(cluster) => {
                let greatest = self.greatest;
                let mut states = cluster.states.iter();
                if let Some((host, state)) = states.find(|(_, state)| state.index() < greatest) {
                    return Err(format!(
                        "{host:?} has index {} long after {greatest} was acknowledged",
                        state.index()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Cluster,
        invariants::testing::{next, service},
        network::Host,
    };
    use skein_model::{Event, State};

    fn applied(host: u32, index: u64, entry: u64) -> Seen<'static> {
        let host = Host(host);
        let run = 0;
        Seen::Applied {
            host,
            run,
            index,
            entry,
        }
    }

    #[test]
    fn another_entry_at_an_index_is_a_loss() {
        let mut invariant = AcknowledgedWrites::default();
        invariant.see(&applied(1, 7, 42)).unwrap();
        invariant.see(&applied(2, 7, 42)).unwrap();
        invariant.see(&applied(2, 7, 43)).unwrap_err();
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_be_read() {
        let mut invariant = AcknowledgedWrites::default();
        let state = next(&State::default(), vec![service("a").into()]);
        let after = state.service("a").unwrap().clone();
        let events = [Event {
            before: None,
            after: Some(skein_model::Object::Service(after)),
        }];
        let acknowledged = |state| Seen::Acknowledged {
            index: 1,
            events: &events,
            state,
        };
        invariant.see(&acknowledged(Some(&state))).unwrap();
        let lost = State::default();
        invariant.see(&acknowledged(Some(&lost))).unwrap_err();
        invariant.see(&acknowledged(None)).unwrap_err();
        let read = |index| Seen::Read {
            acknowledged: 1,
            index,
        };
        invariant.see(&read(1)).unwrap();
        invariant.see(&read(0)).unwrap_err();
    }

    #[test]
    fn what_was_removed_must_be_gone() {
        let before = next(&State::default(), vec![service("a").into()]);
        let removed = before.service("a").unwrap().clone();
        let events = [Event {
            before: Some(skein_model::Object::Service(removed)),
            after: None,
        }];
        let seen = |state| {
            AcknowledgedWrites::default().see(&Seen::Acknowledged {
                index: 2,
                events: &events,
                state: Some(state),
            })
        };
        let gone = State::default();
        seen(&gone).unwrap();
        seen(&before).unwrap_err();
    }

    #[test]
    fn states_from_elsewhere_are_what_the_log_made() {
        let mut invariant = AcknowledgedWrites::default();
        let state = next(&State::default(), vec![service("a").into()]);
        let other = next(&State::default(), vec![service("b").into()]);
        let installed = |state| Seen::Installed {
            host: Host(1),
            run: 0,
            state,
            expected: Some(&other),
        };
        invariant.see(&installed(&other)).unwrap();
        invariant.see(&installed(&state)).unwrap_err();
    }

    #[test]
    fn in_the_end_every_manager_has_it() {
        let mut invariant = AcknowledgedWrites::default();
        let state = next(&State::default(), vec![service("a").into()]);
        let acknowledged = Seen::Acknowledged {
            index: 1,
            events: &[],
            state: Some(&state),
        };
        invariant.see(&acknowledged).unwrap();
        let mut cluster = Cluster::default();
        cluster.states.insert(Host(1), state);
        invariant.see(&Seen::Due(&cluster)).unwrap();
        cluster.states.insert(Host(2), State::default());
        invariant.see(&Seen::Due(&cluster)).unwrap_err();
    }
}
