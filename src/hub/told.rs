//! What the log was told of a count, so that it hears of it now and then and not each time. Logs nothing itself.

use crate::base::time::{Duration, Instant, Now};

/// How often one thing is logged at most.
pub const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How much of a count the log has told of, and when it did last.
#[derive(Debug, Default)]
pub struct Told {
    count: u64,
    at: Option<Instant>,
}

impl Told {
    /// What came since, where it is to be told now: once in [`LOG_INTERVAL`] at most.
    pub fn news(&mut self, count: u64, now: Now) -> Option<u64> {
        let lately = self.at.is_some_and(|at| now.instant.since(at) < LOG_INTERVAL);
        if count <= self.count || lately {
            return None;
        }
        self.at = Some(now.instant);
        Some(count - std::mem::replace(&mut self.count, count))
    }
}
