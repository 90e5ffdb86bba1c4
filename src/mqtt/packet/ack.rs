//! PUBACK (3.4), PUBREC (3.5), PUBREL (3.6) and PUBCOMP (3.7): one shape.

use std::sync::Arc;

use crate::mqtt::property::UserProperties;
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
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

impl Ack {
    pub const fn success(packet_id: PacketId) -> Self {
        Self { packet_id, reason: ReasonCode::Success, properties: None }
    }

    pub const fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: None }
    }
}
