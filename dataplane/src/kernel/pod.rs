//! Values of the kernel's side as bytes, wherever those stand.

/// The value at the beginning of some bytes; `None`: there are not enough.
pub fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: as many bytes as the type has, of which every pattern is a value; nothing is asked of how they are
    // aligned.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value as the programs write it.
#[cfg(test)]
pub fn bytes<T: aya::Pod>(value: &T) -> Vec<u8> {
    let at = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: plain data without padding, which lives through the copy.
    unsafe { std::slice::from_raw_parts(at, size_of::<T>()) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_abi::sight::MeterDrop;

    #[test]
    fn a_value_is_read_wherever_it_stands() {
        let value = MeterDrop {
            meter: 7,
            reason: 9,
        };
        let mut moved = vec![0; 3];
        moved.extend(bytes(&value));
        moved.extend([9; 5]);
        assert_eq!(read(&moved[3..]), Some(value));
        assert_eq!(read::<MeterDrop>(&bytes(&value)[1..]), None, "cut short");
    }
}
