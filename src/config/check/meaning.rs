//! What the number in a register means beside itself: `labels`, `bits` and `invalid` of a point.

use std::sync::Arc;

use crate::config::check::point::NUMBER_KEYS;
use crate::config::error::Problem;
use crate::config::model::ValueType;
use crate::config::point::{BitField, Label, Meaning};
use crate::config::point_error::PointProblem;
use crate::config::raw::{Field, Section};
use crate::config::yaml::Kind;

/// All empty where the point says nothing of them.
#[derive(Debug, Default)]
pub(super) struct Meanings {
    pub(super) labels: Vec<Label>,
    pub(super) bits: Vec<BitField>,
    pub(super) invalid: Vec<u64>,
}

/// A type that was reported means nothing further.
pub(super) fn check_meanings(section: &Section<'_>, value_type: Option<ValueType>) -> Meanings {
    let Some(value_type) = value_type else { return Meanings::default() };
    if matches!(value_type, ValueType::String { .. }) {
        return Meanings::default();
    }
    let check_labels = |field: &Field<'_>| {
        // Beside bits they were refused.
        if section.has("bits") { None } else { check_labels(section, field, value_type) }
    };
    Meanings {
        labels: section.read("labels", check_labels).unwrap_or_default(),
        bits: section.read("bits", |field| check_bits(section, field, value_type)).unwrap_or_default(),
        invalid: section.read("invalid", |field| check_invalid(field, value_type)).unwrap_or_default(),
    }
}

fn check_labels(section: &Section<'_>, field: &Field<'_>, value_type: ValueType) -> Option<Vec<Label>> {
    if matches!(value_type, ValueType::F32 | ValueType::F64) {
        field.fault_at_key(Problem::OnlyWith("whole numbers and bits"));
        return None;
    }
    // What is written may still be bounded.
    let numbers = NUMBER_KEYS.iter().filter(|key| !["min", "max"].contains(*key));
    let numbers: Vec<&str> = numbers.copied().collect();
    section.refuse_keys(&numbers, &Problem::NotWith("labels"));
    let named = field.named_fields()?;
    Some(named.iter().filter_map(|(key, field)| check_label(key, field, value_type)).collect())
}

fn check_label(key: &str, field: &Field<'_>, value_type: ValueType) -> Option<Label> {
    let number = match (value_type, key) {
        (ValueType::Bool, "false") => Some(0),
        (ValueType::Bool, "true") => Some(1),
        _ => number_of_key(key),
    };
    let (min, max) = range_of(value_type);
    let Some(number) = number.filter(|number| (min..=max).contains(number)) else {
        field.fault_at_key(Problem::Point(PointProblem::BadLabelKey { min, max }));
        return None;
    };
    let meaning = match field.kind() {
        Kind::Bool(flag) => Meaning::Flag(*flag),
        _ => Meaning::Text(field.filled_text()?.into()),
    };
    Some(Label { number, meaning })
}

/// As YAML writes whole numbers.
fn number_of_key(key: &str) -> Option<i128> {
    match key.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => key.parse().ok(),
    }
}

/// What a number of this type can be.
fn range_of(value_type: ValueType) -> (i128, i128) {
    let width = u32::from(value_type.registers()) * 16;
    match value_type {
        ValueType::Bool => (0, 1),
        ValueType::I16 | ValueType::I32 | ValueType::I64 => (-(1 << (width - 1)), (1 << (width - 1)) - 1),
        ValueType::Bcd16 | ValueType::Bcd32 | ValueType::Bcd64 => (0, 10_i128.pow(width / 4) - 1),
        ValueType::U16
        | ValueType::U32
        | ValueType::U64
        | ValueType::F32
        | ValueType::F64
        | ValueType::String { .. } => (0, (1 << width) - 1),
    }
}

fn check_bits(section: &Section<'_>, field: &Field<'_>, value_type: ValueType) -> Option<Vec<BitField>> {
    let width = match value_type {
        ValueType::U16 => 16,
        ValueType::U32 => 32,
        ValueType::U64 => 64,
        // It was said of the key.
        ValueType::Bool => return None,
        _ => {
            field.fault_at_key(Problem::OnlyWith("type: u16, u32 or u64"));
            return None;
        }
    };
    section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("bits"));
    section.refuse_keys(&["labels"], &Problem::NotWith("bits"));
    let named = field.named_fields()?;
    Some(named.iter().filter_map(|(name, field)| check_bit(name, field, width)).collect())
}

/// `3`, or `4-6`: in either order.
fn check_bit(name: &str, field: &Field<'_>, width: u8) -> Option<BitField> {
    let name: Arc<str> = name.into();
    let range = match field.kind() {
        Kind::Text(text) | Kind::Expanded(text) => text.split_once('-'),
        _ => None,
    };
    let Some((from, to)) = range else {
        return Some(BitField { name, first: field.integer(0..=width - 1)?, width: 1 });
    };
    let (Ok(from), Ok(to)) = (from.trim().parse::<u8>(), to.trim().parse::<u8>()) else {
        field.fault(Problem::Point(PointProblem::BadBits));
        return None;
    };
    let (first, last) = (from.min(to), from.max(to));
    if last >= width {
        field.fault(Problem::OutOfRange { min: "0".into(), max: (width - 1).to_string().into() });
        return None;
    }
    Some(BitField { name, first, width: last - first + 1 })
}

fn check_invalid(field: &Field<'_>, value_type: ValueType) -> Option<Vec<u64>> {
    if value_type == ValueType::Bool {
        // It was said of the key.
        return None;
    }
    Some(field.items()?.iter().filter_map(|item| check_sentinel(item, value_type)).collect())
}

/// A whole number is the bits of the registers, a negative one in two's complement; a number with a point is the float.
#[allow(clippy::cast_possible_truncation)] // rounding to the nearest f32 is meant
fn check_sentinel(field: &Field<'_>, value_type: ValueType) -> Option<u64> {
    if let Kind::Float(number) = field.kind() {
        match value_type {
            ValueType::F32 => return Some(u64::from((*number as f32).to_bits())),
            ValueType::F64 => return Some(number.to_bits()),
            _ => {}
        }
    }
    let width = u32::from(value_type.registers()) * 16;
    let number = field.integer(-(1_i128 << (width - 1))..=(1_i128 << width) - 1)?;
    u64::try_from(number & ((1 << width) - 1)).ok()
}
