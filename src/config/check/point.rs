//! The `points` of a device: where each value lies, how it is read, and what may be written.

use std::ops::RangeInclusive;

use crate::base::time::Duration;
use crate::config::check::computed::Operand;
use crate::config::check::meaning::{Meanings, check_meanings};
use crate::config::check::profile::{NamedPoint, points_of};
use crate::config::check::value::{POLL_RANGE, heartbeat, order, unless_zero, word_order};
use crate::config::check::{computed, sunspec};
use crate::config::error::Problem;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::point::{Aggregate, AggregateOf, Computed, Deadband, WordOrder};
use crate::config::point_error::PointProblem;
use crate::config::raw::{Field, Section, is_empty};
use crate::config::yaml::Kind;

const KEYS: &[&str] = &[
    "coil",
    "discrete",
    "holding",
    "input",
    "sunspec",
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
const EXAMPLE: &str = "points: { voltage: { input: 0, type: f32 } }";
const SOURCE_KEYS: &[&str] = &["coil", "discrete", "holding", "input"];
/// What a value that is no number cannot have.
pub(super) const NUMBER_KEYS: &[&str] = &["scale", "scale_from", "offset", "round", "deadband", "min", "max"];
const ORDER_KEYS: &[&str] = &["word_order", "byte_order"];
const AGGREGATE_KEYS: &[&str] = &["every", "of"];
/// A day at most: what a window has gathered is lost when the gateway stops.
const WINDOW_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

pub(super) const ROUND_MAX: u8 = 15;
/// Modbus application protocol V1.1b3, 6.3: registers in one request.
const REGISTERS_MAX: u16 = 125;

/// What a device says for the points that do not.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) poll: Duration,
    pub(super) heartbeat: Option<Duration>,
    pub(super) word_order: WordOrder,
    pub(super) byte_order: Order,
    /// Of the points that stand in the device's own file, and of those in its profile's: an address is to be read as
    /// the file counts that it stands in.
    pub(super) address_base: u16,
    pub(super) profile_base: u16,
    pub(super) max_registers: u16,
}

/// In the order of the file; computed ones each behind those that they are computed from.
pub(super) fn check(device: &Section<'_>, defaults: &Defaults) -> (Vec<Point>, Vec<Computed>) {
    let nothing = || (Vec::new(), Vec::new());
    let Some(beneath) = device.beneath() else {
        // A profile that could not be read was reported.
        if device.has("profile") && !device.has("points") {
            return nothing();
        }
        let Some(field) = device.require("points", EXAMPLE) else { return nothing() };
        if is_empty(field.kind()) && !device.has("profile") {
            field.fault_at_key(Problem::MissingKey { example: "voltage: { input: 0, type: f32 }" });
        }
        return check_all(&named_points(device), defaults);
    };
    let named = named_points(device);
    if named.is_empty() && beneath.has("points") {
        device.fault_at("points", Problem::MissingKey { example: EXAMPLE });
    }
    check_all(&named, defaults)
}

fn named_points<'a>(device: &Section<'a>) -> Vec<NamedPoint<'a>> {
    points_of(device, |field| field.named_fields().unwrap_or_default())
}

/// Whether a key says from where a point is read.
pub(super) fn says_where(key: &str) -> bool {
    SOURCE_KEYS.contains(&key) || ["sunspec", "field", "compute"].contains(&key)
}

fn check_all(written: &[NamedPoint<'_>], defaults: &Defaults) -> (Vec<Point>, Vec<Computed>) {
    let sections = written.iter().filter_map(|point| Some((point, point.section(KEYS)?)));
    let (computed, read): (Vec<_>, Vec<_>) = sections.partition(|(_, section)| section.has("compute"));
    // A point that is faulty is known by its name nevertheless: who refers to it causes no second fault.
    let names: Vec<&str> = written.iter().map(|point| point.name).collect();
    let checked = read.iter().filter_map(|(point, section)| {
        if section.has("sunspec") {
            return Some((sunspec::check_point(point.name, section, defaults)?, section));
        }
        let base = if point.is_of_profile { defaults.profile_base } else { defaults.address_base };
        Some((check_point(point.name, section, defaults, base)?, section))
    });
    let (mut points, sections): (Vec<Point>, Vec<&Section<'_>>) = checked.unzip();
    computed::resolve_scales(&mut points, &sections, &names);
    sunspec::complete(&mut points);
    let operands = points.iter().map(|point| Operand { name: &point.name, bits: &point.bits });
    let operands: Vec<Operand<'_>> = operands.collect();
    let computed: Vec<(&str, Section<'_>)> =
        computed.into_iter().map(|(point, section)| (point.name, section)).collect();
    let computed = computed::check(&computed, &operands, &names, defaults.heartbeat);
    (points, computed)
}

fn check_point(name: &str, section: &Section<'_>, defaults: &Defaults, base: u16) -> Option<Point> {
    section.refuse_keys(&["field"], &Problem::OnlyWith("serial"));
    let poll = section.read_or("poll", defaults.poll, |field| field.duration(POLL_RANGE));
    let heartbeat = section.read("heartbeat", heartbeat).map_or(defaults.heartbeat, unless_zero);
    if section.has("field") {
        return None;
    }
    // Every key is looked at before the first fault ends the point.
    let source = check_source(section);
    let table = source.as_ref().map(|(table, _)| *table);
    let value_type = table.and_then(|table| check_type(section, table));
    let address = source
        .as_ref()
        .and_then(|(_, field)| check_address(section, field, value_type, (base, defaults.max_registers)));
    if let Some(value_type) = value_type {
        check_fitting_keys(section, value_type);
    }
    let Meanings { labels, bits, invalid } = check_meanings(section, value_type);
    let number = |key| section.read(key, Field::number);
    let (min, max) = check_bounds(section);
    let is_number = labels.is_empty() && bits.is_empty();
    let is_number = is_number && !matches!(value_type, Some(ValueType::Bool | ValueType::String { .. }));
    Some(Point {
        name: name.into(),
        word_order: section.read_or("word_order", defaults.word_order, word_order),
        byte_order: section.read_or("byte_order", defaults.byte_order, order),
        scale: section.read_or("scale", 1.0, scale),
        scale_from: None,
        offset: number("offset").unwrap_or(0.0),
        invalid,
        labels,
        bits,
        unit: section.read("unit", |field| field.filled_text().map(Into::into)),
        round: section.read("round", round),
        deadband: section.read("deadband", deadband),
        invert: section.read_or("invert", false, Field::flag),
        poll,
        aggregate: check_aggregate(section, is_number),
        publish: section.read_or("publish", true, Field::flag),
        heartbeat,
        writable: check_writable(section, table),
        min,
        max,
        sunspec: None,
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
        ("bcd16", ValueType::Bcd16),
        ("bcd32", ValueType::Bcd32),
        ("bcd64", ValueType::Bcd64),
        ("string", ValueType::String { registers: 0 }),
        ("bool", ValueType::Bool),
    ];
    let value_type = field.choice(&known)?;
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

pub(super) fn check_fitting_keys(section: &Section<'_>, value_type: ValueType) {
    match value_type {
        ValueType::Bool => {
            let problem = Problem::NotWith("a coil or discrete input");
            section.refuse_keys(NUMBER_KEYS, &problem);
            section.refuse_keys(ORDER_KEYS, &problem);
            section.refuse_keys(&["length"], &Problem::OnlyWith("type: string"));
            section.refuse_keys(&["bits", "invalid"], &problem);
        }
        ValueType::String { .. } => {
            section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("type: string"));
            section.refuse_keys(&["bits", "labels", "invalid"], &Problem::NotWith("type: string"));
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
    (base, max_registers): (u16, u16),
) -> Option<u16> {
    let base = section.read_or("address_base", base, |field| field.integer(0..=1));
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
    if registers > max_registers {
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

pub(super) fn round(field: &Field<'_>) -> Option<u8> {
    field.integer(0..=ROUND_MAX)
}

/// A number in the value's own unit, or `1%` of the value that was published last.
pub(super) fn deadband(field: &Field<'_>) -> Option<Deadband> {
    let percent = match field.kind() {
        Kind::Text(text) | Kind::Expanded(text) => text.strip_suffix('%').map(str::trim_end),
        _ => None,
    };
    let (number, deadband) = if let Some(percent) = percent {
        let Some(number) = percent.parse().ok().filter(|number: &f64| number.is_finite()) else {
            field.fault(Problem::Point(PointProblem::BadPercentage));
            return None;
        };
        (number, Deadband::Relative(number / 100.0))
    } else {
        let number = field.number()?;
        (number, Deadband::Absolute(number))
    };
    if number < 0.0 {
        field.fault(Problem::Negative);
        return None;
    }
    Some(deadband)
}

/// Of anything but numbers only the last can be told.
pub(super) fn check_aggregate(section: &Section<'_>, is_number: bool) -> Option<Aggregate> {
    let field = section.find("aggregate")?;
    section.refuse_keys(&["deadband", "heartbeat"], &Problem::NotWith("aggregate"));
    let aggregate = field.section(AGGREGATE_KEYS)?;
    let every = aggregate.require("every", "every: 60s");
    let of = aggregate.require("of", "of: mean");
    let known = [
        ("mean", AggregateOf::Mean),
        ("min", AggregateOf::Min),
        ("max", AggregateOf::Max),
        ("last", AggregateOf::Last),
        ("sum", AggregateOf::Sum),
    ];
    let every = every.and_then(|every| every.duration(WINDOW_RANGE));
    let chosen = of.as_ref().and_then(|of| of.choice(&known));
    if chosen.is_some_and(|chosen| chosen != AggregateOf::Last) && !is_number {
        of?.fault(Problem::Point(PointProblem::AggregateNeedsNumber));
    }
    Some(Aggregate { every: every?, of: chosen? })
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
