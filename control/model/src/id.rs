//! IDs of objects.

use rand::Rng;

/// Characters in an object ID.
pub const ID_LEN: usize = 25;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Characters of a container ID that make its short form.
const SHORT_CONTAINER_ID: usize = 12;

/// A container's ID as users write it, which is also its hostname unless it was given another. `None`:
/// it has none yet.
pub fn short_id(container_id: &str) -> Option<&str> {
    container_id.get(..SHORT_CONTAINER_ID)
}

/// A new object ID: 25 characters of `[0-9a-z]`, about 129 bits of entropy, as Swarm's.
pub fn new_id(rng: &mut impl Rng) -> String {
    (0..ID_LEN)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Whether a text has the form of an object ID.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|c| ALPHABET.contains(&c))
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
            assert!(is_id(&id), "{id}");
            let wrong = [&id[1..], &id.replacen(&id[..1], "A", 1), &format!("{id}0")].map(is_id);
            assert_eq!(wrong, [false; 3]);
        }
    }
}
