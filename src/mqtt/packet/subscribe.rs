//! SUBSCRIBE (3.8), SUBACK (3.9), UNSUBSCRIBE (3.10) and UNSUBACK (3.11).

use crate::mqtt::error::Malformed;
use crate::mqtt::packet::ack::AckProperties;
use crate::mqtt::packet::{Version, read_packet_id, read_reason};
use crate::mqtt::property::{
    Place, Property, PropertyReader, UserProperties, Varint, push_user_property, visit_some,
    visit_user_properties, write_properties,
};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::mqtt::wire::{Reader, Sink};

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u32 = 4;
const RESERVED: u8 = 0b1100_0000;

/// The failure return code of SUBACK before MQTT 5.
const FAILURE_V3: u8 = 0x80;

/// [MQTT-3.9.3-2]
const SUBACK: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQos1,
    ReasonCode::GrantedQos2,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// MQTT 3.1 has no failure.
const SUBACK_V3_1: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::GrantedQos1, ReasonCode::GrantedQos2];

/// [MQTT-3.9.3-2 of 3.1.1]
const SUBACK_V3: &[ReasonCode] =
    &[ReasonCode::Success, ReasonCode::GrantedQos1, ReasonCode::GrantedQos2, ReasonCode::UnspecifiedError];

/// [MQTT-3.11.3-2]
const UNSUBACK: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoSubscriptionExisted,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    /// Never 0.
    pub subscription_identifier: Option<u32>,
    pub user_properties: UserProperties,
    /// At least one [MQTT-3.8.3-2].
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// 3.8.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    #[default]
    Send = 0,
    SendIfNew = 1,
    DoNotSend = 2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suback {
    pub packet_id: PacketId,
    /// One a filter, in order [MQTT-3.9.3-1]; failures are written to 3.1.1 clients as 0x80, to 3.1 clients as QoS 0.
    pub reasons: Vec<ReasonCode>,
    pub properties: Option<Box<AckProperties>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    pub user_properties: UserProperties,
    /// At least one [MQTT-3.10.3-2].
    pub filters: Vec<TopicFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsuback {
    pub packet_id: PacketId,
    /// One a filter, in order; not written to 3.x clients.
    pub reasons: Vec<ReasonCode>,
    pub properties: Option<Box<AckProperties>>,
}

impl Subscribe {
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let packet_id = read_packet_id(reader)?;
        let mut subscribe = Self {
            packet_id,
            subscription_identifier: None,
            user_properties: UserProperties::new(),
            filters: Vec::new(),
        };
        if version == Version::V5 {
            subscribe.read_properties(reader)?;
        }
        while !reader.is_empty() {
            let filter = read_filter(reader)?;
            let options = SubscriptionOptions::read(reader, version)?;
            // [MQTT-3.8.3-4]
            if options.no_local && filter.share_name().is_some() {
                return Err(Malformed::NoLocalOnShared);
            }
            subscribe.filters.push((filter, options));
        }
        // [MQTT-3.8.3-2] [MQTT-3.8.3-3 of 3.1.1]
        if subscribe.filters.is_empty() { Err(Malformed::FiltersMissing) } else { Ok(subscribe) }
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut list = PropertyReader::new(reader, Place::Subscribe)?;
        while let Some(property) = list.next_property()? {
            match property {
                Property::SubscriptionIdentifier(Varint(id)) => self.subscription_identifier = Some(id),
                Property::UserProperty(pair) => push_user_property(&mut self.user_properties, pair),
                other => return Err(other.misplaced()),
            }
        }
        Ok(())
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.put_u16(self.packet_id.as_u16());
        if version == Version::V5 {
            write_properties(sink, |visit| {
                let id = self.subscription_identifier.map(Varint);
                visit_some(id, Property::SubscriptionIdentifier, visit);
                visit_user_properties(&self.user_properties, visit);
            });
        }
        for (filter, options) in &self.filters {
            sink.put_string(filter.as_str());
            sink.put_u8(options.byte(version));
        }
    }
}

impl SubscriptionOptions {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let byte = reader.u8()?;
        // [MQTT-3.8.3-5] [MQTT-3.8.3-4 of 3.1.1]: there all but the QoS is reserved.
        let reserved = if version == Version::V5 { RESERVED } else { !QOS };
        if byte & reserved != 0 {
            return Err(Malformed::SubscriptionOptions);
        }
        Ok(Self {
            qos: QoS::from_bits(byte & QOS).ok_or(Malformed::MaximumQos)?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling: match (byte & !RESERVED) >> RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(Malformed::RetainHandling),
            },
        })
    }

    const fn byte(self, version: Version) -> u8 {
        let mut byte = self.qos.bits();
        if matches!(version, Version::V5) {
            byte |= (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
            byte |= if self.no_local { NO_LOCAL } else { 0 };
            byte |= if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 };
        }
        byte
    }
}

impl Suback {
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let packet_id = read_packet_id(reader)?;
        let (properties, listed) = match version {
            Version::V5 => (AckProperties::read(reader)?, SUBACK),
            Version::V3_1_1 => (None, SUBACK_V3),
            Version::V3_1 => (None, SUBACK_V3_1),
        };
        let reasons = read_reasons(reader, listed)?;
        Ok(Self { packet_id, reasons, properties })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.put_u16(self.packet_id.as_u16());
        if version == Version::V5 {
            AckProperties::write(self.properties.as_deref(), sink);
        }
        for reason in &self.reasons {
            // [MQTT-3.9.3-2 of 3.1.1]
            sink.put_u8(match version {
                Version::V3_1_1 if reason.is_error() => FAILURE_V3,
                // MQTT 3.1 has no failure: it says that the server can only acknowledge (its section 3.8).
                Version::V3_1 if reason.is_error() => ReasonCode::Success.byte(),
                _ => reason.byte(),
            });
        }
    }
}

impl Unsubscribe {
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let packet_id = read_packet_id(reader)?;
        let mut user_properties = UserProperties::new();
        if version == Version::V5 {
            let mut list = PropertyReader::new(reader, Place::Unsubscribe)?;
            while let Some(property) = list.next_property()? {
                match property {
                    Property::UserProperty(pair) => push_user_property(&mut user_properties, pair),
                    other => return Err(other.misplaced()),
                }
            }
        }
        let mut filters = Vec::new();
        while !reader.is_empty() {
            filters.push(read_filter(reader)?);
        }
        // [MQTT-3.10.3-2] [MQTT-3.10.3-2 of 3.1.1]
        if filters.is_empty() {
            return Err(Malformed::FiltersMissing);
        }
        Ok(Self { packet_id, user_properties, filters })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.put_u16(self.packet_id.as_u16());
        if version == Version::V5 {
            write_properties(sink, |visit| visit_user_properties(&self.user_properties, visit));
        }
        for filter in &self.filters {
            sink.put_string(filter.as_str());
        }
    }
}

impl Unsuback {
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let packet_id = read_packet_id(reader)?;
        // 3.11.3 of 3.1.1: no payload.
        if version != Version::V5 {
            return Ok(Self { packet_id, reasons: Vec::new(), properties: None });
        }
        let properties = AckProperties::read(reader)?;
        let reasons = read_reasons(reader, UNSUBACK)?;
        Ok(Self { packet_id, reasons, properties })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        sink.put_u16(self.packet_id.as_u16());
        if version == Version::V5 {
            AckProperties::write(self.properties.as_deref(), sink);
            for reason in &self.reasons {
                sink.put_u8(reason.byte());
            }
        }
    }
}

/// [MQTT-3.8.3-1] [MQTT-3.8.3-1 of 3.1.1] [MQTT-3.10.3-1] [MQTT-3.10.3-1 of 3.1.1]
///
/// Does not apply: [MQTT-3.8.3-2 of 3.1.1], wildcards are supported.
fn read_filter(reader: &mut Reader<'_>) -> Result<TopicFilter, Malformed> {
    TopicFilter::new(reader.string()?).map_err(Malformed::Filter)
}

/// The rest of the packet, which must not be empty.
fn read_reasons(reader: &mut Reader<'_>, listed: &[ReasonCode]) -> Result<Vec<ReasonCode>, Malformed> {
    let mut reasons = Vec::with_capacity(reader.rest().len());
    while !reader.is_empty() {
        reasons.push(read_reason(reader, listed)?);
    }
    if reasons.is_empty() { Err(Malformed::ReasonsMissing) } else { Ok(reasons) }
}
