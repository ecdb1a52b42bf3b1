//! The wall clock, read in one place.

use skein_model::Timestamp;
use std::time::SystemTime;

/// The time of day. Pure code gets it passed in.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_nanos(i128::try_from(since_epoch.as_nanos()).unwrap_or_default())
}
