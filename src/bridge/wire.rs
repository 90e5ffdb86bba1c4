//! How large a PUBLISH will be on the wire, so that what the server would refuse is never sent. Counts only,
//! encodes nothing.

use bytes::Bytes;

use crate::mqtt::message::MessageProperties;
use crate::mqtt::packet::Version;
use crate::mqtt::packet::publish::Publish;

/// MQTT 5 2.1.4: the largest packet that can be written, its fixed header included.
pub const PACKET_BYTES_MAX: u64 = 268_435_455 + 5;

/// The whole packet, fixed header included.
pub fn publish_bytes(publish: &Publish, version: Version) -> u64 {
    let topic = publish.topic.as_ref().map_or(0, |topic| topic.as_str().len());
    let identifier = if publish.packet_id.is_some() { 2 } else { 0 };
    let mut body = sum([2, topic, identifier, publish.payload.len()]);
    if version == Version::V5 {
        let properties = properties_bytes(publish);
        body += length_bytes(properties) + properties;
    }
    1 + length_bytes(body) + body
}

fn properties_bytes(publish: &Publish) -> u64 {
    let expiry = if publish.expiry_interval.is_some() { 5 } else { 0 };
    expiry + publish.properties.as_deref().map_or(0, carried_bytes)
}

fn carried_bytes(properties: &MessageProperties) -> u64 {
    let pairs: u64 =
        properties.user_properties.iter().map(|(name, value)| sum([5, name.len(), value.len()])).sum();
    let format = if properties.payload_format_utf8.is_some() { 2 } else { 0 };
    let text = |length: Option<usize>| length.map_or(0, |length| sum([3, length]));
    pairs
        + format
        + text(properties.content_type.as_deref().map(str::len))
        + text(properties.response_topic.as_ref().map(|topic| topic.as_str().len()))
        + text(properties.correlation_data.as_ref().map(Bytes::len))
}

/// MQTT 5 1.5.5: bytes of a variable byte integer; 5 where none can hold the value.
fn length_bytes(value: u64) -> u64 {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    }
}

fn sum<const N: usize>(parts: [usize; N]) -> u64 {
    parts.iter().map(|part| *part as u64).sum()
}
