//! How `sub` prints a message: plain, with its topic, after a format (`-F`, as `mosquitto_sub` reads it), or as
//! JSON. Writes to a buffer; prints nothing itself.

use std::fmt;
use std::io::Write;

use serde::{Serialize, Serializer};

use crate::base::time::Timestamp;
use crate::cli::mqtt_wire::Publish;

/// One part of an output line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Char(char),
    Topic,
    Payload,
    PayloadHex,
    PayloadHexUpper,
    PayloadLength,
    PacketId,
    Qos,
    Retain,
    UnixTime,
    IsoTime,
    Json,
    JsonWithPayload,
    ContentType,
    CorrelationData,
    ExpiryInterval,
    FormatIndicator,
    UserProperties,
    ResponseTopic,
    SubscriptionIds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    UnknownLetter(char),
    UnknownEscape(char),
    /// `%` or `\` is the last character.
    Unfinished,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLetter(letter) => {
                write!(
                    f,
                    "%{letter} is no part of a message (%t %p %x %X %l %q %r %m %U %I %j %J %C %D %E %F %P %R %S %%)"
                )
            }
            Self::UnknownEscape(letter) => {
                write!(f, "\\{letter} is no escape (\\n \\t \\r \\0 \\a \\e \\v \\\\)")
            }
            Self::Unfinished => f.write_str("ends in the middle of a % or \\ pair"),
        }
    }
}

impl std::error::Error for FormatError {}

impl std::str::FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' => part(chars.next().ok_or(FormatError::Unfinished)?)?,
                '\\' => escape(chars.next().ok_or(FormatError::Unfinished)?)?,
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }
}

fn part(letter: char) -> Result<Part, FormatError> {
    Ok(match letter {
        '%' => Part::Char('%'),
        't' => Part::Topic,
        'p' => Part::Payload,
        'x' => Part::PayloadHex,
        'X' => Part::PayloadHexUpper,
        'l' => Part::PayloadLength,
        'm' => Part::PacketId,
        'q' => Part::Qos,
        'r' => Part::Retain,
        'U' => Part::UnixTime,
        'I' => Part::IsoTime,
        'j' => Part::Json,
        'J' => Part::JsonWithPayload,
        'C' => Part::ContentType,
        'D' => Part::CorrelationData,
        'E' => Part::ExpiryInterval,
        'F' => Part::FormatIndicator,
        'P' => Part::UserProperties,
        'R' => Part::ResponseTopic,
        'S' => Part::SubscriptionIds,
        letter => return Err(FormatError::UnknownLetter(letter)),
    })
}

fn escape(letter: char) -> Result<Part, FormatError> {
    Ok(Part::Byte(match letter {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        '0' => 0,
        'a' => 0x07,
        'e' => 0x1b,
        'v' => 0x0b,
        '\\' => b'\\',
        letter => return Err(FormatError::UnknownEscape(letter)),
    }))
}

impl Format {
    pub fn payload() -> Self {
        Self(vec![Part::Payload])
    }

    pub fn topic_and_payload() -> Self {
        Self(vec![Part::Topic, Part::Char(' '), Part::Payload])
    }

    pub fn json() -> Self {
        Self(vec![Part::Json])
    }

    /// Appends the message to the buffer, without a line break behind it.
    pub fn render(&self, out: &mut Vec<u8>, message: &Publish, time: Timestamp) {
        for part in &self.0 {
            part.render(out, message, time);
        }
    }
}

impl Part {
    fn render(self, out: &mut Vec<u8>, message: &Publish, time: Timestamp) {
        let properties = &message.properties;
        // Writing to a Vec cannot fail.
        let _ = match self {
            Self::Byte(byte) => out.write_all(&[byte]),
            Self::Char(c) => write!(out, "{c}"),
            Self::Topic => write!(out, "{}", message.topic),
            Self::Payload => out.write_all(&message.payload),
            Self::PayloadHex => message.payload.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Self::PayloadHexUpper => message.payload.iter().try_for_each(|byte| write!(out, "{byte:02X}")),
            Self::PayloadLength => write!(out, "{}", message.payload.len()),
            Self::PacketId => write!(out, "{}", message.id),
            Self::Qos => write!(out, "{}", message.qos.bits()),
            Self::Retain => write!(out, "{}", u8::from(message.retain)),
            Self::UnixTime => {
                let millis = time.as_millis();
                write!(out, "{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
            }
            Self::IsoTime => write!(out, "{time}"),
            Self::Json => out.write_all(json(message, time, payload_text(message)).as_bytes()),
            Self::JsonWithPayload => out.write_all(json(message, time, payload_value(message)).as_bytes()),
            Self::ContentType => write!(out, "{}", properties.content_type.as_deref().unwrap_or_default()),
            Self::CorrelationData => {
                out.write_all(properties.correlation_data.as_deref().unwrap_or_default())
            }
            Self::ExpiryInterval => properties.message_expiry_interval.map_or(Ok(()), |n| write!(out, "{n}")),
            Self::FormatIndicator => {
                properties.payload_format_indicator.map_or(Ok(()), |n| write!(out, "{n}"))
            }
            Self::UserProperties => {
                let pairs = properties.user_properties.iter().map(|(name, value)| format!("{name}:{value}"));
                write!(out, "{}", pairs.collect::<Vec<_>>().join(" "))
            }
            Self::ResponseTopic => {
                write!(out, "{}", properties.response_topic.as_deref().unwrap_or_default())
            }
            Self::SubscriptionIds => {
                let ids = properties.subscription_identifiers.iter().map(usize::to_string);
                write!(out, "{}", ids.collect::<Vec<_>>().join(" "))
            }
        };
    }
}

/// The keys that `mosquitto_sub` gives; `payload_hex` stands in for a payload that is not text.
#[derive(Serialize)]
struct JsonMessage<'a> {
    tst: String,
    topic: &'a str,
    qos: u8,
    retain: u8,
    #[serde(rename = "payloadlen")]
    payload_length: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<u16>,
    #[serde(skip_serializing_if = "JsonProperties::is_empty")]
    properties: JsonProperties<'a>,
    #[serde(flatten)]
    payload: JsonPayload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum JsonPayload<'a> {
    #[serde(rename = "payload")]
    Text(&'a str),
    #[serde(rename = "payload")]
    Value(serde_json::Value),
    #[serde(rename = "payload_hex")]
    Hex(String),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonProperties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    /// One object, in which a name may come twice.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_object")]
    user_properties: &'a [(String, String)],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    subscription_identifiers: &'a [usize],
}

fn as_object<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

impl JsonProperties<'_> {
    fn is_empty(&self) -> bool {
        self.payload_format_indicator.is_none()
            && self.message_expiry_interval.is_none()
            && self.content_type.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.user_properties.is_empty()
            && self.subscription_identifiers.is_empty()
    }
}

fn json(message: &Publish, time: Timestamp, payload: JsonPayload<'_>) -> String {
    let properties = &message.properties;
    let shown = JsonMessage {
        tst: time.to_string(),
        topic: &message.topic,
        qos: message.qos.bits(),
        retain: u8::from(message.retain),
        payload_length: message.payload.len(),
        mid: (message.id > 0).then_some(message.id),
        properties: JsonProperties {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: properties.message_expiry_interval,
            content_type: properties.content_type.as_deref(),
            response_topic: properties.response_topic.as_deref(),
            correlation_data: properties.correlation_data.as_ref().map(|data| text_or_hex(data)),
            user_properties: &properties.user_properties,
            subscription_identifiers: &properties.subscription_identifiers,
        },
        payload,
    };
    // Nothing in it can fail: text, numbers and JSON that was parsed.
    serde_json::to_string(&shown).unwrap_or_default()
}

fn payload_text(message: &Publish) -> JsonPayload<'_> {
    match std::str::from_utf8(&message.payload) {
        Ok(text) => JsonPayload::Text(text),
        Err(_) => JsonPayload::Hex(hex(&message.payload)),
    }
}

/// A payload that is JSON becomes part of the object.
fn payload_value(message: &Publish) -> JsonPayload<'_> {
    serde_json::from_slice(&message.payload).map_or_else(|_| payload_text(message), JsonPayload::Value)
}

fn text_or_hex(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{Format, FormatError};
    use crate::base::time::Timestamp;
    use crate::cli::mqtt_wire::Publish;
    use crate::mqtt::qos::QoS;
    use rumqttc::v5::mqttbytes::v5::PublishProperties;

    const TIME: Timestamp = Timestamp::from_millis(1_795_255_200_123);

    fn message(payload: &'static [u8]) -> Publish {
        Publish {
            id: 9,
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "a/b".to_owned(),
            payload: payload.into(),
            properties: PublishProperties::default(),
        }
    }

    fn rendered(format: &Format, message: &Publish) -> String {
        let mut out = Vec::new();
        format.render(&mut out, message, TIME);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn formats_print_the_parts_of_a_message() {
        let mut with_properties = message(b"21.5");
        with_properties.properties.content_type = Some("text/plain".to_owned());
        with_properties.properties.user_properties =
            vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())];
        let cases = [
            ("%t %p", "a/b 21.5"),
            ("%q%r%l%m", "1149"),
            ("100%%\\t%x|%X", "100%\t32312e35|32312E35"),
            ("%U %I", "1795255200.123 2026-11-21T10:00:00.123Z"),
            ("[%C] [%P] [%R] [%E]", "[text/plain] [k:v k:w] [] []"),
            ("\u{b0}C", "\u{b0}C"),
        ];
        for (format, line) in cases {
            assert_eq!(rendered(&format.parse().expect(format), &with_properties), line);
        }
        assert_eq!(rendered(&Format::topic_and_payload(), &message(b"1")), "a/b 1");
        let json = rendered(&Format::json(), &with_properties);
        let properties = r#""properties":{"content-type":"text/plain","user-properties":{"k":"v","k":"w"}}"#;
        assert!(json.contains(properties), "{json}");
    }

    #[test]
    fn json_holds_text_values_and_hex() {
        let head = r#"{"tst":"2026-11-21T10:00:00.123Z","topic":"a/b","qos":1,"retain":1,"payloadlen":"#;
        let cases: [(&str, &'static [u8], &str); 4] = [
            ("%j", b"{\"v\":1}", r#"7,"mid":9,"payload":"{\"v\":1}"}"#),
            ("%J", b"{\"v\":1}", r#"7,"mid":9,"payload":{"v":1}}"#),
            ("%J", b"not json", r#"8,"mid":9,"payload":"not json"}"#),
            ("%j", b"\xff\x00", r#"2,"mid":9,"payload_hex":"ff00"}"#),
        ];
        for (format, payload, tail) in cases {
            let line = rendered(&format.parse().expect(format), &message(payload));
            assert_eq!(line, format!("{head}{tail}"));
        }
    }

    #[test]
    fn bad_formats_are_refused() {
        let cases = [
            ("%y", FormatError::UnknownLetter('y')),
            ("\\q", FormatError::UnknownEscape('q')),
            ("a%", FormatError::Unfinished),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Format>(), Err(error));
        }
    }
}
