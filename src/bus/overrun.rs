//! What a line is too slow for, told in the log. Never changes what it does.

use tokio::time::Instant;

use crate::base::time::Duration;
use crate::device::status::DeviceStatus;

/// The log is told no more often.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Overrun {
    told: Instant,
    polls: u64,
    skipped: u64,
}

impl Overrun {
    pub(crate) fn new() -> Self {
        Self { told: Instant::now(), polls: 0, skipped: 0 }
    }

    /// Says, once in a while, that polls were left out since it was said last.
    pub(crate) fn tell(&mut self, line: &str, status: &[DeviceStatus]) {
        if self.told.elapsed() < TELL_INTERVAL {
            return;
        }
        let (polls, skipped) = status
            .iter()
            .fold((0, 0), |(polls, skipped), device| (polls + device.polls, skipped + device.skipped));
        let (begun, left_out) = (polls.saturating_sub(self.polls), skipped.saturating_sub(self.skipped));
        *self = Self { told: Instant::now(), polls, skipped };
        if left_out > 0 {
            tracing::warn!(
                line,
                polls = begun,
                skipped = left_out,
                "polls were left out: they come round faster than the line carries them; all are stretched alike"
            );
        }
    }
}
