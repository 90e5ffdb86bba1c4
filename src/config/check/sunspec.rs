//! Points that are named by their `SunSpec` model: what they are stands in the model, and where they lie the unit says
//! itself. Each that has a scale factor brings it along.

use std::sync::Arc;

use crate::config::check::meaning::{Meanings, check_meanings};
use crate::config::check::point::{Defaults, check_aggregate, check_fitting_keys, deadband, round, scale};
use crate::config::check::value::{POLL_RANGE, heartbeat, unless_zero};
use crate::config::error::Problem;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::point::WordOrder;
use crate::config::raw::{Field, Section};
use crate::config::sunspec::models::Kind;
use crate::config::sunspec::{Map, SunspecPoint};

/// What the model says, and what cannot be written.
const REFUSED: &[&str] = &[
    "coil",
    "discrete",
    "holding",
    "input",
    "type",
    "length",
    "word_order",
    "byte_order",
    "address_base",
    "scale_from",
    "invalid",
    "invert",
    "writable",
    "min",
    "max",
];

pub(super) fn check_point(name: &str, section: &Section<'_>, defaults: &Defaults) -> Option<Point> {
    section.refuse_keys(REFUSED, &Problem::NotWith("sunspec"));
    let field = section.find("sunspec")?;
    let sunspec = match SunspecPoint::parse(field.text()?) {
        Ok(sunspec) => sunspec,
        Err(problem) => {
            field.fault(Problem::Sunspec(problem));
            return None;
        }
    };
    let (_, known) = sunspec.fields().next()?;
    let value_type = known.kind.value_type();
    check_fitting_keys(section, value_type);
    let Meanings { labels, bits, .. } = check_meanings(section, Some(value_type));
    let is_number = labels.is_empty() && bits.is_empty() && !matches!(value_type, ValueType::String { .. });
    let unit = section.read("unit", |field| field.filled_text().map(Arc::from));
    Some(Point {
        name: name.into(),
        source: Source { table: Table::Holding, address: 0 },
        value_type,
        word_order: WordOrder::Big,
        byte_order: Order::Big,
        scale: section.read_or("scale", 1.0, scale),
        scale_from: None,
        offset: section.read_or("offset", 0.0, Field::number),
        invalid: Vec::new(),
        labels,
        bits,
        unit: unit.or_else(|| known.unit.map(Into::into)),
        round: section.read("round", round),
        deadband: section.read("deadband", deadband),
        invert: false,
        poll: section.read_or("poll", defaults.poll, |field| field.duration(POLL_RANGE)),
        aggregate: check_aggregate(section, is_number),
        publish: section.read_or("publish", true, Field::flag),
        heartbeat: section.read("heartbeat", heartbeat).map_or(defaults.heartbeat, unless_zero),
        writable: false,
        min: None,
        max: None,
        sunspec: Some(Arc::new(sunspec)),
    })
}

/// Adds the scale factors behind the points, each once, and gives all of them addresses that a unit might have.
pub(super) fn complete(points: &mut Vec<Point>) {
    for at in 0..points.len() {
        let Some(factor) = points.get(at).and_then(factor_of) else { continue };
        let known = points.iter().position(|point| point.sunspec.as_deref() == Some(&factor));
        let scale_from = known.unwrap_or(points.len());
        if known.is_none() {
            let Some(point) = points.get(at) else { continue };
            let added = factor_point(point, factor, points);
            points.push(added);
        }
        let Some(point) = points.get_mut(at) else { continue };
        point.scale_from = Some(scale_from);
        let poll = point.poll;
        if let Some(factor) = points.get_mut(scale_from) {
            factor.poll = factor.poll.min(poll);
        }
    }
    let map = Map::nominal(points);
    for point in points {
        map.place(point);
    }
}

/// Of the models in which the point has one.
fn factor_of(point: &Point) -> Option<SunspecPoint> {
    let scaled = point.sunspec.as_deref()?.fields().filter_map(|(model, field)| Some((model, field.scale?)));
    let scaled: Vec<_> = scaled.collect();
    let (_, name) = *scaled.first()?;
    let models = scaled.iter().filter(|(_, other)| *other == name).map(|(model, _)| model.number);
    Some(SunspecPoint { models: models.collect(), module: None, name: name.into(), is_factor: true })
}

fn factor_point(of: &Point, factor: SunspecPoint, points: &[Point]) -> Point {
    let number = factor.models.first().copied().unwrap_or_default();
    let mut name = format!("{number}.{}", factor.name);
    while points.iter().any(|point| *point.name == *name) {
        name.push('_');
    }
    Point {
        name: name.into(),
        value_type: Kind::Sunssf.value_type(),
        scale: 1.0,
        scale_from: None,
        offset: 0.0,
        labels: Vec::new(),
        bits: Vec::new(),
        unit: None,
        round: None,
        deadband: None,
        aggregate: None,
        publish: false,
        heartbeat: None,
        sunspec: Some(Arc::new(factor)),
        ..of.clone()
    }
}
