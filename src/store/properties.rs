//! How the properties of a message stand in its blob: which there are as flags, then each of them. Never touches SQL.

use bytes::Bytes;

use crate::mqtt::message::MessageProperties;
use crate::mqtt::topic::TopicName;
use crate::store::blob::{Reader, put_bytes, put_varint};
use crate::store::error::StoreError;

const FORMAT_PRESENT: u8 = 1;
const FORMAT_UTF8: u8 = 1 << 1;
const CONTENT_TYPE: u8 = 1 << 2;
const RESPONSE_TOPIC: u8 = 1 << 3;
const CORRELATION: u8 = 1 << 4;

pub(super) fn put_properties(out: &mut Vec<u8>, properties: &MessageProperties) {
    let mut flags = match properties.payload_format_utf8 {
        None => 0,
        Some(false) => FORMAT_PRESENT,
        Some(true) => FORMAT_PRESENT | FORMAT_UTF8,
    };
    flags |= if properties.content_type.is_some() { CONTENT_TYPE } else { 0 };
    flags |= if properties.response_topic.is_some() { RESPONSE_TOPIC } else { 0 };
    flags |= if properties.correlation_data.is_some() { CORRELATION } else { 0 };
    out.push(flags);
    if let Some(content_type) = &properties.content_type {
        put_bytes(out, content_type.as_bytes());
    }
    if let Some(topic) = &properties.response_topic {
        put_bytes(out, topic.as_str().as_bytes());
    }
    if let Some(correlation) = &properties.correlation_data {
        put_bytes(out, correlation);
    }
    put_varint(out, properties.user_properties.len() as u64);
    for (name, value) in &properties.user_properties {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

pub(super) fn read_properties(blob: &mut Reader<'_>) -> Result<MessageProperties, StoreError> {
    let flags = blob.byte()?;
    let payload_format_utf8 = (flags & FORMAT_PRESENT != 0).then_some(flags & FORMAT_UTF8 != 0);
    let content_type = if flags & CONTENT_TYPE == 0 { None } else { Some(blob.text()?.into()) };
    let response_topic = if flags & RESPONSE_TOPIC == 0 { None } else { Some(read_topic(blob)?) };
    let correlation_data =
        if flags & CORRELATION == 0 { None } else { Some(Bytes::copy_from_slice(blob.bytes()?)) };
    let mut user_properties = Vec::new();
    for _ in 0..blob.varint()? {
        user_properties.push((blob.text()?.into(), blob.text()?.into()));
    }
    Ok(MessageProperties {
        payload_format_utf8,
        content_type,
        response_topic,
        correlation_data,
        user_properties,
    })
}

pub(super) fn read_topic(blob: &mut Reader<'_>) -> Result<TopicName, StoreError> {
    TopicName::new(blob.text()?).map_err(|_| StoreError::Corrupt)
}
