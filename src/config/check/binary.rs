//! Points in the bytes of a raw frame: where each lies, and what its bytes mean.

use crate::base::time::Duration;
use crate::config::check::meaning::{Meanings, check_meanings};
use crate::config::check::point::{NUMBER_KEYS, round, scale};
use crate::config::check::value::{order, word_order};
use crate::config::error::Problem;
use crate::config::instrument::Binary;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::point::WordOrder;
use crate::config::raw::{Field, Section};

/// Keys that say how bytes are read.
pub(super) const BINARY_KEYS: &[&str] = &["length", "byte_order", "word_order", "bits", "invalid"];
/// What only what is written has.
const COMMAND_KEYS: &[&str] = &["writable", "command", "expect", "min", "max", "field"];

/// Name, how it is laid out in registers, and its bytes.
const TYPES: [(&str, (ValueType, usize)); 16] = [
    ("u8", (ValueType::U16, 1)),
    ("i8", (ValueType::I16, 1)),
    ("u16", (ValueType::U16, 2)),
    ("i16", (ValueType::I16, 2)),
    ("u24", (ValueType::U32, 3)),
    ("i24", (ValueType::I32, 3)),
    ("u32", (ValueType::U32, 4)),
    ("i32", (ValueType::I32, 4)),
    ("u64", (ValueType::U64, 8)),
    ("i64", (ValueType::I64, 8)),
    ("f32", (ValueType::F32, 4)),
    ("f64", (ValueType::F64, 8)),
    ("bcd8", (ValueType::Bcd16, 1)),
    ("bcd16", (ValueType::Bcd16, 2)),
    ("bcd32", (ValueType::Bcd32, 4)),
    ("bcd64", (ValueType::Bcd64, 8)),
];
const STRING: (ValueType, usize) = (ValueType::String { registers: 0 }, 0);
const TEXT_BYTES_MAX: u16 = 250;

/// `at` is the key that says where; `frame_bytes_max` what a frame may have.
pub(super) fn check(
    name: &str,
    section: &Section<'_>,
    at: &Field<'_>,
    frame_bytes_max: Option<usize>,
) -> Option<Binary> {
    section.refuse_keys(COMMAND_KEYS, &Problem::NotWith("byte"));
    let found = check_type(section);
    let (value_type, length) = found.unzip();
    let has_words = length.is_some_and(|length| length == 4 || length == 8);
    if matches!(value_type, Some(ValueType::String { .. })) {
        section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("type: string"));
        let refused = ["bits", "labels", "invalid", "byte_order", "word_order"];
        section.refuse_keys(&refused, &Problem::NotWith("type: string"));
    } else if length.is_some() {
        section.refuse_keys(&["length"], &Problem::OnlyWith("type: string"));
        if !has_words {
            section.refuse_keys(&["word_order"], &Problem::OnlyWith("a type of 32 or 64 bits"));
        }
    }
    let Meanings { labels, bits, invalid } = check_meanings(section, value_type);
    for (field, bits_max) in bits.iter().zip(std::iter::repeat(length.unwrap_or(8) * 8)) {
        if usize::from(field.first) + usize::from(field.width) > bits_max
            && let Some(key) = section.find("bits")
        {
            key.fault(Problem::OutOfRange { min: "0".into(), max: (bits_max - 1).to_string().into() });
        }
    }
    let byte_order = section.read_or("byte_order", Order::Big, order);
    let words = section.read("word_order", word_order);
    let (order, byte_order) =
        if words.is_some() { (Order::Big, byte_order) } else { (byte_order, Order::Big) };
    let point = Point {
        name: name.into(),
        source: Source { table: Table::Input, address: 0 },
        value_type: value_type.unwrap_or(ValueType::U16),
        word_order: words.unwrap_or(WordOrder::Big),
        byte_order,
        scale: section.read_or("scale", 1.0, scale),
        scale_from: None,
        offset: section.read("offset", Field::number).unwrap_or(0.0),
        invalid,
        labels,
        bits,
        unit: None,
        round: section.read("round", round),
        deadband: None,
        invert: false,
        poll: Duration::ZERO,
        aggregate: None,
        publish: true,
        heartbeat: None,
        writable: false,
        min: None,
        max: None,
        sunspec: None,
    };
    let length = length?;
    let last = frame_bytes_max.unwrap_or(usize::from(u16::MAX)).saturating_sub(length);
    let at = usize::from(at.integer(0..=u16::try_from(last).unwrap_or(u16::MAX))?);
    Some(Binary { at, length, order, point })
}

/// One byte, where nothing is said.
fn check_type(section: &Section<'_>) -> Option<(ValueType, usize)> {
    let Some(field) = section.find("type") else { return Some((ValueType::U16, 1)) };
    let mut known = TYPES.to_vec();
    known.push(("string", STRING));
    let found = field.choice(&known)?;
    if found != STRING {
        return Some(found);
    }
    let length = section.require("length", "length: 8, in bytes")?.integer(1..=TEXT_BYTES_MAX)?;
    Some((ValueType::String { registers: length.div_ceil(2) }, usize::from(length)))
}
