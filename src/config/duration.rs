//! Durations as text: `500ms`, `5s`, `10m`, `24h`, `7d`. A whole number and one unit, nothing else.

use std::fmt;

use crate::base::time::Duration;
use crate::config::unit;

/// Units and their milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// None where the text is no duration, or one that 64 bits of milliseconds do not hold.
pub fn parse(text: &str) -> Option<Duration> {
    unit::parse(text, &UNITS).map(Duration::from_millis)
}

/// Prints a duration as it would be written; to the millisecond.
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        unit::write(f, millis, &UNITS, "0s")
    }
}

#[cfg(test)]
mod tests {
    use super::{DurationText, parse};
    use crate::base::time::Duration;

    #[test]
    fn durations_are_read_and_printed() {
        let cases = [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("5s", Some(5000)),
            ("10m", Some(600_000)),
            ("24h", Some(86_400_000)),
            ("7d", Some(604_800_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("+5s", None),
            ("1.5s", None),
            ("5 s", None),
            ("1h30m", None),
            ("5S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text:?}");
        }
        for text in ["0s", "500ms", "65535s", "10m", "18h", "7d"] {
            assert_eq!(DurationText(parse(text).expect("a duration")).to_string(), text);
        }
    }
}
