//! DISCONNECT (3.14) and AUTH (3.15).

use bytes::Bytes;
use std::sync::Arc;

use crate::mqtt::property::UserProperties;
use crate::mqtt::reason::ReasonCode;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    pub reason: ReasonCode,
    /// Boxed: most have none.
    pub properties: Option<Box<DisconnectProperties>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Only from a client [MQTT-3.14.2-2].
    pub session_expiry_interval: Option<u32>,
    pub reason_string: Option<Arc<str>>,
    pub user_properties: UserProperties,
    pub server_reference: Option<Arc<str>>,
}

impl Disconnect {
    pub const fn with_reason(reason: ReasonCode) -> Self {
        Self { reason, properties: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    pub reason: ReasonCode,
    pub authentication_method: Option<Arc<str>>,
    pub authentication_data: Option<Bytes>,
    pub reason_string: Option<Arc<str>>,
    pub user_properties: UserProperties,
}
