//! In each term of Raft one manager leads, and what a member knows of terms outlives its crashes.

use super::Invariant;
use crate::{history::Seen, network::Host};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<u64, Host>,
    /// The newest term that each host led in.
    terms: BTreeMap<Host, u64>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one manager leads in each term"
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Led { host, term } = seen else {
            return Ok(());
        };
        let first = *self.leaders.entry(*term).or_insert(*host);
        if first != *host {
            return Err(format!("{first:?} and {host:?} both lead in term {term}"));
        }
        let before = self.terms.insert(*host, *term).unwrap_or_default();
        if before > *term {
            return Err(format!("{host:?} leads in term {term} after {before}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_and_terms_that_go_back_are_noticed() {
        let led = |host, term| Seen::Led {
            host: Host(host),
            term,
        };
        let mut invariant = OneLeader::default();
        for (host, term) in [(1, 1), (2, 2), (1, 4), (1, 4)] {
            invariant.see(&led(host, term)).unwrap();
        }
        invariant.see(&led(3, 4)).unwrap_err();
        invariant.see(&led(1, 3)).unwrap_err();
    }
}
