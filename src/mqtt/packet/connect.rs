//! CONNECT (3.1) and CONNACK (3.2).

use bytes::Bytes;
use std::sync::Arc;

use crate::mqtt::message::MessageProperties;
use crate::mqtt::packet::Version;
use crate::mqtt::property::UserProperties;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// Empty where the client leaves the choice to the server.
    pub client_id: Arc<str>,
    /// Clean Start (5.0) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    pub will: Option<Box<Will>>,
    pub username: Option<Arc<str>>,
    pub password: Option<Bytes>,
    pub properties: ConnectProperties,
}

/// 3.1.2.11. Absent ones are None, so that the defaults stand in one place, the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    pub session_expiry_interval: Option<u32>,
    /// Never 0.
    pub receive_maximum: Option<u16>,
    /// Never 0.
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user_properties: UserProperties,
    pub authentication_method: Option<Arc<str>>,
    pub authentication_data: Option<Bytes>,
}

/// 3.1.3.2 to 3.1.3.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Seconds.
    pub delay_interval: u32,
    /// Seconds.
    pub expiry_interval: Option<u32>,
    pub properties: MessageProperties,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connack {
    pub session_present: bool,
    /// Written to 3.x clients as the return code that fits.
    pub reason: ReasonCode,
    pub properties: ConnackProperties,
}

/// 3.2.2.3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<Arc<str>>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<Arc<str>>,
    pub user_properties: UserProperties,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<Arc<str>>,
    pub server_reference: Option<Arc<str>>,
    pub authentication_method: Option<Arc<str>>,
    pub authentication_data: Option<Bytes>,
}
