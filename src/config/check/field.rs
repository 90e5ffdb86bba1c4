//! The `points` of a serial instrument: which field of its lines each one is, and what is sent to change it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::instrument::{bytes_of, pattern};
use crate::config::check::point::{ROUND_MAX, deadband, scale};
use crate::config::check::value::{heartbeat, unless_zero};
use crate::config::error::Problem;
use crate::config::instrument::{
    CommandLine, FieldPath, FieldPoint, FieldType, LineFormat, NmeaPart, TextLabel,
};
use crate::config::point::Meaning;
use crate::config::raw::{Field, Section, is_empty};
use crate::config::serial_problem::SerialProblem;
use crate::config::yaml::Kind;

const KEYS: &[&str] = &[
    "field",
    "compute",
    "type",
    "labels",
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

/// In the order of the file. Without a format, which was reported, what hangs on it is not looked at.
pub(super) fn check(
    device: &Section<'_>,
    format: Option<&LineFormat>,
    heartbeat_default: Option<Duration>,
) -> Vec<FieldPoint> {
    const EXAMPLE: &str = "points: { weight: { field: weight, type: f64 } }";
    let Some(field) = device.require("points", EXAMPLE) else { return Vec::new() };
    let Some(fields) = field.named_fields() else { return Vec::new() };
    if is_empty(field.kind()) {
        field.fault_at_key(Problem::MissingKey { example: "weight: { field: weight, type: f64 }" });
    }
    let points =
        fields.iter().filter_map(|(name, field)| check_point(name, field, format, heartbeat_default));
    points.collect()
}

fn check_point(
    name: &str,
    field: &Field<'_>,
    format: Option<&LineFormat>,
    heartbeat_default: Option<Duration>,
) -> Option<FieldPoint> {
    let section = field.section(KEYS)?;
    section.refuse_later(&["compute", "aggregate"]);
    section.refuse_later_unless("publish", |kind| *kind == Kind::Bool(true));
    let labels = section.read("labels", labels).unwrap_or_default();
    let value_type = section.read_or("type", FieldType::AsSaid, |field| field.choice(&TYPES, &[]));
    check_fitting_keys(&section, format, value_type);
    let number = |key| section.read(key, Field::number);
    let (min, max) = (number("min"), number("max"));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        section.fault(Problem::MinAboveMax);
    }
    let command = check_command(&section, format);
    let path = match section.find("field") {
        Some(field) => Some(field_path(&field, format?)?),
        None if command.is_some() || section.has("compute") => None,
        None => {
            section.require("field", "field: weight");
            return None;
        }
    };
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
        heartbeat: section.read("heartbeat", heartbeat).map_or(heartbeat_default, unless_zero),
        command,
        min,
        max,
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
