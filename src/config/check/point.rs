//! The `points` of a device: where each value lies, how it is read, and what may be written.

use crate::base::time::Duration;
use crate::config::check::value::{POLL_RANGE, heartbeat, order, refuse_filled, unless_zero};
use crate::config::error::Problem;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::raw::{Field, Section, is_empty};
use crate::config::yaml::Kind;

const KEYS: &[&str] = &[
    "coil",
    "discrete",
    "holding",
    "input",
    "field",
    "compute",
    "type",
    "length",
    "word_order",
    "byte_order",
    "address_base",
    "scale",
    "scale_from",
    "offset",
    "unit",
    "round",
    "deadband",
    "heartbeat",
    "poll",
    "invert",
    "writable",
    "min",
    "max",
    "publish",
    "bits",
    "labels",
    "invalid",
    "aggregate",
];
const SOURCE_KEYS: &[&str] = &["coil", "discrete", "holding", "input"];
/// What a value that is no number cannot have.
const NUMBER_KEYS: &[&str] = &["scale", "offset", "round", "deadband", "min", "max"];
const ORDER_KEYS: &[&str] = &["word_order", "byte_order"];

pub(super) const ROUND_MAX: u8 = 15;
/// Modbus application protocol V1.1b3, 6.3: registers in one request.
const REGISTERS_MAX: u16 = 125;

/// What a device says for the points that do not.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) poll: Duration,
    pub(super) heartbeat: Option<Duration>,
    pub(super) word_order: Order,
    pub(super) byte_order: Order,
    pub(super) address_base: u16,
    pub(super) max_registers: u16,
}

/// In the order of the file.
pub(super) fn check(device: &Section<'_>, defaults: &Defaults) -> Vec<Point> {
    if device.has("profile") && !device.has("points") {
        return Vec::new();
    }
    let Some(field) = device.require("points", "points: { voltage: { input: 0, type: f32 } }") else {
        return Vec::new();
    };
    let Some(fields) = field.named_fields() else { return Vec::new() };
    if is_empty(field.kind()) && !device.has("profile") {
        field.fault_at_key(Problem::MissingKey { example: "voltage: { input: 0, type: f32 }" });
    }
    fields.iter().filter_map(|(name, field)| check_point(name, field, defaults)).collect()
}

fn check_point(name: &str, field: &Field<'_>, defaults: &Defaults) -> Option<Point> {
    let section = field.section(KEYS)?;
    section.refuse_later(&["scale_from", "aggregate", "compute"]);
    section.refuse_keys(&["field"], &Problem::OnlyWith("serial"));
    refuse_filled(&section, &["bits", "labels", "invalid"]);
    section.refuse_later_unless("publish", |kind| *kind == Kind::Bool(true));
    let poll = section.read_or("poll", defaults.poll, |field| field.duration(POLL_RANGE));
    let heartbeat = section.read("heartbeat", heartbeat).map_or(defaults.heartbeat, unless_zero);
    if section.has("field") || section.has("compute") {
        return None;
    }
    // Every key is looked at before the first fault ends the point.
    let source = check_source(&section);
    let table = source.as_ref().map(|(table, _)| *table);
    let value_type = table.and_then(|table| check_type(&section, table));
    let address = source.as_ref().and_then(|(_, field)| check_address(&section, field, value_type, defaults));
    if let Some(value_type) = value_type {
        check_fitting_keys(&section, value_type);
    }
    let number = |key| section.read(key, Field::number);
    let (min, max) = check_bounds(&section);
    Some(Point {
        name: name.into(),
        word_order: section.read_or("word_order", defaults.word_order, order),
        byte_order: section.read_or("byte_order", defaults.byte_order, order),
        scale: section.read_or("scale", 1.0, scale),
        offset: number("offset").unwrap_or(0.0),
        unit: section.read("unit", |field| field.filled_text().map(Into::into)),
        round: section.read("round", |field| field.integer(0..=ROUND_MAX)),
        deadband: section.read("deadband", deadband),
        invert: section.read_or("invert", false, Field::flag),
        poll,
        heartbeat,
        writable: check_writable(&section, table),
        min,
        max,
        value_type: value_type?,
        source: Source { table: table?, address: address? },
    })
}

fn check_source<'a>(section: &Section<'a>) -> Option<(Table, Field<'a>)> {
    let (key, field) = section.require_one(SOURCE_KEYS)?;
    let table = match key {
        "coil" => Table::Coil,
        "discrete" => Table::Discrete,
        "holding" => Table::Holding,
        _ => Table::Input,
    };
    Some((table, field))
}

fn check_type(section: &Section<'_>, table: Table) -> Option<ValueType> {
    let of_bits = matches!(table, Table::Coil | Table::Discrete);
    let Some(field) = section.find("type") else {
        return Some(if of_bits { ValueType::Bool } else { ValueType::U16 });
    };
    let known = [
        ("u16", ValueType::U16),
        ("i16", ValueType::I16),
        ("u32", ValueType::U32),
        ("i32", ValueType::I32),
        ("u64", ValueType::U64),
        ("i64", ValueType::I64),
        ("f32", ValueType::F32),
        ("f64", ValueType::F64),
        ("string", ValueType::String { registers: 0 }),
        ("bool", ValueType::Bool),
    ];
    let value_type = field.choice(&known, &[])?;
    let problem = match (of_bits, value_type) {
        (true, ValueType::Bool) => return Some(value_type),
        (true, _) => Problem::TypeNotOfBits,
        (false, ValueType::Bool) => Problem::TypeNotOfRegisters,
        (false, ValueType::String { .. }) => {
            let field = section.require("length", "length: 8, in registers of two characters")?;
            return Some(ValueType::String { registers: field.integer(1..=REGISTERS_MAX)? });
        }
        (false, _) => return Some(value_type),
    };
    field.fault(problem);
    None
}

fn check_fitting_keys(section: &Section<'_>, value_type: ValueType) {
    match value_type {
        ValueType::Bool => {
            let problem = Problem::NotWith("a coil or discrete input");
            section.refuse_keys(NUMBER_KEYS, &problem);
            section.refuse_keys(ORDER_KEYS, &problem);
            section.refuse_keys(&["length"], &Problem::OnlyWith("type: string"));
        }
        ValueType::String { .. } => {
            section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("type: string"));
            section.refuse_keys(&["invert"], &Problem::OnlyWith("a coil or discrete input"));
        }
        _ => {
            section.refuse_keys(&["length"], &Problem::OnlyWith("type: string"));
            section.refuse_keys(&["invert"], &Problem::OnlyWith("a coil or discrete input"));
        }
    }
}

/// Zero-based, as on the wire. A type that was reported counts as one register.
fn check_address(
    section: &Section<'_>,
    field: &Field<'_>,
    value_type: Option<ValueType>,
    defaults: &Defaults,
) -> Option<u16> {
    let base = section.read_or("address_base", defaults.address_base, |field| field.integer(0..=1));
    if base > 0 && *field.kind() == Kind::Integer(0) {
        field.fault(Problem::AddressBelowBase);
        return None;
    }
    let base = u32::from(base);
    let written = field.integer(base..=u32::from(u16::MAX) + base)?;
    let address = u16::try_from(written.checked_sub(base)?).ok()?;
    let registers = value_type.map_or(1, ValueType::registers);
    if address.checked_add(registers.saturating_sub(1)).is_none() {
        field.fault(Problem::AddressesEnd { registers });
        return None;
    }
    if registers > defaults.max_registers {
        let max_registers = defaults.max_registers;
        field.fault(Problem::AboveMaxRegisters { registers, max_registers });
        return None;
    }
    Some(address)
}

pub(super) fn scale(field: &Field<'_>) -> Option<f64> {
    let scale = field.number()?;
    if scale == 0.0 {
        field.fault(Problem::ScaleZero);
        return None;
    }
    Some(scale)
}

pub(super) fn deadband(field: &Field<'_>) -> Option<f64> {
    let deadband = field.number()?;
    if deadband < 0.0 {
        field.fault(Problem::Negative);
        return None;
    }
    Some(deadband)
}

fn check_writable(section: &Section<'_>, table: Option<Table>) -> bool {
    let Some(field) = section.find("writable") else { return false };
    let writable = field.flag().unwrap_or(false);
    if writable && matches!(table, Some(Table::Discrete | Table::Input)) {
        field.fault(Problem::TableNotWritable);
    }
    writable
}

fn check_bounds(section: &Section<'_>) -> (Option<f64>, Option<f64>) {
    let (min, max) = (section.read("min", Field::number), section.read("max", Field::number));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        section.fault(Problem::MinAboveMax);
    }
    // A point that cannot be written bounds nothing; a `writable` that is no flag was reported.
    let written = section.find("writable").is_some_and(|field| *field.kind() != Kind::Bool(false));
    if !written {
        section.refuse_keys(&["min", "max"], &Problem::OnlyWith("writable: true"));
    }
    (min, max)
}
