//! A buffered message as one line of JSON, and back. What is no text travels as base64. Keeps nothing.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::time::{Duration, Instant, Now, Timestamp};
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicError, TopicName};
use crate::store::record::Entry;

/// MQTT 5 1.5.4, 1.5.6: what a string, or binary data, can hold.
const FIELD_BYTES_MAX: usize = 65_535;

/// `seq` and `in_flight` are told and not taken: an import gives numbers of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MessageLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When the gateway took it; age and expiry count from there. None: the clock was not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry_seconds: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    pub in_flight: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<PropertiesLine>,
    /// Of a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadLine>,
}

/// When and why a message died. Told and not taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLine {
    /// None: the clock was not set.
    pub time: Option<String>,
    pub reason: String,
    pub detail: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PropertiesLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_format_utf8: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_data_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_properties: Vec<(String, String)>,
}

// serde passes fields by reference, however small.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum LineError {
    NoObject,
    Json(serde_json::Error),
    Topic(TopicError),
    ResponseTopic(TopicError),
    Qos(u8),
    Payloads,
    Base64(&'static str),
    Time,
    Field(&'static str),
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoObject => f.write_str("no message as JSON: an object would be right"),
            Self::Json(error) => write!(f, "no message as JSON: {error}"),
            Self::Topic(error) => write!(f, "topic: {error}"),
            Self::ResponseTopic(error) => write!(f, "properties.response_topic: {error}"),
            Self::Qos(found) => write!(f, "qos: {found} is never buffered (1 or 2 would be right)"),
            Self::Payloads => f.write_str("payload: one of `payload` and `payload_base64` would be right"),
            Self::Base64(key) => write!(f, "{key}: no base64"),
            Self::Time => f.write_str("time: like 2026-11-21T10:00:00.123Z would be right"),
            Self::Field(key) => write!(f, "{key}: too long, or with a null character in it"),
        }
    }
}

impl std::error::Error for LineError {}

impl MessageLine {
    pub fn of(entry: &Entry, in_flight: bool, now: Now) -> Self {
        let message = Message::leaving(&entry.message, in_flight, now);
        let taken = message.arrived.dated_by(now);
        let (payload, payload_base64) = match std::str::from_utf8(&message.payload) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(Base64::encode_string(&message.payload))),
        };
        Self {
            seq: Some(entry.seq.0),
            time: (!taken.is_doubtful()).then(|| taken.to_string()),
            topic: message.topic.as_str().to_owned(),
            qos: entry.qos.bits(),
            retain: entry.retain,
            payload,
            payload_base64,
            expiry_seconds: message
                .expiry_interval
                .map(|interval| u32::try_from(interval.as_secs()).unwrap_or(u32::MAX)),
            in_flight,
            properties: message.properties.as_deref().map(PropertiesLine::of),
            dead: None,
        }
    }

    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        // A list would be taken for the fields in their order.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(LineError::NoObject);
        }
        serde_json::from_slice(line).map_err(LineError::Json)
    }

    /// The message, taken when the line says, else `now`.
    pub fn message(self, now: Now) -> Result<Message, LineError> {
        let Some(qos @ (QoS::AtLeastOnce | QoS::ExactlyOnce)) = QoS::from_bits(self.qos) else {
            return Err(LineError::Qos(self.qos));
        };
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => decode("payload_base64", &text)?,
            _ => return Err(LineError::Payloads),
        };
        let arrived = match &self.time {
            None => now,
            Some(text) => {
                let wall: Timestamp = text.parse().map_err(|_| LineError::Time)?;
                let taken = Now { instant: Instant::BOOT, wall };
                // By a clock that is not set nothing is old: that is told once it is.
                if now.wall.is_doubtful() { taken } else { taken.told_by(now).unwrap_or(taken) }
            }
        };
        Ok(Message {
            topic: TopicName::new(&self.topic).map_err(LineError::Topic)?,
            payload,
            qos,
            retain: self.retain,
            properties: self.properties.map(PropertiesLine::properties).transpose()?.map(Box::new),
            expiry_interval: self.expiry_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            origin: Origin::Gateway,
            arrived,
        })
    }
}

impl PropertiesLine {
    fn of(properties: &MessageProperties) -> Self {
        let pairs = properties.user_properties.iter();
        Self {
            payload_format_utf8: properties.payload_format_utf8,
            content_type: properties.content_type.as_deref().map(str::to_owned),
            response_topic: properties.response_topic.as_ref().map(|topic| topic.as_str().to_owned()),
            correlation_data_base64: properties.correlation_data.as_deref().map(Base64::encode_string),
            user_properties: pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        }
    }

    fn properties(self) -> Result<MessageProperties, LineError> {
        let pairs = self.user_properties.into_iter();
        let pair = |(name, value)| {
            Ok((text("properties.user_properties", name)?, text("properties.user_properties", value)?))
        };
        let response_topic = self.response_topic.map(|topic| TopicName::new(&topic)).transpose();
        let correlation = self.correlation_data_base64.as_deref();
        let correlation_data =
            correlation.map(|text| decode("properties.correlation_data_base64", text)).transpose()?;
        if correlation_data.as_ref().is_some_and(|bytes| bytes.len() > FIELD_BYTES_MAX) {
            return Err(LineError::Field("properties.correlation_data_base64"));
        }
        Ok(MessageProperties {
            payload_format_utf8: self.payload_format_utf8,
            content_type: self
                .content_type
                .map(|content_type| text("properties.content_type", content_type))
                .transpose()?,
            response_topic: response_topic.map_err(LineError::ResponseTopic)?,
            correlation_data,
            user_properties: pairs.map(pair).collect::<Result<_, LineError>>()?,
        })
    }
}

fn decode(key: &'static str, text: &str) -> Result<Bytes, LineError> {
    Base64::decode_vec(text).map(Bytes::from).map_err(|_| LineError::Base64(key))
}

/// [MQTT-1.5.4-2]
fn text(key: &'static str, text: String) -> Result<Arc<str>, LineError> {
    if text.len() > FIELD_BYTES_MAX || text.contains('\0') {
        return Err(LineError::Field(key));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::{MessageLine, Now, Timestamp};
    use crate::base::time::{Duration, Instant};
    use crate::mqtt::qos::QoS;
    use crate::store::record::{Entry, Seq};

    const NOW: Now =
        Now { instant: Instant::from_nanos(1 << 60), wall: Timestamp::from_millis(1_795_255_200_123) };

    #[test]
    fn a_line_comes_back_as_it_left() {
        let lines = [
            r#"{"seq":7,"time":"2026-11-21T09:59:59.123Z","topic":"a/b","qos":1,"retain":true,"payload":"ü"}"#,
            r#"{"seq":7,"time":"2026-11-21T09:59:59.123Z","topic":"a","qos":2,"retain":false,"payload_base64":"/wA=","expiry_seconds":9,"properties":{"payload_format_utf8":false,"content_type":"c","response_topic":"r","correlation_data_base64":"AAE=","user_properties":[["k","v"],["k","w"]]}}"#,
        ];
        for line in lines {
            let message = MessageLine::parse(line.as_bytes()).unwrap().message(NOW).unwrap();
            assert_eq!(NOW.instant.since(message.arrived.instant), Duration::from_secs(1));
            let entry = Entry {
                seq: Seq(7),
                qos: message.qos,
                retain: message.retain,
                rule: 0,
                subscription_identifiers: Box::default(),
                message: message.into(),
            };
            assert_eq!(serde_json::to_string(&MessageLine::of(&entry, false, NOW)).unwrap(), line);
        }
    }

    #[test]
    fn what_is_no_message_is_told_by_its_key() {
        let lines = [
            ("", "no message as JSON: "),
            ("[1]", "no message as JSON: "),
            (
                r#"{"topic":"a","qos":1,"payload":"x","colour":1}"#,
                "no message as JSON: unknown field `colour`",
            ),
            (r#"{"topic":"a/#","qos":1,"payload":"x"}"#, "topic: "),
            (r#"{"qos":1,"payload":"x"}"#, "topic: "),
            (r#"{"topic":"a","payload":"x"}"#, "qos: 0 "),
            (r#"{"topic":"a","qos":3,"payload":"x"}"#, "qos: 3 "),
            (r#"{"topic":"a","qos":1}"#, "payload: "),
            (r#"{"topic":"a","qos":1,"payload":"x","payload_base64":"eA=="}"#, "payload: "),
            (r#"{"topic":"a","qos":1,"payload_base64":"!"}"#, "payload_base64: "),
            (r#"{"topic":"a","qos":1,"payload":"x","time":"yesterday"}"#, "time: "),
            (
                r#"{"topic":"a","qos":1,"payload":"x","properties":{"content_type":"\u0000"}}"#,
                "properties.content_type: ",
            ),
            (
                r#"{"topic":"a","qos":1,"payload":"x","properties":{"response_topic":"+"}}"#,
                "properties.response_topic: ",
            ),
        ];
        for (line, said) in lines {
            let error = MessageLine::parse(line.as_bytes()).and_then(|line| line.message(NOW)).unwrap_err();
            assert!(error.to_string().starts_with(said), "{line}: {error}");
        }
        let plain =
            MessageLine::parse(br#"{"topic":"a","qos":1,"payload":""}"#).unwrap().message(NOW).unwrap();
        assert_eq!((plain.qos, plain.arrived), (QoS::AtLeastOnce, NOW));
    }
}
