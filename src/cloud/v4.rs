//! Our packets as rumqttc's of MQTT 3.1.1, and back. Pure translation.

use bytes::Bytes;
use rumqttc::mqttbytes::v4 as wire;
use rumqttc::mqttbytes::{Protocol, QoS as WireQoS};

use crate::cloud::codec::{CodecError, identifier};
use crate::cloud::qos;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Role};
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::subscribe::{Suback, Subscribe};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;

/// The first byte of CONNACK.
const CONNACK: u8 = 0x20;

pub(super) fn to_wire(packet: Packet) -> Result<wire::Packet, CodecError> {
    Ok(match packet {
        Packet::Connect(connect) => wire::Packet::Connect(connect_to_wire(&connect)),
        Packet::Publish(publish) => wire::Packet::Publish(publish_to_wire(publish)?),
        Packet::Puback(ack) => wire::Packet::PubAck(wire::PubAck::new(ack.packet_id.as_u16())),
        Packet::Pubrec(ack) => wire::Packet::PubRec(wire::PubRec::new(ack.packet_id.as_u16())),
        Packet::Pubrel(ack) => wire::Packet::PubRel(wire::PubRel::new(ack.packet_id.as_u16())),
        Packet::Pubcomp(ack) => wire::Packet::PubComp(wire::PubComp::new(ack.packet_id.as_u16())),
        Packet::Subscribe(subscribe) => wire::Packet::Subscribe(subscribe_to_wire(&subscribe)),
        Packet::Pingreq => wire::Packet::PingReq,
        Packet::Disconnect(_) => wire::Packet::Disconnect,
        Packet::Connack(_)
        | Packet::Suback(_)
        | Packet::Unsubscribe(_)
        | Packet::Unsuback(_)
        | Packet::Pingresp
        | Packet::Auth(_) => return Err(CodecError::WrongDirection),
    })
}

/// What the level of a CONNECT says besides the version.
pub(super) fn role_of(packet: &Packet) -> Role {
    match packet {
        Packet::Connect(connect) => connect.role,
        _ => Role::Client,
    }
}

/// rumqttc writes a plain protocol level: behind the fixed header and the name.
pub(super) fn write_role(packet: &mut [u8], role: Role) {
    const NAME_BYTES: usize = 6;
    if role == Role::Client {
        return;
    }
    let length_bytes = packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    if let Some(level) = packet.get_mut(1 + length_bytes + NAME_BYTES) {
        *level |= role as u8;
    }
}

/// The flags of a CONNACK, if the next packet is one: rumqttc knows one of them alone.
pub(super) fn connack_flags(bytes: &[u8]) -> u8 {
    match bytes {
        [CONNACK, 2, flags, ..] => *flags,
        _ => 0,
    }
}

/// `connack_flags`: of the packet, where it is one.
pub(super) fn from_wire(packet: wire::Packet, connack_flags: u8) -> Result<Packet, CodecError> {
    let ack = |id| identifier(id).map(Ack::success);
    Ok(match packet {
        wire::Packet::ConnAck(connack) => Packet::Connack(Box::new(Connack {
            session_present: connack.session_present,
            reason: reason_of(connack.code),
            properties: ConnackProperties::of_flags(connack_flags),
        })),
        wire::Packet::Publish(publish) => Packet::Publish(publish_from_wire(&publish)?),
        wire::Packet::PubAck(puback) => Packet::Puback(ack(puback.pkid)?),
        wire::Packet::PubRec(pubrec) => Packet::Pubrec(ack(pubrec.pkid)?),
        wire::Packet::PubRel(pubrel) => Packet::Pubrel(ack(pubrel.pkid)?),
        wire::Packet::PubComp(pubcomp) => Packet::Pubcomp(ack(pubcomp.pkid)?),
        wire::Packet::SubAck(suback) => Packet::Suback(Suback {
            packet_id: identifier(suback.pkid)?,
            reasons: suback.return_codes.into_iter().map(granted).collect(),
            properties: None,
        }),
        wire::Packet::PingResp => Packet::Pingresp,
        wire::Packet::Connect(_)
        | wire::Packet::Subscribe(_)
        | wire::Packet::Unsubscribe(_)
        | wire::Packet::UnsubAck(_)
        | wire::Packet::PingReq
        | wire::Packet::Disconnect => return Err(CodecError::WrongDirection),
    })
}

fn connect_to_wire(connect: &Connect) -> wire::Connect {
    // [MQTT-3.1.2-22]: no password without a user name.
    let login = connect.username.as_ref().map(|username| {
        let password = connect.password.as_deref().unwrap_or_default();
        wire::Login::new(&**username, String::from_utf8_lossy(password))
    });
    let will = connect.will.as_deref().map(|will| wire::LastWill {
        topic: will.topic.as_str().to_owned(),
        message: will.payload.clone(),
        qos: qos::to_v4(will.qos),
        retain: will.retain,
    });
    wire::Connect {
        protocol: Protocol::V4,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.to_string(),
        clean_session: connect.clean_start,
        last_will: will,
        login,
    }
}

fn publish_to_wire(publish: Publish) -> Result<wire::Publish, CodecError> {
    let topic = publish.topic.ok_or(CodecError::WrongDirection)?;
    Ok(wire::Publish {
        dup: publish.dup,
        qos: qos::to_v4(publish.qos),
        retain: publish.retain,
        topic: topic.as_str().to_owned(),
        pkid: publish.packet_id.map_or(0, PacketId::as_u16),
        payload: publish.payload,
    })
}

/// With a payload of its own: the one from the wire keeps all of the buffer that it was read to.
fn publish_from_wire(publish: &wire::Publish) -> Result<Publish, CodecError> {
    let qos = qos::from_v4(publish.qos);
    Ok(Publish {
        dup: publish.dup,
        qos,
        retain: publish.retain,
        topic: Some(TopicName::new(&publish.topic).map_err(CodecError::Topic)?),
        packet_id: if qos == QoS::AtMostOnce { None } else { Some(identifier(publish.pkid)?) },
        payload: Bytes::copy_from_slice(&publish.payload),
        topic_alias: None,
        expiry_interval: None,
        subscription_identifiers: Vec::new(),
        properties: None,
    })
}

fn subscribe_to_wire(subscribe: &Subscribe) -> wire::Subscribe {
    let filters = subscribe.filters.iter().map(|(filter, options)| wire::SubscribeFilter {
        path: filter.as_str().to_owned(),
        qos: qos::to_v4(options.qos),
    });
    wire::Subscribe { pkid: subscribe.packet_id.as_u16(), filters: filters.collect() }
}

/// 3.2.2.3 of 3.1.1, in the words of 5.0.
fn reason_of(code: wire::ConnectReturnCode) -> ReasonCode {
    match code {
        wire::ConnectReturnCode::Success => ReasonCode::Success,
        wire::ConnectReturnCode::RefusedProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
        wire::ConnectReturnCode::BadClientId => ReasonCode::ClientIdentifierNotValid,
        wire::ConnectReturnCode::ServiceUnavailable => ReasonCode::ServerUnavailable,
        wire::ConnectReturnCode::BadUserNamePassword => ReasonCode::BadUserNameOrPassword,
        wire::ConnectReturnCode::NotAuthorized => ReasonCode::NotAuthorized,
    }
}

fn granted(code: wire::SubscribeReasonCode) -> ReasonCode {
    match code {
        wire::SubscribeReasonCode::Success(WireQoS::AtMostOnce) => ReasonCode::Success,
        wire::SubscribeReasonCode::Success(WireQoS::AtLeastOnce) => ReasonCode::GrantedQos1,
        wire::SubscribeReasonCode::Success(WireQoS::ExactlyOnce) => ReasonCode::GrantedQos2,
        wire::SubscribeReasonCode::Failure => ReasonCode::UnspecifiedError,
    }
}
