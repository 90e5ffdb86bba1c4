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

/// The payload with each marked time of it `later` milliseconds later and without the mark; a batch has several. None: it
/// has no such mark.
///
/// Nothing else in such a payload reads like it: in a JSON text the quotes would be escaped, and a point named `clock`
/// stands behind the time, not beside it.
pub fn correct_time(payload: &[u8], later: i64) -> Option<Vec<u8>> {
    moved(payload, later, "\"")
}

/// The same with the marks still there: the clock was stepped, and is not set.
pub fn shift_time(payload: &[u8], later: i64) -> Option<Vec<u8>> {
    moved(payload, later, MARK)
}

/// `end` stands behind each time then.
fn moved(payload: &[u8], later: i64, end: &str) -> Option<Vec<u8>> {
    let places = payload.windows(MARK.len()).enumerate().filter(|(_, found)| *found == MARK.as_bytes());
    let (mut moved, mut copied) = (Vec::new(), 0);
    for (mark, _) in places {
        let Some((from, time)) = time_before(payload, mark) else { continue };
        let time = Timestamp::from_millis(time.as_millis().saturating_add(later));
        moved.extend_from_slice(payload.get(copied..from)?);
        moved.extend_from_slice(format!("{KEY}{time}{end}").as_bytes());
        copied = mark + MARK.len();
    }
    moved.extend_from_slice(payload.get(copied..)?);
    (copied > 0).then_some(moved)
}

/// Where the member begins whose time ends at `mark`.
fn time_before(payload: &[u8], mark: usize) -> Option<(usize, Timestamp)> {
    let from = mark.checked_sub(KEY.len() + TIME_BYTES)?;
    let text = std::str::from_utf8(payload.get(from..mark)?).ok()?;
    Some((from, text.strip_prefix(KEY)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{correct_time, shift_time, write_time};
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
    fn each_time_of_a_batch_is_corrected_and_none_that_was_right() {
        let mut member = String::new();
        write_time(UNSET, &mut member);
        let right = r#""time":"2026-11-21T10:00:00.123Z""#;
        let batch =
            |first: &str, last: &str| format!(r#"[{{"value":1,{first}}},{{{right}}},{{"value":2,{last}}}]"#);
        let payload = batch(&member, &member);
        let corrected = correct_time(payload.as_bytes(), 1_795_255_200_123 - 5_123).unwrap();
        assert_eq!(String::from_utf8(corrected).unwrap(), batch(right, right));
        let shifted = shift_time(payload.as_bytes(), 1_000).unwrap();
        let member = member.replace("05.123", "06.123");
        assert_eq!(String::from_utf8(shifted).unwrap(), batch(&member, &member));
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
