//! What a point is to Home Assistant: the shape of its values, and whether it takes commands. Made from the
//! configuration; knows no topic and no key of a discovery message.

use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::instrument::{FieldPath, FieldPoint, FieldType, Instrument, Talk};
use crate::config::model::{Device, Point, Publish, ValueType, When};
use crate::config::point::{Aggregate, AggregateOf, BitField, Computed, Label, Meaning};

/// Longer states are refused by Home Assistant.
const TEXT_MAX: u16 = 255;
/// The bounds of a number that has none: beyond, a float has no place left behind its point.
const NUMBER_MAX: f64 = 1e12;
/// Home Assistant takes no smaller step.
const STEP_MIN: f64 = 0.001;
/// Readings in a row that may be missing before a value counts as expired.
const MISSED_MAX: u32 = 3;
/// For the time that a reading is on its way.
const EXPIRY_SLACK: Duration = Duration::from_secs(10);

/// One point.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entity<'a> {
    pub(super) name: &'a str,
    pub(super) unit: Option<&'a str>,
    pub(super) shape: Shape<'a>,
    pub(super) is_writable: bool,
    /// What a window adds up is no meter's count.
    pub(super) is_sum: bool,
    /// A value that is not said again within this has expired. None: nobody says when it is said again.
    pub(super) expires_after: Option<Duration>,
}

/// What its values are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape<'a> {
    Flag,
    Number(Bounds),
    Text {
        length_max: u16,
    },
    Options(Vec<Arc<str>>),
    Bits(&'a [BitField]),
    /// As the device says it: a number or a text.
    Any,
}

/// Of a number that is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) step: f64,
}

impl Bounds {
    /// Nobody writes it.
    const NONE: Self = Self { min: 0.0, max: 0.0, step: 1.0 };

    fn new((min, max): (f64, f64), step: f64) -> Self {
        Self { min, max, step: step.abs().max(STEP_MIN) }
    }
}

impl<'a> Entity<'a> {
    pub(super) fn of_point(point: &'a Point, publish: &Publish) -> Self {
        Self {
            name: &point.name,
            unit: point.unit.as_deref(),
            is_writable: point.writable,
            is_sum: is_sum(point.aggregate),
            expires_after: expiry(publish.when, point.heartbeat, point.poll, point.aggregate),
            shape: shape_of(point),
        }
    }

    pub(super) fn of_computed(point: &'a Computed, device: &Device) -> Self {
        // It follows the slowest of those that it may be computed from.
        let rhythm = device.points.iter().map(|point| point.poll).max().unwrap_or(device.poll);
        let expires_after = expiry(device.publish.when, point.heartbeat, rhythm, point.aggregate);
        Self::of_expression(point, expires_after)
    }

    pub(super) fn of_computed_field(point: &'a Computed, instrument: &Instrument) -> Self {
        Self::of_expression(point, expiry_of(instrument, point.heartbeat, point.aggregate))
    }

    fn of_expression(point: &'a Computed, expires_after: Option<Duration>) -> Self {
        Self {
            name: &point.name,
            unit: point.unit.as_deref(),
            // An expression may come to true, or to a text, where nothing says that it is a number.
            shape: if point.unit.is_some() || point.round.is_some() || point.deadband.is_some() {
                Shape::Number(Bounds::NONE)
            } else {
                Shape::Any
            },
            is_writable: false,
            is_sum: is_sum(point.aggregate),
            expires_after,
        }
    }

    /// None for whole frames: they are events, and mostly longer than a state may be.
    pub(super) fn of_field(point: &'a FieldPoint, instrument: &Instrument) -> Option<Self> {
        if point.field == Some(FieldPath::Frame) {
            return None;
        }
        let is_number = point.unit.is_some() || point.round.is_some() || point.deadband.is_some();
        let in_bytes = match &point.field {
            Some(FieldPath::Bytes(binary)) => Some(shape_of(&binary.point)),
            _ => None,
        };
        let shape = match point.value_type {
            _ if !point.labels.is_empty() => {
                shape_of_labels(point.labels.iter().map(|label| label.meaning.clone()))
            }
            FieldType::Bool => Shape::Flag,
            FieldType::Integer { .. } | FieldType::Float => Shape::Number(bounds_of_field(point)),
            FieldType::AsSaid if is_number || point.min.is_some() || point.max.is_some() => {
                Shape::Number(bounds_of_field(point))
            }
            FieldType::AsSaid => Shape::Any,
            FieldType::Text => Shape::Text { length_max: TEXT_MAX },
        };
        Some(Self {
            name: &point.name,
            unit: point.unit.as_deref(),
            shape: in_bytes.unwrap_or(shape),
            is_writable: point.command.is_some(),
            is_sum: is_sum(point.aggregate),
            expires_after: expiry_of(instrument, point.heartbeat, point.aggregate),
        })
    }
}

fn is_sum(aggregate: Option<Aggregate>) -> bool {
    aggregate.is_some_and(|aggregate| aggregate.of == AggregateOf::Sum)
}

fn expiry(
    when: When,
    heartbeat: Option<Duration>,
    poll: Duration,
    aggregate: Option<Aggregate>,
) -> Option<Duration> {
    let every = match (aggregate, when) {
        (Some(aggregate), _) => aggregate.every,
        (None, When::Poll) => poll,
        // What changes may never be said again.
        (None, When::Change) => heartbeat?.max(poll),
    };
    Some(every.saturating_mul(MISSED_MAX) + EXPIRY_SLACK)
}

/// One that talks by itself has no rhythm; the windows of one that is asked go on whatever it says.
fn expiry_of(
    instrument: &Instrument,
    heartbeat: Option<Duration>,
    aggregate: Option<Aggregate>,
) -> Option<Duration> {
    match instrument.talk {
        Talk::Asked { every, .. } => expiry(instrument.publish.when, heartbeat, every, aggregate),
        Talk::Free { .. } => None,
    }
}

fn shape_of(point: &Point) -> Shape<'_> {
    match point.value_type {
        _ if !point.labels.is_empty() => shape_of_labels(point.labels.iter().map(of_label)),
        _ if !point.bits.is_empty() => Shape::Bits(&point.bits),
        ValueType::Bool => Shape::Flag,
        ValueType::String { registers } => Shape::Text { length_max: (registers * 2).min(TEXT_MAX) },
        _ => Shape::Number(bounds_of(point)),
    }
}

fn of_label(label: &Label) -> Meaning {
    label.meaning.clone()
}

/// Words alone are a choice, true and false alone a flag; a mixture is whatever it says.
fn shape_of_labels(meanings: impl Iterator<Item = Meaning>) -> Shape<'static> {
    let meanings: Vec<Meaning> = meanings.collect();
    if meanings.iter().all(|meaning| matches!(meaning, Meaning::Flag(_))) {
        return Shape::Flag;
    }
    let mut options: Vec<Arc<str>> = Vec::new();
    for meaning in meanings {
        match meaning {
            Meaning::Text(text) if options.contains(&text) => {}
            Meaning::Text(text) => options.push(text),
            Meaning::Flag(_) => return Shape::Any,
        }
    }
    Shape::Options(options)
}

fn bounds_of(point: &Point) -> Bounds {
    if !point.writable {
        return Bounds::NONE;
    }
    let raw = match point.value_type {
        _ if point.scale_from.is_some() => None,
        ValueType::U16 => Some((0.0, f64::from(u16::MAX))),
        ValueType::I16 => Some((f64::from(i16::MIN), f64::from(i16::MAX))),
        ValueType::U32 => Some((0.0, f64::from(u32::MAX))),
        ValueType::I32 => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        ValueType::Bcd16 => Some((0.0, 9_999.0)),
        ValueType::Bcd32 => Some((0.0, 99_999_999.0)),
        ValueType::U64
        | ValueType::I64
        | ValueType::Bcd64
        | ValueType::F32
        | ValueType::F64
        | ValueType::Bool
        | ValueType::String { .. } => None,
    };
    let is_float = matches!(point.value_type, ValueType::F32 | ValueType::F64);
    let scaled = raw.map(|(low, high)| {
        let (low, high) = (low * point.scale + point.offset, high * point.scale + point.offset);
        (low.min(high), low.max(high))
    });
    let (low, high) = scaled.unwrap_or((-NUMBER_MAX, NUMBER_MAX));
    let step = if is_float || point.scale_from.is_some() { step_of(point.round) } else { point.scale };
    Bounds::new((point.min.unwrap_or(low), point.max.unwrap_or(high)), step)
}

fn bounds_of_field(point: &FieldPoint) -> Bounds {
    if point.command.is_none() {
        return Bounds::NONE;
    }
    let range = match point.value_type {
        FieldType::Integer { min, max } => {
            let ends = [min, max].map(|end| nearest(end) * point.scale + point.offset);
            (ends[0].min(ends[1]).max(-NUMBER_MAX), ends[0].max(ends[1]).min(NUMBER_MAX))
        }
        _ => (-NUMBER_MAX, NUMBER_MAX),
    };
    let is_whole = matches!(point.value_type, FieldType::Integer { .. });
    let step = if is_whole { point.scale } else { step_of(point.round) };
    Bounds::new((point.min.unwrap_or(range.0), point.max.unwrap_or(range.1)), step)
}

fn step_of(round: Option<u8>) -> f64 {
    round.map_or(STEP_MIN, |decimals| 10f64.powi(-i32::from(decimals)))
}

#[allow(clippy::cast_precision_loss)] // the nearest float is meant
fn nearest(number: i128) -> f64 {
    number as f64
}
