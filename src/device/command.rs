//! Commands: from a `/set` payload to a value, and from an outcome to its answer. Never knows how a register
//! is written, nor when.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::config::model::{Point, ValueType};
use crate::device::format;
use crate::device::map::ValueError;
use crate::device::map::encode::{WriteError, number_of_label};
use crate::device::request::Failure;
use crate::device::serial::field::TextError;
use crate::device::value::{BitsValue, NamedBits, Value};
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::TopicName;

/// How long a command of QoS 1 or 2 waits for its device where it has no expiry interval of its own.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(3600);

/// What a command's topic ends with.
pub const COMMAND_SUFFIX: &str = "/set";
/// What the topic of its answer ends with.
pub const RESULT_SUFFIX: &str = "/result";

/// A command for a line to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The device, by its index in the configuration.
    pub device: u16,
    /// By which its end is told to whoever keeps it. None: nobody does, it is carried out now or never.
    pub id: Option<PacketId>,
    pub message: Arc<Message>,
    /// It may have been begun before.
    pub repeated: bool,
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandError {
    Retained,
    Expired,
    /// Nor is it known whether the device took it.
    ExpiredInDoubt,
    /// Its device was silent for [`COMMAND_WAIT_MAX`].
    WaitedTooLong,
    Empty,
    NotText,
    /// A JSON object without `value`, or one that is no number, boolean or text.
    NoValue,
    UnknownPoint,
    /// The queue is full, or newer commands took its place in it.
    Displaced,
    /// The gateway stops.
    Stopping,
    Write(WriteError),
    /// The point that its scale comes from holds none.
    NoScale(ValueError),
    /// An instrument cannot be sent it.
    Text(TextError),
    /// The device did not take it.
    NotWritten(Failure),
    /// It left for the device, which has not said whether it took it.
    NotConfirmed(Failure),
    /// It was begun before the gateway stopped, and the device cannot say whether it was done.
    Interrupted,
    /// The device took it, but did not show it.
    NotReadBack(Failure),
    /// The device shows something else; None: nothing that is a value.
    ReadBack(Option<Value>),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retained => f.write_str("a retained command is refused"),
            Self::Expired => f.write_str("the command has expired"),
            Self::ExpiredInDoubt => f.write_str("the command has expired, and may have been written"),
            Self::WaitedTooLong => f.write_str("the device did not answer for too long"),
            Self::Empty => f.write_str("the command is empty"),
            Self::NotText => f.write_str("the command is not UTF-8 text"),
            Self::NoValue => f.write_str("the command has no value"),
            Self::UnknownPoint => f.write_str("no such point"),
            Self::Displaced => f.write_str("too many commands wait"),
            Self::Stopping => f.write_str("the gateway stops"),
            Self::Write(error) => error.fmt(f),
            Self::NoScale(error) => error.fmt(f),
            Self::Text(error) => error.fmt(f),
            Self::NotWritten(failure) => write!(f, "not written: {failure}"),
            Self::NotConfirmed(failure) => write!(f, "may have been written: {failure}"),
            Self::Interrupted => f.write_str("may have been written: the gateway was stopped meanwhile"),
            Self::NotReadBack(failure) => write!(f, "written, but not read back: {failure}"),
            Self::ReadBack(Some(value)) => write!(f, "the device holds {value} after the write"),
            Self::ReadBack(None) => f.write_str("the device holds no value after the write"),
        }
    }
}

impl std::error::Error for CommandError {}

/// How a command ended, for who has to tell it in other words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The device answered that it will not, or holds something else.
    Refused,
    /// The device did not answer, or not in time.
    Silent,
    /// The gateway had no room, or no time left.
    NotTaken,
}

impl Outcome {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Done, "done"),
        (Self::Refused, "refused"),
        (Self::Silent, "silent"),
        (Self::NotTaken, "not taken"),
    ];
    /// The property of an answer within the gateway that tells it.
    const PROPERTY: &'static str = "outcome";

    fn of(outcome: Result<&Value, &CommandError>) -> Self {
        let Err(error) = outcome else { return Self::Done };
        match error {
            CommandError::Displaced | CommandError::Stopping => Self::NotTaken,
            CommandError::Expired
            | CommandError::ExpiredInDoubt
            | CommandError::WaitedTooLong
            | CommandError::Interrupted => Self::Silent,
            CommandError::NotWritten(failure)
            | CommandError::NotConfirmed(failure)
            | CommandError::NotReadBack(failure) => match failure {
                Failure::Line(_) => Self::Silent,
                Failure::Exception(exception) if exception.is_unit_silent() => Self::Silent,
                Failure::Exception(_) => Self::Refused,
            },
            CommandError::Retained
            | CommandError::Empty
            | CommandError::NotText
            | CommandError::NoValue
            | CommandError::UnknownPoint
            | CommandError::Write(_)
            | CommandError::NoScale(_)
            | CommandError::Text(_)
            | CommandError::ReadBack(_) => Self::Refused,
        }
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(outcome, _)| *outcome == self).map_or("", |(_, name)| name)
    }
}

/// What an answer says that stays within the gateway.
pub fn outcome_of(answer: &Message) -> Outcome {
    let properties = answer.properties.iter().flat_map(|properties| &properties.user_properties);
    let mut said = properties.filter(|(key, _)| **key == *Outcome::PROPERTY);
    let name = said.next().map_or("", |(_, name)| name);
    Outcome::NAMES.iter().find(|(_, known)| *known == name).map_or(Outcome::Refused, |(outcome, _)| *outcome)
}

/// When its time runs out. What nobody keeps ends with its tries.
pub fn deadline(message: &Message) -> Instant {
    let arrived = message.arrived.instant;
    match (message.expiry_interval, message.qos) {
        (Some(interval), _) => arrived + interval,
        (None, QoS::AtMostOnce) => Instant::FAR_FUTURE,
        (None, QoS::AtLeastOnce | QoS::ExactlyOnce) => arrived + COMMAND_WAIT_MAX,
    }
}

/// Refuses what may not be done at all.
pub fn check(message: &Message, now: Now) -> Result<(), CommandError> {
    if message.retain {
        return Err(CommandError::Retained);
    }
    if deadline(message) <= now.instant {
        let expires = message.expiry_interval.is_some();
        return Err(if expires { CommandError::Expired } else { CommandError::WaitedTooLong });
    }
    Ok(())
}

/// The value that a payload asks for: plain, or `{"value":…}`; named bits also as the object that they are.
pub fn parse(point: &Point, payload: &[u8]) -> Result<Value, CommandError> {
    if !point.writable {
        return Err(CommandError::Write(WriteError::NotWritable));
    }
    if point.bits.is_empty() {
        return from_text(point, &text_of(payload)?).map_err(CommandError::Write);
    }
    let bits = match serde_json::from_str(utf8_of(payload)?) {
        Ok(serde_json::Value::Object(members)) => match members.get("value") {
            None => from_members(point, &members),
            Some(serde_json::Value::Object(members)) => from_members(point, members),
            Some(_) => Err(WriteError::NotBits),
        },
        _ => Err(WriteError::NotBits),
    };
    bits.map_err(CommandError::Write)
}

/// The text of what a payload asks for: there integers stay exact, and 1 may be true.
pub fn text_of(payload: &[u8]) -> Result<Cow<'_, str>, CommandError> {
    let text = utf8_of(payload)?;
    let Ok(serde_json::Value::Object(mut members)) = serde_json::from_str(text) else {
        return Ok(text.into());
    };
    match members.remove("value") {
        Some(serde_json::Value::String(text)) => Ok(text.into()),
        Some(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => {
            Ok(value.to_string().into())
        }
        _ => Err(CommandError::NoValue),
    }
}

fn utf8_of(payload: &[u8]) -> Result<&str, CommandError> {
    if payload.is_empty() {
        return Err(CommandError::Empty);
    }
    std::str::from_utf8(payload).map_err(|_| CommandError::NotText)
}

fn from_members(
    point: &Point,
    members: &serde_json::Map<String, serde_json::Value>,
) -> Result<Value, WriteError> {
    let parts = members.iter().map(|(name, value)| {
        let field = point.bits.iter().find(|field| *field.name == **name);
        let field = field.ok_or_else(|| WriteError::UnknownBit(name.as_str().into()))?;
        let name = Arc::clone(&field.name);
        let value = match (value.as_bool(), value.as_u64()) {
            (Some(flag), _) => BitsValue::Flag(flag),
            // A bit may be 1, as a coil may.
            (None, Some(number @ (0 | 1))) if field.width == 1 => BitsValue::Flag(number == 1),
            (None, Some(number)) => BitsValue::Number(number),
            (None, None) if field.width == 1 => return Err(WriteError::NotFlag(name)),
            (None, None) => return Err(WriteError::BitsTooLarge(name, field.max())),
        };
        Ok(NamedBits { name, value })
    });
    Ok(Value::Bits(parts.collect::<Result<_, _>>()?))
}

fn from_text(point: &Point, text: &str) -> Result<Value, WriteError> {
    match point.value_type {
        _ if !point.labels.is_empty() => from_label(point, text.trim()),
        ValueType::String { .. } => Ok(Value::Text(text.into())),
        ValueType::Bool => bool_of(text.trim()).ok_or(WriteError::NotBool),
        _ => number_of(text.trim()),
    }
}

/// A label, or the number that it stands for. A number without a label is one as well.
fn from_label(point: &Point, text: &str) -> Result<Value, WriteError> {
    let is_bool = point.value_type == ValueType::Bool;
    let flag = match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    let labelled = flag.and_then(|flag| number_of_label(point, &Value::Bool(flag)));
    let number = labelled.or_else(|| number_of_label(point, &Value::Text(text.into())));
    match number {
        Some(number) if is_bool => Ok(Value::Bool(number != 0)),
        Some(number) => Ok(u64::try_from(number)
            .map_or_else(|_| Value::Signed(i64::try_from(number).unwrap_or(i64::MIN)), Value::Unsigned)),
        None if is_bool => bool_of(text).ok_or_else(|| not_label(point, text)),
        None => number_of(text).map_err(|_| not_label(point, text)),
    }
}

fn not_label(point: &Point, text: &str) -> WriteError {
    let labels = point.labels.iter().map(|label| label.meaning.to_string().into());
    WriteError::NotLabel(text.into(), labels.collect())
}

fn bool_of(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" => Some(Value::Bool(true)),
        "false" | "0" | "off" => Some(Value::Bool(false)),
        _ => None,
    }
}

fn number_of(text: &str) -> Result<Value, WriteError> {
    if let Ok(value) = text.parse() {
        return Ok(Value::Unsigned(value));
    }
    if let Ok(value) = text.parse() {
        return Ok(Value::Signed(value));
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Float(value)),
        Ok(_) => Err(WriteError::NotFinite),
        Err(_) => Err(WriteError::NotNumber),
    }
}

/// The answer to a command: to its response topic with its correlation data, else to `result_topic`. None
/// where there is no topic to answer to.
pub fn answer(
    command: &Message,
    result_topic: Option<TopicName>,
    outcome: Result<&Value, (&str, &CommandError)>,
    now: Now,
) -> Option<Message> {
    let payload = match outcome {
        Ok(value) => format::command_done(value),
        Err((point, error)) => format::command_failed(&format!("{point}: {error}")),
    };
    let properties = command.properties.as_deref();
    // Nobody else can name such a topic.
    let is_own = command.origin == Origin::Gateway;
    let wanted = properties.and_then(|properties| properties.response_topic.clone());
    let wanted = wanted.filter(|topic| is_own || may_answer_to(topic));
    let is_wanted = wanted.is_some();
    let told = Outcome::of(outcome.map_err(|(_, error)| error));
    let mut message = Message::new(wanted.or(result_topic)?, payload, command.qos, Origin::Gateway, now);
    let correlation_data = properties.and_then(|properties| properties.correlation_data.clone());
    if is_wanted && correlation_data.is_some() {
        message.properties = Some(Box::new(MessageProperties { correlation_data, ..Default::default() }));
    }
    if is_own && is_wanted {
        let user_properties = vec![(Outcome::PROPERTY.into(), told.name().into())];
        message.properties = Some(Box::new(MessageProperties { user_properties, ..Default::default() }));
    }
    Some(message)
}

/// An answer must never be a command itself, which could go round for ever, nor pass for the server's word.
fn may_answer_to(topic: &TopicName) -> bool {
    !topic.is_system() && !topic.as_str().ends_with(COMMAND_SUFFIX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{CommandError, answer, check, parse};
    use crate::base::time::{Duration, Instant, Now, Timestamp};
    use crate::config::model::{Point, Table, ValueType};
    use crate::device::fixture::point;
    use crate::device::map::encode::WriteError;
    use crate::device::value::Value;
    use crate::mqtt::message::{Message, MessageProperties, Origin};
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;

    fn topic(text: &str) -> TopicName {
        TopicName::new(text).expect("a valid topic")
    }

    fn message(payload: &str) -> Message {
        let origin = Origin::Client("c".into());
        Message::new(topic("d/p/set"), payload.to_owned(), QoS::AtLeastOnce, origin, Now::default())
    }

    fn writable(value_type: ValueType) -> Point {
        Point { writable: true, ..point("p", Table::Holding, 0, value_type) }
    }

    #[test]
    fn payloads_are_plain_or_an_object_with_a_value() {
        let text = ValueType::String { registers: 8 };
        let cases = [
            (ValueType::F32, "21.5", Ok(Value::Float(21.5))),
            (ValueType::F32, " 21.5\n", Ok(Value::Float(21.5))),
            (ValueType::F32, r#"{"value":21.5}"#, Ok(Value::Float(21.5))),
            (ValueType::F32, r#"{"value":21.5,"by":"me"}"#, Ok(Value::Float(21.5))),
            (ValueType::F32, r#"{"value":"21.5"}"#, Ok(Value::Float(21.5))),
            (ValueType::U64, "18446744073709551615", Ok(Value::Unsigned(u64::MAX))),
            (ValueType::U64, r#"{"value":18446744073709551615}"#, Ok(Value::Unsigned(u64::MAX))),
            (ValueType::I64, "-9223372036854775808", Ok(Value::Signed(i64::MIN))),
            (ValueType::Bool, "true", Ok(Value::Bool(true))),
            (ValueType::Bool, "OFF", Ok(Value::Bool(false))),
            (ValueType::Bool, "1", Ok(Value::Bool(true))),
            (ValueType::Bool, r#"{"value":false}"#, Ok(Value::Bool(false))),
            (ValueType::Bool, "2", Err(CommandError::Write(WriteError::NotBool))),
            (text, "auto", Ok(Value::Text("auto".into()))),
            (text, "42", Ok(Value::Text("42".into()))),
            (text, r#"{"value":"auto"}"#, Ok(Value::Text("auto".into()))),
            (ValueType::F32, "", Err(CommandError::Empty)),
            (ValueType::F32, "{}", Err(CommandError::NoValue)),
            (ValueType::F32, r#"{"value":null}"#, Err(CommandError::NoValue)),
            (ValueType::F32, r#"{"value":[1]}"#, Err(CommandError::NoValue)),
            (ValueType::F32, "warm", Err(CommandError::Write(WriteError::NotNumber))),
            (ValueType::F32, "true", Err(CommandError::Write(WriteError::NotNumber))),
            (ValueType::F32, r#"{"value":true}"#, Err(CommandError::Write(WriteError::NotNumber))),
            (ValueType::F32, "NaN", Err(CommandError::Write(WriteError::NotFinite))),
            (ValueType::F32, "inf", Err(CommandError::Write(WriteError::NotFinite))),
            (ValueType::F32, "1e999", Err(CommandError::Write(WriteError::NotFinite))),
        ];
        for (value_type, payload, expected) in cases {
            assert_eq!(parse(&writable(value_type), payload.as_bytes()), expected, "{payload}");
        }
        let point = writable(ValueType::F32);
        assert_eq!(parse(&point, &[0xFF, 0xFE]), Err(CommandError::NotText));
        let read_only = Point { writable: false, ..point };
        assert_eq!(parse(&read_only, b"1"), Err(CommandError::Write(WriteError::NotWritable)));
    }

    #[test]
    fn retained_and_expired_commands_are_refused() {
        let at = |secs| Now {
            instant: Instant::ORIGIN + Duration::from_secs(secs),
            wall: Timestamp::from_millis(0),
        };
        assert_eq!(check(&message("1"), at(9)), Ok(()));
        let retained = Message { retain: true, ..message("1") };
        assert_eq!(check(&retained, at(0)), Err(CommandError::Retained));
        let old = Message { expiry_interval: Some(Duration::from_secs(5)), ..message("1") };
        assert_eq!(check(&old, at(4)), Ok(()));
        assert_eq!(check(&old, at(5)), Err(CommandError::Expired));
    }

    #[test]
    fn answers_go_where_they_were_asked_for_unless_they_would_be_commands() {
        let asked = |response: Option<&str>| Message {
            properties: Some(Box::new(MessageProperties {
                response_topic: response.map(topic),
                correlation_data: Some(Bytes::from_static(b"42")),
                ..Default::default()
            })),
            ..message("1")
        };
        let cases = [
            (asked(Some("my/answers")), "my/answers", Some(Bytes::from_static(b"42"))),
            (asked(None), "d/p/result", None),
            (message("1"), "d/p/result", None),
            (asked(Some("d/q/set")), "d/p/result", None),
            (asked(Some("$SYS/broker/uptime")), "d/p/result", None),
        ];
        for (command, expected_topic, correlation_data) in cases {
            let value = Value::Float(21.5);
            let result = answer(&command, Some(topic("d/p/result")), Ok(&value), Now::default());
            let result = result.expect("an answer");
            assert_eq!(result.topic.as_str(), expected_topic);
            assert_eq!(&result.payload[..], br#"{"value":21.5,"ok":true}"#);
            assert_eq!(
                result.properties.and_then(|properties| properties.correlation_data),
                correlation_data
            );
            assert_eq!((result.qos, result.retain), (QoS::AtLeastOnce, false));
        }
        let error = CommandError::Write(WriteError::AboveMax { value: Value::Unsigned(99), max: 30.0 });
        let result = answer(&message("99"), Some(topic("r")), Err(("setpoint", &error)), Now::default());
        assert_eq!(
            &result.expect("an answer").payload[..],
            br#"{"ok":false,"error":"setpoint: 99 is above max 30"}"#
        );
    }
}
