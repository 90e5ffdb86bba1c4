//! Points that are named by their `SunSpec` model: what they are stands in the model, and where they lie the unit says
//! itself. Each brings along what it needs: its scale factor, and the header of its model.

use std::sync::Arc;

use crate::config::check::meaning::{Meanings, check_meanings};
use crate::config::check::point::{Defaults, check_aggregate, check_fitting_keys, deadband, round, scale};
use crate::config::check::value::{POLL_RANGE, heartbeat, unless_zero};
use crate::config::error::Problem;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::point::WordOrder;
use crate::config::raw::{Field, Section};
use crate::config::sunspec::models::Kind;
use crate::config::sunspec::{Map, Role, SunspecPoint};

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

/// Adds behind the points what is read with them: the scale factors and the headers of their models, each once. Gives
/// all of them addresses that a unit might have.
pub(super) fn complete(points: &mut Vec<Point>) {
    for at in 0..points.len() {
        let Some(sunspec) = points.get(at).and_then(|point| point.sunspec.clone()) else { continue };
        if let Some(factor) = factor_of(&sunspec) {
            let scale_from = add(points, at, factor, Kind::Sunssf);
            if let Some(point) = points.get_mut(at) {
                point.scale_from = Some(scale_from);
            }
        }
        let models = sunspec.models.clone();
        let header = SunspecPoint { models, module: None, name: "ID".into(), role: Role::Header };
        add(points, at, header, Kind::Uint32);
    }
    let map = Map::nominal(points);
    for point in points {
        map.place(point);
    }
}

/// Of the models in which the point has one.
fn factor_of(point: &SunspecPoint) -> Option<SunspecPoint> {
    let scaled = point.fields().filter_map(|(model, field)| Some((model, field.scale?)));
    let scaled: Vec<_> = scaled.collect();
    let (_, name) = *scaled.first()?;
    let models = scaled.iter().filter(|(_, other)| *other == name).map(|(model, _)| model.number);
    Some(SunspecPoint { models: models.collect(), module: None, name: name.into(), role: Role::Factor })
}

/// Where the point is that the one at `at` needs, which is added if there is none yet. It is read no less often.
fn add(points: &mut Vec<Point>, at: usize, needed: SunspecPoint, kind: Kind) -> usize {
    let known = points.iter().position(|point| point.sunspec.as_deref() == Some(&needed));
    let Some(of) = points.get(at).cloned() else { return at };
    let found = known.unwrap_or(points.len());
    if known.is_none() {
        let mut name = needed.to_string().replace('/', "-");
        while points.iter().any(|point| *point.name == *name) {
            name.push('_');
        }
        points.push(hidden_point(name, kind, needed, &of));
    }
    if let Some(point) = points.get_mut(found) {
        point.poll = point.poll.min(of.poll);
    }
    found
}

fn hidden_point(name: String, kind: Kind, sunspec: SunspecPoint, of: &Point) -> Point {
    Point {
        name: name.into(),
        value_type: kind.value_type(),
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
        sunspec: Some(Arc::new(sunspec)),
        ..of.clone()
    }
}
