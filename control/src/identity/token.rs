//! Join tokens.

use num_bigint::BigUint;
use rand::RngCore;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

const PREFIX: &str = "SWMTKN-1-";
/// Digits that 256 bits take in base 36.
const DIGEST_LEN: usize = 50;
/// Digits that 128 bits take in base 36.
const SECRET_LEN: usize = 25;
const SECRET_BYTES: usize = 16;

/// What a joining node shows: `SWMTKN-1-<digest of the root certificate>-<secret>`, both numbers in
/// base 36. The digest lets the node know the cluster, the secret lets the cluster know the node.
#[derive(Clone)]
pub struct JoinToken {
    text: String,
}

/// The text is not a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct InvalidToken;

impl JoinToken {
    /// A new token for the cluster with this root certificate (PEM, byte by byte as stored).
    pub fn generate(root_pem: &str, rng: &mut impl RngCore) -> Self {
        let mut secret = [0; SECRET_BYTES];
        rng.fill_bytes(&mut secret);
        let text = format!(
            "{PREFIX}{}-{}",
            digest(root_pem),
            base36(&secret, SECRET_LEN)
        );
        Self { text }
    }

    /// Reads a token.
    ///
    /// # Errors
    /// Another form, or a part of another length.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let (digest, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .ok_or(InvalidToken)?;
        let numeral = |part: &str, len| {
            part.len() == len
                && part
                    .bytes()
                    .all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
        };
        if !numeral(digest, DIGEST_LEN) || !numeral(secret, SECRET_LEN) {
            return Err(InvalidToken);
        }
        Ok(Self { text: text.into() })
    }

    /// Whether a root certificate is that of the token's cluster.
    pub fn matches_root(&self, root_pem: &str) -> bool {
        self.digest() == digest(root_pem)
    }

    /// SHA-256 of the root certificate that the token expects, in hex.
    pub fn expected_fingerprint(&self) -> String {
        let number = BigUint::parse_bytes(self.digest().as_bytes(), 36).unwrap_or_default();
        format!("{number:064x}")
    }

    /// Whether `shown` is this token; takes the same time wherever they differ.
    pub fn is(&self, shown: &str) -> bool {
        self.text.as_bytes().ct_eq(shown.as_bytes()).into()
    }

    /// The token as users pass it on.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn digest(&self) -> &str {
        &self.text[PREFIX.len()..PREFIX.len() + DIGEST_LEN]
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(redacted)")
    }
}

fn digest(root_pem: &str) -> String {
    base36(&Sha256::digest(root_pem.as_bytes()), DIGEST_LEN)
}

fn base36(bytes: &[u8], len: usize) -> String {
    format!("{:0>len$}", BigUint::from_bytes_be(bytes).to_str_radix(36))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::generate("root", &mut rand::rng())
    }

    #[test]
    fn tokens_have_swarms_form() {
        let token = token();
        let parts: Vec<_> = token.as_str().split('-').collect();
        let [prefix, version, digest, secret] = parts[..] else {
            panic!("{token:?}")
        };
        assert_eq!((prefix, version), ("SWMTKN", "1"));
        assert_eq!((digest.len(), secret.len()), (50, 25));
        assert_eq!(
            base36(&[0xff; 32], 50),
            "6dp5qcb22im238nr3wvp0ic7q99w035jmy2iw7i6n43d37jtof"
        );
        assert_eq!(base36(&[0xff; 16], 25), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(base36(&[0; 16], 25), "0".repeat(25));
    }

    #[test]
    fn a_token_knows_its_root_and_itself() {
        let token = token();
        assert!(token.matches_root("root"));
        assert!(!token.matches_root("another"));
        assert_eq!(
            token.expected_fingerprint(),
            Sha256::digest("root")
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        );
        assert!(token.is(token.as_str()));
        assert!(!token.is(self::token().as_str()));
        assert!(!token.is(&token.as_str()[..80]));
    }

    #[test]
    fn other_texts_are_refused() {
        let good = token().as_str().to_owned();
        assert!(JoinToken::parse(&good).is_ok());
        for bad in [
            "",
            "SWMTKN",
            &good[..good.len() - 1],
            &good.replace("SWMTKN-1", "SWMTKN-2"),
            &good.to_uppercase(),
            &format!("{good}-1"),
            &format!("{good}0"),
        ] {
            assert_eq!(JoinToken::parse(bad).unwrap_err(), InvalidToken, "{bad}");
        }
    }
}
