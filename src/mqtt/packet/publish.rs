//! PUBLISH (3.3).

use bytes::Bytes;

use crate::mqtt::message::MessageProperties;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::TopicName;

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
    pub topic_alias: Option<std::num::NonZeroU16>,
    /// Seconds.
    pub expiry_interval: Option<u32>,
    /// Only from a server.
    pub subscription_identifiers: Vec<u32>,
    /// Boxed: most messages have none.
    pub properties: Option<Box<MessageProperties>>,
}
