//! How a stored time becomes both clocks again: in the run that wrote it, in later ones of the same boot, and after
//! a restart of the machine. Pure.
//!
//! What a wall clock said that was not set is stored with the monotonic time and the boot. It is known again in that
//! boot, and in later ones if the clock was set before it ended: the difference of its clocks is kept for that.

use crate::base::boot::Boot;
use crate::base::time::{Doubt, Instant, Now, Timestamp};

/// Boots whose clocks are remembered.
pub(super) const DATED_BOOTS_MAX: u32 = 8;

/// Of a monotonic time, in the number that stands for a session's end; the rest is of the boot.
const MONOTONIC_BITS: u32 = 47;

/// Whether a row was written by this process, so that its instant can be told exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    This,
    Earlier,
}

/// The wall clock minus the monotonic one of boots whose clocks were set, in milliseconds.
pub(super) type Dates = [Option<(Boot, i64)>; DATED_BOOTS_MAX as usize];

/// What ties stored times to instants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    /// Both clocks as they stood when the database was opened.
    opened: Now,
    /// Both clocks since they are set; as `opened` until then.
    known: Now,
    boot: Boot,
    dates: Dates,
}

/// When something came whose wall clock was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undated {
    pub(super) boot: Boot,
    pub(super) arrived: Now,
}

impl Anchor {
    pub(super) const fn new(opened: Now, boot: Boot) -> Self {
        Self { opened, known: opened, boot, dates: [None; DATED_BOOTS_MAX as usize] }
    }

    pub(super) fn with_dates(self, dates: Dates) -> Self {
        Self { dates, ..self }
    }

    /// The clock is set: times of earlier runs can be told from now on.
    pub(super) fn with_known(self, known: Now) -> Self {
        Self { known, ..self }
    }

    /// This boot, and the difference of its clocks where they are set.
    pub(super) fn date(self) -> Option<(Boot, i64)> {
        (!self.known.wall.is_doubtful()).then(|| (self.boot, self.known.offset_millis()))
    }

    /// This boot's, as it was kept.
    pub(super) fn known_date(self) -> Option<i64> {
        self.dates.iter().flatten().find(|(boot, _)| *boot == self.boot).map(|(_, offset)| *offset)
    }

    pub(super) fn boot(self) -> Boot {
        self.boot
    }

    /// How far the wall clock has been stepped between the opening and `arrived`, in milliseconds. Nearly
    /// always 0, hence one byte in a row.
    pub(super) fn drift(self, arrived: Now) -> i64 {
        arrived.offset_millis().saturating_sub(self.opened.offset_millis())
    }

    /// A stored time that was believed. Of this run it is exact to the millisecond although the clock may have
    /// been set since; of an earlier run the wall clock is all there is, and one that stepped back makes the
    /// message new rather than one of the future. By a clock that is not set nothing is old or new: it is then at
    /// least as old as this boot.
    pub(super) fn arrived(self, wall: Timestamp, drift: i64, run: Run) -> Now {
        let instant = match run {
            Run::This => {
                let offset = self.opened.offset_millis().saturating_add(drift);
                Instant::from_millis(wall.as_millis().saturating_sub(offset))
            }
            Run::Earlier if self.known.wall.is_doubtful() => Instant::BOOT.min(self.known.instant),
            Run::Earlier => self.known.instant - self.known.wall.since(wall),
        };
        Now { instant, wall }
    }

    /// A stored time that was not believed, and how many milliseconds later than it says the message came where that
    /// cannot be told any more by the instant.
    pub(super) fn undated(self, stored: Undated) -> (Now, Option<i64>) {
        let Undated { boot, arrived } = stored;
        let found = self.dates.iter().flatten().find(|(dated, _)| *dated == boot);
        if boot == self.boot {
            return (Now { wall: arrived.wall.with_doubt(Doubt::Unset), ..arrived }, None);
        }
        let Some((_, offset)) = found else {
            let instant = Instant::BOOT.min(self.known.instant);
            return (Now { instant, wall: arrived.wall.with_doubt(Doubt::Lost) }, None);
        };
        let millis = arrived.instant.as_millis().saturating_add(*offset);
        let later = millis.saturating_sub(arrived.wall.as_millis());
        (self.arrived(Timestamp::from_millis(millis), 0, Run::Earlier), Some(later))
    }

    /// A time as one number: what the wall clock says, or, below zero, the boot and the monotonic time.
    pub(super) fn to_column(self, at: Now) -> i64 {
        if !at.wall.is_doubtful() {
            return at.wall.as_millis().max(0);
        }
        let millis = at.instant.as_millis() & ((1 << MONOTONIC_BITS) - 1);
        -1 - (tag(self.boot) << MONOTONIC_BITS | millis)
    }

    /// The wall clock of a time that was not believed is not stored: it is of no use.
    pub(super) fn of_column(self, column: i64) -> Now {
        if column >= 0 {
            return self.arrived(Timestamp::from_millis(column), 0, Run::Earlier);
        }
        let stored = -1 - column;
        let boots = self.dates.iter().flatten().map(|(boot, _)| *boot);
        let found =
            std::iter::once(self.boot).chain(boots).find(|boot| tag(*boot) == stored >> MONOTONIC_BITS);
        let instant = Instant::from_millis(stored & ((1 << MONOTONIC_BITS) - 1));
        let arrived = Now { instant, wall: Timestamp::default().with_doubt(Doubt::Unset) };
        // A boot that nobody knows is no boot.
        let boot = found.unwrap_or(Boot(!self.boot.0));
        self.undated(Undated { boot, arrived }).0
    }
}

/// The first bits of a boot's id.
fn tag(boot: Boot) -> i64 {
    (boot.0 >> (MONOTONIC_BITS + 1)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::{Anchor, Dates, Run, Undated};
    use crate::base::boot::Boot;
    use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};

    const NOW: Now = Now {
        instant: Instant::from_nanos(3_600_000_000_000),
        wall: Timestamp::from_millis(1_795_255_200_123),
    };
    const BOOT: Boot = Boot(0x6080_ad91_a356_4380);
    const EARLIER: Boot = Boot(0x1234_5678_9abc_def0);
    const FORGOTTEN: Boot = Boot(0xfedc_ba98_7654_3210);

    /// So long after the boot, and so many milliseconds after 1970 by a clock that nobody has set.
    fn unset(uptime_ms: u64, wall_ms: i64) -> Now {
        Now {
            instant: Instant::BOOT + Duration::from_millis(uptime_ms),
            wall: Timestamp::from_millis(wall_ms).with_doubt(Doubt::Unset),
        }
    }

    fn set(uptime_ms: u64, wall_ms: i64) -> Now {
        let now = unset(uptime_ms, wall_ms);
        Now { wall: now.wall.with_doubt(Doubt::None), ..now }
    }

    #[test]
    fn the_age_survives_a_restart_but_never_goes_below_zero() {
        let cases = [(0, 0), (5_000, 5_000), (-5_000, 0), (10_000_000, 3_600_000)];
        for (age_ms, kept_ms) in cases {
            let wall = Timestamp::from_millis(NOW.wall.as_millis() - age_ms);
            let arrived = Anchor::new(NOW, BOOT).arrived(wall, 99, Run::Earlier);
            assert_eq!(NOW.instant.since(arrived.instant), Duration::from_millis(kept_ms), "{age_ms}");
        }
    }

    #[test]
    fn what_an_earlier_run_left_is_no_older_than_known_until_the_clock_is_set() {
        // Whether the clock that is not set stands in 1970 or in 2099.
        for wall_ms in [0, 4_070_908_800_000] {
            let opened = unset(60_000, wall_ms);
            let anchor = Anchor::new(opened, BOOT);
            let stored = Timestamp::from_millis(1_795_255_200_000);
            let young = anchor.arrived(stored, 0, Run::Earlier);
            assert_eq!(opened.instant.since(young.instant), Duration::from_secs(60), "{wall_ms}");
            let known = set(90_000, 1_795_255_500_000);
            let aged = anchor.with_known(known).arrived(stored, 0, Run::Earlier);
            assert_eq!(known.instant.since(aged.instant), Duration::from_secs(300), "{wall_ms}");
        }
    }

    #[test]
    fn what_was_not_dated_is_known_in_its_boot_and_after_one_whose_clock_was_set() {
        let opened = set(60_000, 1_795_255_200_000);
        let mut dates = Dates::default();
        let earlier_offset = 1_795_000_000_000 - Instant::BOOT.as_millis();
        dates[3] = Some((EARLIER, earlier_offset));
        let anchor = Anchor::new(opened, BOOT).with_dates(dates);
        let arrived = unset(20_000, 5_000);

        let (same, later) = anchor.undated(Undated { boot: BOOT, arrived });
        assert_eq!((same, later), (arrived, None));

        let (known, later) = anchor.undated(Undated { boot: EARLIER, arrived });
        assert_eq!(known.wall, Timestamp::from_millis(1_795_000_020_000));
        assert_eq!(later, Some(1_795_000_015_000));
        assert_eq!(opened.instant.since(known.instant), Duration::from_secs(255_180));

        let (lost, later) = anchor.undated(Undated { boot: FORGOTTEN, arrived });
        assert_eq!((lost.wall, later), (arrived.wall.with_doubt(Doubt::Lost), None));
        assert_eq!(opened.instant.since(lost.instant), Duration::from_secs(60));
    }

    #[test]
    fn a_column_holds_either_clock() {
        let opened = set(60_000, 1_795_255_200_000);
        let mut dates = Dates::default();
        dates[0] = Some((EARLIER, 1_795_000_000_000 - Instant::BOOT.as_millis()));
        let here = Anchor::new(opened, BOOT).with_dates(dates);
        let there = Anchor::new(opened, EARLIER);
        let nowhere = Anchor::new(opened, FORGOTTEN);
        let arrived = unset(20_000, 5_000);
        let at = set(59_000, 1_795_255_199_000);
        assert_eq!(here.of_column(here.to_column(at)), at);
        assert_eq!(here.to_column(at), 1_795_255_199_000);
        assert_eq!(here.of_column(here.to_column(arrived)).instant, arrived.instant);
        assert_eq!(here.of_column(there.to_column(arrived)).wall, Timestamp::from_millis(1_795_000_020_000));
        let lost = here.of_column(nowhere.to_column(arrived));
        assert_eq!((lost.instant, lost.wall.doubt()), (Instant::BOOT, Doubt::Lost));
        for column in [i64::MIN, i64::MAX, -1, 0] {
            let _ = here.of_column(column);
        }
    }
}
