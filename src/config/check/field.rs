//! The `points` of a serial instrument: which field of its lines each one is, and what is sent to change it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::binary::{self, BINARY_KEYS};
use crate::config::check::computed::{self, Operand};
use crate::config::check::instrument::{bytes_of, pattern};
use crate::config::check::point::{ROUND_MAX, check_aggregate, deadband, scale};
use crate::config::check::value::{heartbeat, unless_zero};
use crate::config::error::Problem;
use crate::config::instrument::{
    Binary, CommandLine, FieldPath, FieldPoint, FieldType, LineFormat, NmeaPart, TextLabel,
};
use crate::config::model::ValueType;
use crate::config::point::{Computed, Meaning};
use crate::config::raw::{Field, Section, is_empty};
use crate::config::serial_problem::SerialProblem;
use crate::config::yaml::Kind;

const KEYS: &[&str] = &[
    "field",
    "byte",
    "compute",
    "type",
    "length",
    "byte_order",
    "word_order",
    "labels",
    "bits",
    "invalid",
    "scale",
    "offset",
    "unit",
    "round",
    "deadband",
    "heartbeat",
    "writable",
    "command",
    "expect",
    "min",
    "max",
    "publish",
    "aggregate",
];
/// What a value that is no number cannot have.
const NUMBER_KEYS: &[&str] = &["scale", "offset", "round", "deadband", "min", "max"];
const TYPES: [(&str, FieldType); 10] = [
    ("string", FieldType::Text),
    ("bool", FieldType::Bool),
    ("f32", FieldType::Float),
    ("f64", FieldType::Float),
    ("u16", FieldType::Integer { min: 0, max: u16::MAX as i128 }),
    ("i16", FieldType::Integer { min: i16::MIN as i128, max: i16::MAX as i128 }),
    ("u32", FieldType::Integer { min: 0, max: u32::MAX as i128 }),
    ("i32", FieldType::Integer { min: i32::MIN as i128, max: i32::MAX as i128 }),
    ("u64", FieldType::Integer { min: 0, max: u64::MAX as i128 }),
    ("i64", FieldType::Integer { min: i64::MIN as i128, max: i64::MAX as i128 }),
];
const NMEA_FIELDS_MAX: usize = 80;
/// What stands for the value in a command.
const VALUE: &str = "{value}";
/// A command's bytes around its value.
const COMMAND_BYTES_MAX: usize = 256;

/// What all points of an instrument go by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form<'a> {
    /// None: it was reported, and what hangs on it is not looked at.
    pub(super) format: Option<&'a LineFormat>,
    /// None: it was reported.
    pub(super) frame_bytes_max: Option<usize>,
    pub(super) heartbeat: Option<Duration>,
}

/// In the order of the file; computed ones each behind those that they are computed from.
pub(super) fn check(device: &Section<'_>, form: &Form<'_>) -> (Vec<FieldPoint>, Vec<Computed>) {
    const EXAMPLE: &str = "points: { weight: { field: weight, type: f64 } }";
    let nothing = || (Vec::new(), Vec::new());
    let Some(field) = device.require("points", EXAMPLE) else { return nothing() };
    let Some(fields) = field.named_fields() else { return nothing() };
    if is_empty(field.kind()) {
        field.fault_at_key(Problem::MissingKey { example: "weight: { field: weight, type: f64 }" });
    }
    let sections = fields.iter().filter_map(|(name, field)| Some((*name, field.section(KEYS)?)));
    let (computed, read): (Vec<_>, Vec<_>) = sections.partition(|(_, section)| section.has("compute"));
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let points = read.iter().filter_map(|(name, section)| check_point(name, section, form));
    let points: Vec<FieldPoint> = points.collect();
    let operands: Vec<Operand<'_>> = points.iter().map(operand_of).collect();
    let computed = computed::check(&computed, &operands, &names, form.heartbeat);
    (points, computed)
}

fn operand_of(point: &FieldPoint) -> Operand<'_> {
    let bits = match &point.field {
        Some(FieldPath::Bytes(binary)) => &binary.point.bits[..],
        _ => &[],
    };
    Operand { name: &point.name, bits }
}

fn check_point(name: &str, section: &Section<'_>, form: &Form<'_>) -> Option<FieldPoint> {
    let format = form.format;
    if let Some(at) = section.find("byte") {
        return check_bytes(name, section, &at, form);
    }
    section.refuse_keys(BINARY_KEYS, &Problem::OnlyWith("byte"));
    let labels = section.read("labels", labels).unwrap_or_default();
    let value_type = section.read_or("type", FieldType::AsSaid, |field| field.choice(&TYPES));
    check_fitting_keys(section, format, value_type);
    let number = |key| section.read(key, Field::number);
    let (min, max) = (number("min"), number("max"));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        section.fault(Problem::MinAboveMax);
    }
    let command = check_command(section, format);
    let path = match section.find("field") {
        Some(field) => Some(field_path(&field, format?)?),
        None if command.is_some() => None,
        None => {
            let is_raw = format == Some(&LineFormat::Raw);
            section.require("field", if is_raw { "field: hex, or byte: 3" } else { "field: weight" });
            return None;
        }
    };
    let is_number = matches!(value_type, FieldType::Integer { .. } | FieldType::Float);
    let may_be_number = is_number || value_type == FieldType::AsSaid && format == Some(&LineFormat::Json);
    let aggregate = check_aggregate(section, labels.is_empty() && may_be_number);
    Some(FieldPoint {
        name: name.into(),
        field: path,
        value_type,
        labels,
        scale: section.read_or("scale", 1.0, scale),
        offset: number("offset").unwrap_or(0.0),
        unit: section.read("unit", |field| field.filled_text().map(Into::into)),
        round: section.read("round", |field| field.integer(0..=ROUND_MAX)),
        deadband: section.read("deadband", deadband),
        heartbeat: section.read("heartbeat", heartbeat).map_or(form.heartbeat, unless_zero),
        aggregate,
        publish: section.read_or("publish", true, Field::flag),
        command,
        min,
        max,
    })
}

/// A point in the bytes of a raw frame.
fn check_bytes(name: &str, section: &Section<'_>, at: &Field<'_>, form: &Form<'_>) -> Option<FieldPoint> {
    if form.format.is_some_and(|format| *format != LineFormat::Raw) {
        at.fault_at_key(Problem::OnlyWith("format: raw"));
        return None;
    }
    let found = binary::check(name, section, at, form.frame_bytes_max);
    let is_number = found.as_ref().is_some_and(|Binary { point, .. }| {
        let is_text = matches!(point.value_type, ValueType::String { .. });
        point.labels.is_empty() && point.bits.is_empty() && !is_text
    });
    let deadband = section.read("deadband", deadband);
    let unit = section.read("unit", |field| field.filled_text().map(Into::into));
    let heartbeat = section.read("heartbeat", heartbeat).map_or(form.heartbeat, unless_zero);
    let aggregate = check_aggregate(section, is_number || found.is_none());
    let publish = section.read_or("publish", true, Field::flag);
    let binary = found?;
    Some(FieldPoint {
        name: name.into(),
        round: binary.point.round,
        field: Some(FieldPath::Bytes(Box::new(binary))),
        value_type: FieldType::AsSaid,
        labels: Vec::new(),
        scale: 1.0,
        offset: 0.0,
        unit,
        deadband,
        heartbeat,
        aggregate,
        publish,
        command: None,
        min: None,
        max: None,
    })
}

fn check_fitting_keys(section: &Section<'_>, format: Option<&LineFormat>, value_type: FieldType) {
    let is_number = matches!(value_type, FieldType::Integer { .. } | FieldType::Float);
    if section.has("labels") {
        section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("labels"));
        section.refuse_keys(&["type"], &Problem::NotWith("labels"));
    } else if format == Some(&LineFormat::Raw) {
        section.refuse_keys(NUMBER_KEYS, &Problem::NotWith("format: raw"));
        section.refuse_keys(&["type", "labels", "command", "expect"], &Problem::NotWith("format: raw"));
    } else if !(is_number || value_type == FieldType::AsSaid && format == Some(&LineFormat::Json)) {
        section.refuse_keys(NUMBER_KEYS, &Problem::OnlyWith("a number (type: f64)"));
    }
}

/// What texts stand for: words, true or false.
fn labels(field: &Field<'_>) -> Option<Vec<TextLabel>> {
    let labelled = field.keyed_fields()?;
    let labels = labelled.iter().filter_map(|(text, field)| {
        let meaning = match field.kind() {
            Kind::Bool(flag) => Meaning::Flag(*flag),
            _ => Meaning::Text(field.filled_text()?.into()),
        };
        Some(TextLabel { text: (*text).into(), meaning })
    });
    Some(labels.collect())
}

fn field_path(field: &Field<'_>, format: &LineFormat) -> Option<FieldPath> {
    let text = field.filled_text()?;
    let found = match format {
        LineFormat::Match(pattern) => match pattern.groups().find(|group| *group == text) {
            Some(group) => Ok(FieldPath::Group(group.into())),
            None => Err(no_such_field(pattern.groups())),
        },
        LineFormat::Csv(columns) => match columns.names.iter().position(|name| **name == *text) {
            Some(column) => Ok(FieldPath::Column(column)),
            None => Err(no_such_field(columns.names.iter().map(|name| &**name))),
        },
        LineFormat::Json => {
            let path: Vec<Arc<str>> = text.split('.').map(Into::into).collect();
            let is_whole = path.iter().all(|part| !part.is_empty());
            is_whole.then_some(FieldPath::Json(path)).ok_or(SerialProblem::BadJsonPath)
        }
        LineFormat::Nmea => nmea_path(text).ok_or(SerialProblem::BadNmeaField),
        LineFormat::Raw => (text == "hex").then_some(FieldPath::Frame).ok_or(SerialProblem::NotHex),
    };
    found.map_err(|problem| field.fault(Problem::Serial(problem))).ok()
}

fn no_such_field<'a>(known: impl Iterator<Item = &'a str>) -> SerialProblem {
    let known: BTreeSet<&str> = known.collect();
    let known = Vec::from_iter(known).join(", ");
    SerialProblem::NoSuchField { known: if known.is_empty() { "there is none".into() } else { known.into() } }
}

fn nmea_path(text: &str) -> Option<FieldPath> {
    let (sentence, part) = text.split_once('.')?;
    let is_address = (3..=8).contains(&sentence.len())
        && sentence.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let has_place = ["GGA", "GLL", "RMC"].iter().any(|known| sentence.ends_with(known));
    let part = match part {
        "latitude" if has_place => NmeaPart::Latitude,
        "longitude" if has_place => NmeaPart::Longitude,
        number => NmeaPart::Field(number.parse().ok().filter(|at| (1..=NMEA_FIELDS_MAX).contains(at))?),
    };
    is_address.then(|| FieldPath::Nmea { sentence: sentence.into(), part })
}

fn check_command(section: &Section<'_>, format: Option<&LineFormat>) -> Option<CommandLine> {
    let writable = section.read("writable", Field::flag).unwrap_or(false);
    if !writable {
        section.refuse_keys(&["command", "expect", "min", "max"], &Problem::OnlyWith("writable: true"));
        return None;
    }
    if format == Some(&LineFormat::Raw) {
        return Some(CommandLine { before: Vec::new(), after: Vec::new(), expect: None });
    }
    let expect = section.read("expect", pattern);
    let field = section.require("command", "command: \"SET {value}\\r\\n\"")?;
    if !section.has("expect") && !section.has("field") {
        field.fault(Problem::Serial(SerialProblem::Unconfirmed));
    }
    let text = field.filled_text()?;
    if text.len() > COMMAND_BYTES_MAX {
        field.fault(Problem::TextTooLong { bytes_max: COMMAND_BYTES_MAX });
        return None;
    }
    let Some((before, after)) = text.split_once(VALUE) else {
        field.fault(Problem::Serial(SerialProblem::NoValue));
        return None;
    };
    Some(CommandLine { before: bytes_of(&field, before)?, after: bytes_of(&field, after)?, expect })
}
