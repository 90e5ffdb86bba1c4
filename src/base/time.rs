//! Time as an argument. A hand reads both clocks once a visit and passes [`Now`] on; brains never read a
//! clock. Monotonic time drives every deadline; wall-clock time is only shown, stored and sent.

use std::ops::{Add, Sub};
pub use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an origin that is the process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ORIGIN: Instant = Instant(0);
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
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

/// Wall-clock time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; zero where it lies ahead.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC to the millisecond: `2026-11-21T10:00:00.123Z`.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let in_day = self.0.rem_euclid(86_400_000);
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
        let found = Self(days_from_civil(year, month, day) * 86_400_000 + in_day);
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

/// What a process's instants begin with: ten years, so that an instant before its start can be told, such as
/// the arrival of a message that an earlier process stored.
const HEADROOM_NANOS: u64 = 10 * 365 * 86_400 * 1_000_000_000;

/// The system's clocks. Only hands, `app` and `cli` hold one.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    pub fn now(&self) -> Now {
        let since_origin = self.origin.elapsed().as_nanos();
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let nanos = u64::try_from(since_origin).unwrap_or(u64::MAX).saturating_add(HEADROOM_NANOS);
        Now { instant: Instant(nanos), wall: Timestamp(millis) }
    }

    /// The standard library's instant of one of ours, for timers.
    pub fn to_std(&self, instant: Instant) -> std::time::Instant {
        let far = Duration::from_secs(86_400 * 365);
        self.origin
            + Duration::from_nanos(instant.0.saturating_sub(HEADROOM_NANOS)).min(self.origin.elapsed() + far)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration, Instant, Timestamp};

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
    fn the_past_of_a_young_process_can_be_told() {
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
