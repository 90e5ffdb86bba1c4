//! Sizes as text: `512B`, `64KiB`, `256MiB`, `1GiB`. A whole number and one unit, nothing else.

use std::fmt;

use crate::config::unit;

/// Units and their bytes, largest first.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Bytes. None where the text is no size, or one that 64 bits do not hold.
pub fn parse(text: &str) -> Option<u64> {
    unit::parse(text, &UNITS)
}

/// Prints bytes as they would be written.
pub struct SizeText(pub u64);

impl fmt::Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unit::write(f, self.0, &UNITS, "0B")
    }
}

#[cfg(test)]
mod tests {
    use super::{SizeText, parse};

    #[test]
    fn sizes_are_read_and_printed() {
        let cases = [
            ("0B", Some(0)),
            ("512B", Some(512)),
            ("64KiB", Some(65_536)),
            ("256MiB", Some(268_435_456)),
            ("1GiB", Some(1_073_741_824)),
            ("", None),
            ("5", None),
            ("5MB", None),
            ("5M", None),
            ("-5MiB", None),
            ("1.5GiB", None),
            ("99999999TiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), bytes, "{text:?}");
        }
        for text in ["0B", "1023B", "64KiB", "256MiB", "1GiB", "1TiB"] {
            assert_eq!(SizeText(parse(text).expect("a size")).to_string(), text);
        }
    }
}
