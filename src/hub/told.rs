//! What the log was told of a count, so that it hears of it now and then and not each time. Counts nothing itself.

use crate::base::time::{Duration, Instant, Now};
use crate::hub::core::Core;

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

impl Core {
    pub(super) fn log_denied(&mut self, now: Now) {
        let Some(denied) = self.broker.denied() else { return };
        if let Some(messages) = self.denied_told.news(denied.count, now) {
            tracing::warn!(
                messages,
                client = %denied.client_id.escape_debug(),
                topic = %denied.topic.as_str().escape_debug(),
                "messages were dropped: no access rule allows them; client and topic are the last one's"
            );
        }
    }

    pub(super) fn log_throttled(&mut self, now: Now) {
        let Some(throttled) = self.broker.throttled() else { return };
        if let Some(messages) = self.throttled_told.news(throttled.count, now) {
            tracing::warn!(
                messages,
                client = %throttled.client_id.escape_debug(),
                "messages had to wait: their client publishes above limits.publish_rate; the client is the last one"
            );
        }
    }
}
