//! Names for services that are created without one: `adjective_surname`, as Docker makes them.

use rand::Rng;

const ADJECTIVES: [&str; 32] = [
    "able", "brave", "bright", "brisk", "calm", "candid", "clever", "daring", "eager", "exact",
    "fair", "fluent", "gentle", "grand", "honest", "jolly", "keen", "kind", "lively", "lucid",
    "modest", "noble", "patient", "quick", "quiet", "ready", "sharp", "steady", "subtle", "tidy",
    "vivid", "wise",
];

const SURNAMES: [&str; 32] = [
    "abel",
    "ampere",
    "babbage",
    "bernoulli",
    "bohr",
    "boole",
    "cantor",
    "church",
    "curie",
    "dijkstra",
    "euler",
    "faraday",
    "fermat",
    "gauss",
    "germain",
    "hamilton",
    "hertz",
    "hilbert",
    "huygens",
    "kepler",
    "laplace",
    "leibniz",
    "lovelace",
    "maxwell",
    "meitner",
    "noether",
    "pascal",
    "planck",
    "riemann",
    "shannon",
    "turing",
    "volta",
];

/// A name that is not `taken`; with a number where the plain ones are getting rare.
pub fn random(rng: &mut impl Rng, taken: impl Fn(&str) -> bool) -> String {
    let mut number = 0;
    loop {
        let adjective = ADJECTIVES[rng.random_range(0..ADJECTIVES.len())];
        let surname = SURNAMES[rng.random_range(0..SURNAMES.len())];
        let name = match number {
            0 => format!("{adjective}_{surname}"),
            n => format!("{adjective}_{surname}{n}"),
        };
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn names_can_be_services_and_avoid_those_taken() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        for _ in 0..100 {
            let name = random(&mut rng, |_| false);
            assert!(
                skein_orchestration::validate::check_name(&name).is_ok(),
                "{name}"
            );
        }
        let plain = |name: &str| !name.ends_with(|c: char| c.is_ascii_digit());
        assert!(random(&mut rng, plain).ends_with('1'));
    }
}
