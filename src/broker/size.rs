//! How large a PUBLISH will be on the wire, so that a client's Maximum Packet Size can be kept before anything
//! is encoded. Counts as MQTT 5.0 writes; 3.x clients have no maximum.

use crate::broker::effect::Delivery;
use crate::mqtt::message::MessageProperties;
use crate::mqtt::qos::QoS;

/// The whole packet, fixed header included, in bytes.
pub fn publish_bytes(delivery: &Delivery) -> usize {
    let message = &delivery.message;
    let packet_id = if delivery.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = properties_bytes(delivery);
    let remaining = string_bytes(message.topic.as_str())
        + packet_id
        + variable_int_bytes(properties)
        + properties
        + message.payload.len();
    1 + variable_int_bytes(remaining) + remaining
}

/// 1.5.5: seven bits a byte.
const fn variable_int_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn string_bytes(text: &str) -> usize {
    2 + text.len()
}

fn properties_bytes(delivery: &Delivery) -> usize {
    let message = &delivery.message;
    let identifiers: usize = delivery
        .subscription_identifiers
        .iter()
        .map(|identifier| 1 + variable_int_bytes(*identifier as usize))
        .sum();
    let expiry = if message.expiry_interval.is_some() { 1 + 4 } else { 0 };
    identifiers + expiry + message.properties.as_deref().map_or(0, carried_bytes)
}

fn carried_bytes(properties: &MessageProperties) -> usize {
    let pairs: usize = properties
        .user_properties
        .iter()
        .map(|(name, value)| 1 + string_bytes(name) + string_bytes(value))
        .sum();
    pairs
        + properties.payload_format_utf8.map_or(0, |_| 2)
        + properties.content_type.as_deref().map_or(0, |text| 1 + string_bytes(text))
        + properties.response_topic.as_ref().map_or(0, |topic| 1 + string_bytes(topic.as_str()))
        + properties.correlation_data.as_ref().map_or(0, |bytes| 1 + 2 + bytes.len())
}
