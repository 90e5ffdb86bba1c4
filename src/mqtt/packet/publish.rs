//! PUBLISH (3.3).

use bytes::Bytes;
use std::num::NonZeroU16;

use crate::mqtt::error::Malformed;
use crate::mqtt::message::MessageProperties;
use crate::mqtt::packet::{Peer, Source, Version, read_packet_id};
use crate::mqtt::property::{Place, Property, PropertyReader, Varint, apply_message_property, topic_alias};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::Reader;

pub(crate) const DUP: u8 = 0b1000;
pub(crate) const RETAIN: u8 = 0b0001;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// None where the topic is only named by `topic_alias`.
    pub topic: Option<TopicName>,
    /// Some exactly where `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub payload: Bytes,
    /// Never 0.
    pub topic_alias: Option<NonZeroU16>,
    /// Seconds.
    pub expiry_interval: Option<u32>,
    /// Only from a server.
    pub subscription_identifiers: Vec<u32>,
    /// Boxed: most messages have none.
    pub properties: Option<Box<MessageProperties>>,
}

impl Publish {
    /// The flags of the fixed header: DUP, QoS, RETAIN.
    pub(crate) fn read_flags(flags: u8) -> Result<(bool, QoS, bool), Malformed> {
        let dup = flags & DUP != 0;
        // [MQTT-3.3.1-4] [MQTT-3.3.1-4 of 3.1.1]
        let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(Malformed::Qos)?;
        // [MQTT-3.3.1-2] [MQTT-3.3.1-2 of 3.1.1]
        if dup && qos == QoS::AtMostOnce {
            return Err(Malformed::DupOnQos0);
        }
        Ok((dup, qos, flags & RETAIN != 0))
    }

    /// Reads all but the payload, which is the rest of `reader` and left there.
    pub fn read_head(reader: &mut Reader<'_>, flags: u8, source: Source) -> Result<Self, Malformed> {
        let (dup, qos, retain) = Self::read_flags(flags)?;
        // [MQTT-3.3.2-1] [MQTT-3.3.2-1 of 3.1.1]
        let topic = match reader.string()? {
            "" => None,
            // [MQTT-3.3.2-2] [MQTT-3.3.2-2 of 3.1.1]
            text => Some(TopicName::new(text).map_err(Malformed::Topic)?),
        };
        // [MQTT-2.2.1-2]
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(read_packet_id(reader)?) };
        let mut publish = Self {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            payload: Bytes::new(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        };
        if source.version == Version::V5 {
            publish.read_properties(reader, source.peer)?;
        }
        // [MQTT-4.7.3-1], 3.3.2.1: without a name the alias must say it.
        if publish.topic.is_none() && publish.topic_alias.is_none() {
            return Err(Malformed::TopicMissing);
        }
        Ok(publish)
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>, peer: Peer) -> Result<(), Malformed> {
        let place = match peer {
            Peer::Client => Place::PublishFromClient,
            Peer::Server => Place::PublishFromServer,
        };
        let mut list = PropertyReader::new(reader, place)?;
        while let Some(property) = list.next_property()? {
            match property {
                Property::TopicAlias(alias) => self.topic_alias = Some(topic_alias(alias)?),
                Property::MessageExpiryInterval(secs) => self.expiry_interval = Some(secs),
                Property::SubscriptionIdentifier(Varint(id)) => self.subscription_identifiers.push(id),
                other => apply_message_property(self.properties.get_or_insert_default(), other)?,
            }
        }
        Ok(())
    }
}
