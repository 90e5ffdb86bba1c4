//! One type a packet; the protocol version is data. A value that was decoded is well-formed: identifiers are
//! not zero, topics and filters are parsed, properties are the ones that the standard allows there.

pub mod ack;
pub mod connect;
pub mod control;
pub mod publish;
pub mod subscribe;

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
