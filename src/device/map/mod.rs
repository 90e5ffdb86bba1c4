//! Registers and bits to values: types, orders, sentinels, scale, labels, named bits. Pure: never knows when something
//! is read or where it goes.

pub mod encode;
mod orders;
mod scale;

use std::fmt;
use std::sync::Arc;

use crate::config::model::{Point, ValueType};
use crate::config::point::{Label, Meaning};
use crate::device::map::orders::{bits_of, bytes_of};
use crate::device::map::scale::Scale;
use crate::device::value::{BitsValue, NamedBits, Value};

/// The power of ten by which a value is multiplied: what a point's `scale_from` says, else 0.
pub type Exponent = i8;

/// The `SunSpec` information model allows -10 to 10; 0x8000 says that there is none.
pub const EXPONENT_MAX: Exponent = 10;

/// Why registers are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueError {
    /// A float that is NaN or infinite, or becomes so by its scale.
    NotFinite,
    /// A string that is not UTF-8.
    NotText,
    /// Binary coded decimal with a digit above 9.
    NotDecimal { bits: u64, registers: u16 },
    /// What the configuration says stands for no value.
    Invalid { bits: u64, registers: u16 },
    /// The point that its scale comes from says nothing that is a power of ten.
    NoExponent,
    /// Another number of registers than the type has, or bits for registers.
    WrongShape,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite => f.write_str("not a finite number"),
            Self::NotText => f.write_str("not UTF-8 text"),
            Self::NotDecimal { bits, registers } => {
                write!(
                    f,
                    "0x{bits:0width$X} is not binary coded decimal",
                    width = usize::from(*registers) * 4
                )
            }
            Self::Invalid { bits, registers } => {
                write!(f, "0x{bits:0width$X} stands for no value", width = usize::from(*registers) * 4)
            }
            Self::NoExponent => {
                write!(f, "scale_from holds no exponent from -{EXPONENT_MAX} to {EXPONENT_MAX}")
            }
            Self::WrongShape => f.write_str("not the registers of its type"),
        }
    }
}

impl std::error::Error for ValueError {}

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
        ValueType::Bcd16 => "bcd16",
        ValueType::Bcd32 => "bcd32",
        ValueType::Bcd64 => "bcd64",
        ValueType::String { .. } => "string",
    }
}

/// The value of a coil or discrete input.
pub fn decode_bit(point: &Point, bit: bool) -> Value {
    let value = bit != point.invert;
    meaning_of(&point.labels, i128::from(value)).unwrap_or(Value::Bool(value))
}

/// The value of a point's registers.
pub fn decode_words(point: &Point, words: &[u16], exponent: Exponent) -> Result<Value, ValueError> {
    let registers = point.value_type.registers();
    if words.len() != usize::from(registers) || point.value_type == ValueType::Bool {
        return Err(ValueError::WrongShape);
    }
    if let ValueType::String { .. } = point.value_type {
        return decode_text(point, words);
    }
    let bits = bits_of(point, words);
    if point.invalid.contains(&bits) {
        return Err(ValueError::Invalid { bits, registers });
    }
    if !point.bits.is_empty() {
        return Ok(named_bits(point, bits));
    }
    let scale = Scale::of(point, exponent);
    match point.value_type {
        ValueType::F32 => scale.float(widen(f32::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)))),
        ValueType::F64 => scale.float(f64::from_bits(bits)),
        _ => {
            let number = integer(point.value_type, bits)?;
            meaning_of(&point.labels, number).map_or_else(|| scale.integer(number), Ok)
        }
    }
}

/// What an exponent's point says, if it is one.
pub fn exponent_of(value: &Value) -> Option<Exponent> {
    let exponent = Exponent::try_from(value.as_integer()?).ok()?;
    (-EXPONENT_MAX..=EXPONENT_MAX).contains(&exponent).then_some(exponent)
}

fn meaning_of(labels: &[Label], number: i128) -> Option<Value> {
    let label = labels.iter().find(|label| label.number == number)?;
    Some(match &label.meaning {
        Meaning::Text(text) => Value::Text(Arc::clone(text)),
        Meaning::Flag(flag) => Value::Bool(*flag),
    })
}

fn named_bits(point: &Point, bits: u64) -> Value {
    let parts = point.bits.iter().map(|field| {
        let part = (bits >> field.first) & field.max();
        let value = if field.width == 1 { BitsValue::Flag(part == 1) } else { BitsValue::Number(part) };
        NamedBits { name: Arc::clone(&field.name), value }
    });
    Value::Bits(parts.collect())
}

fn integer(value_type: ValueType, bits: u64) -> Result<i128, ValueError> {
    let registers = value_type.registers();
    Ok(match value_type {
        ValueType::I16 | ValueType::I32 | ValueType::I64 => {
            let unused = 64 - u32::from(registers) * 16;
            i128::from((bits << unused).cast_signed() >> unused)
        }
        ValueType::Bcd16 | ValueType::Bcd32 | ValueType::Bcd64 => {
            decimal(bits).ok_or(ValueError::NotDecimal { bits, registers })?.into()
        }
        ValueType::Bool
        | ValueType::U16
        | ValueType::U32
        | ValueType::U64
        | ValueType::F32
        | ValueType::F64
        | ValueType::String { .. } => bits.into(),
    })
}

/// None: a digit above 9. Sixteen digits fit.
fn decimal(bits: u64) -> Option<u64> {
    let digits = (0..16).rev().map(|place| (bits >> (place * 4)) & 0xF);
    digits.into_iter().try_fold(0, |number, digit| (digit <= 9).then_some(number * 10 + digit))
}

/// The order of words is one of numbers: text stays in the order of its registers.
fn decode_text(point: &Point, words: &[u16]) -> Result<Value, ValueError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| bytes_of(point, *word)).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or(&[])).map_err(|_| ValueError::NotText)?;
    Ok(Value::Text(text.trim_end().into()))
}

/// Through decimal text: 230.1 in 32 bits is 230.1 in 64, not 230.10000610351562.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::encode::{Masked, Raw, WriteError, encode};
    use super::{Exponent, ValueError, decode_bit, decode_words};
    use crate::config::model::{Order, Point, Table, ValueType};
    use crate::config::point::{BitField, Label, Meaning, WordOrder};
    use crate::device::fixture::{BB, STRING3, of, point, scaled};
    use crate::device::value::{BitsValue, NamedBits, Value};

    const LB: (WordOrder, Order) = (WordOrder::Little, Order::Big);
    const BL: (WordOrder, Order) = (WordOrder::Big, Order::Little);
    const LL: (WordOrder, Order) = (WordOrder::Little, Order::Little);

    /// Type, word and byte order, registers, value.
    type Case = (ValueType, (WordOrder, Order), &'static [u16], Value);

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
            assert_eq!(decode_words(&point, words, 0).as_ref(), Ok(&value), "{value_type:?} {orders:?}");
            assert_eq!(
                encode(&point, &value, 0),
                Ok(Raw::Words(words.to_vec())),
                "{value_type:?} {orders:?}"
            );
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
            let value = decode_words(&point, words, 0).expect("a value");
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
            assert_eq!(decode_words(&point, words, 0), Err(error), "{point:?}");
        }
    }

    #[test]
    fn bits_may_be_inverted() {
        for (invert, bit, value) in
            [(false, true, true), (false, false, false), (true, true, false), (true, false, true)]
        {
            let point = Point { invert, ..point("p", Table::Coil, 0, ValueType::Bool) };
            assert_eq!(decode_bit(&point, bit), Value::Bool(value));
            assert_eq!(encode(&point, &Value::Bool(value), 0), Ok(Raw::Bit(bit)));
        }
    }

    fn labelled(value_type: ValueType) -> Point {
        let label = |number, meaning| Label { number, meaning };
        let labels = vec![
            label(0, Meaning::Text("off".into())),
            label(1, Meaning::Text("auto".into())),
            label(9, Meaning::Flag(true)),
        ];
        Point { labels, ..point("p", Table::Holding, 0, value_type) }
    }

    #[test]
    fn a_number_with_a_label_is_its_label() {
        let cases = [(0, "off"), (1, "auto"), (9, "true"), (7, "7")];
        for (word, text) in cases {
            let value = decode_words(&labelled(ValueType::U16), &[word], 0).expect("a value");
            assert_eq!(value.to_string(), text);
        }
        assert_eq!(decode_words(&labelled(ValueType::U16), &[9], 0), Ok(Value::Bool(true)));
        assert_eq!(decode_bit(&labelled(ValueType::Bool), true), Value::Text("auto".into()));
        let inverted = Point { invert: true, ..labelled(ValueType::Bool) };
        assert_eq!(decode_bit(&inverted, true), Value::Text("off".into()));
    }

    fn with_bits(value_type: ValueType, orders: (WordOrder, Order)) -> Point {
        let field = |name: &str, first, width| BitField { name: name.into(), first, width };
        let bits = vec![field("alarm", 0, 1), field("gear", 4, 3), field("top", 15, 1)];
        Point { bits, ..of(value_type, orders) }
    }

    /// Point, what is written, mask and bits of each register.
    type MaskCase = (Point, &'static [(&'static str, BitsValue)], &'static [(u16, u16)]);

    fn bits_of(parts: &[(&str, BitsValue)]) -> Value {
        let parts = parts.iter().map(|(name, value)| NamedBits { name: (*name).into(), value: *value });
        Value::Bits(parts.collect())
    }

    #[test]
    fn bits_have_names_and_are_written_by_mask() {
        use BitsValue::{Flag, Number};
        let point = with_bits(ValueType::U16, BB);
        let value = decode_words(&point, &[0x8051], 0).expect("a value");
        assert_eq!(value.to_string(), r#"{"alarm":true,"gear":5,"top":true}"#);
        let swapped = with_bits(ValueType::U16, BL);
        assert_eq!(decode_words(&swapped, &[0x5180], 0), Ok(value));
        let cases: [MaskCase; 6] = [
            (point.clone(), &[("alarm", Flag(true))], &[(0x0001, 0x0001)]),
            (point.clone(), &[("alarm", Flag(false)), ("top", Flag(true))], &[(0x8001, 0x8000)]),
            (point.clone(), &[("gear", Number(5))], &[(0x0070, 0x0050)]),
            (swapped, &[("alarm", Flag(true))], &[(0x0100, 0x0100)]),
            (with_bits(ValueType::U32, BB), &[("alarm", Flag(true))], &[(0, 0), (1, 1)]),
            (with_bits(ValueType::U32, LB), &[("alarm", Flag(true))], &[(1, 1), (0, 0)]),
        ];
        for (point, parts, masked) in cases {
            let masked = masked.iter().map(|(mask, bits)| Masked { mask: *mask, bits: *bits }).collect();
            assert_eq!(encode(&point, &bits_of(parts), 0), Ok(Raw::Masked(masked)), "{parts:?}");
        }
        let refused: [(&[(&str, BitsValue)], &str); 5] = [
            (&[("gear", Number(8))], "bits `gear` take a whole number from 0 to 7"),
            (&[("gear", Flag(true))], "bits `gear` take a whole number from 0 to 7"),
            (&[("alarm", Number(2))], "bit `alarm` takes true or false"),
            (&[("other", Flag(true))], "has no bit `other`"),
            (&[], "takes an object of its bits, like {\"alarm\":true}"),
        ];
        for (parts, text) in refused {
            assert_eq!(encode(&point, &bits_of(parts), 0).expect_err("refused").to_string(), text);
        }
        assert_eq!(encode(&point, &Value::Unsigned(1), 0), Err(WriteError::NotBits));
    }

    #[test]
    fn an_exponent_of_ten_scales_as_decimals_do() {
        use ValueType::{F32, I16, U16};
        let cases: [(Point, &[u16], Exponent, &str); 8] = [
            (scaled(U16, 1.0, 0.0, None), &[2301], -1, "230.1"),
            (scaled(U16, 1.0, 0.0, None), &[2301], 2, "230100"),
            (scaled(U16, 0.1, 0.0, None), &[2301], -2, "2.301"),
            (scaled(U16, 0.1, 0.0, None), &[2301], 1, "2301"),
            (scaled(I16, 1.0, 0.0, None), &[0xFFFF], -10, "-1e-10"),
            (scaled(I16, 1.0, 0.0, None), &[0x7FFF], 10, "327670000000000"),
            (scaled(I16, 1.0, 5.0, None), &[15], -1, "6.5"),
            (scaled(F32, 1.0, 0.0, None), &[0x4366, 0x199A], -1, "23.01"),
        ];
        for (point, words, exponent, text) in cases {
            let value = decode_words(&point, words, exponent).expect("a value");
            assert_eq!(value.to_string(), text, "{exponent}");
            assert_eq!(encode(&point, &value, exponent), Ok(Raw::Words(words.to_vec())), "{exponent}");
        }
    }

    #[test]
    fn what_stands_for_no_value_is_none() {
        use ValueType::{Bcd16, Bcd32, I16};
        let sentinel = Point { invalid: vec![0x8000], ..scaled(I16, 0.1, 0.0, None) };
        let bad = |point: &Point, words: &[u16]| decode_words(point, words, 0).expect_err("none").to_string();
        assert_eq!(bad(&sentinel, &[0x8000]), "0x8000 stands for no value");
        assert!(decode_words(&sentinel, &[0x7FFF], 0).is_ok());
        let refused = encode(&sentinel, &Value::Float(-3_276.8), 0);
        assert_eq!(refused, Err(WriteError::Invalid(Value::Float(-3_276.8))));
        assert_eq!(bad(&of(Bcd16, BB), &[0x12A4]), "0x12A4 is not binary coded decimal");
        assert_eq!(bad(&of(Bcd32, BB), &[0x0012, 0x000F]), "0x0012000F is not binary coded decimal");
        let nul = encode(&of(STRING3, BB), &Value::Text("a\0b".into()), 0);
        assert_eq!(nul, Err(WriteError::TextHoldsNul));
    }

    /// Whatever the type and the order: what is decoded is what was encoded.
    #[test]
    fn every_register_comes_back_through_its_value() {
        use ValueType::{Bcd16, Bcd32, Bcd64, F32, F64, I16, I32, I64, U16, U32, U64};
        use WordOrder::{Big, BigSwapped, Little, LittleSwapped};
        let types = [U16, I16, U32, I32, U64, I64, F32, F64, Bcd16, Bcd32, Bcd64];
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            let value_type = types[rng.usize(0..types.len())];
            let word_order = [Big, Little, BigSwapped, LittleSwapped][rng.usize(0..4)];
            let byte_order = if rng.bool() { Order::Big } else { Order::Little };
            let point = of(value_type, (word_order, byte_order));
            let decimal = matches!(value_type, Bcd16 | Bcd32 | Bcd64);
            let mut word = || {
                let digits = (0..4).fold(0, |word, _| word << 4 | rng.u16(0..10));
                if decimal { digits } else { rng.u16(..) }
            };
            let words: Vec<u16> = (0..value_type.registers()).map(|_| word()).collect();
            match decode_words(&point, &words, 0) {
                Ok(value) => {
                    assert_eq!(encode(&point, &value, 0), Ok(Raw::Words(words)), "{value_type:?} {value}");
                }
                Err(error) => assert!(error == ValueError::NotFinite && matches!(value_type, F32 | F64)),
            }
        }
    }
}
