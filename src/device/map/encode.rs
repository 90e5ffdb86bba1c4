//! Values to registers and bits: what has to be written so that a point holds a value, or why it cannot. Pure: never
//! knows by which request it is written.

use std::fmt;
use std::sync::Arc;

use crate::config::model::{Point, ValueType};
use crate::config::point::Meaning;
use crate::device::map::orders::{word_of, words_of};
use crate::device::map::scale::Scale;
use crate::device::map::{Exponent, type_name};
use crate::device::value::{BitsValue, NamedBits, Value, float_text};

/// What a point is to look like on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    Bit(bool),
    Words(Vec<u16>),
    /// Some bits of its registers; the others stay as they are.
    Masked(Vec<Masked>),
}

/// One register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// What changes; 0: nothing of it.
    pub mask: u16,
    /// Never a bit outside of `mask`.
    pub bits: u16,
}

/// Why a value cannot be written to a point.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteError {
    NotWritable,
    NotNumber,
    NotBool,
    NotFinite,
    /// A text that is no label; with those that are.
    NotLabel(Arc<str>, Arc<[Arc<str>]>),
    /// No object with names of bits.
    NotBits,
    UnknownBit(Arc<str>),
    /// It takes true or false.
    NotFlag(Arc<str>),
    /// It takes a whole number up to this.
    BitsTooLarge(Arc<str>, u64),
    /// A fraction for an integer without scale.
    NotWhole(Value),
    AboveMax {
        value: Value,
        max: f64,
    },
    BelowMin {
        value: Value,
        min: f64,
    },
    /// Outside of the register type's range.
    OutOfType {
        value: Value,
        value_type: ValueType,
    },
    /// Its registers would say that there is no value.
    Invalid(Value),
    TextTooLong {
        bytes: usize,
        bytes_max: usize,
    },
    /// It would end before its end.
    TextHoldsNul,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWritable => f.write_str("is not writable"),
            Self::NotNumber => f.write_str("takes a number"),
            Self::NotBool => f.write_str("takes true or false"),
            Self::NotFinite => f.write_str("takes a finite number"),
            Self::NotLabel(text, labels) => write!(f, "`{text}` is none of {}", labels.join(", ")),
            Self::NotBits => f.write_str("takes an object of its bits, like {\"alarm\":true}"),
            Self::UnknownBit(name) => write!(f, "has no bit `{name}`"),
            Self::NotFlag(name) => write!(f, "bit `{name}` takes true or false"),
            Self::BitsTooLarge(name, max) => write!(f, "bits `{name}` take a whole number from 0 to {max}"),
            Self::NotWhole(value) => write!(f, "{value} is not a whole number"),
            Self::AboveMax { value, max } => write!(f, "{value} is above max {}", float_text(*max)),
            Self::BelowMin { value, min } => write!(f, "{value} is below min {}", float_text(*min)),
            Self::OutOfType { value, value_type } => {
                write!(f, "{value} does not fit {}", type_name(*value_type))
            }
            Self::Invalid(value) => write!(f, "{value} stands for no value"),
            Self::TextTooLong { bytes, bytes_max } => {
                write!(f, "{bytes} bytes do not fit {bytes_max}")
            }
            Self::TextHoldsNul => f.write_str("takes text without NUL"),
        }
    }
}

impl std::error::Error for WriteError {}

/// What has to be written so that the point holds `value`: within `min` and `max`, and within its type.
pub fn encode(point: &Point, value: &Value, exponent: Exponent) -> Result<Raw, WriteError> {
    match (point.value_type, value) {
        (ValueType::Bool, Value::Bool(value)) => return Ok(Raw::Bit(*value != point.invert)),
        (ValueType::Bool, _) => return Err(WriteError::NotBool),
        (ValueType::String { registers }, value) => return encode_text(point, &value.to_string(), registers),
        (_, Value::Bits(bits)) => return encode_bits(point, bits),
        _ => {}
    }
    if !point.bits.is_empty() {
        return Err(WriteError::NotBits);
    }
    check_bounds(point, value)?;
    let number = value.as_number().ok_or(WriteError::NotNumber)?;
    let scale = Scale::of(point, exponent);
    let bits = match point.value_type {
        ValueType::F32 => narrow(scale.unscaled(number)).map(|raw| u64::from(raw.to_bits())),
        ValueType::F64 => Some(scale.unscaled(number)).filter(|raw| raw.is_finite()).map(f64::to_bits),
        _ => integer_bits(point.value_type, scale.unscaled_integer(value, number)?),
    };
    let bits =
        bits.ok_or_else(|| WriteError::OutOfType { value: value.clone(), value_type: point.value_type })?;
    if point.invalid.contains(&bits) {
        return Err(WriteError::Invalid(value.clone()));
    }
    Ok(Raw::Words(words_of(point, bits)))
}

/// What can be said of a number before its scale is known.
pub fn check_bounds(point: &Point, value: &Value) -> Result<(), WriteError> {
    let number = value.as_number().ok_or(WriteError::NotNumber)?;
    if !number.is_finite() {
        return Err(WriteError::NotFinite);
    }
    match (point.min, point.max) {
        (Some(min), _) if number < min => Err(WriteError::BelowMin { value: value.clone(), min }),
        (_, Some(max)) if number > max => Err(WriteError::AboveMax { value: value.clone(), max }),
        _ => Ok(()),
    }
}

/// The number that a label stands for: the first one that has it.
pub fn number_of_label(point: &Point, label: &Value) -> Option<i128> {
    let is_meant = |meaning: &Meaning| match (meaning, label) {
        (Meaning::Text(text), Value::Text(given)) => text == given,
        (Meaning::Flag(flag), Value::Bool(given)) => flag == given,
        _ => false,
    };
    point.labels.iter().find(|label| is_meant(&label.meaning)).map(|label| label.number)
}

fn encode_text(point: &Point, text: &str, registers: u16) -> Result<Raw, WriteError> {
    let bytes_max = usize::from(registers) * 2;
    if text.len() > bytes_max {
        return Err(WriteError::TextTooLong { bytes: text.len(), bytes_max });
    }
    if text.contains('\0') {
        return Err(WriteError::TextHoldsNul);
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes_max, 0);
    let pairs = bytes.chunks_exact(2).map(|pair| match *pair {
        [a, b] => word_of(point, [a, b]),
        _ => 0,
    });
    Ok(Raw::Words(pairs.collect()))
}

fn encode_bits(point: &Point, parts: &[NamedBits]) -> Result<Raw, WriteError> {
    let (mut mask, mut bits) = (0, 0);
    for NamedBits { name, value } in parts {
        let field = point.bits.iter().find(|field| field.name == *name);
        let field = field.ok_or_else(|| WriteError::UnknownBit(Arc::clone(name)))?;
        let number = match value {
            BitsValue::Flag(flag) if field.width == 1 => u64::from(*flag),
            BitsValue::Number(number) if field.width > 1 && *number <= field.max() => *number,
            _ if field.width == 1 => return Err(WriteError::NotFlag(Arc::clone(name))),
            _ => return Err(WriteError::BitsTooLarge(Arc::clone(name), field.max())),
        };
        let of_field = field.max() << field.first;
        mask |= of_field;
        bits = (bits & !of_field) | (number << field.first);
    }
    if mask == 0 {
        return Err(WriteError::NotBits);
    }
    let words = words_of(point, mask).into_iter().zip(words_of(point, bits));
    Ok(Raw::Masked(words.map(|(mask, bits)| Masked { mask, bits }).collect()))
}

/// None: beyond what 32 bits hold.
#[allow(clippy::cast_possible_truncation)] // rounding to the nearest is meant; too large becomes infinite
fn narrow(value: f64) -> Option<f32> {
    let narrow = value as f32;
    narrow.is_finite().then_some(narrow)
}

/// None: outside of the type's range.
fn integer_bits(value_type: ValueType, number: i128) -> Option<u64> {
    let width = u32::from(value_type.registers()) * 16;
    match value_type {
        ValueType::U16 | ValueType::U32 | ValueType::U64 => {
            u64::try_from(number).ok().filter(|bits| bits.leading_zeros() >= 64 - width)
        }
        ValueType::I16 | ValueType::I32 | ValueType::I64 => {
            let number = i64::try_from(number).ok()?;
            let unused = 64 - width;
            let bits = number.cast_unsigned() << unused >> unused;
            ((bits << unused).cast_signed() >> unused == number).then_some(bits)
        }
        ValueType::Bcd16 | ValueType::Bcd32 | ValueType::Bcd64 => decimal_bits(number, width / 4),
        ValueType::Bool | ValueType::F32 | ValueType::F64 | ValueType::String { .. } => None,
    }
}

fn decimal_bits(number: i128, digits: u32) -> Option<u64> {
    let mut rest = u64::try_from(number).ok()?;
    let mut bits = 0;
    for place in 0..digits {
        bits |= (rest % 10) << (place * 4);
        rest /= 10;
    }
    (rest == 0).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::{Raw, encode};
    use crate::config::model::{Point, Table, ValueType};
    use crate::device::fixture::{BB, STRING3, of, point, scaled};
    use crate::device::value::Value;

    #[test]
    fn scaled_values_are_written_as_the_nearest_register() {
        use ValueType::{F32, I16, U16, U32};
        let cases: [(Point, Value, &[u16]); 8] = [
            (scaled(I16, 0.1, 0.0, None), Value::Float(21.5), &[215]),
            (scaled(I16, 0.1, 0.0, None), Value::Unsigned(21), &[210]),
            (scaled(I16, 0.1, 0.0, None), Value::Float(-0.3), &[0xFFFD]),
            (scaled(I16, 0.1, 0.0, None), Value::Float(21.57), &[216]),
            (scaled(I16, 0.01, -40.0, None), Value::Float(21.5), &[6_150]),
            (scaled(U32, 0.001, 0.0, None), Value::Float(4_294_967.295), &[0xFFFF, 0xFFFF]),
            (scaled(U16, 10.0, 0.0, None), Value::Unsigned(23_010), &[2301]),
            (scaled(F32, 0.001, 0.0, None), Value::Float(0.2301), &[0x4366, 0x199A]),
        ];
        for (point, value, words) in cases {
            assert_eq!(encode(&point, &value, 0), Ok(Raw::Words(words.to_vec())), "{value}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused_with_their_reason() {
        use ValueType::{Bool, F32, I16, I64, U16, U64};
        let bounded = Point { min: Some(5.0), max: Some(30.0), ..scaled(I16, 0.1, 0.0, None) };
        let cases = [
            (bounded.clone(), Value::Unsigned(99), "99 is above max 30"),
            (bounded.clone(), Value::Float(30.1), "30.1 is above max 30"),
            (bounded.clone(), Value::Float(4.9), "4.9 is below min 5"),
            (bounded.clone(), Value::Float(f64::NAN), "takes a finite number"),
            (bounded.clone(), Value::Float(f64::INFINITY), "takes a finite number"),
            (bounded, Value::Bool(true), "takes a number"),
            (of(U16, BB), Value::Signed(-1), "-1 does not fit u16"),
            (of(U16, BB), Value::Unsigned(65_536), "65536 does not fit u16"),
            (of(U16, BB), Value::Float(1.5), "1.5 is not a whole number"),
            (of(I16, BB), Value::Signed(-32_769), "-32769 does not fit i16"),
            (of(U64, BB), Value::Float(1.9e19), "1.9e19 does not fit u64"),
            (of(I64, BB), Value::Unsigned(u64::MAX), "18446744073709551615 does not fit i64"),
            (scaled(I16, 0.1, 0.0, None), Value::Float(3_276.8), "3276.8 does not fit i16"),
            (of(F32, BB), Value::Float(1e39), "1e39 does not fit f32"),
            (of(F32, BB), Value::Text("x".into()), "takes a number"),
            (of(STRING3, BB), Value::Text("ABCDEFG".into()), "7 bytes do not fit 6"),
            (point("p", Table::Coil, 0, Bool), Value::Unsigned(1), "takes true or false"),
        ];
        for (point, value, text) in cases {
            assert_eq!(encode(&point, &value, 0).expect_err("refused").to_string(), text);
        }
    }
}
