//! Our packets as rumqttc's of MQTT 5, and back. Pure translation. We announce no topic aliases and no
//! subscription identifiers, so that rumqttc's reading of these never matters.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5 as wire;

use crate::cloud::codec::{CodecError, identifier};
use crate::cloud::qos;
use crate::mqtt::message::MessageProperties;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, ConnectProperties, Will};
use crate::mqtt::packet::control::{Disconnect, DisconnectProperties};
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::subscribe::{RetainHandling, Suback, Subscribe};
use crate::mqtt::property::UserProperties;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;

pub(super) fn to_wire(packet: Packet) -> Result<wire::Packet, CodecError> {
    Ok(match packet {
        Packet::Connect(connect) => connect_to_wire(&connect),
        Packet::Publish(publish) => wire::Packet::Publish(publish_to_wire(publish)?),
        Packet::Puback(ack) => wire::Packet::PubAck(puback_to_wire(&ack)),
        Packet::Pubrec(ack) => wire::Packet::PubRec(pubrec_to_wire(&ack)),
        Packet::Pubrel(ack) => wire::Packet::PubRel(pubrel_to_wire(&ack)),
        Packet::Pubcomp(ack) => wire::Packet::PubComp(pubcomp_to_wire(&ack)),
        Packet::Subscribe(subscribe) => wire::Packet::Subscribe(subscribe_to_wire(&subscribe)),
        Packet::Pingreq => wire::Packet::PingReq(wire::PingReq),
        // The codec writes those with a reason itself.
        Packet::Disconnect(_) => {
            wire::Packet::Disconnect(wire::Disconnect::new(wire::DisconnectReasonCode::NormalDisconnection))
        }
        Packet::Connack(_)
        | Packet::Suback(_)
        | Packet::Unsubscribe(_)
        | Packet::Unsuback(_)
        | Packet::Pingresp
        | Packet::Auth(_) => return Err(CodecError::WrongDirection),
    })
}

pub(super) fn from_wire(packet: wire::Packet) -> Result<Packet, CodecError> {
    let ack = |id, reason| identifier(id).map(|id| Ack::with_reason(id, reason));
    Ok(match packet {
        wire::Packet::ConnAck(connack) => Packet::Connack(Box::new(connack_from_wire(connack)?)),
        wire::Packet::Publish(publish) => Packet::Publish(publish_from_wire(publish)?),
        wire::Packet::PubAck(puback) => Packet::Puback(ack(puback.pkid, puback_reason(puback.reason))?),
        wire::Packet::PubRec(pubrec) => Packet::Pubrec(ack(pubrec.pkid, pubrec_reason(pubrec.reason))?),
        wire::Packet::PubRel(pubrel) => {
            let known = pubrel.reason == wire::PubRelReason::Success;
            Packet::Pubrel(ack(pubrel.pkid, known_or_not(known))?)
        }
        wire::Packet::PubComp(pubcomp) => {
            let known = pubcomp.reason == wire::PubCompReason::Success;
            Packet::Pubcomp(ack(pubcomp.pkid, known_or_not(known))?)
        }
        wire::Packet::SubAck(suback) => Packet::Suback(Suback {
            packet_id: identifier(suback.pkid)?,
            reasons: suback.return_codes.into_iter().map(granted).collect(),
            properties: None,
        }),
        wire::Packet::PingResp(_) => Packet::Pingresp,
        wire::Packet::Disconnect(disconnect) => {
            let code = disconnect.reason_code as u8;
            let reason = ReasonCode::from_byte(code).ok_or(CodecError::UnknownCode(code))?;
            let reference = disconnect.properties.and_then(|properties| properties.server_reference);
            let properties = reference.map(|reference| {
                let server_reference = Some(reference.into());
                Box::new(DisconnectProperties { server_reference, ..DisconnectProperties::default() })
            });
            Packet::Disconnect(Disconnect { reason, properties })
        }
        wire::Packet::Auth(_)
        | wire::Packet::Connect(..)
        | wire::Packet::Subscribe(_)
        | wire::Packet::Unsubscribe(_)
        | wire::Packet::UnsubAck(_)
        | wire::Packet::PingReq(_) => return Err(CodecError::WrongDirection),
    })
}

fn connect_to_wire(connect: &Connect) -> wire::Packet {
    let login = (connect.username.is_some() || connect.password.is_some()).then(|| wire::Login {
        username: connect.username.as_deref().unwrap_or_default().to_owned(),
        password: String::from_utf8_lossy(connect.password.as_deref().unwrap_or_default()).into_owned(),
    });
    let packet = wire::Connect {
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.to_string(),
        clean_start: connect.clean_start,
        properties: Some(connect_properties_to_wire(&connect.properties)),
    };
    wire::Packet::Connect(packet, connect.will.as_deref().map(will_to_wire), login)
}

fn connect_properties_to_wire(properties: &ConnectProperties) -> wire::ConnectProperties {
    wire::ConnectProperties {
        session_expiry_interval: properties.session_expiry_interval,
        receive_maximum: properties.receive_maximum,
        max_packet_size: properties.maximum_packet_size,
        topic_alias_max: properties.topic_alias_maximum,
        request_response_info: properties.request_response_information.map(u8::from),
        request_problem_info: properties.request_problem_information.map(u8::from),
        user_properties: pairs_to_wire(&properties.user_properties),
        authentication_method: properties.authentication_method.as_deref().map(str::to_owned),
        authentication_data: properties.authentication_data.clone(),
    }
}

fn will_to_wire(will: &Will) -> wire::LastWill {
    let properties = &will.properties;
    wire::LastWill {
        topic: will.topic.as_str().to_owned().into(),
        message: will.payload.clone(),
        qos: qos::to_v5(will.qos),
        retain: will.retain,
        properties: Some(wire::LastWillProperties {
            delay_interval: Some(will.delay_interval).filter(|secs| *secs > 0),
            payload_format_indicator: properties.payload_format_utf8.map(u8::from),
            message_expiry_interval: will.expiry_interval,
            content_type: properties.content_type.as_deref().map(str::to_owned),
            response_topic: properties.response_topic.as_ref().map(|topic| topic.as_str().to_owned()),
            correlation_data: properties.correlation_data.clone(),
            user_properties: pairs_to_wire(&properties.user_properties),
        }),
    }
}

fn publish_to_wire(publish: Publish) -> Result<wire::Publish, CodecError> {
    // [MQTT-3.3.2-8]: an alias in its place.
    let topic = publish.topic.as_ref().map(|topic| topic.as_str().to_owned());
    let alias = publish.topic_alias.map(std::num::NonZeroU16::get);
    let topic = topic.or(alias.map(|_| String::new())).ok_or(CodecError::WrongDirection)?;
    let has_properties = publish.expiry_interval.is_some() || publish.properties.is_some() || alias.is_some();
    let carried = publish.properties.map(|boxed| *boxed);
    let properties =
        has_properties.then(|| publish_properties_to_wire(carried, publish.expiry_interval, alias));
    Ok(wire::Publish {
        dup: publish.dup,
        qos: qos::to_v5(publish.qos),
        retain: publish.retain,
        topic: topic.into(),
        pkid: publish.packet_id.map_or(0, PacketId::as_u16),
        payload: publish.payload,
        properties,
    })
}

fn publish_properties_to_wire(
    properties: Option<MessageProperties>,
    expiry_interval: Option<u32>,
    topic_alias: Option<u16>,
) -> wire::PublishProperties {
    let properties = properties.unwrap_or_default();
    wire::PublishProperties {
        payload_format_indicator: properties.payload_format_utf8.map(u8::from),
        message_expiry_interval: expiry_interval,
        topic_alias,
        response_topic: properties.response_topic.map(|topic| topic.as_str().to_owned()),
        correlation_data: properties.correlation_data,
        user_properties: pairs_to_wire(&properties.user_properties),
        subscription_identifiers: Vec::new(),
        content_type: properties.content_type.as_deref().map(str::to_owned),
    }
}

/// With a payload of its own: the one from the wire keeps all of the buffer that it was read to.
fn publish_from_wire(publish: wire::Publish) -> Result<Publish, CodecError> {
    let qos = qos::from_v5(publish.qos);
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| CodecError::NotUtf8);
    let properties = publish.properties.unwrap_or_default();
    Ok(Publish {
        dup: publish.dup,
        qos,
        retain: publish.retain,
        topic: match topic? {
            "" => None,
            text => Some(TopicName::new(text).map_err(CodecError::Topic)?),
        },
        packet_id: if qos == QoS::AtMostOnce { None } else { Some(identifier(publish.pkid)?) },
        payload: Bytes::copy_from_slice(&publish.payload),
        topic_alias: properties.topic_alias.and_then(std::num::NonZeroU16::new),
        expiry_interval: properties.message_expiry_interval,
        subscription_identifiers: Vec::new(),
        properties: message_properties(properties)?,
    })
}

fn message_properties(
    properties: wire::PublishProperties,
) -> Result<Option<Box<MessageProperties>>, CodecError> {
    let response_topic = match &properties.response_topic {
        Some(text) => Some(TopicName::new(text).map_err(CodecError::Topic)?),
        None => None,
    };
    let carried = MessageProperties {
        payload_format_utf8: properties.payload_format_indicator.map(|format| format == 1),
        content_type: properties.content_type.map(Into::into),
        response_topic,
        correlation_data: properties.correlation_data.map(|bytes| Bytes::copy_from_slice(&bytes)),
        user_properties: pairs_from_wire(properties.user_properties),
    };
    Ok(if carried.is_empty() { None } else { Some(Box::new(carried)) })
}

fn connack_from_wire(connack: wire::ConnAck) -> Result<Connack, CodecError> {
    let properties = match connack.properties {
        Some(properties) => connack_properties(properties)?,
        None => ConnackProperties::default(),
    };
    Ok(Connack { session_present: connack.session_present, reason: connect_reason(connack.code), properties })
}

fn connack_properties(properties: wire::ConnAckProperties) -> Result<ConnackProperties, CodecError> {
    let maximum_qos = match properties.max_qos {
        Some(bits) => Some(QoS::from_bits(bits).ok_or(CodecError::UnknownCode(bits))?),
        None => None,
    };
    let yes = |flag: Option<u8>| flag.map(|flag| flag != 0);
    Ok(ConnackProperties {
        session_expiry_interval: properties.session_expiry_interval,
        receive_maximum: properties.receive_max,
        maximum_qos,
        retain_available: yes(properties.retain_available),
        maximum_packet_size: properties.max_packet_size,
        assigned_client_id: properties.assigned_client_identifier.map(Into::into),
        topic_alias_maximum: properties.topic_alias_max,
        reason_string: properties.reason_string.map(Into::into),
        user_properties: pairs_from_wire(properties.user_properties),
        wildcard_subscription_available: yes(properties.wildcard_subscription_available),
        subscription_identifiers_available: yes(properties.subscription_identifiers_available),
        shared_subscription_available: yes(properties.shared_subscription_available),
        server_keep_alive: properties.server_keep_alive,
        response_information: properties.response_information.map(Into::into),
        server_reference: properties.server_reference.map(Into::into),
        authentication_method: properties.authentication_method.map(Into::into),
        authentication_data: properties.authentication_data,
    })
}

fn subscribe_to_wire(subscribe: &Subscribe) -> wire::Subscribe {
    let filters = subscribe.filters.iter().map(|(filter, options)| wire::Filter {
        path: filter.as_str().to_owned(),
        qos: qos::to_v5(options.qos),
        nolocal: options.no_local,
        preserve_retain: options.retain_as_published,
        retain_forward_rule: match options.retain_handling {
            RetainHandling::Send => wire::RetainForwardRule::OnEverySubscribe,
            RetainHandling::SendIfNew => wire::RetainForwardRule::OnNewSubscribe,
            RetainHandling::DoNotSend => wire::RetainForwardRule::Never,
        },
    });
    wire::Subscribe { pkid: subscribe.packet_id.as_u16(), filters: filters.collect(), properties: None }
}

fn puback_to_wire(ack: &Ack) -> wire::PubAck {
    let reason = match ack.reason {
        ReasonCode::Success => wire::PubAckReason::Success,
        ReasonCode::QuotaExceeded => wire::PubAckReason::QuotaExceeded,
        _ => wire::PubAckReason::UnspecifiedError,
    };
    wire::PubAck { pkid: ack.packet_id.as_u16(), reason, properties: None }
}

fn pubrec_to_wire(ack: &Ack) -> wire::PubRec {
    let reason = match ack.reason {
        ReasonCode::Success => wire::PubRecReason::Success,
        ReasonCode::QuotaExceeded => wire::PubRecReason::QuotaExceeded,
        _ => wire::PubRecReason::UnspecifiedError,
    };
    wire::PubRec { pkid: ack.packet_id.as_u16(), reason, properties: None }
}

fn pubrel_to_wire(ack: &Ack) -> wire::PubRel {
    let reason = match ack.reason {
        ReasonCode::Success => wire::PubRelReason::Success,
        _ => wire::PubRelReason::PacketIdentifierNotFound,
    };
    wire::PubRel { pkid: ack.packet_id.as_u16(), reason, properties: None }
}

fn pubcomp_to_wire(ack: &Ack) -> wire::PubComp {
    let reason = match ack.reason {
        ReasonCode::Success => wire::PubCompReason::Success,
        _ => wire::PubCompReason::PacketIdentifierNotFound,
    };
    wire::PubComp { pkid: ack.packet_id.as_u16(), reason, properties: None }
}

fn known_or_not(known: bool) -> ReasonCode {
    if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound }
}

fn puback_reason(reason: wire::PubAckReason) -> ReasonCode {
    match reason {
        wire::PubAckReason::Success => ReasonCode::Success,
        wire::PubAckReason::NoMatchingSubscribers => ReasonCode::NoMatchingSubscribers,
        wire::PubAckReason::UnspecifiedError => ReasonCode::UnspecifiedError,
        wire::PubAckReason::ImplementationSpecificError => ReasonCode::ImplementationSpecificError,
        wire::PubAckReason::NotAuthorized => ReasonCode::NotAuthorized,
        wire::PubAckReason::TopicNameInvalid => ReasonCode::TopicNameInvalid,
        wire::PubAckReason::PacketIdentifierInUse => ReasonCode::PacketIdentifierInUse,
        wire::PubAckReason::QuotaExceeded => ReasonCode::QuotaExceeded,
        wire::PubAckReason::PayloadFormatInvalid => ReasonCode::PayloadFormatInvalid,
    }
}

fn pubrec_reason(reason: wire::PubRecReason) -> ReasonCode {
    match reason {
        wire::PubRecReason::Success => ReasonCode::Success,
        wire::PubRecReason::NoMatchingSubscribers => ReasonCode::NoMatchingSubscribers,
        wire::PubRecReason::UnspecifiedError => ReasonCode::UnspecifiedError,
        wire::PubRecReason::ImplementationSpecificError => ReasonCode::ImplementationSpecificError,
        wire::PubRecReason::NotAuthorized => ReasonCode::NotAuthorized,
        wire::PubRecReason::TopicNameInvalid => ReasonCode::TopicNameInvalid,
        wire::PubRecReason::PacketIdentifierInUse => ReasonCode::PacketIdentifierInUse,
        wire::PubRecReason::QuotaExceeded => ReasonCode::QuotaExceeded,
        wire::PubRecReason::PayloadFormatInvalid => ReasonCode::PayloadFormatInvalid,
    }
}

fn connect_reason(code: wire::ConnectReturnCode) -> ReasonCode {
    match code {
        wire::ConnectReturnCode::Success => ReasonCode::Success,
        wire::ConnectReturnCode::RefusedProtocolVersion
        | wire::ConnectReturnCode::UnsupportedProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
        wire::ConnectReturnCode::BadClientId | wire::ConnectReturnCode::ClientIdentifierNotValid => {
            ReasonCode::ClientIdentifierNotValid
        }
        wire::ConnectReturnCode::ServiceUnavailable | wire::ConnectReturnCode::ServerUnavailable => {
            ReasonCode::ServerUnavailable
        }
        wire::ConnectReturnCode::UnspecifiedError => ReasonCode::UnspecifiedError,
        wire::ConnectReturnCode::MalformedPacket => ReasonCode::MalformedPacket,
        wire::ConnectReturnCode::ProtocolError => ReasonCode::ProtocolError,
        wire::ConnectReturnCode::ImplementationSpecificError => ReasonCode::ImplementationSpecificError,
        wire::ConnectReturnCode::BadUserNamePassword => ReasonCode::BadUserNameOrPassword,
        wire::ConnectReturnCode::NotAuthorized => ReasonCode::NotAuthorized,
        wire::ConnectReturnCode::ServerBusy => ReasonCode::ServerBusy,
        wire::ConnectReturnCode::Banned => ReasonCode::Banned,
        wire::ConnectReturnCode::BadAuthenticationMethod => ReasonCode::BadAuthenticationMethod,
        wire::ConnectReturnCode::TopicNameInvalid => ReasonCode::TopicNameInvalid,
        wire::ConnectReturnCode::PacketTooLarge => ReasonCode::PacketTooLarge,
        wire::ConnectReturnCode::QuotaExceeded => ReasonCode::QuotaExceeded,
        wire::ConnectReturnCode::PayloadFormatInvalid => ReasonCode::PayloadFormatInvalid,
        wire::ConnectReturnCode::RetainNotSupported => ReasonCode::RetainNotSupported,
        wire::ConnectReturnCode::QoSNotSupported => ReasonCode::QosNotSupported,
        wire::ConnectReturnCode::UseAnotherServer => ReasonCode::UseAnotherServer,
        wire::ConnectReturnCode::ServerMoved => ReasonCode::ServerMoved,
        wire::ConnectReturnCode::ConnectionRateExceeded => ReasonCode::ConnectionRateExceeded,
    }
}

fn granted(code: wire::SubscribeReasonCode) -> ReasonCode {
    match code {
        wire::SubscribeReasonCode::Success(WireQoS::AtMostOnce) => ReasonCode::Success,
        wire::SubscribeReasonCode::Success(WireQoS::AtLeastOnce) => ReasonCode::GrantedQos1,
        wire::SubscribeReasonCode::Success(WireQoS::ExactlyOnce) => ReasonCode::GrantedQos2,
        wire::SubscribeReasonCode::Failure | wire::SubscribeReasonCode::Unspecified => {
            ReasonCode::UnspecifiedError
        }
        wire::SubscribeReasonCode::ImplementationSpecific => ReasonCode::ImplementationSpecificError,
        wire::SubscribeReasonCode::NotAuthorized => ReasonCode::NotAuthorized,
        wire::SubscribeReasonCode::TopicFilterInvalid => ReasonCode::TopicFilterInvalid,
        wire::SubscribeReasonCode::PkidInUse => ReasonCode::PacketIdentifierInUse,
        wire::SubscribeReasonCode::QuotaExceeded => ReasonCode::QuotaExceeded,
        wire::SubscribeReasonCode::SharedSubscriptionsNotSupported => {
            ReasonCode::SharedSubscriptionsNotSupported
        }
        wire::SubscribeReasonCode::SubscriptionIdNotSupported => {
            ReasonCode::SubscriptionIdentifiersNotSupported
        }
        wire::SubscribeReasonCode::WildcardSubscriptionsNotSupported => {
            ReasonCode::WildcardSubscriptionsNotSupported
        }
    }
}

fn pairs_to_wire(pairs: &UserProperties) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn pairs_from_wire(pairs: Vec<(String, String)>) -> UserProperties {
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}
