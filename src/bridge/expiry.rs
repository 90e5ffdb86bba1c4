//! How old a command from the cloud is. MQTT says when a message is over, and never when it was made: that says its
//! sender, in the user property `time` or in a member `time` of a JSON payload, as RFC 3339 has it. Decides nothing else.

use serde_json::Value;

use crate::base::time::{Duration, Now, Timestamp};
use crate::mqtt::message::MessageProperties;

/// A payload above this is no command, and is not looked into.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const NAME: &str = "time";

/// How long a message may still wait here that is good for `most`. None: it is too old, or its age cannot be told
/// because the clock is not set. Where it does not say when it was made, its time begins with its first arrival, since
/// which it has `waited`; that is told from then on.
pub(super) fn left(
    (most, waited): (Duration, Duration),
    payload: &[u8],
    properties: Option<&MessageProperties>,
    now: Now,
) -> Option<Duration> {
    let Some(made) = made_at(payload, properties) else { return (waited < most).then_some(most) };
    if now.wall.is_doubtful() {
        return None;
    }
    let age = now.wall.since(made);
    (age < most).then(|| most.saturating_sub(age).saturating_add(waited))
}

fn made_at(payload: &[u8], properties: Option<&MessageProperties>) -> Option<Timestamp> {
    let pairs = properties.map(|properties| &properties.user_properties);
    let told = pairs.into_iter().flatten().find(|(name, _)| &**name == NAME);
    if let Some((_, value)) = told {
        return parse(value);
    }
    if payload.len() > PAYLOAD_BYTES_MAX || payload.first() != Some(&b'{') {
        return None;
    }
    let payload: Value = serde_json::from_slice(payload).ok()?;
    parse(payload.get(NAME)?.as_str()?)
}

/// RFC 3339 with any number of digits behind the second, or none, and any offset.
fn parse(text: &str) -> Option<Timestamp> {
    let (seconds, rest) = text.split_at_checked("2026-11-21T10:00:00".len())?;
    let digits = rest.strip_prefix('.').map_or("", |rest| {
        rest.find(|c: char| !c.is_ascii_digit()).and_then(|end| rest.get(..end)).unwrap_or("")
    });
    let behind = rest.get(if digits.is_empty() { 0 } else { digits.len() + 1 }..)?;
    let millis: String = digits.chars().chain("000".chars()).take(3).collect();
    let at: Timestamp = format!("{}.{millis}Z", seconds.replace(['t', ' '], "T")).parse().ok()?;
    let minutes = match behind {
        "Z" | "z" => 0,
        offset => {
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            match offset.as_bytes().first()? {
                b'+' => minutes,
                b'-' => -minutes,
                _ => return None,
            }
        }
    };
    (minutes.abs() < 24 * 60).then(|| Timestamp::from_millis(at.as_millis() - minutes * 60_000))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        let cases = [
            ("2026-11-21T10:00:00Z", Some("2026-11-21T10:00:00.000Z")),
            ("2026-11-21T10:00:00.1Z", Some("2026-11-21T10:00:00.100Z")),
            ("2026-11-21T10:00:00.123456Z", Some("2026-11-21T10:00:00.123Z")),
            ("2026-11-21t12:30:00.5+02:30", Some("2026-11-21T10:00:00.500Z")),
            ("2026-11-21 08:00:00-02:00", Some("2026-11-21T10:00:00.000Z")),
            ("2026-11-21T10:00:00", None),
            ("2026-11-21T10:00:00.Z", None),
            ("2026-11-31T10:00:00Z", None),
            ("2026-11-21T10:00:00+99:00", None),
            ("2026-11-21T10:00:00+", None),
            ("yesterday, at about ten o'clock", None),
            ("", None),
            ("ééééééééééééééééééé", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }
}
