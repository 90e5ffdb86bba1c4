//! CONNECT (3.1) and CONNACK (3.2).

use bytes::Bytes;
use std::sync::Arc;

use crate::mqtt::error::{EncodeError, Malformed};
use crate::mqtt::message::{GATEWAY, MessageProperties};
use crate::mqtt::packet::{Version, read_reason};
use crate::mqtt::property::{
    Place, Property, PropertyReader, UserProperties, apply_message_property, push_user_property,
    visit_message_properties, visit_some, visit_user_properties, write_properties,
};
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::{ReasonCode, reason_of_return_code_v3, return_code_v3};
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{Reader, Sink};

const PROTOCOL_NAME: &[u8] = b"MQTT";
/// The protocol name of MQTT 3.1.
const PROTOCOL_NAME_V3_1: &[u8] = b"MQIsdp";

const USERNAME: u8 = 0b1000_0000;
const PASSWORD: u8 = 0b0100_0000;
const WILL_RETAIN: u8 = 0b0010_0000;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_QOS_SHIFT: u32 = 3;
const WILL: u8 = 0b0000_0100;
const CLEAN_START: u8 = 0b0000_0010;
const RESERVED: u8 = 0b0000_0001;

const SESSION_PRESENT: u8 = 0b0000_0001;
/// Of a 3.1.1 CONNACK, where CONNECT came from a [`Role::Gateway`]: so is the server.
const IS_GATEWAY: u8 = 0b0000_0010;

/// [MQTT-3.2.2-8]
const CONNACK_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::UnsupportedProtocolVersion,
    ReasonCode::ClientIdentifierNotValid,
    ReasonCode::BadUserNameOrPassword,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerUnavailable,
    ReasonCode::ServerBusy,
    ReasonCode::Banned,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QosNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::ConnectionRateExceeded,
];

/// What a 3.x client says of itself in the upper bits of the protocol level, which the standards leave empty. A server that
/// does not know them refuses the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// And all of 5.0, which has subscription options and user properties for what the others say.
    #[default]
    Client = 0,
    /// As Mosquitto's bridges say it: no subscription brings back what it published, and RETAIN comes as it was published.
    Bridge = 0x80,
    /// A bridge, of another gateway; 3.1.1 alone. Where the server is one too, and says so in CONNACK, topics on this
    /// connection carry marks (`mqtt::via`).
    Gateway = 0xc0,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    pub role: Role,
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

impl Connect {
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (version, role) = read_level(reader)?;
        let flags = read_flags(reader, version)?;
        let keep_alive = reader.u16()?;
        let mut properties = ConnectProperties::default();
        if version == Version::V5 {
            properties.read(reader)?;
        }
        // [MQTT-3.1.3-1] [MQTT-3.1.3-1 of 3.1.1]: client identifier, will, user name, password.
        // [MQTT-3.1.3-3] [MQTT-3.1.3-4] [MQTT-3.1.3-3, -4 of 3.1.1]
        let client_id = reader.string()?.into();
        let will = if flags & WILL == 0 { None } else { Some(Box::new(Will::read(reader, flags, version)?)) };
        // [MQTT-3.1.3-12] [MQTT-3.1.3-11 of 3.1.1]
        let username = if has_login_field(reader, flags & USERNAME, version) {
            Some(reader.string()?.into())
        } else {
            None
        };
        let password = if has_login_field(reader, flags & PASSWORD, version) {
            Some(Bytes::copy_from_slice(reader.binary()?))
        } else {
            None
        };
        Ok(Self {
            version,
            role,
            client_id,
            clean_start: flags & CLEAN_START != 0,
            keep_alive,
            will,
            username,
            password,
            properties,
        })
    }

    fn flags(&self) -> u8 {
        let will = self.will.as_deref().map_or(0, |will| {
            WILL | will.qos.bits() << WILL_QOS_SHIFT | if will.retain { WILL_RETAIN } else { 0 }
        });
        will | if self.clean_start { CLEAN_START } else { 0 }
            | if self.username.is_some() { USERNAME } else { 0 }
            | if self.password.is_some() { PASSWORD } else { 0 }
    }

    /// In the version that the packet itself names.
    pub fn write<S: Sink>(&self, sink: &mut S) {
        // [MQTT-3.1.2-22 of 3.1.1]
        if self.version != Version::V5 && self.password.is_some() && self.username.is_none() {
            sink.refuse(EncodeError::PasswordWithoutUsername);
        }
        sink.put_binary(match self.version {
            Version::V3_1 => PROTOCOL_NAME_V3_1,
            Version::V3_1_1 | Version::V5 => PROTOCOL_NAME,
        });
        sink.put_u8(self.version as u8 | self.role as u8);
        sink.put_u8(self.flags());
        sink.put_u16(self.keep_alive);
        if self.version == Version::V5 {
            self.properties.write(sink);
        }
        sink.put_string(&self.client_id);
        if let Some(will) = &self.will {
            will.write(self.version, sink);
        }
        if let Some(username) = &self.username {
            sink.put_string(username);
        }
        if let Some(password) = &self.password {
            sink.put_binary(password);
        }
    }
}

/// Protocol name and level, which CONNECT begins with.
pub(crate) fn read_level(reader: &mut Reader<'_>) -> Result<(Version, Role), Malformed> {
    let name = reader.binary()?;
    // [MQTT-3.1.2-1] [MQTT-3.1.2-1 of 3.1.1]
    if name != PROTOCOL_NAME && name != PROTOCOL_NAME_V3_1 {
        return Err(Malformed::ProtocolName);
    }
    // [MQTT-3.1.2-2] [MQTT-3.1.2-2 of 3.1.1]
    match (name == PROTOCOL_NAME, reader.u8()?) {
        (false, 3) => Ok((Version::V3_1, Role::Client)),
        (false, 0x83) => Ok((Version::V3_1, Role::Bridge)),
        (true, 4) => Ok((Version::V3_1_1, Role::Client)),
        (true, 0x84) => Ok((Version::V3_1_1, Role::Bridge)),
        (true, 0xc4) => Ok((Version::V3_1_1, Role::Gateway)),
        (true, 5) => Ok((Version::V5, Role::Client)),
        (_, level) => Err(Malformed::ProtocolLevel(level)),
    }
}

fn read_flags(reader: &mut Reader<'_>, version: Version) -> Result<u8, Malformed> {
    let flags = reader.u8()?;
    // [MQTT-3.1.2-3] [MQTT-3.1.2-3 of 3.1.1]
    if flags & RESERVED != 0 {
        return Err(Malformed::ReservedConnectFlag);
    }
    // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-11, -13, -15 of 3.1.1]: without a will no will flags.
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(Malformed::WillFlags);
    }
    // [MQTT-3.1.2-22 of 3.1.1]; MQTT 5 allows it (3.1.2.9).
    if version != Version::V5 && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return Err(Malformed::PasswordWithoutUsername);
    }
    Ok(flags)
}

/// Whether a user name or password is there to read. MQTT 3.1 lets a packet end before the fields that its
/// flags announce; later versions do not [MQTT-3.1.2-17] [MQTT-3.1.2-19] [MQTT-3.1.2-19, -21 of 3.1.1]. Without the flag
/// there is none [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.1.2-18, -20 of 3.1.1]: bytes that are left over are malformed.
fn has_login_field(reader: &Reader<'_>, flag: u8, version: Version) -> bool {
    flag != 0 && !(version == Version::V3_1 && reader.is_empty())
}

impl ConnectProperties {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut list = PropertyReader::new(reader, Place::Connect)?;
        while let Some(property) = list.next_property()? {
            match property {
                Property::SessionExpiryInterval(secs) => self.session_expiry_interval = Some(secs),
                Property::ReceiveMaximum(packets) => self.receive_maximum = Some(packets),
                Property::MaximumPacketSize(bytes) => self.maximum_packet_size = Some(bytes),
                Property::TopicAliasMaximum(alias) => self.topic_alias_maximum = Some(alias),
                Property::RequestResponseInformation(on) => self.request_response_information = Some(on),
                Property::RequestProblemInformation(on) => self.request_problem_information = Some(on),
                Property::UserProperty(pair) => push_user_property(&mut self.user_properties, pair),
                Property::AuthenticationMethod(text) => self.authentication_method = Some(text.into()),
                Property::AuthenticationData(bytes) => {
                    self.authentication_data = Some(Bytes::copy_from_slice(bytes));
                }
                other => return Err(other.misplaced()),
            }
        }
        // 3.1.2.11.10
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Malformed::AuthenticationMethodMissing);
        }
        Ok(())
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        write_properties(sink, |visit| {
            visit_some(self.session_expiry_interval, Property::SessionExpiryInterval, visit);
            visit_some(self.receive_maximum, Property::ReceiveMaximum, visit);
            visit_some(self.maximum_packet_size, Property::MaximumPacketSize, visit);
            visit_some(self.topic_alias_maximum, Property::TopicAliasMaximum, visit);
            visit_some(self.request_response_information, Property::RequestResponseInformation, visit);
            visit_some(self.request_problem_information, Property::RequestProblemInformation, visit);
            visit_user_properties(&self.user_properties, visit);
            visit_some(self.authentication_method.as_deref(), Property::AuthenticationMethod, visit);
            visit_some(self.authentication_data.as_deref(), Property::AuthenticationData, visit);
        });
    }
}

impl Will {
    fn read(reader: &mut Reader<'_>, flags: u8, version: Version) -> Result<Self, Malformed> {
        // [MQTT-3.1.2-12] [MQTT-3.1.2-14 of 3.1.1]
        let qos = QoS::from_bits((flags & WILL_QOS) >> WILL_QOS_SHIFT).ok_or(Malformed::WillFlags)?;
        let mut delay_interval = 0;
        let mut expiry_interval = None;
        let mut properties = MessageProperties::default();
        if version == Version::V5 {
            let mut list = PropertyReader::new(reader, Place::Will)?;
            while let Some(property) = list.next_property()? {
                match property {
                    Property::WillDelayInterval(secs) => delay_interval = secs,
                    Property::MessageExpiryInterval(secs) => expiry_interval = Some(secs),
                    other => apply_message_property(&mut properties, other)?,
                }
            }
        }
        // [MQTT-3.1.2-9] [MQTT-3.1.3-11] [MQTT-3.1.2-9 of 3.1.1] [MQTT-3.1.3-10 of 3.1.1]
        let topic = TopicName::new(reader.string()?).map_err(Malformed::Topic)?;
        let payload = Bytes::copy_from_slice(reader.binary()?);
        let retain = flags & WILL_RETAIN != 0;
        Ok(Self { topic, payload, qos, retain, delay_interval, expiry_interval, properties })
    }

    fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        if version == Version::V5 {
            // 3.1.3.2.2: an absent delay is 0.
            let delay_interval = Some(self.delay_interval).filter(|secs| *secs > 0);
            write_properties(sink, |visit| {
                visit_some(delay_interval, Property::WillDelayInterval, visit);
                visit_some(self.expiry_interval, Property::MessageExpiryInterval, visit);
                visit_message_properties(&self.properties, visit);
            });
        }
        sink.put_string(self.topic.as_str());
        sink.put_binary(&self.payload);
    }
}

impl Connack {
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, Malformed> {
        let flags = reader.u8()?;
        let known = if version == Version::V3_1_1 { SESSION_PRESENT | IS_GATEWAY } else { SESSION_PRESENT };
        // [MQTT-3.2.2-1]
        if flags & !known != 0 {
            return Err(Malformed::ConnackFlags);
        }
        // MQTT 3.1 does not use the flag.
        let session_present = flags & SESSION_PRESENT != 0 && version != Version::V3_1;
        let mut properties = ConnackProperties::default();
        let reason = if version == Version::V5 {
            let reason = read_reason(reader, CONNACK_REASONS)?;
            properties.read(reader)?;
            reason
        } else {
            let code = reader.u8()?;
            let reason = reason_of_return_code_v3(code).ok_or(Malformed::ReasonCode(code))?;
            if flags & IS_GATEWAY != 0 && reason != ReasonCode::Success {
                return Err(Malformed::ConnackFlags);
            }
            properties = ConnackProperties::of_flags(flags);
            reason
        };
        // [MQTT-3.2.2-6] [MQTT-3.2.2-4 of 3.1.1]
        if session_present && reason != ReasonCode::Success {
            return Err(Malformed::SessionPresentOnRefusal);
        }
        Ok(Self { session_present, reason, properties })
    }

    pub fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        // [MQTT-3.2.2-1]; never with a refusal [MQTT-3.2.2-6] [MQTT-3.2.2-4 of 3.1.1].
        let accepts = self.reason == ReasonCode::Success;
        let session_present = accepts && self.session_present && version != Version::V3_1;
        let is_gateway = accepts && version == Version::V3_1_1 && self.properties.is_gateway();
        sink.put_u8(
            if session_present { SESSION_PRESENT } else { 0 } | if is_gateway { IS_GATEWAY } else { 0 },
        );
        if version == Version::V5 {
            sink.put_u8(self.reason.byte());
            self.properties.write(sink);
            return;
        }
        match return_code_v3(self.reason) {
            Some(code) => sink.put_u8(code),
            None => sink.refuse(EncodeError::NoReturnCode(self.reason)),
        }
    }
}

impl ConnackProperties {
    /// Whether the server is another gateway: a user property of 5.0, a flag of 3.1.1.
    pub fn is_gateway(&self) -> bool {
        self.user_properties.iter().any(|(name, _)| &**name == GATEWAY)
    }

    /// Of a 3.1.1 CONNACK.
    pub fn of_flags(flags: u8) -> Self {
        let mut properties = Self::default();
        if flags & IS_GATEWAY != 0 {
            properties.set_gateway("");
        }
        properties
    }

    /// `mark` is what 5.0 alone says beside it.
    pub fn set_gateway(&mut self, mark: &str) {
        self.user_properties.push((GATEWAY.into(), mark.into()));
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut list = PropertyReader::new(reader, Place::Connack)?;
        while let Some(property) = list.next_property()? {
            self.apply(property)?;
        }
        // 3.2.2.3.18
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Malformed::AuthenticationMethodMissing);
        }
        Ok(())
    }

    fn apply(&mut self, property: Property<'_>) -> Result<(), Malformed> {
        match property {
            Property::SessionExpiryInterval(secs) => self.session_expiry_interval = Some(secs),
            Property::ReceiveMaximum(packets) => self.receive_maximum = Some(packets),
            // 3.2.2.3.4: 2 is said by leaving it out.
            Property::MaximumQos(false) => self.maximum_qos = Some(QoS::AtMostOnce),
            Property::MaximumQos(true) => self.maximum_qos = Some(QoS::AtLeastOnce),
            Property::RetainAvailable(on) => self.retain_available = Some(on),
            Property::MaximumPacketSize(bytes) => self.maximum_packet_size = Some(bytes),
            Property::AssignedClientIdentifier(text) => self.assigned_client_id = Some(text.into()),
            Property::TopicAliasMaximum(alias) => self.topic_alias_maximum = Some(alias),
            Property::ReasonString(text) => self.reason_string = Some(text.into()),
            Property::UserProperty(pair) => push_user_property(&mut self.user_properties, pair),
            Property::WildcardSubscriptionAvailable(on) => self.wildcard_subscription_available = Some(on),
            Property::SubscriptionIdentifiersAvailable(on) => {
                self.subscription_identifiers_available = Some(on);
            }
            Property::SharedSubscriptionAvailable(on) => self.shared_subscription_available = Some(on),
            Property::ServerKeepAlive(secs) => self.server_keep_alive = Some(secs),
            Property::ResponseInformation(text) => self.response_information = Some(text.into()),
            Property::ServerReference(text) => self.server_reference = Some(text.into()),
            Property::AuthenticationMethod(text) => self.authentication_method = Some(text.into()),
            Property::AuthenticationData(bytes) => {
                self.authentication_data = Some(Bytes::copy_from_slice(bytes));
            }
            other => return Err(other.misplaced()),
        }
        Ok(())
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        let maximum_qos = match self.maximum_qos {
            Some(QoS::AtMostOnce) => Some(false),
            Some(QoS::AtLeastOnce) => Some(true),
            Some(QoS::ExactlyOnce) | None => None,
        };
        write_properties(sink, |visit| {
            visit_some(self.session_expiry_interval, Property::SessionExpiryInterval, visit);
            visit_some(self.receive_maximum, Property::ReceiveMaximum, visit);
            visit_some(maximum_qos, Property::MaximumQos, visit);
            visit_some(self.retain_available, Property::RetainAvailable, visit);
            visit_some(self.maximum_packet_size, Property::MaximumPacketSize, visit);
            visit_some(self.assigned_client_id.as_deref(), Property::AssignedClientIdentifier, visit);
            visit_some(self.topic_alias_maximum, Property::TopicAliasMaximum, visit);
            visit_some(self.reason_string.as_deref(), Property::ReasonString, visit);
            visit_user_properties(&self.user_properties, visit);
            let wildcards = self.wildcard_subscription_available;
            visit_some(wildcards, Property::WildcardSubscriptionAvailable, visit);
            let identifiers = self.subscription_identifiers_available;
            visit_some(identifiers, Property::SubscriptionIdentifiersAvailable, visit);
            visit_some(self.shared_subscription_available, Property::SharedSubscriptionAvailable, visit);
            visit_some(self.server_keep_alive, Property::ServerKeepAlive, visit);
            visit_some(self.response_information.as_deref(), Property::ResponseInformation, visit);
            visit_some(self.server_reference.as_deref(), Property::ServerReference, visit);
            visit_some(self.authentication_method.as_deref(), Property::AuthenticationMethod, visit);
            visit_some(self.authentication_data.as_deref(), Property::AuthenticationData, visit);
        });
    }
}
