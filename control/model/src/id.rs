//! IDs of objects.

use rand::Rng;

/// Characters in an object ID.
pub const ID_LEN: usize = 25;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A new object ID: 25 characters of `[0-9a-z]`, about 129 bits of entropy, as Swarm's.
pub fn new_id(rng: &mut impl Rng) -> String {
    (0..ID_LEN)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn ids_have_swarms_form_and_differ() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let (a, b) = (new_id(&mut rng), new_id(&mut rng));
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!(id.len(), ID_LEN);
            assert!(
                id.bytes()
                    .all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
            );
        }
    }
}
