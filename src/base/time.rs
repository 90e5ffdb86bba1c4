//! Time as an argument. A hand reads both clocks once a visit and passes [`Now`] on; brains never read a
//! clock. Monotonic time drives every deadline; wall-clock time is only shown, stored and sent.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
pub use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const NANOS_PER_MILLI: u64 = 1_000_000;

/// A point on the monotonic clock, in nanoseconds since an origin that all processes of one boot have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ORIGIN: Instant = Instant(0);
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);
    /// The start of the machine.
    pub const BOOT: Instant = Instant(HEADROOM_NANOS);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> i64 {
        (self.0 / NANOS_PER_MILLI).cast_signed()
    }

    /// Saturates; a negative one is the origin.
    pub fn from_millis(millis: i64) -> Self {
        Self(u64::try_from(millis).unwrap_or(0).saturating_mul(NANOS_PER_MILLI))
    }

    /// How long ago `earlier` was; zero where it lies ahead.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates: a deadline too far to count is never reached.
    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_sub(nanos))
    }
}

/// Whether a wall-clock time can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    None,
    /// It was read before the clock was set. The instant that was read with it tells the right time once it is.
    Unset,
    /// The same, by a boot in which the clock never was set: nothing tells the right time any more.
    Lost,
}

/// Wall-clock time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds, and whether to believe it: in the
/// last two bits, for every message that waits has such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

const DOUBT_BITS: u32 = 2;
/// 73 million years.
const MILLIS_MAX: i64 = i64::MAX >> DOUBT_BITS;

impl Timestamp {
    /// Saturates, 73 million years before and after 1970.
    pub const fn from_millis(millis: i64) -> Self {
        let bounded = match millis {
            ..0 if millis < -MILLIS_MAX => -MILLIS_MAX,
            0.. if millis > MILLIS_MAX => MILLIS_MAX,
            _ => millis,
        };
        Self(bounded << DOUBT_BITS)
    }

    pub const fn as_millis(self) -> i64 {
        self.0 >> DOUBT_BITS
    }

    #[must_use]
    pub const fn with_doubt(self, doubt: Doubt) -> Self {
        let Self(believed) = Self::from_millis(self.as_millis());
        Self(match doubt {
            Doubt::None => believed,
            Doubt::Unset => believed | 1,
            Doubt::Lost => believed | 2,
        })
    }

    pub const fn doubt(self) -> Doubt {
        match self.0 & 0b11 {
            0 => Doubt::None,
            1 => Doubt::Unset,
            _ => Doubt::Lost,
        }
    }

    pub const fn is_doubtful(self) -> bool {
        !matches!(self.doubt(), Doubt::None)
    }

    /// How long ago `earlier` was; zero where it lies ahead.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let millis = self.as_millis().saturating_sub(earlier.as_millis());
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, duration: Duration) -> Timestamp {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.as_millis().saturating_sub(millis)).with_doubt(self.doubt())
    }
}

/// RFC 3339 in UTC to the millisecond: `2026-11-21T10:00:00.123Z`.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days = self.as_millis().div_euclid(86_400_000);
        let in_day = self.as_millis().rem_euclid(86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (seconds, millis) = (in_day / 1000, in_day % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// A text that is no such time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTimestamp;

impl std::fmt::Display for NoTimestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no time like 2026-11-21T10:00:00.123Z")
    }
}

impl std::error::Error for NoTimestamp {}

/// What `Display` writes, and nothing else.
impl std::str::FromStr for Timestamp {
    type Err = NoTimestamp;

    fn from_str(text: &str) -> Result<Self, NoTimestamp> {
        let mut numbers = text.split(['-', 'T', ':', '.', 'Z']).map(|part| part.parse::<u32>().ok());
        let mut next = || numbers.next().flatten().map(i64::from).ok_or(NoTimestamp);
        let (year, month, day) = (next()?, next()?, next()?);
        let (hour, minute, second, millis) = (next()?, next()?, next()?, next()?);
        if year > 9999 {
            return Err(NoTimestamp);
        }
        let in_day = ((hour * 60 + minute) * 60 + second) * 1000 + millis;
        let found = Self::from_millis(days_from_civil(year, month, day) * 86_400_000 + in_day);
        // A 31 February, an hour 24 or another way to write it comes back as something else.
        if found.to_string() == text { Ok(found) } else { Err(NoTimestamp) }
    }
}

/// The day number of a date: the other way round than `civil_from_days`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The proleptic Gregorian date of a day number (0 is 1970-01-01). Counts in 400-year eras that begin on
/// 1 March, so that the leap day is the last of its year.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}

impl Now {
    /// The wall-clock time of this moment as `now` knows it: what a clock said that was not set, by the one that is,
    /// or by what the same clock says now.
    pub fn dated_by(self, now: Now) -> Timestamp {
        match (self.wall.doubt(), now.wall.doubt()) {
            (Doubt::Unset, doubt @ (Doubt::None | Doubt::Unset)) => {
                (now.wall - now.instant.since(self.instant)).with_doubt(doubt)
            }
            _ => self.wall,
        }
    }

    /// The same time with the instant that a clock which has been set since tells for it. None: it is of this boot, and
    /// its instant is known, or it was not believed.
    pub fn told_by(self, now: Now) -> Option<Now> {
        let is_earlier = self.instant <= Instant::BOOT && !self.wall.is_doubtful();
        is_earlier.then(|| Now { instant: now.instant - now.wall.since(self.wall), ..self })
    }

    /// The wall clock minus the monotonic one, in milliseconds: a step of the clock changes it, and nothing else.
    pub fn offset_millis(self) -> i64 {
        self.wall.as_millis().saturating_sub(self.instant.as_millis())
    }
}

/// What instants begin with: ten years, so that one before the machine's start can be told, such as the arrival of
/// a message that was stored before a restart.
const HEADROOM_NANOS: u64 = 10 * 365 * 86_400 * 1_000_000_000;
/// A timer sleeps for no longer, whatever it waits for.
const SLEEP_MAX: Duration = Duration::from_secs(86_400 * 365);

/// The system's clocks, and whether the wall clock is set. Only hands, `app` and `cli` hold one.
#[derive(Debug, Clone)]
pub struct Clock {
    unset: Arc<AtomicBool>,
}

impl Clock {
    /// A wall clock that is believed until somebody knows better.
    pub fn start() -> Self {
        Self { unset: Arc::default() }
    }

    /// Whether the wall clock can be believed, in this one and all that were cloned from the same.
    pub fn set_doubt(&self, unset: bool) {
        self.unset.store(unset, Ordering::Relaxed);
    }

    pub fn now(&self) -> Now {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let doubt = if self.unset.load(Ordering::Relaxed) { Doubt::Unset } else { Doubt::None };
        Now { instant: instant(), wall: Timestamp::from_millis(millis).with_doubt(doubt) }
    }

    /// The standard library's instant of one of ours, for timers.
    pub fn to_std(&self, instant: Instant) -> std::time::Instant {
        std::time::Instant::now() + instant.since(self::instant()).min(SLEEP_MAX)
    }
}

/// A machine that sleeps grows older all the same: what waits ages, and no time of the wall clock is lost.
fn instant() -> Instant {
    let since_boot = clock_gettime(ClockId::Boottime);
    let nanos = Duration::new(
        u64::try_from(since_boot.tv_sec).unwrap_or(0),
        u32::try_from(since_boot.tv_nsec).unwrap_or(0),
    );
    Instant::BOOT + nanos
}

#[cfg(test)]
mod tests {
    use super::{Clock, Doubt, Duration, Instant, Now, Timestamp};

    #[test]
    fn timestamps_print_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_255_200_123, "2026-11-21T10:00:00.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ];
        for (millis, text) in cases {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp::from_millis(millis)));
        }
    }

    #[test]
    fn a_time_keeps_its_doubt_and_its_place_whatever_it_is() {
        for millis in [0, -1, 1_795_255_200_123, -62_167_219_200_000, 1_000_000_000_000_000_000] {
            for doubt in [Doubt::None, Doubt::Unset, Doubt::Lost] {
                let time = Timestamp::from_millis(millis).with_doubt(doubt);
                assert_eq!((time.as_millis(), time.doubt()), (millis, doubt));
                assert!(Timestamp::from_millis(millis - 1).with_doubt(Doubt::Lost) < time);
            }
        }
        assert!(Timestamp::from_millis(i64::MIN) < Timestamp::from_millis(-1));
        assert!(Timestamp::from_millis(i64::MAX) > Timestamp::from_millis(1 << 60));
    }

    #[test]
    fn what_is_no_time_is_not_taken_for_one() {
        let texts = [
            "",
            "2026-11-21",
            "2026-02-29T00:00:00.000Z",
            "2026-11-21T24:00:00.000Z",
            "2026-11-21T10:00:00Z",
            "2026-11-21T10:00:00.123",
            "2026-11-21t10:00:00.123Z",
            "12026-11-21T10:00:00.123Z",
            "2026-4294967295-21T10:00:00.123Z",
        ];
        for text in texts {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_of_a_clock_that_was_not_set_is_told_by_the_one_that_is() {
        let at = |secs, wall: i64, doubt| Now {
            instant: Instant::ORIGIN + Duration::from_secs(secs),
            wall: Timestamp::from_millis(wall).with_doubt(doubt),
        };
        let year_2026 = 1_795_255_200_123;
        let cases = [
            // Set forwards, set back, stepped without being set, never to be known.
            (at(10, 5_000, Doubt::Unset), at(40, year_2026, Doubt::None), year_2026 - 30_000, Doubt::None),
            (at(10, year_2026, Doubt::Unset), at(40, 90_000, Doubt::None), 60_000, Doubt::None),
            (at(10, 5_000, Doubt::Unset), at(40, 135_000, Doubt::Unset), 105_000, Doubt::Unset),
            (at(10, 5_000, Doubt::Lost), at(40, year_2026, Doubt::None), 5_000, Doubt::Lost),
            // What was believed stays what it is.
            (at(10, year_2026, Doubt::None), at(40, 90_000, Doubt::None), year_2026, Doubt::None),
            (at(10, year_2026, Doubt::None), at(40, 90_000, Doubt::Unset), year_2026, Doubt::None),
        ];
        for (then, now, millis, doubt) in cases {
            assert_eq!(then.dated_by(now), Timestamp::from_millis(millis).with_doubt(doubt), "{then:?}");
        }
    }

    #[test]
    fn all_clocks_of_a_boot_have_their_instants_in_common() {
        let (one, other) = (Clock::start(), Clock::start());
        let (before, between, after) = (one.now().instant, other.now().instant, one.now().instant);
        assert!(Instant::BOOT < before && before <= between && between <= after);
        one.clone().set_doubt(true);
        assert!(one.now().wall.is_doubtful() && !other.now().wall.is_doubtful());
    }

    #[test]
    fn the_past_of_a_young_machine_can_be_told() {
        let clock = Clock::start();
        let now = clock.now().instant;
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(now.since(now - year), year);
        assert!(clock.to_std(now + Duration::from_secs(60)) > std::time::Instant::now());
    }

    #[test]
    fn instants_saturate_instead_of_wrapping() {
        assert_eq!(Instant::FAR_FUTURE + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(Instant::ORIGIN.since(Instant::from_nanos(5)), Duration::ZERO);
    }
}
