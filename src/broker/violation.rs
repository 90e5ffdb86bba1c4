//! What a client can do wrong. The brain has already answered and closed when it reports one; a violation is
//! for the log and the counters alone.

use crate::mqtt::reason::ReasonCode;

/// What was done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [MQTT-3.1.0-1] [MQTT-3.1.0-1 of 3.1.1]
    FirstPacketNotConnect,
    /// [MQTT-3.1.0-2] [MQTT-3.1.0-2 of 3.1.1]
    SecondConnect,
    /// CONNACK, SUBACK, UNSUBACK or PINGRESP came from a client.
    ServerPacket,
    /// [MQTT-4.12.0-7]
    UnexpectedAuth,
    /// [MQTT-3.3.4-6]
    SubscriptionIdentifierInPublish,
    /// [MQTT-3.3.2-9]
    TopicAliasTooLarge,
    /// Neither a topic name nor an alias that stands for one.
    TopicUnknown,
    /// QoS above 0 without a packet identifier [MQTT-2.2.1-2].
    PacketIdMissing,
    /// [MQTT-3.3.4-7]
    ReceiveMaximumExceeded,
    /// [MQTT-3.8.3-4]
    NoLocalOnShared,
    /// RETAIN, where CONNACK announced that nothing is retained (3.2.2.3.5).
    RetainNotSupported,
    /// More filters than the SUBACK or UNSUBACK that the client takes could answer [MQTT-3.1.2-24].
    AnswerTooLarge,
    /// A session that ends with its connection cannot be prolonged when that closes (3.14.2.2.2).
    ExpiryRaisedFromZero,
    /// More of its packets wait for their answers than any window allows.
    TooManyUnanswered,
    /// More packets behind CONNECT than a hand reads before the answer.
    TooMuchBeforeConnack,
    /// A buffer is full, and a 3.x client cannot be told in any other way that it must keep its message.
    BufferFull,
}

impl Fault {
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::FirstPacketNotConnect
            | Self::SecondConnect
            | Self::ServerPacket
            | Self::UnexpectedAuth
            | Self::SubscriptionIdentifierInPublish
            | Self::TopicUnknown
            | Self::PacketIdMissing
            | Self::NoLocalOnShared
            | Self::ExpiryRaisedFromZero => ReasonCode::ProtocolError,
            Self::TopicAliasTooLarge => ReasonCode::TopicAliasInvalid,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::AnswerTooLarge => ReasonCode::PacketTooLarge,
            Self::BufferFull | Self::TooManyUnanswered | Self::TooMuchBeforeConnack => {
                ReasonCode::QuotaExceeded
            }
        }
    }
}

/// A connection was closed for what its client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// What a 5.0 client was told.
    pub reason: ReasonCode,
    pub fault: Fault,
}

impl From<Fault> for Violation {
    fn from(fault: Fault) -> Self {
        Self { reason: fault.reason(), fault }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.fault {
            Fault::FirstPacketNotConnect => "its first packet was not CONNECT",
            Fault::SecondConnect => "it sent a second CONNECT",
            Fault::ServerPacket => "it sent a packet that only a server sends",
            Fault::UnexpectedAuth => "it sent AUTH without an authentication method",
            Fault::SubscriptionIdentifierInPublish => "it published with a subscription identifier",
            Fault::TopicAliasTooLarge => "it used a topic alias above the maximum",
            Fault::TopicUnknown => "it published without a topic, or with an alias that it never set",
            Fault::PacketIdMissing => "it published above QoS 0 without a packet identifier",
            Fault::ReceiveMaximumExceeded => "it has more unacknowledged messages than the receive maximum",
            Fault::NoLocalOnShared => "it asked for No Local on a shared subscription",
            Fault::RetainNotSupported => "it retains, and was told that nothing is retained",
            Fault::AnswerTooLarge => "the answer to it would be larger than it takes",
            Fault::ExpiryRaisedFromZero => "it prolonged a session that ends with its connection",
            Fault::TooManyUnanswered => "too many of its packets wait for their answers",
            Fault::TooMuchBeforeConnack => "it sent too much before its CONNECT was answered",
            Fault::BufferFull => "a buffer is full and it cannot be told otherwise",
        })
    }
}

impl std::error::Error for Violation {}
