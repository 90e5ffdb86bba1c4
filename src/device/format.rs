//! Payloads of readings and command results: JSON and plain. Pure text: never knows topics or when.

use crate::base::time::Now;
use crate::base::undated::write_time;
use crate::device::reading::{Quality, Reading};
use crate::device::value::{Value, write_json_text};

/// `{"value":230.1,"unit":"V","quality":"good","time":"…"}`; a bad one has `"value":null` and an `error`. The time is as
/// `now` knows it: before the clock is set, `"clock":"unsynchronised"` stands behind it.
pub fn json_point(reading: &Reading, unit: Option<&str>, now: Now) -> String {
    let mut out = String::from("{\"value\":");
    write_value(reading, &mut out);
    if let Some(unit) = unit {
        out.push_str(",\"unit\":");
        write_json_text(unit, &mut out);
    }
    out.push_str(",\"quality\":\"");
    out.push_str(reading.quality.as_str());
    out.push('"');
    if let Some(error) = &reading.error {
        out.push_str(",\"error\":");
        write_json_text(&error.to_string(), &mut out);
    }
    out.push(',');
    write_time(reading.at.dated_by(now), &mut out);
    out.push('}');
    out
}

/// `{"time":"…","values":{"voltage":230.1},"quality":{"energy":"stale"}}`: a point that was never read is in
/// neither, `quality` names only the points that are not good.
pub fn json_device<'a>(readings: impl Iterator<Item = (&'a str, &'a Reading)> + Clone, now: Now) -> String {
    // By the monotonic clock: the other may have been stepped between two readings.
    let latest = readings.clone().map(|(_, reading)| reading.at).max_by_key(|at| at.instant).unwrap_or(now);
    let mut out = String::from("{");
    write_time(latest.dated_by(now), &mut out);
    out.push_str(",\"values\":{");
    let values = readings.clone();
    write_members(values, &mut out, write_value);
    out.push_str("},\"quality\":{");
    let doubtful = readings.filter(|(_, reading)| reading.quality != Quality::Good);
    write_members(doubtful, &mut out, |reading, out| write_json_text(reading.quality.as_str(), out));
    out.push_str("}}");
    out
}

/// The value alone; None where there is none.
pub fn plain_point(reading: &Reading) -> Option<String> {
    reading.value.as_ref().map(Value::to_string)
}

/// `{"value":21.5,"ok":true}`
pub fn command_done(value: &Value) -> String {
    let mut out = String::from("{\"value\":");
    value.write_json(&mut out);
    out.push_str(",\"ok\":true}");
    out
}

/// `{"ok":false,"error":"…"}`
pub fn command_failed(error: &str) -> String {
    let mut out = String::from("{\"ok\":false,\"error\":");
    write_json_text(error, &mut out);
    out.push('}');
    out
}

fn write_value(reading: &Reading, out: &mut String) {
    match &reading.value {
        Some(value) => value.write_json(out),
        None => out.push_str("null"),
    }
}

fn write_members<'a>(
    members: impl Iterator<Item = (&'a str, &'a Reading)>,
    out: &mut String,
    write: impl Fn(&Reading, &mut String),
) {
    for (index, (name, reading)) in members.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_json_text(name, out);
        out.push(':');
        write(reading, out);
    }
}

#[cfg(test)]
mod tests {
    use super::{command_done, command_failed, json_device, json_point, plain_point};
    use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
    use crate::device::map::ValueError;
    use crate::device::reading::{BadReason, Quality, Reading};
    use crate::device::request::Exception;
    use crate::device::value::Value;

    const TIME: Timestamp = Timestamp::from_millis(1_795_255_200_123);
    const TEN: Now = Now { instant: Instant::BOOT, wall: TIME };

    fn good(value: Value) -> Reading {
        Reading::good(value, TEN)
    }

    #[test]
    fn a_point_reads_exactly_so() {
        let stale = Reading { quality: Quality::Stale, ..good(Value::Unsigned(7)) };
        let cases = [
            (
                good(Value::Float(230.1)),
                Some("V"),
                r#"{"value":230.1,"unit":"V","quality":"good","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
            (
                good(Value::Bool(true)),
                None,
                r#"{"value":true,"quality":"good","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
            (
                good(Value::Text("a\"b".into())),
                None,
                r#"{"value":"a\"b","quality":"good","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
            (
                stale,
                Some("°C"),
                r#"{"value":7,"unit":"°C","quality":"stale","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
            (
                Reading::bad(BadReason::Exception(Exception(2)), TEN),
                Some("V"),
                r#"{"value":null,"unit":"V","quality":"bad","error":"exception 2 (illegal data address)","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
            (
                Reading::bad(BadReason::Value(ValueError::NotFinite), TEN),
                None,
                r#"{"value":null,"quality":"bad","error":"not a finite number","time":"2026-11-21T10:00:00.123Z"}"#,
            ),
        ];
        for (reading, unit, text) in cases {
            let payload = json_point(&reading, unit, TEN);
            assert_eq!(payload, text);
            serde_json::from_str::<serde_json::Value>(&payload).expect("valid JSON");
        }
    }

    #[test]
    fn a_device_reads_exactly_so() {
        let stale = Reading { quality: Quality::Stale, ..good(Value::Unsigned(7)) };
        let bad = Reading::bad(BadReason::Value(ValueError::NotText), TEN);
        let (voltage, relay) = (good(Value::Float(230.1)), good(Value::Bool(true)));
        let all = [("voltage", &voltage), ("relay", &relay), ("energy", &stale), ("name", &bad)];
        assert_eq!(
            json_device(all.into_iter(), TEN),
            r#"{"time":"2026-11-21T10:00:00.123Z","values":{"voltage":230.1,"relay":true,"energy":7,"name":null},"quality":{"energy":"stale","name":"bad"}}"#
        );
        assert_eq!(
            json_device(all.into_iter().take(1), TEN),
            r#"{"time":"2026-11-21T10:00:00.123Z","values":{"voltage":230.1},"quality":{}}"#
        );
    }

    #[test]
    fn a_time_before_the_clock_is_set_is_marked_and_told_once_it_is() {
        let after = |secs, wall| Now { instant: Instant::BOOT + Duration::from_secs(secs), wall };
        let unset = |millis| Timestamp::from_millis(millis).with_doubt(Doubt::Unset);
        let reading = Reading::good(Value::Float(230.1), after(5, unset(5_123)));
        let cases = [
            (after(5, unset(5_123)), r#""time":"1970-01-01T00:00:05.123Z","clock":"unsynchronised""#),
            // Stepped, and still not set: by the same clock as what is published beside it.
            (after(6, unset(86_406_123)), r#""time":"1970-01-02T00:00:05.123Z","clock":"unsynchronised""#),
            (after(15, Timestamp::from_millis(1_795_255_210_123)), r#""time":"2026-11-21T10:00:00.123Z""#),
        ];
        for (now, time) in cases {
            let expected = format!(r#"{{"value":230.1,"unit":"V","quality":"good",{time}}}"#);
            assert_eq!(json_point(&reading, Some("V"), now), expected);
            let device = json_device([("voltage", &reading)].into_iter(), now);
            assert_eq!(device, format!(r#"{{{time},"values":{{"voltage":230.1}},"quality":{{}}}}"#));
        }
    }

    #[test]
    fn plain_is_the_value_alone() {
        let cases = [
            (good(Value::Float(230.1)), Some("230.1")),
            (good(Value::Bool(false)), Some("false")),
            (good(Value::Text("auto".into())), Some("auto")),
            (Reading::bad(BadReason::Exception(Exception(4)), TEN), None),
        ];
        for (reading, text) in cases {
            assert_eq!(plain_point(&reading).as_deref(), text);
        }
    }

    #[test]
    fn command_results_read_exactly_so() {
        assert_eq!(command_done(&Value::Float(21.5)), r#"{"value":21.5,"ok":true}"#);
        assert_eq!(
            command_failed("setpoint: 99 is above max 30"),
            r#"{"ok":false,"error":"setpoint: 99 is above max 30"}"#
        );
    }
}
