//! PUBACK (3.4), PUBREC (3.5), PUBREL (3.6) and PUBCOMP (3.7): one shape.

use std::sync::Arc;

use crate::mqtt::error::Malformed;
use crate::mqtt::packet::{PacketType, Version, read_packet_id, read_reason};
use crate::mqtt::property::{
    Place, Property, PropertyReader, UserProperties, push_user_property, visit_some, visit_user_properties,
    write_properties,
};
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Sink};

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1]
const RECEIVED: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// [MQTT-3.6.2-1], [MQTT-3.7.2-1]
const RELEASED: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// That of the PUBLISH [MQTT-2.2.1-5] [MQTT-2.3.1-6 of 3.1.1].
    pub packet_id: PacketId,
    /// Always `Success` towards and from 3.x clients.
    pub reason: ReasonCode,
    /// Boxed: most acknowledgements have none.
    pub properties: Option<Box<AckProperties>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AckProperties {
    pub reason_string: Option<Arc<str>>,
    pub user_properties: UserProperties,
}

/// Ours have neither a Reason String nor User Properties, so that none grows too large by them: [MQTT-3.4.2-2]
/// [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3].
impl Ack {
    pub const fn success(packet_id: PacketId) -> Self {
        Self { packet_id, reason: ReasonCode::Success, properties: None }
    }

    pub const fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: None }
    }

    /// `packet` is one of the four, which differ in their reason codes.
    pub fn read(reader: &mut Reader<'_>, packet: PacketType, version: Version) -> Result<Self, Malformed> {
        let packet_id = read_packet_id(reader)?;
        // 3.4.2.1: a remaining length of 2 means success.
        if version != Version::V5 || reader.is_empty() {
            return Ok(Self::success(packet_id));
        }
        let listed = match packet {
            PacketType::Pubrel | PacketType::Pubcomp => RELEASED,
            _ => RECEIVED,
        };
        let reason = read_reason(reader, listed)?;
        // 3.4.2.2.1: a remaining length below 4 means no properties.
        let properties = if reader.is_empty() { None } else { AckProperties::read(reader)? };
        Ok(Self { packet_id, reason, properties })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.put_u16(self.packet_id.as_u16());
        if version != Version::V5 || (self.reason == ReasonCode::Success && self.properties.is_none()) {
            return;
        }
        sink.put_u8(self.reason.byte());
        if self.properties.is_some() {
            AckProperties::write(self.properties.as_deref(), sink);
        }
    }
}

impl AckProperties {
    /// None where there are none.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Option<Box<Self>>, Malformed> {
        let mut properties = None::<Box<Self>>;
        let mut list = PropertyReader::new(reader, Place::Ack)?;
        while let Some(property) = list.next_property()? {
            let properties = properties.get_or_insert_default();
            match property {
                Property::ReasonString(text) => properties.reason_string = Some(text.into()),
                Property::UserProperty(pair) => push_user_property(&mut properties.user_properties, pair),
                other => return Err(other.misplaced()),
            }
        }
        Ok(properties)
    }

    pub(super) fn write<S: Sink>(properties: Option<&Self>, sink: &mut S) {
        write_properties(sink, |visit| {
            if let Some(properties) = properties {
                visit_some(properties.reason_string.as_deref(), Property::ReasonString, visit);
                visit_user_properties(&properties.user_properties, visit);
            }
        });
    }
}
