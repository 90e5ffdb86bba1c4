//! Bytes of a frame to values: laid out as registers are, so that they mean what registers mean. Pure: never knows which
//! bytes are a frame.

use crate::config::instrument::Binary;
use crate::config::model::{Order, ValueType};
use crate::device::map::decode_words;
use crate::device::serial::field::FieldError;
use crate::device::value::Value;

/// The value that stands in a frame. Counted from the first byte of its start.
pub fn value_of(binary: &Binary, frame: &[u8]) -> Result<Value, FieldError> {
    let end = binary.at.checked_add(binary.length).ok_or(FieldError::Missing)?;
    let bytes = frame.get(binary.at..end).ok_or(FieldError::Missing)?;
    let words = words_of(binary, bytes);
    decode_words(&binary.point, &words, 0).map_err(FieldError::Value)
}

/// The registers that hold such bytes. Where the point has an order of words, they are as they came.
fn words_of(binary: &Binary, bytes: &[u8]) -> Vec<u16> {
    let mut ordered = bytes.to_vec();
    if binary.order == Order::Little {
        ordered.reverse();
    }
    let width = usize::from(binary.point.value_type.registers()) * 2;
    let missing = width.saturating_sub(ordered.len());
    let mut padded = Vec::with_capacity(width);
    if matches!(binary.point.value_type, ValueType::String { .. }) {
        padded.extend(ordered);
        padded.resize(width, 0);
    } else {
        padded.resize(missing, filling(binary, &ordered));
        padded.extend(ordered);
    }
    let (pairs, _) = padded.as_chunks::<2>();
    pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
}

/// What stands before a number that is shorter than its registers.
fn filling(binary: &Binary, ordered: &[u8]) -> u8 {
    let is_signed = matches!(binary.point.value_type, ValueType::I16 | ValueType::I32 | ValueType::I64);
    let is_negative = is_signed && ordered.first().is_some_and(|byte| byte & 0x80 != 0);
    if is_negative { 0xFF } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::value_of;
    use crate::config::instrument::Binary;
    use crate::config::model::{Order, Point, Table, ValueType};
    use crate::config::point::{BitField, Label, Meaning, WordOrder};
    use crate::device::fixture::point;
    use crate::device::map::ValueError;
    use crate::device::serial::field::FieldError;
    use crate::device::value::Value;

    const FRAME: [u8; 12] = [0x02, 0x81, 0x02, 0x03, 0xFE, 0x05, 0x12, 0x34, b'H', b'i', b' ', 0x03];

    fn binary(at: usize, length: usize, order: Order, point: Point) -> Binary {
        Binary { at, length, order, point }
    }

    fn of(value_type: ValueType) -> Point {
        point("p", Table::Holding, 0, value_type)
    }

    #[test]
    fn every_type_and_order_is_read() {
        use Order::{Big, Little};
        use ValueType::{Bcd16, I16, I32, U16, U32, U64};
        let text = ValueType::String { registers: 2 };
        let swapped = Point { word_order: WordOrder::Little, ..of(U32) };
        let cases = [
            (1, 1, Big, of(U16), "129"),
            (1, 1, Big, of(I16), "-127"),
            (2, 1, Little, of(I16), "2"),
            (1, 2, Big, of(U16), "33026"),
            (1, 2, Little, of(U16), "641"),
            (1, 2, Big, of(I16), "-32510"),
            (1, 3, Big, of(U32), "8454659"),
            (1, 3, Big, of(I32), "-8322557"),
            (1, 3, Little, of(U32), "197249"),
            (1, 4, Big, of(U32), "2164392958"),
            (1, 4, Little, of(U32), "4261610113"),
            (1, 4, Big, swapped, "67010818"),
            (1, 8, Little, of(U64), "5202803286465512065"),
            (6, 2, Big, of(Bcd16), "1234"),
            (6, 1, Big, of(Bcd16), "12"),
            (8, 3, Big, of(text), "Hi"),
        ];
        for (at, length, order, point, expected) in cases {
            let found = value_of(&binary(at, length, order, point.clone()), &FRAME);
            assert_eq!(
                found.map(|value| value.to_string()),
                Ok(expected.to_owned()),
                "{at} {length} {point:?}"
            );
        }
        let frame = 230.1_f32.to_le_bytes();
        assert_eq!(value_of(&binary(0, 4, Little, of(ValueType::F32)), &frame), Ok(Value::Float(230.1)));
        let frame = (-1.5_f64).to_be_bytes();
        assert_eq!(value_of(&binary(0, 8, Big, of(ValueType::F64)), &frame), Ok(Value::Float(-1.5)));
    }

    #[test]
    fn numbers_mean_what_they_mean_in_registers() {
        let scaled = Point { scale: 0.1, offset: -40.0, ..of(ValueType::U16) };
        assert_eq!(value_of(&binary(1, 2, Order::Big, scaled), &FRAME), Ok(Value::Float(3262.6)));
        let meaning = Meaning::Text("low".into());
        let labelled = Point { labels: vec![Label { number: 2, meaning }], ..of(ValueType::U16) };
        assert_eq!(value_of(&binary(2, 1, Order::Big, labelled), &FRAME), Ok(Value::Text("low".into())));
        let bits = vec![BitField { name: "high".into(), first: 7, width: 1 }];
        let bits = Point { bits, ..of(ValueType::U16) };
        let found = value_of(&binary(1, 1, Order::Big, bits), &FRAME).map(|value| value.to_string());
        assert_eq!(found, Ok(r#"{"high":true}"#.to_owned()));
        let invalid = Point { invalid: vec![0x81], ..of(ValueType::U16) };
        let error = FieldError::Value(ValueError::Invalid { bits: 0x81, registers: 1 });
        assert_eq!(value_of(&binary(1, 1, Order::Big, invalid), &FRAME), Err(error));
    }

    #[test]
    fn what_a_frame_does_not_hold_is_missing() {
        for at in [11, 12, usize::MAX] {
            let found = value_of(&binary(at, 2, Order::Big, of(ValueType::U16)), &FRAME);
            assert_eq!(found, Err(FieldError::Missing), "{at}");
        }
    }
}
