//! Exponential back-off with full jitter: the n-th wait is uniform in `[0, min(max, min_wait * 2^n)]`, so
//! that a thousand gateways that lose one cloud do not come back in step.

use crate::base::time::Duration;

/// The bounds of a back-off, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffBounds {
    pub min: Duration,
    pub max: Duration,
}

/// One back-off in progress.
#[derive(Debug, Clone)]
pub struct Backoff {
    bounds: BackoffBounds,
    attempts: u32,
}

impl Backoff {
    pub fn new(bounds: BackoffBounds) -> Self {
        Self { bounds, attempts: 0 }
    }

    /// The next wait: uniform between zero and the ceiling, which doubles with every call.
    pub fn next_wait(&mut self, rng: &mut fastrand::Rng) -> Duration {
        self.next_ceiling().mul_f64(rng.f64())
    }

    /// The next wait without jitter, for a device that backs off alone.
    pub fn next_ceiling(&mut self) -> Duration {
        let factor = 2u32.saturating_pow(self.attempts.min(31));
        self.attempts = self.attempts.saturating_add(1);
        self.bounds.min.saturating_mul(factor).min(self.bounds.max)
    }

    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, BackoffBounds};
    use crate::base::time::Duration;

    #[test]
    fn waits_stay_between_zero_and_a_ceiling_that_doubles_up_to_max() {
        let bounds = BackoffBounds { min: Duration::from_secs(1), max: Duration::from_secs(10) };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::new(bounds);
        for ceiling in [1, 2, 4, 8, 10, 10, 10] {
            assert!(backoff.next_wait(&mut rng) <= Duration::from_secs(ceiling));
        }
        backoff.reset();
        assert_eq!(backoff.next_ceiling(), Duration::from_secs(1));
        for _ in 0..100 {
            assert!(backoff.next_ceiling() <= bounds.max);
        }
    }
}
