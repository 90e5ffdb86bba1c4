//! Lines that an instrument could say, made of its configuration: what the points look for stands in them. Pure; a
//! line that is said by a pattern or in binary cannot be made of what reads it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value as Json, json};

use crate::config::instrument::{
    FieldPath, FieldPoint, FieldType, FrameEnd, Framing, Instrument, LineFormat, NmeaPart,
};
use crate::device::serial::checksum;
use crate::device::value::rounded;

/// How long a flag or label keeps its value.
const TOGGLE_SECS: u64 = 10;
/// Decimal places of a number that says nothing else.
const DECIMALS: u8 = 3;
/// Fields of a sentence of which no more are known.
const NMEA_FIELDS_MAX: usize = 20;
/// Elements of a list that a point stands in.
const LIST_MAX: usize = 100;

/// Why no line can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplayable {
    Pattern,
    Raw,
    /// Frames of a fixed length, or that say their length themselves.
    Length,
    /// A point stands where no line of this kind has a place.
    Place,
}

impl fmt::Display for Unplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pattern => "its pattern does not tell what it says",
            Self::Raw => "raw frames may hold anything",
            Self::Length => "only frames that end with a delimiter or with silence are played",
            Self::Place => "a point stands where no line can have it",
        })
    }
}

/// What it says at a time, frame by frame. `number` is a point's moving value.
pub fn lines(
    instrument: &Instrument,
    seconds: u64,
    number: impl Fn(usize) -> f64,
) -> Result<Vec<Vec<u8>>, Unplayable> {
    let points = instrument.points.iter().enumerate();
    let said = points.filter_map(|(index, point)| {
        let field = point.field.as_ref()?;
        Some((field, said_of(point, index, seconds, number(index))))
    });
    let said: Vec<(&FieldPath, Json)> = said.collect();
    let texts = match &instrument.format {
        LineFormat::Match(_) => return Err(Unplayable::Pattern),
        LineFormat::Raw => return Err(Unplayable::Raw),
        LineFormat::Json => vec![object_of(&said)?.to_string()],
        LineFormat::Csv(columns) => vec![row_of(columns.names.len(), columns.separator, &said)],
        LineFormat::Nmea => sentences_of(&said),
    };
    texts.into_iter().map(|text| framed(&instrument.framing, text.as_bytes())).collect()
}

/// A point's field as JSON would say it; elsewhere its text.
fn said_of(point: &FieldPoint, index: usize, seconds: u64, number: f64) -> Json {
    let turn = usize::try_from(seconds / TOGGLE_SECS).unwrap_or(0) + index;
    if let Some(label) = turn.checked_rem(point.labels.len()).and_then(|at| point.labels.get(at)) {
        return json!(&*label.text);
    }
    let field = (number - point.offset) / point.scale;
    match point.value_type {
        FieldType::Bool => json!(turn % 2 == 1),
        FieldType::Text => json!(&*point.name),
        FieldType::Integer { min, max } => {
            let whole = nearest_integer(field).clamp(min, max);
            i64::try_from(whole).map_or(json!(0), |whole| json!(whole))
        }
        FieldType::Float | FieldType::AsSaid => {
            json!(rounded(field, point.round.unwrap_or(DECIMALS).max(DECIMALS).into()))
        }
    }
}

fn nearest_integer(value: f64) -> i128 {
    format!("{value:.0}").parse().unwrap_or(0)
}

fn text_of(said: &Json) -> String {
    said.as_str().map_or_else(|| said.to_string(), str::to_owned)
}

fn object_of(said: &[(&FieldPath, Json)]) -> Result<Json, Unplayable> {
    let first = said.iter().find_map(|(field, _)| match field {
        FieldPath::Json(path) => path.first(),
        _ => None,
    });
    let is_list = first.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_digit()));
    let mut root = if is_list { json!([]) } else { Json::Object(Map::new()) };
    for (field, value) in said {
        let FieldPath::Json(path) = field else { return Err(Unplayable::Place) };
        let mut at = &mut root;
        for key in path {
            at = place(at, key).ok_or(Unplayable::Place)?;
        }
        *at = value.clone();
    }
    Ok(root)
}

/// Where `key` stands in an object or list; both grow as they must.
fn place<'a>(within: &'a mut Json, key: &str) -> Option<&'a mut Json> {
    let number = key.parse::<usize>().ok();
    if within.is_null() {
        *within = if number.is_some() { json!([]) } else { Json::Object(Map::new()) };
    }
    match within {
        Json::Object(members) => Some(members.entry(key).or_insert(Json::Null)),
        Json::Array(items) => {
            let at = number.filter(|at| *at < LIST_MAX)?;
            if items.len() <= at {
                items.resize(at + 1, Json::Null);
            }
            items.get_mut(at)
        }
        _ => None,
    }
}

fn row_of(columns: usize, separator: char, said: &[(&FieldPath, Json)]) -> String {
    let column = |at: usize| {
        let found = said.iter().find(|(field, _)| **field == FieldPath::Column(at));
        let text = found.map_or_else(|| "0".to_owned(), |(_, value)| text_of(value));
        if text.contains([separator, '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    (0..columns).map(column).collect::<Vec<_>>().join(&separator.to_string())
}

/// One of each kind that a point looks for.
fn sentences_of(said: &[(&FieldPath, Json)]) -> Vec<String> {
    let mut sentences: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (field, value) in said {
        let FieldPath::Nmea { sentence, part } = field else { continue };
        let address = if sentence.len() == 3 { format!("GP{sentence}") } else { sentence.to_string() };
        let fields = sentences.entry(address.clone()).or_insert_with(|| blank_sentence(&address));
        if let NmeaPart::Field(at) = part
            && *at < NMEA_FIELDS_MAX
        {
            fields.resize(fields.len().max(*at), String::new());
            if let Some(place) = at.checked_sub(1).and_then(|at| fields.get_mut(at)) {
                *place = text_of(value);
            }
        }
    }
    let line = |(address, fields): (String, Vec<String>)| {
        let covered = format!("{address},{}", fields.join(","));
        format!("${covered}*{:02X}", covered.bytes().fold(0, |sum, byte| sum ^ byte))
    };
    sentences.into_iter().map(line).collect()
}

/// Behind the address: a position with a fix, where the sentence has one.
fn blank_sentence(address: &str) -> Vec<String> {
    let fields: &[&str] = match address.get(address.len().saturating_sub(3)..) {
        Some("GGA") => &[
            "120000",
            "4807.038",
            "N",
            "01131.000",
            "E",
            "1",
            "08",
            "0.9",
            "545.4",
            "M",
            "46.9",
            "M",
            "",
            "",
        ],
        Some("RMC") => {
            &["120000", "A", "4807.038", "N", "01131.000", "E", "000.0", "000.0", "211126", "", ""]
        }
        Some("GLL") => &["4807.038", "N", "01131.000", "E", "120000", "A"],
        _ => &[],
    };
    fields.iter().map(ToString::to_string).collect()
}

fn framed(framing: &Framing, text: &[u8]) -> Result<Vec<u8>, Unplayable> {
    let mut frame = [&framing.start, text].concat();
    if let Some(checksum) = &framing.checksum {
        frame.extend(checksum::of(checksum, &frame).ok_or(Unplayable::Length)?);
    }
    match &framing.end {
        FrameEnd::Delimiter(delimiter) => frame.extend(delimiter),
        FrameEnd::Silence => {}
        FrameEnd::Length(_) | FrameEnd::LengthField(_) => return Err(Unplayable::Length),
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::{Unplayable, lines};
    use crate::config::expand::ProcessEnvironment;
    use crate::config::instrument::Instrument;
    use crate::config::load::parse;
    use crate::device::serial::field::value_of;
    use crate::device::serial::framing::Framer;
    use crate::device::serial::line::{Line, text_of};

    fn instrument(serial: &str, points: &str) -> Instrument {
        let text = format!(
            "gateway: {{ id: g }}\nports: {{ p: {{ path: /dev/p }} }}\ndevices:\n  \
             x: {{ serial: {{ port: p, {serial} }}, points: {{ {points} }} }}\n"
        );
        let config = parse("f", &text, std::path::Path::new(""), &ProcessEnvironment);
        config.expect("a configuration").instruments.remove(0)
    }

    /// What the gateway would read of it: every point, and no more lines than there are.
    fn read(instrument: &Instrument, seconds: u64) -> usize {
        let mut cutter = Framer::new(instrument.framing.clone());
        cutter.handle_asked();
        let mut frames = Vec::new();
        for line in lines(instrument, seconds, |_| 21.5).expect("lines") {
            cutter.handle_bytes(&line, &mut frames);
        }
        cutter.handle_silence(&mut frames);
        let mut found = 0;
        for frame in &frames {
            let text = text_of(frame);
            let line = Line::parse(&instrument.format, frame, &text).expect("a line of its format");
            for point in &instrument.points {
                let Some(said) = point.field.as_ref().and_then(|field| line.field(field)) else { continue };
                value_of(point, &said.expect("a field")).expect("a value");
                found += 1;
            }
        }
        found
    }

    #[test]
    fn what_is_played_is_what_is_read() {
        let json = instrument(
            "format: json",
            "t: { field: a.t, type: f64, unit: °C }, n: { field: a.list.1, type: u16 }, \
             on: { field: on, labels: { yes: true, no: false } }, name: { field: name }",
        );
        let csv = instrument(
            "format: csv, columns: [a, b, c], framing: { delimiter: \"\\n\", start: \">\", checksum: { type: xor8, encoding: hex } }",
            "a: { field: a, type: f64, scale: 0.1 }, c: { field: c, type: i16 }",
        );
        let nmea = instrument(
            "format: nmea",
            "lat: { field: GGA.latitude, type: f64 }, sats: { field: GGA.7, type: u16 }, speed: { field: RMC.7, type: f64 }",
        );
        for seconds in [0, 9, 10, 65] {
            assert_eq!([&json, &csv, &nmea].map(|instrument| read(instrument, seconds)), [4, 2, 3]);
        }
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let cases = [
            ("match: '(?P<a>.*)'", "a: { field: a }", Unplayable::Pattern),
            ("format: raw, framing: { length: 9 }", "f: { field: hex }", Unplayable::Raw),
        ];
        for (serial, points, expected) in cases {
            assert_eq!(lines(&instrument(serial, points), 0, |_| 1.0), Err(expected), "{serial}");
        }
    }
}
