//! How a stored wall-clock time becomes an instant again, in the run that wrote it and in later ones. Pure.

use crate::base::time::{Instant, Now, Timestamp};

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Whether a row was written by this process, so that its instant can be told exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    This,
    Earlier,
}

/// Both clocks as they stood when the database was opened: what ties stored wall-clock times to instants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor(pub(super) Now);

impl Anchor {
    /// How far the wall clock has been stepped between the opening and `arrived`, in milliseconds. Nearly
    /// always 0, hence one byte in a row.
    pub(super) fn drift(self, arrived: Now) -> i64 {
        offset(arrived).saturating_sub(offset(self.0))
    }

    /// The instant of a stored time. Of this run it is exact to the millisecond although the clock may have
    /// been set since; of an earlier run the wall clock is all there is, and one that stepped back makes the
    /// message new rather than one of the future.
    pub(super) fn instant(self, wall: Timestamp, drift: i64, run: Run) -> Instant {
        match run {
            Run::Earlier => self.0.instant - self.0.wall.since(wall),
            Run::This => {
                let offset = offset(self.0).saturating_add(drift);
                let millis = u64::try_from(wall.as_millis().saturating_sub(offset)).unwrap_or(0);
                Instant::from_nanos(millis.saturating_mul(NANOS_PER_MILLI))
            }
        }
    }
}

/// The wall clock minus the monotonic one, in milliseconds.
fn offset(now: Now) -> i64 {
    let monotonic = i64::try_from(now.instant.as_nanos() / NANOS_PER_MILLI).unwrap_or(i64::MAX);
    now.wall.as_millis().saturating_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use super::{Anchor, Run};
    use crate::base::time::{Duration, Instant, Now, Timestamp};

    const NOW: Now = Now {
        instant: Instant::from_nanos(3_600_000_000_000),
        wall: Timestamp::from_millis(1_795_255_200_123),
    };

    #[test]
    fn the_age_survives_a_restart_but_never_goes_below_zero() {
        let cases = [(0, 0), (5_000, 5_000), (-5_000, 0), (10_000_000, 3_600_000)];
        for (age_ms, kept_ms) in cases {
            let wall = Timestamp::from_millis(NOW.wall.as_millis() - age_ms);
            let instant = Anchor(NOW).instant(wall, 99, Run::Earlier);
            assert_eq!(NOW.instant.since(instant), Duration::from_millis(kept_ms), "{age_ms}");
        }
    }
}
