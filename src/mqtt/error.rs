//! What can be wrong with bytes that arrive, and with a packet that is to be written. Never decides what
//! follows: the broker answers and closes.

use std::fmt;

use crate::mqtt::packet::PacketType;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicError;

/// Why bytes are not an MQTT packet that this peer may send. Always ends the connection [MQTT-4.13.1-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Larger than the receiver's maximum packet size; known from the fixed header alone.
    PacketTooLarge { packet_bytes: usize },
    /// Type 0, or AUTH before MQTT 5.
    PacketType(u8),
    /// [MQTT-2.1.3-1] [MQTT-2.2.2-2 of 3.1.1]: reserved bits of the fixed header.
    Flags(PacketType),
    /// A packet that only the other side may send.
    WrongSender(PacketType),
    /// More than four bytes.
    VarintTooLong,
    /// [MQTT-1.5.5-1]
    VarintNotMinimal,
    /// A field runs past the end of the packet, or of its properties.
    Truncated,
    /// The packet goes on where it should end.
    TrailingBytes,
    /// [MQTT-1.5.4-1] [MQTT-1.5.3-1 of 3.1.1]
    NotUtf8,
    /// [MQTT-1.5.4-2] [MQTT-1.5.3-2 of 3.1.1]
    HoldsNul,
    /// [MQTT-3.1.2-1] [MQTT-3.1.2-1 of 3.1.1]
    ProtocolName,
    /// [MQTT-3.1.2-2] [MQTT-3.1.2-2 of 3.1.1]: the level that the client asked for.
    ProtocolLevel(u8),
    /// [MQTT-3.1.2-3] [MQTT-3.1.2-3 of 3.1.1]
    ReservedConnectFlag,
    /// Will QoS or will retain without a will, or will QoS 3.
    WillFlags,
    /// [MQTT-3.1.2-22 of 3.1.1]; MQTT 5 allows it.
    PasswordWithoutUsername,
    /// [MQTT-3.2.2-1]
    ConnackFlags,
    /// [MQTT-3.2.2-6] [MQTT-3.2.2-4 of 3.1.1]
    SessionPresentOnRefusal,
    /// [MQTT-3.3.1-4]
    Qos,
    /// [MQTT-3.3.1-2]
    DupOnQos0,
    /// [MQTT-2.2.1-3] [MQTT-2.3.1-1 of 3.1.1]
    PacketIdZero,
    /// [MQTT-3.3.2-2]
    Topic(TopicError),
    /// [MQTT-4.7.1-1]
    Filter(TopicError),
    /// [MQTT-3.3.2-14]
    ResponseTopic(TopicError),
    /// An empty topic name without a topic alias.
    TopicMissing,
    /// [MQTT-3.3.2-8]
    TopicAliasZero,
    /// No property has this identifier.
    PropertyUnknown(u32),
    /// The property does not belong into this packet.
    PropertyNotAllowed(u8),
    /// Only user properties, and a server's subscription identifiers, may be repeated.
    PropertyRepeated(u8),
    /// The property's value is outside its range.
    PropertyValue(u8),
    /// [MQTT-3.3.4-6]
    SubscriptionIdentifierFromClient,
    /// [MQTT-3.14.2-2]
    SessionExpiryFromServer,
    /// Authentication data, or an AUTH packet, without a method.
    AuthenticationMethodMissing,
    /// [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    FiltersMissing,
    /// A SUBACK or UNSUBACK without any reason code.
    ReasonsMissing,
    /// [MQTT-3.8.3-5]
    SubscriptionOptions,
    /// 3.8.3.1: a subscription with QoS 3.
    MaximumQos,
    /// Retain handling 3.
    RetainHandling,
    /// [MQTT-3.8.3-4]
    NoLocalOnShared,
    /// Not a reason code that this packet may carry from this sender.
    ReasonCode(u8),
}

impl Malformed {
    /// What an MQTT 5 peer is told.
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ProtocolName | Self::ProtocolLevel(_) => ReasonCode::UnsupportedProtocolVersion,
            Self::Topic(_) => ReasonCode::TopicNameInvalid,
            Self::Filter(_) => ReasonCode::TopicFilterInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::WrongSender(_)
            | Self::SessionPresentOnRefusal
            | Self::PacketIdZero
            | Self::ResponseTopic(_)
            | Self::TopicMissing
            | Self::PropertyRepeated(_)
            | Self::PropertyValue(_)
            | Self::SubscriptionIdentifierFromClient
            | Self::SessionExpiryFromServer
            | Self::AuthenticationMethodMissing
            | Self::FiltersMissing
            | Self::MaximumQos
            | Self::RetainHandling
            | Self::NoLocalOnShared
            | Self::ReasonCode(_) => ReasonCode::ProtocolError,
            Self::PacketType(_)
            | Self::Flags(_)
            | Self::VarintTooLong
            | Self::VarintNotMinimal
            | Self::Truncated
            | Self::TrailingBytes
            | Self::NotUtf8
            | Self::HoldsNul
            | Self::ReservedConnectFlag
            | Self::WillFlags
            | Self::PasswordWithoutUsername
            | Self::ConnackFlags
            | Self::Qos
            | Self::DupOnQos0
            | Self::PropertyUnknown(_)
            | Self::PropertyNotAllowed(_)
            | Self::ReasonsMissing
            | Self::SubscriptionOptions => ReasonCode::MalformedPacket,
        }
    }

    /// The text of the variants that carry nothing to show.
    const fn plain_text(&self) -> &'static str {
        match self {
            Self::VarintTooLong => "a variable byte integer is longer than four bytes",
            Self::VarintNotMinimal => "a variable byte integer uses more bytes than it needs",
            Self::Truncated => "a field runs past the end of the packet",
            Self::TrailingBytes => "bytes follow after the end of the packet",
            Self::NotUtf8 => "a string is not UTF-8",
            Self::HoldsNul => "a string holds U+0000",
            Self::ProtocolName => "the protocol name is not MQTT",
            Self::ReservedConnectFlag => "the reserved connect flag is set",
            Self::WillFlags => "the will flags contradict each other",
            Self::PasswordWithoutUsername => "a password comes without a user name",
            Self::ConnackFlags => "reserved CONNACK flags are set",
            Self::SessionPresentOnRefusal => "a refusal says that a session is present",
            Self::Qos => "the QoS is 3",
            Self::DupOnQos0 => "DUP is set on QoS 0",
            Self::PacketIdZero => "the packet identifier is 0",
            Self::TopicMissing => "there is neither a topic name nor a topic alias",
            Self::TopicAliasZero => "the topic alias is 0",
            Self::SubscriptionIdentifierFromClient => "a client's PUBLISH has a subscription identifier",
            Self::SessionExpiryFromServer => "a server's DISCONNECT has a session expiry interval",
            Self::AuthenticationMethodMissing => "the authentication method is missing",
            Self::FiltersMissing => "there is no topic filter",
            Self::ReasonsMissing => "there is no reason code",
            Self::SubscriptionOptions => "reserved subscription options are set",
            Self::MaximumQos => "a subscription asks for QoS 3",
            Self::RetainHandling => "the retain handling is 3",
            Self::NoLocalOnShared => "No Local is set on a shared subscription",
            _ => "malformed",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PacketTooLarge { packet_bytes } => {
                write!(f, "a packet of {packet_bytes} bytes is too large")
            }
            Self::PacketType(number) => write!(f, "there is no packet type {number}"),
            Self::Flags(packet) => write!(f, "{packet} has wrong flags in its fixed header"),
            Self::WrongSender(packet) => write!(f, "{packet} may only be sent by the other side"),
            Self::ProtocolLevel(level) => write!(f, "protocol level {level} is not supported"),
            Self::Topic(error) => write!(f, "the topic name {error}"),
            Self::Filter(error) => write!(f, "a topic filter {error}"),
            Self::ResponseTopic(error) => write!(f, "the response topic {error}"),
            Self::PropertyUnknown(id) => write!(f, "there is no property {id:#04x}"),
            Self::PropertyNotAllowed(id) => write!(f, "property {id:#04x} does not belong into this packet"),
            Self::PropertyRepeated(id) => write!(f, "property {id:#04x} is repeated"),
            Self::PropertyValue(id) => write!(f, "property {id:#04x} has a value outside its range"),
            Self::ReasonCode(byte) => write!(f, "reason code {byte:#04x} does not belong into this packet"),
            other => f.write_str(other.plain_text()),
        }
    }
}

impl std::error::Error for Malformed {}

/// Why a packet cannot be written in a version. Each is a mistake of the caller's, none of a peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The remaining length is above 268 435 455.
    PacketTooLarge,
    /// A string or binary field is longer than 65 535 bytes, or an integer than its field.
    FieldTooLong,
    /// The version has no such packet.
    NotInVersion(PacketType),
    /// [MQTT-3.2.2-6 of 3.1.1]: no return code says this; the connection is closed without CONNACK.
    NoReturnCode(ReasonCode),
    /// [MQTT-3.1.2-22 of 3.1.1]
    PasswordWithoutUsername,
    /// A PUBLISH with neither a topic name nor an alias that the version knows.
    TopicMissing,
    /// A packet identifier on QoS 0 [MQTT-2.2.1-2] [MQTT-2.3.1-5 of 3.1.1], or none above it.
    PacketIdMismatch,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PacketTooLarge => f.write_str("the packet is larger than MQTT can say"),
            Self::FieldTooLong => f.write_str("a field is longer than MQTT can say"),
            Self::NotInVersion(packet) => write!(f, "this version of MQTT has no {packet}"),
            Self::NoReturnCode(reason) => write!(f, "MQTT 3 has no return code for: {reason}"),
            Self::PasswordWithoutUsername => f.write_str("MQTT 3 has no password without a user name"),
            Self::TopicMissing => f.write_str("there is neither a topic name nor a topic alias"),
            Self::PacketIdMismatch => f.write_str("the packet identifier does not fit the QoS"),
        }
    }
}

impl std::error::Error for EncodeError {}
