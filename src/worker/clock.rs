//! The one place where the engine reads the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// Now, by the wall clock: due times are compared between machines.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Waits until about `due`, or for ever when nothing is due.
///
/// It may return before: the wall clock can be set while this waits, so it looks again every second.
pub async fn until(due: Option<Timestamp>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(now()).min(Duration::from_secs(1))).await,
        None => std::future::pending().await,
    }
}
