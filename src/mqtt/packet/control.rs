//! DISCONNECT (3.14) and AUTH (3.15).

use bytes::Bytes;
use std::sync::Arc;

use crate::mqtt::error::Malformed;
use crate::mqtt::packet::{Peer, Source, Version, read_reason};
use crate::mqtt::property::{
    Place, Property, PropertyReader, UserProperties, push_user_property, visit_some, visit_user_properties,
    write_properties,
};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Sink};

/// [MQTT-3.14.2-1]: what a client may say.
const DISCONNECT_FROM_CLIENT: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::DisconnectWithWill,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
];

/// [MQTT-3.14.2-1]: what a server may say; 0x8C is named by section 2.4.
const DISCONNECT_FROM_SERVER: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerBusy,
    ReasonCode::ServerShuttingDown,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::KeepAliveTimeout,
    ReasonCode::SessionTakenOver,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::ConnectionRateExceeded,
    ReasonCode::MaximumConnectTime,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// [MQTT-3.15.2-1]
const AUTH_FROM_CLIENT: &[ReasonCode] = &[ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate];

/// [MQTT-3.15.2-1]
const AUTH_FROM_SERVER: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::ContinueAuthentication];

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

    pub fn read(reader: &mut Reader<'_>, source: Source) -> Result<Self, Malformed> {
        // 3.14.2.1: a remaining length of 0 means a normal disconnection.
        if source.version != Version::V5 || reader.is_empty() {
            return Ok(Self::with_reason(ReasonCode::Success));
        }
        let (listed, place) = match source.peer {
            Peer::Client => (DISCONNECT_FROM_CLIENT, Place::DisconnectFromClient),
            Peer::Server => (DISCONNECT_FROM_SERVER, Place::DisconnectFromServer),
        };
        let reason = read_reason(reader, listed)?;
        // 3.14.2.2.1: a remaining length below 2 means no properties.
        let properties = if reader.is_empty() { None } else { DisconnectProperties::read(reader, place)? };
        Ok(Self { reason, properties })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        if version != Version::V5 || (self.reason == ReasonCode::Success && self.properties.is_none()) {
            return;
        }
        sink.put_u8(self.reason.byte());
        if let Some(properties) = &self.properties {
            properties.write(sink);
        }
    }
}

impl DisconnectProperties {
    fn read(reader: &mut Reader<'_>, place: Place) -> Result<Option<Box<Self>>, Malformed> {
        let mut properties = None::<Box<Self>>;
        let mut list = PropertyReader::new(reader, place)?;
        while let Some(property) = list.next_property()? {
            let properties = properties.get_or_insert_default();
            match property {
                Property::SessionExpiryInterval(secs) => properties.session_expiry_interval = Some(secs),
                Property::ReasonString(text) => properties.reason_string = Some(text.into()),
                Property::UserProperty(pair) => push_user_property(&mut properties.user_properties, pair),
                Property::ServerReference(text) => properties.server_reference = Some(text.into()),
                other => return Err(other.misplaced()),
            }
        }
        Ok(properties)
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        write_properties(sink, |visit| {
            visit_some(self.session_expiry_interval, Property::SessionExpiryInterval, visit);
            visit_some(self.reason_string.as_deref(), Property::ReasonString, visit);
            visit_user_properties(&self.user_properties, visit);
            visit_some(self.server_reference.as_deref(), Property::ServerReference, visit);
        });
    }
}

/// Does not apply: [MQTT-3.15.2-2] [MQTT-3.15.2-3], a server without authentication methods sends none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    pub reason: ReasonCode,
    pub authentication_method: Option<Arc<str>>,
    pub authentication_data: Option<Bytes>,
    pub reason_string: Option<Arc<str>>,
    pub user_properties: UserProperties,
}

impl Auth {
    const fn with_reason(reason: ReasonCode) -> Self {
        Self {
            reason,
            authentication_method: None,
            authentication_data: None,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }

    pub fn read(reader: &mut Reader<'_>, peer: Peer) -> Result<Self, Malformed> {
        let listed = match peer {
            Peer::Client => AUTH_FROM_CLIENT,
            Peer::Server => AUTH_FROM_SERVER,
        };
        // 3.15.2.1: a remaining length of 0 means success, which only a server says.
        let reason = match (reader.is_empty(), peer) {
            (true, Peer::Server) => ReasonCode::Success,
            (true, Peer::Client) => return Err(Malformed::ReasonCode(ReasonCode::Success.byte())),
            (false, _) => read_reason(reader, listed)?,
        };
        let mut auth = Self::with_reason(reason);
        if !reader.is_empty() {
            auth.read_properties(reader)?;
        }
        // 3.15.2.2.2: only a success without any property may leave the method out.
        if auth.authentication_method.is_none() && auth != Self::with_reason(ReasonCode::Success) {
            return Err(Malformed::AuthenticationMethodMissing);
        }
        Ok(auth)
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut list = PropertyReader::new(reader, Place::Auth)?;
        while let Some(property) = list.next_property()? {
            match property {
                Property::AuthenticationMethod(text) => self.authentication_method = Some(text.into()),
                Property::AuthenticationData(bytes) => {
                    self.authentication_data = Some(Bytes::copy_from_slice(bytes));
                }
                Property::ReasonString(text) => self.reason_string = Some(text.into()),
                Property::UserProperty(pair) => push_user_property(&mut self.user_properties, pair),
                other => return Err(other.misplaced()),
            }
        }
        Ok(())
    }

    pub fn write<S: Sink>(&self, sink: &mut S) {
        if *self == Self::with_reason(ReasonCode::Success) {
            return;
        }
        sink.put_u8(self.reason.byte());
        write_properties(sink, |visit| {
            visit_some(self.authentication_method.as_deref(), Property::AuthenticationMethod, visit);
            visit_some(self.authentication_data.as_deref(), Property::AuthenticationData, visit);
            visit_some(self.reason_string.as_deref(), Property::ReasonString, visit);
            visit_user_properties(&self.user_properties, visit);
        });
    }
}
