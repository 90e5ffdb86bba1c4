//! A whole number and one unit as text, and nothing else: what durations and sizes have in common.

use std::fmt;

/// Names of units and what they are worth, largest first; the last is worth 1.
pub(super) type Units = [(&'static str, u64)];

/// None where the text is none, or more than 64 bits hold.
pub(super) fn parse(text: &str, units: &Units) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

/// In the largest unit of which it is a whole number.
pub(super) fn write(f: &mut fmt::Formatter<'_>, number: u64, units: &Units, zero: &str) -> fmt::Result {
    match units.iter().find(|(_, worth)| number.is_multiple_of(*worth)) {
        Some((name, worth)) if number > 0 => write!(f, "{}{name}", number / worth),
        _ => f.write_str(zero),
    }
}
