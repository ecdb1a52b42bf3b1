//! Contenders in turns: every round has each of them once, in an order of its own, so that whatever
//! changes on the machine meanwhile befalls all of them, and none always comes after the same other.

use rand::{RngCore, seq::SliceRandom as _};
use xtask::Step;

/// What is measured against others. A measurement may be of several values at once.
pub struct Contender<'a, T = f64> {
    /// As the report calls it.
    pub name: &'static str,
    /// One measurement.
    pub run: Box<dyn FnMut() -> anyhow::Result<T> + 'a>,
}

impl<'a, T> Contender<'a, T> {
    /// A contender by name.
    pub fn new(name: &'static str, run: impl FnMut() -> anyhow::Result<T> + 'a) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }
}

/// What one contender's turns gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Turns<T = f64> {
    /// The contender.
    pub name: &'static str,
    /// One value a round.
    pub values: Vec<T>,
    /// Why it has no more: such a contender is compared with nobody.
    pub error: Option<String>,
}

impl<T> Turns<T> {
    /// The same turns, with one value of each measurement.
    pub fn map(&self, value: impl FnMut(&T) -> f64) -> Turns {
        Turns {
            name: self.name,
            values: self.values.iter().map(value).collect(),
            error: self.error.clone(),
        }
    }
}

/// Runs `rounds` of them after one that does not count, which fills caches. `tell` hears of every
/// measurement: round (0 is that first one), contender, value. Who fails once has no more turns.
pub fn in_turns<T>(
    rounds: usize,
    contenders: &mut [Contender<'_, T>],
    rng: &mut dyn RngCore,
    mut tell: impl FnMut(usize, &str, &T),
) -> Vec<Turns<T>> {
    let turns = contenders.iter().map(|contender| Turns {
        name: contender.name,
        values: Vec::with_capacity(rounds),
        error: None,
    });
    let mut turns: Vec<Turns<T>> = turns.collect();
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..=rounds {
        order.shuffle(rng);
        for &n in &order {
            let of = &mut turns[n];
            if of.error.is_some() {
                continue;
            }
            match (contenders[n].run)() {
                Ok(value) => {
                    tell(round, of.name, &value);
                    if round > 0 {
                        of.values.push(value);
                    }
                }
                Err(error) => of.error = Some(format!("{error:#}")),
            }
        }
    }
    turns
}

/// [`in_turns`], telling whoever watches what is measured and every value.
pub fn told_in_turns<T>(
    what: &str,
    rounds: usize,
    contenders: &mut [Contender<'_, T>],
    rng: &mut dyn RngCore,
    show: impl Fn(&T) -> String,
) -> Vec<Turns<T>> {
    let step = Step::begin_commands(what);
    let turns = in_turns(rounds, contenders, rng, |round, name, value| {
        println!("  round {round} of {rounds}: {name}: {}", show(value));
    });
    step.end("measured");
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use std::cell::{Cell, RefCell};

    fn orders(seed: u64) -> Vec<String> {
        let said = RefCell::new(String::new());
        let run = |name: &'static str| {
            let said = &said;
            Contender::new(name, move || {
                said.borrow_mut().push_str(name);
                Ok(1.0)
            })
        };
        let mut contenders = [run("a"), run("b"), run("c")];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turns = in_turns(6, &mut contenders, &mut rng, |_, _, _| {});
        assert!(turns.iter().all(|of| of.values.len() == 6));
        drop(contenders);
        let said = said.into_inner();
        let rounds = said.as_bytes().chunks(3);
        rounds
            .map(|r| String::from_utf8_lossy(r).into_owned())
            .collect()
    }

    #[test]
    fn every_round_has_each_once_in_an_order_of_the_seed() {
        let rounds = orders(1);
        assert_eq!(rounds.len(), 7);
        for round in &rounds {
            let mut names: Vec<char> = round.chars().collect();
            names.sort_unstable();
            assert_eq!(names, ['a', 'b', 'c']);
        }
        assert!(rounds.iter().any(|round| round != &rounds[0]));
        assert_eq!(orders(1), rounds);
        assert_ne!(orders(2), rounds);
    }

    #[test]
    fn the_first_round_does_not_count_and_who_fails_has_no_more_turns() {
        let (well, ill) = (Cell::new(0.0), Cell::new(0.0));
        let count = |cell: &Cell<f64>| {
            cell.set(cell.get() + 1.0);
            cell.get()
        };
        let mut contenders = [
            Contender::new("well", || Ok(count(&well))),
            Contender::new("ill", || match count(&ill) {
                3.0 => anyhow::bail!("it broke"),
                n => Ok(n),
            }),
        ];
        let mut told = 0;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let turns = in_turns(4, &mut contenders, &mut rng, |_, _, _| told += 1);
        drop(contenders);
        assert_eq!(turns[0].values, [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(turns[0].error, None);
        assert_eq!(turns[1].values, [2.0]);
        assert_eq!(turns[1].error.as_deref(), Some("it broke"));
        assert_eq!((ill.get(), told), (3.0, 7));
    }
}
