//! The Internet checksum (RFC 1071), of what this process sends itself.

/// Of an even number of bytes; 0 where theirs is among them and right.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up() {
        // The example of RFC 1071, section 3.
        let mut bytes = vec![0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes), !0xddf2);
        bytes.extend(checksum(&bytes).to_be_bytes());
        assert_eq!(checksum(&bytes), 0);
    }
}
