//! A point's value as users see it, and how it is written down. Never knows registers or topics.

use std::fmt;
use std::sync::Arc;

use crate::config::point::Deadband;

/// What a point holds, in its own unit. Integers stay integers: a 64-bit counter never passes through `f64`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// Always finite.
    Float(f64),
    Text(Arc<str>),
    /// The parts of a register, by name.
    Bits(Arc<[NamedBits]>),
}

/// One or several bits of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBits {
    pub name: Arc<str>,
    pub value: BitsValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitsValue {
    /// A single bit.
    Flag(bool),
    Number(u64),
}

/// Significant digits that are kept of a float that was calculated.
const CALCULATED_DIGITS: usize = 12;

/// Beyond these a float is written with an exponent.
const PLAIN_FLOAT_MIN: f64 = 1e-5;
const PLAIN_FLOAT_MAX: f64 = 1e16;

impl Value {
    /// The value as a number; None for text and booleans.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Unsigned(value) => Some(nearest_float(i128::from(*value))),
            Self::Signed(value) => Some(nearest_float(i128::from(*value))),
            Self::Float(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) | Self::Bits(_) => None,
        }
    }

    /// The value as an exact integer.
    pub fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Unsigned(value) => Some(i128::from(*value)),
            Self::Signed(value) => Some(i128::from(*value)),
            Self::Bool(_) | Self::Float(_) | Self::Text(_) | Self::Bits(_) => None,
        }
    }

    /// Whether the value is another than the `old` one, by the dead band at least where both are numbers.
    pub fn differs(&self, old: &Value, deadband: Option<Deadband>) -> bool {
        let (Some(a), Some(b)) = (self.as_number(), old.as_number()) else { return self != old };
        let distance = match (self.as_integer(), old.as_integer()) {
            (Some(a), Some(b)) => nearest_float((a - b).abs()),
            _ => (a - b).abs(),
        };
        let least = match deadband {
            None => 0.0,
            Some(Deadband::Absolute(least)) => least,
            Some(Deadband::Relative(share)) => b.abs() * share,
        };
        // Decimals such as 20.2 - 20.1 fall short of 0.1 by the error of their binary forms.
        let is_exact = self.as_integer().is_some() && old.as_integer().is_some();
        let tolerance = if is_exact { 0.0 } else { a.abs().max(b.abs()) * f64::EPSILON * 4.0 };
        distance > 0.0 && distance + tolerance >= least
    }

    /// The value as JSON.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Text(text) => write_json_text(text, out),
            Self::Bits(bits) => write_json_bits(bits, out),
            number_or_bool => out.push_str(&number_or_bool.to_string()),
        }
    }
}

/// The value alone, as in a `plain` payload: `230.1`, `true`, `auto`, `{"alarm":false}`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => f.write_str(&float_text(*value)),
            Self::Text(text) => f.write_str(text),
            Self::Bits(bits) => {
                let mut text = String::new();
                write_json_bits(bits, &mut text);
                f.write_str(&text)
            }
        }
    }
}

fn write_json_bits(bits: &[NamedBits], out: &mut String) {
    for (index, NamedBits { name, value }) in bits.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        write_json_text(name, out);
        out.push(':');
        out.push_str(&match value {
            BitsValue::Flag(flag) => flag.to_string(),
            BitsValue::Number(number) => number.to_string(),
        });
    }
    out.push('}');
}

/// Through decimal text: that is the only rounding that ends on the float nearest to the decimal.
pub fn rounded(value: f64, decimals: usize) -> f64 {
    format!("{value:.decimals$}").parse().unwrap_or(value)
}

/// What was calculated, without the last digits, which say nothing: 0.1 + 0.2 is 0.3.
pub fn significant(value: f64) -> f64 {
    let digits = CALCULATED_DIGITS - 1;
    format!("{value:.digits$e}").parse().unwrap_or(value)
}

/// The shortest text that reads back as the same float: `230.1`, `-5`, `1e300`.
pub fn float_text(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if (PLAIN_FLOAT_MIN..PLAIN_FLOAT_MAX).contains(&size) { format!("{value}") } else { format!("{value:e}") }
}

/// Appends a JSON string with its quotes.
pub fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// The float that lies nearest.
#[allow(clippy::cast_precision_loss)] // that is what it is for
pub fn nearest_float(value: i128) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{BitsValue, NamedBits, Value, float_text};
    use crate::config::point::Deadband::{Absolute, Relative};

    #[test]
    fn floats_are_written_as_short_as_they_read_back() {
        let cases = [
            (230.1, "230.1"),
            (230.0, "230"),
            (-5.0, "-5"),
            (-0.0, "0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e300, "1e300"),
            (1.5e-7, "1.5e-7"),
            (0.00001, "0.00001"),
            (9_007_199_254_740_993.0, "9007199254740992"),
        ];
        for (value, text) in cases {
            assert_eq!(float_text(value), text);
            assert_eq!(text.parse::<f64>().expect("a number").abs().to_bits(), f64::abs(value).to_bits());
        }
    }

    #[test]
    fn values_are_valid_json() {
        let cases = [
            (Value::Bool(true), "true"),
            (Value::Unsigned(u64::MAX), "18446744073709551615"),
            (Value::Signed(i64::MIN), "-9223372036854775808"),
            (Value::Float(21.5), "21.5"),
            (Value::Text("a\"b\n\u{1}é".into()), "\"a\\\"b\\n\\u0001é\""),
            (
                Value::Bits(Arc::new([
                    NamedBits { name: "alarm".into(), value: BitsValue::Flag(true) },
                    NamedBits { name: "gear".into(), value: BitsValue::Number(5) },
                ])),
                r#"{"alarm":true,"gear":5}"#,
            ),
        ];
        for (value, json) in cases {
            let mut out = String::new();
            value.write_json(&mut out);
            assert_eq!(out, json);
            serde_json::from_str::<serde_json::Value>(&out).expect("valid JSON");
        }
    }

    #[test]
    fn a_change_counts_from_the_dead_band_on() {
        let float = Value::Float;
        let cases = [
            (float(230.0), float(230.0), None, false),
            (float(230.0), float(230.1), None, true),
            (float(230.0), float(230.4), Some(Absolute(0.5)), false),
            (float(230.0), float(230.5), Some(Absolute(0.5)), true),
            (float(20.1), float(20.2), Some(Absolute(0.1)), true),
            (float(20.1), float(20.1), Some(Absolute(0.0)), false),
            (float(20.1), float(20.2), Some(Absolute(0.0)), true),
            (Value::Unsigned(u64::MAX), Value::Unsigned(u64::MAX - 1), None, true),
            (Value::Unsigned(u64::MAX), Value::Unsigned(u64::MAX - 1), Some(Absolute(2.0)), false),
            (Value::Signed(-1), Value::Unsigned(1), Some(Absolute(2.0)), true),
            (Value::Bool(true), Value::Bool(false), Some(Absolute(9.0)), true),
            (Value::Text("a".into()), Value::Text("a".into()), None, false),
            (Value::Text("a".into()), Value::Text("b".into()), Some(Absolute(1.0)), true),
        ];
        let relative = [
            (float(100.0), float(100.9), Some(Relative(0.01)), false),
            (float(100.0), float(101.0), Some(Relative(0.01)), true),
            (float(-100.0), float(-99.0), Some(Relative(0.01)), true),
            (Value::Unsigned(1_000), Value::Unsigned(1_099), Some(Relative(0.1)), false),
            (Value::Unsigned(1_000), Value::Unsigned(1_100), Some(Relative(0.1)), true),
            (float(0.0), float(0.001), Some(Relative(0.5)), true),
            (float(0.0), float(0.0), Some(Relative(0.5)), false),
            (Value::Bool(true), Value::Bool(false), Some(Relative(0.5)), true),
        ];
        for (old, new, deadband, differs) in cases.into_iter().chain(relative) {
            assert_eq!(new.differs(&old, deadband), differs, "{old} {new} {deadband:?}");
        }
    }
}
