//! `-D PACKET PROPERTY VALUE`: MQTT 5 properties on the command line, as `mosquitto_pub` takes them. Knows which
//! packet takes which; sends nothing.

use std::fmt;

use bytes::Bytes;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, LastWillProperties, PublishProperties, SubscribeProperties,
};

const FLAG: &str = "property";

/// None and empty: none were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub connect: Option<ConnectProperties>,
    pub publish: PublishProperties,
    will: Option<WillProperties>,
    pub subscribe: Option<SubscribeProperties>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct WillProperties {
    delay_interval: Option<u32>,
    /// Of the message that it becomes.
    message: PublishProperties,
}

impl Properties {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn will(&self) -> Option<LastWillProperties> {
        let WillProperties { delay_interval, message } = self.will.clone()?;
        Some(LastWillProperties {
            delay_interval,
            payload_format_indicator: message.payload_format_indicator,
            message_expiry_interval: message.message_expiry_interval,
            content_type: message.content_type,
            response_topic: message.response_topic,
            correlation_data: message.correlation_data,
            user_properties: message.user_properties,
        })
    }

    /// `words` are those behind one `-D`.
    fn apply<'a>(&mut self, words: &[&'a str]) -> Result<(), Refused<'a>> {
        let (packet, name, value, second) = match *words {
            [packet, name @ "user-property", value, second] => (packet, name, value, Some(second)),
            [_, "user-property", _] => return Err(Refused::NoPair),
            [packet, name, value] => (packet, name, value, None),
            _ => return Err(Refused::TooMany(words.to_vec())),
        };
        let known = match packet.to_ascii_lowercase().as_str() {
            "connect" => self.apply_connect(name, value, second),
            "publish" => apply_to_message(&mut self.publish, name, value, second),
            "will" => self.apply_will(name, value, second),
            "subscribe" => self.apply_subscribe(name, value, second),
            _ => return Err(Refused::NoPacket(packet)),
        };
        known.map_err(|error| match error {
            Wrong::Name => Refused::NoProperty { packet, name },
            Wrong::Value => Refused::NoValue { packet, name, value },
        })
    }

    fn apply_connect(&mut self, name: &str, value: &str, second: Option<&str>) -> Result<(), Wrong> {
        let properties = self.connect.get_or_insert_with(ConnectProperties::new);
        match name {
            "session-expiry-interval" => properties.session_expiry_interval = Some(number(value)?),
            "receive-maximum" => properties.receive_maximum = Some(positive(value)?),
            "maximum-packet-size" => properties.max_packet_size = Some(positive(value)?),
            "request-response-information" => properties.request_response_info = Some(flag(value)?),
            "request-problem-information" => properties.request_problem_info = Some(flag(value)?),
            "user-property" => properties.user_properties.push(pair(value, second)),
            _ => return Err(Wrong::Name),
        }
        Ok(())
    }

    fn apply_will(&mut self, name: &str, value: &str, second: Option<&str>) -> Result<(), Wrong> {
        let will = self.will.get_or_insert_default();
        if name == "will-delay-interval" {
            will.delay_interval = Some(number(value)?);
            return Ok(());
        }
        apply_to_message(&mut will.message, name, value, second)
    }

    fn apply_subscribe(&mut self, name: &str, value: &str, second: Option<&str>) -> Result<(), Wrong> {
        let properties =
            self.subscribe.get_or_insert(SubscribeProperties { id: None, user_properties: Vec::new() });
        match name {
            // 3.8.2.1.2: a variable byte integer, never 0.
            "subscription-identifier" => properties.id = Some(positive(value)?),
            "user-property" => properties.user_properties.push(pair(value, second)),
            _ => return Err(Wrong::Name),
        }
        Ok(())
    }
}

fn apply_to_message(
    properties: &mut PublishProperties,
    name: &str,
    value: &str,
    second: Option<&str>,
) -> Result<(), Wrong> {
    match name {
        "payload-format-indicator" => properties.payload_format_indicator = Some(flag(value)?),
        "message-expiry-interval" => properties.message_expiry_interval = Some(number(value)?),
        "content-type" => properties.content_type = Some(value.to_owned()),
        "response-topic" => properties.response_topic = Some(value.to_owned()),
        "correlation-data" => properties.correlation_data = Some(Bytes::from(value.to_owned())),
        "user-property" => properties.user_properties.push(pair(value, second)),
        _ => return Err(Wrong::Name),
    }
    Ok(())
}

/// Why the words behind one `-D` are no property.
#[derive(Debug, PartialEq, Eq)]
enum Refused<'a> {
    TooMany(Vec<&'a str>),
    NoPair,
    NoPacket(&'a str),
    NoProperty { packet: &'a str, name: &'a str },
    NoValue { packet: &'a str, name: &'a str, value: &'a str },
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(words) => write!(f, "too many values: {}", words.join(" ")),
            Self::NoPair => f.write_str("user-property takes a name and a value"),
            Self::NoPacket(packet) => write!(f, "{packet}: connect, publish, will or subscribe"),
            Self::NoProperty { packet, name } => write!(f, "{packet} has no property {name}"),
            Self::NoValue { packet, name, value } => {
                write!(f, "{packet} {name}: {value} is no valid value")
            }
        }
    }
}

enum Wrong {
    Name,
    Value,
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Wrong> {
    text.parse().map_err(|_| Wrong::Value)
}

fn positive<T: std::str::FromStr + Default + PartialEq>(text: &str) -> Result<T, Wrong> {
    number(text).and_then(|value| if value == T::default() { Err(Wrong::Value) } else { Ok(value) })
}

fn flag(text: &str) -> Result<u8, Wrong> {
    number(text).and_then(|value| if value > 1 { Err(Wrong::Value) } else { Ok(value) })
}

fn pair(name: &str, value: Option<&str>) -> (String, String) {
    (name.to_owned(), value.unwrap_or_default().to_owned())
}

impl Args for Properties {
    fn augment_args(command: Command) -> Command {
        let flag = Arg::new(FLAG)
            .short('D')
            .long(FLAG)
            .num_args(3..=4)
            .value_names(["PACKET", "PROPERTY", "VALUE"])
            .action(ArgAction::Append)
            .help("An MQTT 5 property: PACKET is connect, publish, will or subscribe; user-property takes a name and a value");
        command.arg(flag)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Properties {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut properties = Self::default();
        properties.update_from_arg_matches(matches)?;
        Ok(properties)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for words in matches.get_occurrences::<String>(FLAG).into_iter().flatten() {
            let words: Vec<&str> = words.map(String::as_str).collect();
            let invalid =
                |what: Refused<'_>| clap::Error::raw(ErrorKind::InvalidValue, format!("-D: {what}"));
            self.apply(&words).map_err(invalid)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Properties;

    #[test]
    fn properties_go_to_their_packets() {
        let mut properties = Properties::default();
        let given: [&[&str]; 6] = [
            &["publish", "user-property", "a", "b"],
            &["PUBLISH", "message-expiry-interval", "60"],
            &["connect", "session-expiry-interval", "3600"],
            &["connect", "user-property", "c", "d"],
            &["will", "will-delay-interval", "5"],
            &["subscribe", "subscription-identifier", "7"],
        ];
        for words in given {
            properties.apply(words).expect("a property");
        }
        assert_eq!(properties.publish.user_properties, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(properties.publish.message_expiry_interval, Some(60));
        assert_eq!(properties.will().and_then(|will| will.delay_interval), Some(5));
        let connect = properties.connect.expect("some for CONNECT");
        assert_eq!((connect.session_expiry_interval, connect.user_properties.len()), (Some(3600), 1));
        assert_eq!(properties.subscribe.and_then(|subscribe| subscribe.id), Some(7));
    }

    #[test]
    fn what_no_packet_takes_is_refused_with_the_reason() {
        let cases: [(&[&str], &str); 6] = [
            (&["puback", "reason-string", "x"], "puback: connect, publish, will or subscribe"),
            (&["publish", "colour", "red"], "publish has no property colour"),
            (
                &["publish", "payload-format-indicator", "2"],
                "publish payload-format-indicator: 2 is no valid value",
            ),
            (&["connect", "receive-maximum", "0"], "connect receive-maximum: 0 is no valid value"),
            (&["publish", "user-property", "a"], "user-property takes a name and a value"),
            (&["publish", "content-type", "a", "b"], "too many values: publish content-type a b"),
        ];
        for (words, error) in cases {
            assert_eq!(Properties::default().apply(words).expect_err("refused").to_string(), error);
        }
    }
}
