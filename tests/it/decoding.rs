//! tests/decoding.txt, which pymodbus wrote: registers in every type, order and scale, and the value that they are.

use std::path::Path;

use tidegate::config::model::{Order, Point, ValueType};
use tidegate::config::point::WordOrder;
use tidegate::device::map::encode::{Raw, encode};
use tidegate::device::map::{Exponent, decode_words};
use tidegate::device::value::Value;

use crate::device::point;

/// Type and orders, then `key=value`.
fn point_of(text: &str, registers: usize) -> (Point, Exponent) {
    let mut words = text.split_whitespace();
    let value_type = match words.next().expect("a type") {
        "u16" => ValueType::U16,
        "i16" => ValueType::I16,
        "u32" => ValueType::U32,
        "i32" => ValueType::I32,
        "u64" => ValueType::U64,
        "i64" => ValueType::I64,
        "f32" => ValueType::F32,
        "f64" => ValueType::F64,
        "bcd16" => ValueType::Bcd16,
        "bcd32" => ValueType::Bcd32,
        "bcd64" => ValueType::Bcd64,
        "string" => ValueType::String { registers: registers.try_into().expect("few") },
        other => panic!("{other} is no type"),
    };
    let word_order = match words.next().expect("a word order") {
        "big" => WordOrder::Big,
        "little" => WordOrder::Little,
        "big-swapped" => WordOrder::BigSwapped,
        "little-swapped" => WordOrder::LittleSwapped,
        other => panic!("{other} is no word order"),
    };
    let byte_order = if words.next() == Some("little") { Order::Little } else { Order::Big };
    let mut point = Point { value_type, word_order, byte_order, ..point("p", 0) };
    let mut exponent = 0;
    for option in words {
        let (key, value) = option.split_once('=').expect("key=value");
        let number = || value.parse().expect("a number");
        match key {
            "scale" => point.scale = number(),
            "offset" => point.offset = number(),
            "exponent" => exponent = value.parse().expect("an exponent"),
            "invalid" => point.invalid.push(u64::from_str_radix(&value[2..], 16).expect("0x…")),
            _ => panic!("{key} is no option"),
        }
    }
    (point, exponent)
}

fn is_same(value: &Value, text: &str) -> bool {
    match (value, text.strip_prefix('"').and_then(|text| text.strip_suffix('"'))) {
        (Value::Text(value), Some(text)) => **value == *text,
        (_, Some(_)) => false,
        (_, None) => match (value.as_integer(), text.parse::<i128>()) {
            (Some(integer), Ok(wanted)) => integer == wanted,
            _ => value.as_number() == text.parse().ok(),
        },
    }
}

#[test]
fn registers_are_what_pymodbus_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decoding.txt");
    let text = std::fs::read_to_string(file).expect("the table");
    let mut cases = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(" | ");
        let mut field = || fields.next().expect("three fields");
        let (what, registers, expected) = (field(), field(), field());
        let hex = |word| u16::from_str_radix(word, 16).expect("four digits");
        let words: Vec<u16> = registers.split(' ').map(hex).collect();
        let (point, exponent) = point_of(what, words.len());
        match decode_words(&point, &words, exponent) {
            Ok(value) => {
                assert!(is_same(&value, expected), "{line}: {value}");
                let Ok(Raw::Words(written)) = encode(&point, &value, exponent) else {
                    panic!("{line}: not written");
                };
                // Text may have been padded in another way.
                let is_text = matches!(value, Value::Text(_));
                assert!(written == words || is_text, "{line}: {written:04X?} is written");
                assert_eq!(decode_words(&point, &written, exponent), Ok(value), "{line}");
            }
            Err(error) => assert_eq!(format!("bad: {error}"), expected, "{line}"),
        }
        cases += 1;
    }
    assert!(cases >= 400, "{cases} cases");
}
