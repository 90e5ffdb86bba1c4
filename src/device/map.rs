//! Registers and bits to values and back: types, orders, scale, offset, rounding, inversion. Pure: never
//! knows when something is read or where it goes.

use std::fmt;

use crate::config::model::{Order, Point, ValueType};
use crate::device::value::{Value, float_text, nearest_float};

/// Significant digits that are kept of a float whose scale implies no number of decimals.
const SCALED_FLOAT_DIGITS: usize = 12;
/// More decimals than this say that a factor is no decimal fraction at all.
const IMPLIED_DECIMALS_MAX: usize = 15;

/// What a point looks like on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    Bit(bool),
    Words(Vec<u16>),
}

/// Why registers are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueError {
    /// A float that is NaN or infinite, or becomes so by its scale.
    NotFinite,
    /// A string that is not UTF-8.
    NotText,
    /// Another number of registers than the type has, or bits for registers.
    WrongShape,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "not a finite number",
            Self::NotText => "not UTF-8 text",
            Self::WrongShape => "not the registers of its type",
        })
    }
}

impl std::error::Error for ValueError {}

/// Why a value cannot be written to a point.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteError {
    NotWritable,
    NotNumber,
    NotBool,
    NotFinite,
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
    TextTooLong {
        bytes: usize,
        bytes_max: usize,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWritable => f.write_str("is not writable"),
            Self::NotNumber => f.write_str("takes a number"),
            Self::NotBool => f.write_str("takes true or false"),
            Self::NotFinite => f.write_str("takes a finite number"),
            Self::NotWhole(value) => write!(f, "{value} is not a whole number"),
            Self::AboveMax { value, max } => write!(f, "{value} is above max {}", float_text(*max)),
            Self::BelowMin { value, min } => write!(f, "{value} is below min {}", float_text(*min)),
            Self::OutOfType { value, value_type } => {
                write!(f, "{value} does not fit {}", type_name(*value_type))
            }
            Self::TextTooLong { bytes, bytes_max } => {
                write!(f, "{bytes} bytes do not fit {bytes_max}")
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// A type as the configuration names it.
pub const fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Bool => "bool",
        ValueType::U16 => "u16",
        ValueType::I16 => "i16",
        ValueType::U32 => "u32",
        ValueType::I32 => "i32",
        ValueType::U64 => "u64",
        ValueType::I64 => "i64",
        ValueType::F32 => "f32",
        ValueType::F64 => "f64",
        ValueType::String { .. } => "string",
    }
}

/// The value of a coil or discrete input.
pub fn decode_bit(point: &Point, bit: bool) -> Value {
    Value::Bool(bit != point.invert)
}

/// The value of a point's registers.
pub fn decode_words(point: &Point, words: &[u16]) -> Result<Value, ValueError> {
    if words.len() != usize::from(point.value_type.registers()) {
        return Err(ValueError::WrongShape);
    }
    let integer = match point.value_type {
        ValueType::U16 => i128::from(u16::from_be_bytes(value_bytes(point, words))),
        ValueType::I16 => i128::from(i16::from_be_bytes(value_bytes(point, words))),
        ValueType::U32 => i128::from(u32::from_be_bytes(value_bytes(point, words))),
        ValueType::I32 => i128::from(i32::from_be_bytes(value_bytes(point, words))),
        ValueType::U64 => i128::from(u64::from_be_bytes(value_bytes(point, words))),
        ValueType::I64 => i128::from(i64::from_be_bytes(value_bytes(point, words))),
        ValueType::F32 => return scaled_float(point, widen(f32::from_be_bytes(value_bytes(point, words)))),
        ValueType::F64 => return scaled_float(point, f64::from_be_bytes(value_bytes(point, words))),
        ValueType::String { .. } => return decode_text(point, words),
        ValueType::Bool => return Err(ValueError::WrongShape),
    };
    scaled_integer(point, integer)
}

/// What has to be written so that the point holds `value`: within `min` and `max`, and within its type.
pub fn encode(point: &Point, value: &Value) -> Result<Raw, WriteError> {
    match (point.value_type, value) {
        (ValueType::Bool, Value::Bool(value)) => return Ok(Raw::Bit(*value != point.invert)),
        (ValueType::Bool, _) => return Err(WriteError::NotBool),
        (ValueType::String { registers }, value) => return encode_text(point, &value.to_string(), registers),
        _ => {}
    }
    let number = value.as_number().ok_or(WriteError::NotNumber)?;
    check_bounds(point, value, number)?;
    let out_of_type = || WriteError::OutOfType { value: value.clone(), value_type: point.value_type };
    match point.value_type {
        ValueType::F32 => {
            let raw = narrow(unscaled(point, number)).ok_or_else(out_of_type)?;
            Ok(ordered_words(point, &raw.to_be_bytes()))
        }
        ValueType::F64 => {
            let raw = unscaled(point, number);
            if raw.is_finite() { Ok(ordered_words(point, &raw.to_be_bytes())) } else { Err(out_of_type()) }
        }
        _ => {
            let raw = unscaled_integer(point, value, number)?;
            encode_integer(point, raw).ok_or_else(out_of_type)
        }
    }
}

fn check_bounds(point: &Point, value: &Value, number: f64) -> Result<(), WriteError> {
    if !number.is_finite() {
        return Err(WriteError::NotFinite);
    }
    match (point.min, point.max) {
        (Some(min), _) if number < min => Err(WriteError::BelowMin { value: value.clone(), min }),
        (_, Some(max)) if number > max => Err(WriteError::AboveMax { value: value.clone(), max }),
        _ => Ok(()),
    }
}

/// The bytes of a value, most significant first. `N` is twice the number of words: the caller has checked it.
fn value_bytes<const N: usize>(point: &Point, words: &[u16]) -> [u8; N] {
    let mut bytes = [0; N];
    for (index, pair) in bytes.chunks_exact_mut(2).enumerate() {
        let at = match point.word_order {
            Order::Big => index,
            Order::Little => words.len().saturating_sub(index + 1),
        };
        let word = words.get(at).copied().unwrap_or(0);
        pair.copy_from_slice(&word_bytes(point, word));
    }
    bytes
}

fn word_bytes(point: &Point, word: u16) -> [u8; 2] {
    match point.byte_order {
        Order::Big => word.to_be_bytes(),
        Order::Little => word.to_le_bytes(),
    }
}

/// The inverse of [`value_bytes`].
fn ordered_words(point: &Point, bytes: &[u8]) -> Raw {
    let mut words = words_of(point, bytes);
    if point.word_order == Order::Little {
        words.reverse();
    }
    Raw::Words(words)
}

fn words_of(point: &Point, bytes: &[u8]) -> Vec<u16> {
    let word = |pair: &[u8]| match *pair {
        [high, low] if point.byte_order == Order::Big => u16::from_be_bytes([high, low]),
        [high, low] => u16::from_le_bytes([high, low]),
        _ => 0,
    };
    bytes.chunks_exact(2).map(word).collect()
}

/// The order of words is one of numbers: text stays in the order of its registers.
fn decode_text(point: &Point, words: &[u16]) -> Result<Value, ValueError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word_bytes(point, *word)).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or(&[])).map_err(|_| ValueError::NotText)?;
    Ok(Value::Text(text.trim_end().into()))
}

fn encode_text(point: &Point, text: &str, registers: u16) -> Result<Raw, WriteError> {
    let bytes_max = usize::from(registers) * 2;
    if text.len() > bytes_max {
        return Err(WriteError::TextTooLong { bytes: text.len(), bytes_max });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes_max, 0);
    Ok(Raw::Words(words_of(point, &bytes)))
}

fn is_scaled(point: &Point) -> bool {
    // Both are written by hand: only the exact neutral elements count as none.
    (point.scale, point.offset) != (1.0, 0.0)
}

fn scaled_integer(point: &Point, raw: i128) -> Result<Value, ValueError> {
    if !is_scaled(point) {
        return exact(raw).ok_or(ValueError::NotFinite);
    }
    if let (Some(scale), Some(offset)) = (whole(point.scale), whole(point.offset)) {
        let value = raw.checked_mul(scale).and_then(|scaled| scaled.checked_add(offset));
        if let Some(value) = value.and_then(exact) {
            return Ok(value);
        }
    }
    let value = nearest_float(raw) * point.scale + point.offset;
    match point.round.map(usize::from).or_else(|| implied_decimals(point)) {
        Some(decimals) => rounded(value, decimals),
        None => significant(value),
    }
}

fn scaled_float(point: &Point, raw: f64) -> Result<Value, ValueError> {
    let value = raw * point.scale + point.offset;
    match point.round {
        Some(decimals) => rounded(value, usize::from(decimals)),
        None if is_scaled(point) => significant(value),
        None => finite(raw),
    }
}

fn exact(value: i128) -> Option<Value> {
    if let Ok(value) = u64::try_from(value) {
        return Some(Value::Unsigned(value));
    }
    i64::try_from(value).ok().map(Value::Signed)
}

/// An integer that `f64` holds exactly.
#[allow(clippy::cast_possible_truncation)] // in range
fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i128)
}

fn finite(value: f64) -> Result<Value, ValueError> {
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(ValueError::NotFinite) }
}

/// Through decimal text: that is the only rounding that ends on the float nearest to the decimal.
fn rounded(value: f64, decimals: usize) -> Result<Value, ValueError> {
    finite(format!("{value:.decimals$}").parse().unwrap_or(value))
}

fn significant(value: f64) -> Result<Value, ValueError> {
    let digits = SCALED_FLOAT_DIGITS - 1;
    finite(format!("{value:.digits$e}").parse().unwrap_or(value))
}

/// How many decimals an integer has after `scale` and `offset`: 0.1 and 0.25 give 2.
fn implied_decimals(point: &Point) -> Option<usize> {
    let decimals = |value: f64| format!("{value}").split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let most = decimals(point.scale).max(decimals(point.offset));
    (most <= IMPLIED_DECIMALS_MAX).then_some(most)
}

/// Through decimal text: 230.1 in 32 bits is 230.1 in 64, not 230.10000610351562.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// None: beyond what 32 bits hold.
#[allow(clippy::cast_possible_truncation)] // rounding to the nearest is meant; too large becomes infinite
fn narrow(value: f64) -> Option<f32> {
    let narrow = value as f32;
    narrow.is_finite().then_some(narrow)
}

fn unscaled(point: &Point, number: f64) -> f64 {
    (number - point.offset) / point.scale
}

fn unscaled_integer(point: &Point, value: &Value, number: f64) -> Result<i128, WriteError> {
    let is_exact = !is_scaled(point);
    if let (true, Some(integer)) = (is_exact, value.as_integer()) {
        return Ok(integer);
    }
    if is_exact && number.fract() != 0.0 {
        return Err(WriteError::NotWhole(value.clone()));
    }
    Ok(saturated(unscaled(point, number).round()))
}

/// What lies beyond `i128` lies beyond every type.
#[allow(clippy::cast_possible_truncation)] // saturates
fn saturated(value: f64) -> i128 {
    value as i128
}

/// None: outside of the type's range.
fn encode_integer(point: &Point, raw: i128) -> Option<Raw> {
    Some(match point.value_type {
        ValueType::U16 => ordered_words(point, &u16::try_from(raw).ok()?.to_be_bytes()),
        ValueType::I16 => ordered_words(point, &i16::try_from(raw).ok()?.to_be_bytes()),
        ValueType::U32 => ordered_words(point, &u32::try_from(raw).ok()?.to_be_bytes()),
        ValueType::I32 => ordered_words(point, &i32::try_from(raw).ok()?.to_be_bytes()),
        ValueType::U64 => ordered_words(point, &u64::try_from(raw).ok()?.to_be_bytes()),
        ValueType::I64 => ordered_words(point, &i64::try_from(raw).ok()?.to_be_bytes()),
        ValueType::Bool | ValueType::F32 | ValueType::F64 | ValueType::String { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Raw, ValueError, decode_bit, decode_words, encode};
    use crate::config::model::{Order, Point, Table, ValueType};
    use crate::device::fixture::point;
    use crate::device::value::Value;

    const BB: (Order, Order) = (Order::Big, Order::Big);
    const LB: (Order, Order) = (Order::Little, Order::Big);
    const BL: (Order, Order) = (Order::Big, Order::Little);
    const LL: (Order, Order) = (Order::Little, Order::Little);
    const STRING3: ValueType = ValueType::String { registers: 3 };

    /// Type, word and byte order, registers, value.
    type Case = (ValueType, (Order, Order), &'static [u16], Value);

    fn of(value_type: ValueType, (word_order, byte_order): (Order, Order)) -> Point {
        Point { word_order, byte_order, ..point("p", Table::Holding, 0, value_type) }
    }

    fn scaled(value_type: ValueType, scale: f64, offset: f64, round: Option<u8>) -> Point {
        Point { scale, offset, round, ..point("p", Table::Holding, 0, value_type) }
    }

    fn unsigned(value: u64) -> Value {
        Value::Unsigned(value)
    }

    /// Word order, byte order, type. The words are written down from the bytes by hand.
    #[test]
    fn registers_are_values_and_values_are_registers() {
        use ValueType::{F32, F64, I16, I32, I64, U16, U32, U64};
        let text = |text: &str| Value::Text(text.into());
        let pi = std::f64::consts::PI; // 40 09 21 FB 54 44 2D 18
        let cases: [Case; 52] = [
            (U16, BB, &[0x1234], unsigned(0x1234)),
            (U16, LB, &[0x1234], unsigned(0x1234)),
            (U16, BL, &[0x1234], unsigned(0x3412)),
            (U16, LL, &[0x1234], unsigned(0x3412)),
            (U16, BB, &[0xFFFF], unsigned(65_535)),
            (U16, BB, &[0x0000], unsigned(0)),
            (I16, BB, &[0xFFFE], Value::Signed(-2)),
            (I16, BL, &[0xFEFF], Value::Signed(-2)),
            (I16, BB, &[0x8000], Value::Signed(-32_768)),
            (I16, BB, &[0x7FFF], unsigned(32_767)),
            (U32, BB, &[0x0102, 0x0304], unsigned(0x0102_0304)),
            (U32, LB, &[0x0304, 0x0102], unsigned(0x0102_0304)),
            (U32, BL, &[0x0201, 0x0403], unsigned(0x0102_0304)),
            (U32, LL, &[0x0403, 0x0201], unsigned(0x0102_0304)),
            (U32, BB, &[0xFFFF, 0xFFFF], unsigned(4_294_967_295)),
            (I32, BB, &[0xFFFF, 0xFFFF], Value::Signed(-1)),
            (I32, LB, &[0x0000, 0x8000], Value::Signed(-2_147_483_648)),
            (I32, BL, &[0xFFFF, 0xFEFF], Value::Signed(-2)),
            (I32, LL, &[0xFEFF, 0xFFFF], Value::Signed(-2)),
            (I32, BB, &[0x7FFF, 0xFFFF], unsigned(2_147_483_647)),
            (U64, BB, &[0x0102, 0x0304, 0x0506, 0x0708], unsigned(0x0102_0304_0506_0708)),
            (U64, LB, &[0x0708, 0x0506, 0x0304, 0x0102], unsigned(0x0102_0304_0506_0708)),
            (U64, BL, &[0x0201, 0x0403, 0x0605, 0x0807], unsigned(0x0102_0304_0506_0708)),
            (U64, LL, &[0x0807, 0x0605, 0x0403, 0x0201], unsigned(0x0102_0304_0506_0708)),
            (U64, BB, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF], unsigned(u64::MAX)),
            (U64, BB, &[0x0020, 0x0000, 0x0000, 0x0001], unsigned(9_007_199_254_740_993)),
            (I64, BB, &[0x8000, 0x0000, 0x0000, 0x0000], Value::Signed(i64::MIN)),
            (I64, LB, &[0xFFFE, 0xFFFF, 0xFFFF, 0xFFFF], Value::Signed(-2)),
            (I64, BL, &[0xFFFF, 0xFFFF, 0xFFFF, 0xFEFF], Value::Signed(-2)),
            (I64, LL, &[0xFEFF, 0xFFFF, 0xFFFF, 0xFFFF], Value::Signed(-2)),
            (I64, BB, &[0x0020, 0x0000, 0x0000, 0x0001], unsigned(9_007_199_254_740_993)),
            (F32, BB, &[0x4366, 0x199A], Value::Float(230.1)),
            (F32, LB, &[0x199A, 0x4366], Value::Float(230.1)),
            (F32, BL, &[0x6643, 0x9A19], Value::Float(230.1)),
            (F32, LL, &[0x9A19, 0x6643], Value::Float(230.1)),
            (F32, BB, &[0xC2F6, 0xE979], Value::Float(-123.456)),
            (F32, BB, &[0x0000, 0x0000], Value::Float(0.0)),
            (F32, BB, &[0x7F7F, 0xFFFF], Value::Float(3.402_823_5e38)),
            (F64, BB, &[0x4009, 0x21FB, 0x5444, 0x2D18], Value::Float(pi)),
            (F64, LB, &[0x2D18, 0x5444, 0x21FB, 0x4009], Value::Float(pi)),
            (F64, BL, &[0x0940, 0xFB21, 0x4454, 0x182D], Value::Float(pi)),
            (F64, LL, &[0x182D, 0x4454, 0xFB21, 0x0940], Value::Float(pi)),
            (F64, BB, &[0xC059, 0x0000, 0x0000, 0x0000], Value::Float(-100.0)),
            (F64, BB, &[0x0000, 0x0000, 0x0000, 0x0001], Value::Float(5e-324)),
            (STRING3, BB, &[0x4142, 0x4344, 0x4546], text("ABCDEF")),
            (STRING3, BL, &[0x4241, 0x4443, 0x4645], text("ABCDEF")),
            (STRING3, LB, &[0x4142, 0x4344, 0x4546], text("ABCDEF")),
            (STRING3, BB, &[0x4142, 0x4300, 0x0000], text("ABC")),
            (STRING3, BB, &[0x0000, 0x0000, 0x0000], text("")),
            (STRING3, BB, &[0xC3A9, 0x4100, 0x0000], text("éA")),
            (STRING3, LL, &[0xA9C3, 0x0041, 0x0000], text("éA")),
            (STRING3, BB, &[0x3132, 0x3300, 0x0000], text("123")),
        ];
        for (value_type, orders, words, value) in cases {
            let point = of(value_type, orders);
            assert_eq!(decode_words(&point, words).as_ref(), Ok(&value), "{value_type:?} {orders:?}");
            assert_eq!(encode(&point, &value), Ok(Raw::Words(words.to_vec())), "{value_type:?} {orders:?}");
        }
    }

    #[test]
    fn scale_offset_and_round_give_the_decimals_that_they_imply() {
        use ValueType::{F32, F64, I16, I32, U16, U32, U64};
        let cases: [(Point, &[u16], &str); 22] = [
            (scaled(U16, 0.1, 0.0, None), &[2301], "230.1"),
            (scaled(U16, 0.1, 0.0, None), &[3], "0.3"),
            (scaled(U16, 0.1, 0.0, None), &[2300], "230"),
            (scaled(I16, 0.1, 0.0, None), &[0xFFFF], "-0.1"),
            (scaled(I16, 0.01, -40.0, None), &[6_150], "21.5"),
            (scaled(U16, 0.1, 0.25, None), &[1], "0.35"),
            (scaled(U16, 10.0, 0.0, None), &[2301], "23010"),
            (scaled(U16, 1.0, -32_768.0, None), &[0], "-32768"),
            (scaled(U16, -1.0, 0.0, None), &[5], "-5"),
            (scaled(U16, 0.1, 0.0, Some(0)), &[2306], "231"),
            (scaled(U16, 0.001, 0.0, Some(1)), &[1_249], "1.2"),
            (scaled(U32, 0.001, 0.0, None), &[0xFFFF, 0xFFFF], "4294967.295"),
            (scaled(I32, 0.001, 0.0, None), &[0x8000, 0], "-2147483.648"),
            (scaled(U64, 0.001, 0.0, None), &[0, 0x2DF0, 0x4F4B, 0xC2F1], "50510145766.129"),
            (scaled(U64, 2.0, 0.0, None), &[0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF], "18446744073709551614"),
            (scaled(U16, 1.0 / 3.0, 0.0, None), &[1], "0.333333333333"),
            (scaled(F32, 1.0, 0.0, Some(1)), &[0x4366, 0x1B00], "230.1"),
            (scaled(F32, 0.001, 0.0, None), &[0x4366, 0x199A], "0.2301"),
            (scaled(F32, 1000.0, 0.0, None), &[0x4366, 0x199A], "230100"),
            (scaled(F32, 1.0, 0.5, None), &[0x3DCC, 0xCCCD], "0.6"),
            (scaled(F64, 1.0, 0.0, Some(2)), &[0x4009, 0x21FB, 0x5444, 0x2D18], "3.14"),
            (scaled(F64, 10.0, 0.0, None), &[0x4009, 0x21FB, 0x5444, 0x2D18], "31.4159265359"),
        ];
        for (point, words, text) in cases {
            let value = decode_words(&point, words).expect("a value");
            assert_eq!(value.to_string(), text, "{point:?}");
        }
    }

    #[test]
    fn what_is_no_value_says_so() {
        use ValueType::{Bool, F32, F64, U16, U32};
        let cases: [(Point, &[u16], ValueError); 9] = [
            (of(F32, BB), &[0x7FC0, 0x0000], ValueError::NotFinite),
            (of(F32, BB), &[0x7F80, 0x0000], ValueError::NotFinite),
            (of(F64, BB), &[0xFFF0, 0, 0, 0], ValueError::NotFinite),
            (scaled(F64, 10.0, 0.0, None), &[0x7FEF, 0xFFFF, 0xFFFF, 0xFFFF], ValueError::NotFinite),
            (of(STRING3, BB), &[0xC341, 0, 0], ValueError::NotText),
            (of(U32, BB), &[1], ValueError::WrongShape),
            (of(U16, BB), &[1, 2], ValueError::WrongShape),
            (of(U16, BB), &[], ValueError::WrongShape),
            (of(Bool, BB), &[1], ValueError::WrongShape),
        ];
        for (point, words, error) in cases {
            assert_eq!(decode_words(&point, words), Err(error), "{point:?}");
        }
    }

    #[test]
    fn bits_may_be_inverted() {
        for (invert, bit, value) in
            [(false, true, true), (false, false, false), (true, true, false), (true, false, true)]
        {
            let point = Point { invert, ..point("p", Table::Coil, 0, ValueType::Bool) };
            assert_eq!(decode_bit(&point, bit), Value::Bool(value));
            assert_eq!(encode(&point, &Value::Bool(value)), Ok(Raw::Bit(bit)));
        }
    }

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
            assert_eq!(encode(&point, &value), Ok(Raw::Words(words.to_vec())), "{value}");
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
            assert_eq!(encode(&point, &value).expect_err("refused").to_string(), text);
        }
    }
}
