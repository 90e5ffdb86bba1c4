//! A point's last reading as the API shows it. Reads no device.

use crate::base::time::Now;
use crate::device::reading::{Quality as ReadingQuality, Reading};
use crate::device::status::PointStatus;
use crate::device::value::{BitsValue, NamedBits, Value};
use crate::web::snapshot::{PointSnapshot, Quality};

pub fn point(status: &PointStatus, now: Now) -> PointSnapshot {
    let reading: Option<&Reading> = status.reading.as_ref();
    PointSnapshot {
        name: status.name.to_string(),
        value: reading.and_then(|reading| reading.value.as_ref()).map_or(serde_json::Value::Null, json_of),
        unit: status.unit.as_deref().map(str::to_owned),
        quality: reading.map(|reading| match reading.quality {
            ReadingQuality::Good => Quality::Good,
            ReadingQuality::Stale => Quality::Stale,
            ReadingQuality::Bad => Quality::Bad,
        }),
        time: reading.map(|reading| reading.at.dated_by(now)),
        error: reading.and_then(|reading| reading.error.as_ref()).map(ToString::to_string),
        writable: status.writable,
    }
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Unsigned(value) => (*value).into(),
        Value::Signed(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(text) => text.as_ref().into(),
        Value::Bits(parts) => {
            let member = |part: &NamedBits| (part.name.to_string(), json_of_bits(part.value));
            serde_json::Value::Object(parts.iter().map(member).collect())
        }
    }
}

fn json_of_bits(value: BitsValue) -> serde_json::Value {
    match value {
        BitsValue::Flag(flag) => flag.into(),
        BitsValue::Number(number) => number.into(),
    }
}
