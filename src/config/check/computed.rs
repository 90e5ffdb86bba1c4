//! Points that refer to others of their device: `compute` and `scale_from`, by name, without going round in circles.

use crate::base::time::Duration;
use crate::config::check::point::{check_aggregate, deadband, round};
use crate::config::check::value::{heartbeat, unless_zero};
use crate::config::error::Problem;
use crate::config::expression::Expression;
use crate::config::model::{Point, ValueType};
use crate::config::point::{BitField, Computed, Input};
use crate::config::point_error::PointProblem;
use crate::config::raw::{Field, Section, nearest};

/// What a computed point has nothing of.
const REGISTER_KEYS: &[&str] = &[
    "coil",
    "discrete",
    "holding",
    "input",
    "field",
    "byte",
    "command",
    "expect",
    "type",
    "length",
    "word_order",
    "byte_order",
    "address_base",
    "scale",
    "scale_from",
    "offset",
    "poll",
    "invert",
    "writable",
    "min",
    "max",
    "bits",
    "labels",
    "invalid",
];

/// One that is written well, before it is known what its names stand for.
struct Written<'a> {
    point: Computed,
    field: Field<'a>,
}

/// `sections` are those of the points; `names` all that the device has, faulty ones too.
pub(super) fn resolve_scales(points: &mut [Point], sections: &[&Section<'_>], names: &[&str]) {
    let find = |section: &&Section<'_>| find_scale(&section.find("scale_from")?, points, names);
    let found: Vec<Option<usize>> = sections.iter().map(find).collect();
    for (point, scale_from) in points.iter_mut().zip(found) {
        point.scale_from = scale_from;
    }
    for (section, point) in sections.iter().zip(points.iter()) {
        let scale = point.scale_from.and_then(|index| points.get(index));
        if let (Some(field), Some(scale)) = (section.find("scale_from"), scale)
            && !is_plain_integer(scale)
        {
            field.fault(Problem::Point(PointProblem::NoScalePoint));
        }
    }
}

fn find_scale(field: &Field<'_>, points: &[Point], names: &[&str]) -> Option<usize> {
    let name = field.text()?;
    if !names.contains(&name) {
        let nearest = nearest(name, names.iter().copied()).map(Into::into);
        field.fault(Problem::Point(PointProblem::UnknownPoint { name: field.shown(), nearest }));
    }
    points.iter().position(|point| *point.name == *name)
}

/// What a power of ten can be read from.
fn is_plain_integer(point: &Point) -> bool {
    let is_integer = !matches!(
        point.value_type,
        ValueType::Bool | ValueType::F32 | ValueType::F64 | ValueType::String { .. }
    );
    let is_scaled = (point.scale, point.offset) != (1.0, 0.0) || point.scale_from.is_some();
    // A unit may not have that one, or have it elsewhere.
    is_integer && point.sunspec.is_none() && !is_scaled && point.labels.is_empty() && point.bits.is_empty()
}

/// A point that a name can stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) name: &'a str,
    pub(super) bits: &'a [BitField],
}

/// Each behind those that it is computed from.
pub(super) fn check(
    sections: &[(&str, Section<'_>)],
    points: &[Operand<'_>],
    names: &[&str],
    heartbeat_default: Option<Duration>,
) -> Vec<Computed> {
    let written = sections.iter().filter_map(|(name, section)| check_one(name, section, heartbeat_default));
    let mut open: Vec<Written<'_>> =
        written.filter(|written| check_names(written, points, sections, names)).collect();
    let mut done: Vec<Computed> = Vec::new();
    // One more is done each time, or none any more: it ends.
    while let Some((at, inputs)) = next_resolved(&open, points, &done) {
        let Written { point, .. } = open.remove(at);
        done.push(Computed { inputs, ..point });
    }
    for written in &open {
        if is_circular(written, &open) {
            written.field.fault(Problem::Point(PointProblem::ComputedInCircle));
        }
    }
    done
}

fn check_one<'a>(
    name: &str,
    section: &Section<'a>,
    heartbeat_default: Option<Duration>,
) -> Option<Written<'a>> {
    section.refuse_keys(REGISTER_KEYS, &Problem::NotWith("compute"));
    let heartbeat = section.read("heartbeat", heartbeat).map_or(heartbeat_default, unless_zero);
    let unit = section.read("unit", |field| field.filled_text().map(Into::into));
    let round = section.read("round", round);
    let deadband = section.read("deadband", deadband);
    let aggregate = check_aggregate(section, true);
    let publish = section.read_or("publish", true, Field::flag);
    let field = section.find("compute")?;
    let expression = match Expression::new(field.filled_text()?) {
        Ok(expression) => expression,
        Err(error) => {
            field.fault(Problem::Point(PointProblem::BadExpression(error)));
            return None;
        }
    };
    if expression.names().is_empty() {
        field.fault(Problem::Point(PointProblem::NoPointNamed));
        return None;
    }
    let point = Computed {
        name: name.into(),
        expression,
        inputs: Vec::new(),
        unit,
        round,
        deadband,
        heartbeat,
        aggregate,
        publish,
    };
    Some(Written { point, field })
}

/// Reports names that no point has. A faulty point was reported, and cannot be said to lack a bit.
fn check_names(
    written: &Written<'_>,
    points: &[Operand<'_>],
    sections: &[(&str, Section<'_>)],
    names: &[&str],
) -> bool {
    let mut are_known = true;
    for name in written.point.expression.names() {
        let is_point = names.contains(&&*name.text);
        let of_bit = name.text.rsplit_once('.').filter(|(point, _)| names.contains(point));
        let is_bit = of_bit.is_some_and(|(of, bit)| {
            let point = points.iter().find(|point| point.name == of);
            let is_computed = sections.iter().any(|(name, _)| *name == of);
            let has_bit = |point: &Operand<'_>| point.bits.iter().any(|field| *field.name == *bit);
            !is_computed && point.is_none_or(has_bit)
        });
        if is_point || is_bit {
            continue;
        }
        are_known = false;
        let nearest = nearest(&name.text, names.iter().copied()).map(Into::into);
        let name = name.clone();
        written.field.fault(Problem::Point(PointProblem::UnknownInput {
            name: name.text,
            column: name.column,
            nearest,
        }));
    }
    are_known
}

/// The first one whose inputs all are known by now.
fn next_resolved(
    open: &[Written<'_>],
    points: &[Operand<'_>],
    done: &[Computed],
) -> Option<(usize, Vec<Input>)> {
    open.iter().enumerate().find_map(|(at, written)| {
        let names = written.point.expression.names().iter();
        let inputs: Option<Vec<Input>> = names.map(|name| input_of(&name.text, points, done)).collect();
        Some((at, inputs?))
    })
}

/// A name that is a point's is that point, whatever dots it has.
fn input_of(name: &str, points: &[Operand<'_>], done: &[Computed]) -> Option<Input> {
    let read = points.iter().position(|point| point.name == name);
    let computed = || done.iter().position(|point| *point.name == *name).map(|at| points.len() + at);
    if let Some(point) = read.or_else(computed) {
        return Some(Input { point, bit: None });
    }
    let (of, bit) = name.rsplit_once('.')?;
    let point = points.iter().position(|point| point.name == of)?;
    let field = points.get(point)?.bits.iter().find(|field| *field.name == *bit)?;
    Some(Input { point, bit: Some(field.name.clone()) })
}

/// Whether its names lead back to it. What only waits for such a one is not to blame.
fn is_circular(written: &Written<'_>, open: &[Written<'_>]) -> bool {
    let mut reached: Vec<&str> = Vec::new();
    let mut ahead: Vec<&Written<'_>> = vec![written];
    while let Some(next) = ahead.pop() {
        for name in next.point.expression.names() {
            let known = open.iter().find(|other| *other.point.name == *name.text);
            if let Some(other) = known.filter(|other| !reached.contains(&&*other.point.name)) {
                reached.push(&other.point.name);
                ahead.push(other);
            }
        }
    }
    reached.contains(&&*written.point.name)
}
