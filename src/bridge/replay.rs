//! How fast what waited may leave: so many a second, a tenth of a second's worth at once. Knows no message.

use std::num::NonZeroU32;

use crate::base::time::{Duration, Instant};

/// What may leave at once, in time.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Rate {
    /// Between two messages.
    interval: Duration,
    /// When the next one may leave.
    next_at: Instant,
}

impl Rate {
    pub(super) fn per_second(messages: NonZeroU32) -> Self {
        Self { interval: Duration::from_secs(1) / messages.get(), next_at: Instant::ORIGIN }
    }

    /// The link is up: nothing was saved meanwhile.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next_at = self.next_at.max(now);
    }

    pub(super) fn allows(&self, now: Instant) -> bool {
        self.next_at <= now
    }

    pub(super) fn next_at(&self) -> Instant {
        self.next_at
    }

    pub(super) fn take(&mut self, now: Instant) {
        self.next_at = self.next_at.max(now - BURST) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::Rate;
    use crate::base::time::{Duration, Instant};

    #[test]
    fn so_many_leave_a_second_however_often_it_is_asked() {
        for per_second in [1, 7, 100, 5000] {
            let mut rate = Rate::per_second(NonZeroU32::new(per_second).expect("not zero"));
            let begin = Instant::ORIGIN + Duration::from_secs(100);
            rate.begin(begin);
            let mut left = 0;
            for millis in 0..10_000 {
                let now = begin + Duration::from_millis(millis);
                while rate.allows(now) {
                    rate.take(now);
                    left += 1;
                }
            }
            let expected = per_second * 10;
            assert!(
                left + per_second / 100 + 1 >= expected && left <= expected + per_second / 10 + 1,
                "{per_second}: {left}"
            );
        }
    }
}
