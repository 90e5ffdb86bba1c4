//! How a time stands in the JSON of a reading, with the mark of one that was read before the clock was set, and how
//! it is corrected there. Pure text.

use std::fmt::Write;

use crate::base::time::Timestamp;

const KEY: &str = "\"time\":\"";
/// Behind the time of a clock that was not set.
const MARK: &str = "\",\"clock\":\"unsynchronised\"";
/// Of `2026-11-21T10:00:00.123Z`.
const TIME_BYTES: usize = 24;

/// `"time":"…"`, and `,"clock":"unsynchronised"` where it was read before the clock was set.
pub fn write_time(time: Timestamp, out: &mut String) {
    let end = if time.is_doubtful() { MARK } else { "\"" };
    // Writing to a String cannot fail.
    let _ = write!(out, "{KEY}{time}{end}");
}

/// The payload with its time `later` milliseconds later and without the mark. None: it has no such mark.
///
/// Nothing else in such a payload reads like it: in a JSON text the quotes would be escaped, and a point named `clock`
/// stands behind the time, not beside it.
pub fn correct_time(payload: &[u8], later: i64) -> Option<Vec<u8>> {
    let ahead = KEY.len() + TIME_BYTES;
    let mut places = payload.windows(MARK.len()).enumerate().filter(|(_, found)| *found == MARK.as_bytes());
    let at = places.find_map(|(at, _)| (at >= ahead).then(|| at - ahead))?;
    let (before, rest) = payload.split_at_checked(at)?;
    let text = std::str::from_utf8(rest.get(..ahead)?).ok()?;
    let time: Timestamp = text.strip_prefix(KEY)?.parse().ok()?;
    let mut corrected = before.to_vec();
    let time = Timestamp::from_millis(time.as_millis().saturating_add(later));
    corrected.extend_from_slice(format!("{KEY}{time}\"").as_bytes());
    corrected.extend_from_slice(rest.get(ahead + MARK.len()..)?);
    Some(corrected)
}

#[cfg(test)]
mod tests {
    use super::{correct_time, write_time};
    use crate::base::time::{Doubt, Timestamp};

    const UNSET: Timestamp = Timestamp::from_millis(5_123).with_doubt(Doubt::Unset);

    #[test]
    fn a_marked_time_is_corrected_wherever_it_stands() {
        let mut member = String::new();
        write_time(UNSET, &mut member);
        assert_eq!(member, r#""time":"1970-01-01T00:00:05.123Z","clock":"unsynchronised""#);
        let later = 1_795_255_200_123 - 5_123;
        let right = r#""time":"2026-11-21T10:00:00.123Z""#;
        let around = [
            ("{", "}"),
            (r#"{"value":7,"unit":"°C","quality":"good","#, "}"),
            (r#"{"value":"\",\"clock\":\"unsynchronised\"","quality":"good","#, "}"),
            ("{", r#","values":{"clock":"unsynchronised"},"quality":{}}"#),
        ];
        for (before, behind) in around {
            let corrected = correct_time(format!("{before}{member}{behind}").as_bytes(), later).unwrap();
            assert_eq!(String::from_utf8(corrected).unwrap(), format!("{before}{right}{behind}"));
        }
    }

    #[test]
    fn what_has_no_mark_is_left_alone_whatever_it_holds() {
        let payloads = [
            "",
            "230.1",
            r#"{"value":1,"quality":"good","time":"2026-11-21T10:00:00.123Z"}"#,
            r#"","clock":"unsynchronised""#,
            r#"{"time":"soon","clock":"unsynchronised"}"#,
            r#"{"time":"2026-02-30T10:00:00.123Z","clock":"unsynchronised"}"#,
            r#"{"when":"2026-11-21T10:00:00.123Z","clock":"unsynchronised"}"#,
        ];
        for payload in payloads {
            assert_eq!(correct_time(payload.as_bytes(), 1), None, "{payload}");
        }
        assert_eq!(correct_time(b"\xff\xff\"time\":\"\xff\",\"clock\":\"unsynchronised\"", 1), None);
    }
}
