//! Fields to values and back: types, labels, scale. Pure: never knows where a field stands.

use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::config::instrument::{FieldPath, FieldPoint, FieldType};
use crate::config::point::Meaning;
use crate::device::command::CommandError;
use crate::device::map::ValueError;
use crate::device::map::encode::WriteError;
use crate::device::serial::checksum::hex_of;
use crate::device::serial::line::Said;
use crate::device::value::{Value, float_text, nearest_float, rounded, significant};

/// Bytes of a text or a frame that is written.
const WRITTEN_BYTES_MAX: usize = 4096;

/// Why a field is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// The line ends before it.
    Missing,
    Empty,
    NotNumber,
    NotBool,
    NotWhole,
    OutOfRange,
    /// None of the texts that have a label.
    NoLabel,
    /// A list, an object or null.
    NoValue,
    /// The receiver does not know where it is.
    NoFix,
    /// Its bytes are no value.
    Value(ValueError),
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the field is missing",
            Self::Empty => "the field is empty",
            Self::NotNumber => "the field is not a number",
            Self::NotBool => "the field is not true or false",
            Self::NotWhole => "the field is not a whole number",
            Self::OutOfRange => "the field is beyond its type",
            Self::NoLabel => "the field is none of the labels",
            Self::NoValue => "the field holds no value",
            Self::NoFix => "the receiver has no fix",
            Self::Value(error) => return error.fmt(f),
        })
    }
}

impl std::error::Error for FieldError {}

/// Why a value cannot be written to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    NotLabel,
    NotHex,
    /// A control character, or one beyond a byte.
    NotPlain,
    TooLong,
    OutOfType,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLabel => f.write_str("takes one of its labels"),
            Self::NotHex => f.write_str("takes bytes in hex, as 02 0A FF"),
            Self::NotPlain => f.write_str("takes text without control characters, of one byte each"),
            Self::TooLong => write!(f, "takes at most {WRITTEN_BYTES_MAX} bytes"),
            Self::OutOfType => f.write_str("is beyond its type"),
        }
    }
}

impl std::error::Error for TextError {}

/// The value of what a line says.
pub fn value_of(point: &FieldPoint, said: &Said<'_>) -> Result<Value, FieldError> {
    match said {
        Said::Text(text) => of_text(point, text),
        Said::Value(value) => Ok(value.clone()),
        Said::Json(Json::String(text)) => of_text(point, text),
        Said::Json(Json::Bool(flag)) if matches!(point.value_type, FieldType::AsSaid | FieldType::Bool) => {
            if point.labels.is_empty() {
                Ok(Value::Bool(*flag))
            } else {
                of_text(point, &flag.to_string())
            }
        }
        Said::Json(Json::Bool(flag)) => of_text(point, &flag.to_string()),
        Said::Json(Json::Number(number)) => of_json_number(point, &number.to_string()),
        Said::Json(Json::Null | Json::Array(_) | Json::Object(_)) => Err(FieldError::NoValue),
    }
}

/// Through its text: there integers stay exact.
fn of_json_number(point: &FieldPoint, text: &str) -> Result<Value, FieldError> {
    if point.labels.is_empty() && point.value_type == FieldType::AsSaid {
        return match text.parse::<i128>() {
            Ok(number) => integer(point, number),
            Err(_) => float(point, text),
        };
    }
    of_text(point, text)
}

fn of_text(point: &FieldPoint, text: &str) -> Result<Value, FieldError> {
    if !point.labels.is_empty() {
        let label = point.labels.iter().find(|label| *label.text == *text);
        return label.map(|label| value_of_meaning(&label.meaning)).ok_or(FieldError::NoLabel);
    }
    if matches!(point.value_type, FieldType::Text | FieldType::AsSaid) {
        return Ok(Value::Text(text.into()));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(FieldError::Empty);
    }
    match point.value_type {
        FieldType::Bool => flag_of(text).map(Value::Bool).ok_or(FieldError::NotBool),
        FieldType::Integer { min, max } => {
            let number = text.strip_prefix('+').unwrap_or(text).parse::<i128>();
            let number = number.map_err(|_| match float_of(text) {
                Some(_) => FieldError::NotWhole,
                None => FieldError::NotNumber,
            })?;
            if (min..=max).contains(&number) { integer(point, number) } else { Err(FieldError::OutOfRange) }
        }
        FieldType::Float => float(point, text),
        FieldType::Text | FieldType::AsSaid => Ok(Value::Text(text.into())),
    }
}

fn value_of_meaning(meaning: &Meaning) -> Value {
    match meaning {
        Meaning::Text(text) => Value::Text(Arc::clone(text)),
        Meaning::Flag(flag) => Value::Bool(*flag),
    }
}

fn flag_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" => Some(true),
        "false" | "0" | "off" => Some(false),
        _ => None,
    }
}

/// Digits, a point and an exponent: what Rust takes beside them, as `inf`, no instrument means.
fn float_of(text: &str) -> Option<f64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse::<f64>().ok().filter(|number| is_plain && number.is_finite())
}

fn integer(point: &FieldPoint, number: i128) -> Result<Value, FieldError> {
    if !is_scaled(point) {
        let exact = u64::try_from(number).map(Value::Unsigned);
        let exact = exact.or_else(|_| i64::try_from(number).map(Value::Signed));
        return exact.map_err(|_| FieldError::OutOfRange);
    }
    scaled(point, nearest_float(number))
}

fn float(point: &FieldPoint, text: &str) -> Result<Value, FieldError> {
    scaled(point, float_of(text).ok_or(FieldError::NotNumber)?)
}

fn is_scaled(point: &FieldPoint) -> bool {
    // Both are written by hand: only the exact neutral elements count as none.
    (point.scale, point.offset) != (1.0, 0.0) || point.round.is_some()
}

fn scaled(point: &FieldPoint, number: f64) -> Result<Value, FieldError> {
    let value = number * point.scale + point.offset;
    let value = match point.round {
        Some(decimals) => rounded(value, decimals.into()),
        None if is_scaled(point) => significant(value),
        None => number,
    };
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(FieldError::OutOfRange) }
}

/// What is written so that the field says a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub bytes: Vec<u8>,
    /// What the device is to say afterwards.
    pub value: Value,
}

/// What has to be written so that the point says what `text` asks for.
pub fn encode(point: &FieldPoint, text: &str) -> Result<Written, CommandError> {
    if point.field == Some(FieldPath::Frame) {
        let bytes = bytes_of_hex(text)?;
        return Ok(Written { value: Value::Text(hex_of(&bytes).into()), bytes });
    }
    if !point.labels.is_empty() {
        return encode_label(point, text.trim());
    }
    match point.value_type {
        FieldType::Bool => {
            let flag = flag_of(text.trim()).ok_or(CommandError::Write(WriteError::NotBool))?;
            Ok(Written { bytes: vec![if flag { b'1' } else { b'0' }], value: Value::Bool(flag) })
        }
        FieldType::Integer { .. } | FieldType::Float => encode_number(point, text.trim()),
        FieldType::AsSaid if matches!(point.field, Some(FieldPath::Json(_))) => match text.trim() {
            flag @ ("true" | "false") => {
                Ok(Written { bytes: flag.into(), value: Value::Bool(flag == "true") })
            }
            number if float_of(number).is_some() => encode_number(point, number),
            _ => Ok(Written { bytes: plain_bytes(text)?, value: Value::Text(text.into()) }),
        },
        FieldType::AsSaid | FieldType::Text => {
            Ok(Written { bytes: plain_bytes(text)?, value: Value::Text(text.into()) })
        }
    }
}

fn bytes_of_hex(text: &str) -> Result<Vec<u8>, CommandError> {
    let digits: Vec<char> = text.chars().filter(|char| !char.is_ascii_whitespace()).collect();
    let byte = |pair: &[char]| match *pair {
        [high, low] => u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(CommandError::Text(TextError::NotHex))?;
    if bytes.len() > WRITTEN_BYTES_MAX { Err(CommandError::Text(TextError::TooLong)) } else { Ok(bytes) }
}

fn encode_label(point: &FieldPoint, text: &str) -> Result<Written, CommandError> {
    let means = |meaning: &Meaning| match meaning {
        Meaning::Text(meaning) => **meaning == *text,
        Meaning::Flag(flag) => flag_of(text) == Some(*flag),
    };
    let label = point.labels.iter().find(|label| means(&label.meaning));
    let label = label.ok_or(CommandError::Text(TextError::NotLabel))?;
    Ok(Written { bytes: plain_bytes(&label.text)?, value: value_of_meaning(&label.meaning) })
}

fn encode_number(point: &FieldPoint, text: &str) -> Result<Written, CommandError> {
    let number: f64 = text.parse().map_err(|_| CommandError::Write(WriteError::NotNumber))?;
    if !number.is_finite() {
        return Err(CommandError::Write(WriteError::NotFinite));
    }
    let asked = || text.parse().map_or(Value::Float(number), Value::Unsigned);
    match (point.min, point.max) {
        (Some(min), _) if number < min => {
            return Err(CommandError::Write(WriteError::BelowMin { value: asked(), min }));
        }
        (_, Some(max)) if number > max => {
            return Err(CommandError::Write(WriteError::AboveMax { value: asked(), max }));
        }
        _ => {}
    }
    let raw = significant((number - point.offset) / point.scale);
    let unscaled = match point.value_type {
        _ if (point.scale, point.offset) == (1.0, 0.0) => text.strip_prefix('+').unwrap_or(text).to_owned(),
        FieldType::Integer { .. } => float_text(raw.round()),
        _ => float_text(raw),
    };
    let value = if point.value_type == FieldType::AsSaid { of_json_number } else { of_text };
    let value = value(point, &unscaled).map_err(|error| match error {
        FieldError::NotWhole => CommandError::Write(WriteError::NotWhole(asked())),
        _ => CommandError::Text(TextError::OutOfType),
    })?;
    Ok(Written { bytes: unscaled.into_bytes(), value })
}

/// A line end in it would begin a command of its own.
fn plain_bytes(text: &str) -> Result<Vec<u8>, CommandError> {
    if text.len() > WRITTEN_BYTES_MAX {
        return Err(CommandError::Text(TextError::TooLong));
    }
    let byte = |char: char| u8::try_from(char).ok().filter(|_| !char.is_control());
    text.chars().map(byte).collect::<Option<_>>().ok_or(CommandError::Text(TextError::NotPlain))
}
