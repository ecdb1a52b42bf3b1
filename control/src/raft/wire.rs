//! What the Raft service carries: JSON, but for the bytes of snapshots.

use super::{platform::Daemon, types::TypeConfig};
use openraft::raft::InstallSnapshotRequest;
use serde::de::Error as _;

/// The largest message. One transaction, however long, or one piece of a snapshot, stays well below.
pub const MESSAGE_MAX: usize = 64 << 20;

/// Bytes of entries that go to a follower at once, if there is more than one: they must be there, and
/// on its disk, before the next heartbeat, or they are sent again. A full transaction fits in.
pub const APPEND_BYTES: usize = 2 << 20;

/// How many of `entries`, which are `bytes` long together, go at once instead, if those are too many.
pub fn fewer_entries(entries: usize, bytes: usize) -> Option<u64> {
    if entries <= 1 || bytes <= APPEND_BYTES {
        return None;
    }
    // Less than all, as they are too long: each answer of this kind is followed by a smaller message.
    let fit = (entries * APPEND_BYTES / bytes).max(1);
    u64::try_from(fit).ok()
}

/// Bytes that say how long the JSON in front of a snapshot's bytes is.
const LEN_BYTES: usize = 4;

/// A piece of a snapshot: length of the JSON, the JSON without the bytes, the bytes.
pub fn encode_snapshot(
    mut request: InstallSnapshotRequest<TypeConfig<Daemon>>,
) -> serde_json::Result<Vec<u8>> {
    let data = std::mem::take(&mut request.data);
    let json = serde_json::to_vec(&request)?;
    let len = u32::try_from(json.len()).unwrap_or(u32::MAX);
    Ok([&len.to_be_bytes(), &*json, &data].concat())
}

/// The inverse of [`encode_snapshot`].
pub fn decode_snapshot(
    payload: &[u8],
) -> serde_json::Result<InstallSnapshotRequest<TypeConfig<Daemon>>> {
    let short = || serde_json::Error::custom("a piece of a snapshot is cut short");
    let (len, rest) = payload.split_first_chunk::<LEN_BYTES>().ok_or_else(short)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(serde_json::Error::custom)?;
    let (json, data) = rest.split_at_checked(len).ok_or_else(short)?;
    let mut request: InstallSnapshotRequest<TypeConfig<Daemon>> = serde_json::from_slice(json)?;
    request.data = data.to_vec();
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_shrink_until_they_fit_or_are_one_entry() {
        assert_eq!(fewer_entries(16, APPEND_BYTES), None);
        assert_eq!(fewer_entries(1, MESSAGE_MAX), None);
        assert_eq!(fewer_entries(16, 16 << 20), Some(2));
        assert_eq!(fewer_entries(2, APPEND_BYTES + 1), Some(1));
        assert_eq!(fewer_entries(16, MESSAGE_MAX * 2), Some(1));
    }

    #[test]
    fn pieces_of_snapshots_survive_the_wire() {
        let request = || InstallSnapshotRequest {
            vote: openraft::Vote::new(3, 1),
            meta: openraft::SnapshotMeta::default(),
            offset: 7,
            data: vec![0, 1, 255],
            done: true,
        };
        let encoded = encode_snapshot(request()).unwrap();
        assert_eq!(decode_snapshot(&encoded).unwrap(), request());
        for cut in [0, 3, 10] {
            assert!(decode_snapshot(&encoded[..cut]).is_err());
        }
    }
}
