//! What a frame says, in the words of its format: from bytes to the texts of fields. Pure: never knows points.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::config::instrument::{Columns, FieldPath, LineFormat};
use crate::device::serial::binary;
use crate::device::serial::checksum::hex_of;
use crate::device::serial::csv;
use crate::device::serial::field::FieldError;
use crate::device::serial::framing::Frame;
use crate::device::serial::nmea::Sentence;
use crate::device::value::Value;

/// A frame that is as its format says.
#[derive(Debug)]
pub enum Line<'a> {
    Match(regex_lite::Captures<'a>),
    Json(Json),
    Csv(Vec<String>),
    Nmea(Sentence<'a>),
    Raw(&'a Frame),
}

/// What stands in a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Said<'a> {
    Text(Cow<'a, str>),
    Json(&'a Json),
    /// What bytes came to.
    Value(Value),
}

/// Text as it came: UTF-8, else a character for each byte. Line ends that the framing left belong to nobody.
pub fn text_of(frame: &Frame) -> Cow<'_, str> {
    let body = frame.body();
    let body = body.strip_suffix(b"\r").unwrap_or(body);
    match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => body.iter().copied().map(char::from).collect::<String>().into(),
    }
}

impl<'a> Line<'a> {
    /// `text` is the frame's. None where the line is none of the format's: noise, or meant for somebody else.
    pub fn parse(format: &LineFormat, frame: &'a Frame, text: &'a str) -> Option<Self> {
        match format {
            LineFormat::Match(pattern) => pattern.regex().captures(text).map(Self::Match),
            LineFormat::Json => {
                let json = serde_json::from_str(text).ok()?;
                matches!(json, Json::Object(_) | Json::Array(_)).then_some(Self::Json(json))
            }
            LineFormat::Csv(columns) => row(columns, text).map(Self::Csv),
            LineFormat::Nmea => Sentence::parse(text).map(Self::Nmea),
            LineFormat::Raw => Some(Self::Raw(frame)),
        }
    }

    /// None: this line does not speak of it.
    pub fn field(&self, path: &FieldPath) -> Option<Result<Said<'_>, FieldError>> {
        match (self, path) {
            (Self::Match(captures), FieldPath::Group(name)) => {
                captures.name(name).map(|group| Ok(Said::Text(group.as_str().into())))
            }
            (Self::Json(json), FieldPath::Json(path)) => {
                path.iter().try_fold(json, |json, part| member(json, part)).map(|json| Ok(Said::Json(json)))
            }
            (Self::Csv(fields), FieldPath::Column(at)) => {
                fields.get(*at).map(|field| Ok(Said::Text(field.as_str().into())))
            }
            (Self::Nmea(found), FieldPath::Nmea { sentence, part }) => {
                found.is(sentence).then(|| found.part(*part).map(|text| Said::Text(text.into())))
            }
            (Self::Raw(frame), FieldPath::Frame) => Some(Ok(Said::Text(hex_of(&frame.bytes).into()))),
            (Self::Raw(frame), FieldPath::Bytes(binary)) => {
                Some(binary::value_of(binary, &frame.bytes).map(Said::Value))
            }
            _ => None,
        }
    }
}

/// As many fields as there are columns: half a line, or two in one, has another number of them.
fn row(columns: &Columns, text: &str) -> Option<Vec<String>> {
    let fields = csv::fields(text, columns.separator)?;
    let is_row = fields.len() == columns.names.len();
    // Loggers say the names of their columns first.
    let is_heading = fields.iter().zip(&columns.names).all(|(field, name)| field.eq_ignore_ascii_case(name));
    (is_row && !is_heading).then_some(fields)
}

fn member<'a>(json: &'a Json, part: &str) -> Option<&'a Json> {
    match json {
        Json::Object(members) => members.get(part),
        Json::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}
