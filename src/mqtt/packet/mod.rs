//! One type a packet; the protocol version is data. A value that was decoded is well-formed: identifiers are
//! not zero, topics and filters are parsed, properties are the ones that the standard allows there.

pub mod ack;
pub mod connect;
pub mod control;
pub mod publish;
pub mod subscribe;

use std::fmt;

use crate::mqtt::error::Malformed;
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::Reader;
use ack::Ack;
use connect::{Connack, Connect};
use control::{Auth, Disconnect};
use publish::Publish;
use subscribe::{Suback, Subscribe, Unsuback, Unsubscribe};

/// The protocol level of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`.
    V3_1 = 3,
    V3_1_1 = 4,
    V5 = 5,
}

impl Version {
    /// As the standards are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V3_1 => "3.1",
            Self::V3_1_1 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// Who sends: some packets, properties and reason codes are for one side alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    Client,
    Server,
}

/// What the meaning of received bytes depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub peer: Peer,
    pub version: Version,
}

/// 2.1.2: the upper four bits of the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// As the standard calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// None for 0.
    pub const fn from_bits(bits: u8) -> Option<PacketType> {
        Some(match bits {
            1 => PacketType::Connect,
            2 => PacketType::Connack,
            3 => PacketType::Publish,
            4 => PacketType::Puback,
            5 => PacketType::Pubrec,
            6 => PacketType::Pubrel,
            7 => PacketType::Pubcomp,
            8 => PacketType::Subscribe,
            9 => PacketType::Suback,
            10 => PacketType::Unsubscribe,
            11 => PacketType::Unsuback,
            12 => PacketType::Pingreq,
            13 => PacketType::Pingresp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }

    /// Table 2-1, direction of flow.
    pub const fn may_come_from(self, source: Source) -> bool {
        match self {
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Pingreq => {
                matches!(source.peer, Peer::Client)
            }
            PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
                matches!(source.peer, Peer::Server)
            }
            // Before MQTT 5 only clients say DISCONNECT.
            PacketType::Disconnect => {
                matches!(source.peer, Peer::Client) || matches!(source.version, Version::V5)
            }
            PacketType::Publish
            | PacketType::Puback
            | PacketType::Pubrec
            | PacketType::Pubrel
            | PacketType::Pubcomp
            | PacketType::Auth => true,
        }
    }

    /// Table 2-2: the lower four bits of the first byte; PUBLISH has its own [MQTT-2.1.3-1] [MQTT-2.2.2-1 of 3.1.1].
    pub const fn flags(self) -> u8 {
        match self {
            // [MQTT-3.6.1-1 of 3.1.1] [MQTT-3.8.1-1 of 3.1.1] [MQTT-3.10.1-1 of 3.1.1]
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Any of the 15 control packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    Connack(Box<Connack>),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    Suback(Suback),
    Unsubscribe(Unsubscribe),
    Unsuback(Unsuback),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl Packet {
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::Connack(_) => PacketType::Connack,
            Packet::Publish(_) => PacketType::Publish,
            Packet::Puback(_) => PacketType::Puback,
            Packet::Pubrec(_) => PacketType::Pubrec,
            Packet::Pubrel(_) => PacketType::Pubrel,
            Packet::Pubcomp(_) => PacketType::Pubcomp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::Suback(_) => PacketType::Suback,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::Unsuback(_) => PacketType::Unsuback,
            Packet::Pingreq => PacketType::Pingreq,
            Packet::Pingresp => PacketType::Pingresp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

/// [MQTT-2.2.1-3] [MQTT-2.3.1-1 of 3.1.1]
fn read_packet_id(reader: &mut Reader<'_>) -> Result<PacketId, Malformed> {
    PacketId::new(reader.u16()?).ok_or(Malformed::PacketIdZero)
}

/// A reason code that must be one of those that the packet lists.
fn read_reason(reader: &mut Reader<'_>, listed: &[ReasonCode]) -> Result<ReasonCode, Malformed> {
    let byte = reader.u8()?;
    ReasonCode::from_byte(byte).filter(|reason| listed.contains(reason)).ok_or(Malformed::ReasonCode(byte))
}
