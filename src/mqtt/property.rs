//! MQTT 5 properties (2.2.2): identifiers, where each is allowed, how each is read and written. Never knows
//! what a packet does with one.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::mqtt::error::Malformed;
use crate::mqtt::message::MessageProperties;
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{Count, Reader, Sink};
use bytes::Bytes;

/// 2.2.2.2: name and value pairs, in order, repeats allowed.
pub type UserProperties = Vec<(Arc<str>, Arc<str>)>;

/// Where properties stand. The values are bits of the table's last column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Place {
    Connect = 1,
    Will = 1 << 1,
    Connack = 1 << 2,
    PublishFromClient = 1 << 3,
    PublishFromServer = 1 << 4,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    Ack = 1 << 5,
    Subscribe = 1 << 6,
    Unsubscribe = 1 << 7,
    DisconnectFromClient = 1 << 8,
    DisconnectFromServer = 1 << 9,
    Auth = 1 << 10,
}

const CONNECT: u16 = Place::Connect as u16;
const WILL: u16 = Place::Will as u16;
const CONNACK: u16 = Place::Connack as u16;
const PUBLISH: u16 = Place::PublishFromClient as u16 | Place::PublishFromServer as u16;
const PUBLISH_FROM_SERVER: u16 = Place::PublishFromServer as u16;
const ACK: u16 = Place::Ack as u16;
const SUBSCRIBE: u16 = Place::Subscribe as u16;
const DISCONNECT_FROM_CLIENT: u16 = Place::DisconnectFromClient as u16;
const DISCONNECT: u16 = Place::DisconnectFromClient as u16 | Place::DisconnectFromServer as u16;
const AUTH: u16 = Place::Auth as u16;
const EVERYWHERE: u16 = u16::MAX;

/// A value of one of the data types of 1.5.
trait Value<'a>: Sized {
    fn read(reader: &mut Reader<'a>, id: u8) -> Result<Self, Malformed>;
    fn write<S: Sink>(&self, sink: &mut S);
}

/// Every byte property but none other means 0 or 1; all else is a protocol error.
impl<'a> Value<'a> for bool {
    fn read(reader: &mut Reader<'a>, id: u8) -> Result<Self, Malformed> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::PropertyValue(id)),
        }
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u8(u8::from(*self));
    }
}

impl<'a> Value<'a> for u16 {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        reader.u16()
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u16(*self);
    }
}

impl<'a> Value<'a> for u32 {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        reader.u32()
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u32(*self);
    }
}

/// A variable byte integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Varint(pub u32);

impl<'a> Value<'a> for Varint {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        reader.varint().map(Self)
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_varint(self.0);
    }
}

impl<'a> Value<'a> for &'a str {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        reader.string()
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_string(self);
    }
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        reader.binary()
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_binary(self);
    }
}

/// [MQTT-1.5.7-1]
impl<'a> Value<'a> for (&'a str, &'a str) {
    fn read(reader: &mut Reader<'a>, _id: u8) -> Result<Self, Malformed> {
        Ok((reader.string()?, reader.string()?))
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_string(self.0);
        sink.put_string(self.1);
    }
}

macro_rules! property_table {
    ($lifetime:lifetime; $($name:ident: $value:ty = $id:literal, $places:expr;)*) => {
        /// One property, as it stands in the packet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Property<$lifetime> { $($name($value),)* }

        /// The places where the property may stand, None for an identifier that does not exist.
        const fn places(id: u32) -> Option<u16> {
            match id { $($id => Some($places),)* _ => None }
        }

        impl<$lifetime> Property<$lifetime> {
            pub const fn id(&self) -> u8 {
                match self { $(Property::$name(_) => $id,)* }
            }

            fn read_value(id: u8, reader: &mut Reader<$lifetime>) -> Result<Self, Malformed> {
                match id {
                    $($id => Value::read(reader, id).map(Property::$name),)*
                    _ => Err(Malformed::PropertyUnknown(id.into())),
                }
            }

            fn write_value<S: Sink>(&self, sink: &mut S) {
                match self { $(Property::$name(value) => value.write(sink),)* }
            }
        }
    };
}

// Table 2-4.
property_table! { 'a;
    PayloadFormatIndicator: bool = 0x01, PUBLISH | WILL;
    MessageExpiryInterval: u32 = 0x02, PUBLISH | WILL;
    // [MQTT-3.3.2-19]
    ContentType: &'a str = 0x03, PUBLISH | WILL;
    // [MQTT-3.3.2-13]
    ResponseTopic: &'a str = 0x08, PUBLISH | WILL;
    CorrelationData: &'a [u8] = 0x09, PUBLISH | WILL;
    SubscriptionIdentifier: Varint = 0x0b, PUBLISH_FROM_SERVER | SUBSCRIBE;
    SessionExpiryInterval: u32 = 0x11, CONNECT | CONNACK | DISCONNECT_FROM_CLIENT;
    AssignedClientIdentifier: &'a str = 0x12, CONNACK;
    ServerKeepAlive: u16 = 0x13, CONNACK;
    AuthenticationMethod: &'a str = 0x15, CONNECT | CONNACK | AUTH;
    AuthenticationData: &'a [u8] = 0x16, CONNECT | CONNACK | AUTH;
    RequestProblemInformation: bool = 0x17, CONNECT;
    WillDelayInterval: u32 = 0x18, WILL;
    RequestResponseInformation: bool = 0x19, CONNECT;
    ResponseInformation: &'a str = 0x1a, CONNACK;
    ServerReference: &'a str = 0x1c, CONNACK | DISCONNECT;
    ReasonString: &'a str = 0x1f, CONNACK | ACK | DISCONNECT | AUTH;
    ReceiveMaximum: u16 = 0x21, CONNECT | CONNACK;
    TopicAliasMaximum: u16 = 0x22, CONNECT | CONNACK;
    TopicAlias: u16 = 0x23, PUBLISH;
    MaximumQos: bool = 0x24, CONNACK;
    RetainAvailable: bool = 0x25, CONNACK;
    UserProperty: (&'a str, &'a str) = 0x26, EVERYWHERE;
    MaximumPacketSize: u32 = 0x27, CONNECT | CONNACK;
    WildcardSubscriptionAvailable: bool = 0x28, CONNACK;
    SubscriptionIdentifiersAvailable: bool = 0x29, CONNACK;
    SharedSubscriptionAvailable: bool = 0x2a, CONNACK;
}

impl Property<'_> {
    fn check_range(&self) -> Result<(), Malformed> {
        match self {
            // [MQTT-3.3.2-8]
            Property::TopicAlias(0) => Err(Malformed::TopicAliasZero),
            // 3.1.2.11.3, 3.1.2.11.4, 3.8.2.1.2
            Property::ReceiveMaximum(0)
            | Property::MaximumPacketSize(0)
            | Property::SubscriptionIdentifier(Varint(0)) => Err(Malformed::PropertyValue(self.id())),
            _ => Ok(()),
        }
    }

    const fn repeats(&self, place: Place) -> bool {
        match self {
            Property::UserProperty(_) => true,
            // [MQTT-3.3.4-4]
            Property::SubscriptionIdentifier(_) => matches!(place, Place::PublishFromServer),
            _ => false,
        }
    }

    fn write<S: Sink>(&self, sink: &mut S) {
        sink.put_u8(self.id());
        self.write_value(sink);
    }

    /// The error for a property that a packet's struct has no field for. The table keeps such away.
    pub const fn misplaced(&self) -> Malformed {
        Malformed::PropertyNotAllowed(self.id())
    }
}

/// Hands out the properties of one place, each checked: allowed there, not repeated, in its range.
pub struct PropertyReader<'a> {
    reader: Reader<'a>,
    place: Place,
    /// A bit for each identifier that was read; all identifiers are below 64.
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// Takes the property length and what it spans.
    pub fn new(reader: &mut Reader<'a>, place: Place) -> Result<Self, Malformed> {
        Ok(Self { reader: reader.section()?, place, seen: 0 })
    }

    pub fn next_property(&mut self) -> Result<Option<Property<'a>>, Malformed> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.next_id()?;
        let property = Property::read_value(id, &mut self.reader)?;
        let bit = 1_u64 << (id & 63);
        if self.seen & bit != 0 && !property.repeats(self.place) {
            return Err(Malformed::PropertyRepeated(id));
        }
        self.seen |= bit;
        property.check_range()?;
        Ok(Some(property))
    }

    fn next_id(&mut self) -> Result<u8, Malformed> {
        let number = self.reader.varint()?;
        let places = places(number).ok_or(Malformed::PropertyUnknown(number))?;
        let id = u8::try_from(number).map_err(|_| Malformed::PropertyUnknown(number))?;
        if places & self.place as u16 != 0 {
            return Ok(id);
        }
        Err(match (id, self.place) {
            // [MQTT-3.3.4-6]
            (0x0b, Place::PublishFromClient) => Malformed::SubscriptionIdentifierFromClient,
            // [MQTT-3.14.2-2]
            (0x11, Place::DisconnectFromServer) => Malformed::SessionExpiryFromServer,
            _ => Malformed::PropertyNotAllowed(id),
        })
    }
}

/// Writes the property length and the properties that `list` hands out; the same ones each time it is asked.
pub fn write_properties<S: Sink>(sink: &mut S, list: impl Fn(&mut dyn FnMut(Property<'_>))) {
    let mut count = Count::default();
    list(&mut |property| property.write(&mut count));
    // [MQTT-2.2.2-1]: without properties the length is 0.
    sink.put_length(count.bytes);
    list(&mut |property| property.write(sink));
}

/// Visits a property that may be absent.
pub fn visit_some<'a, T>(
    value: Option<T>,
    property: impl FnOnce(T) -> Property<'a>,
    visit: &mut dyn FnMut(Property<'_>),
) {
    if let Some(value) = value {
        visit(property(value));
    }
}

/// Takes one of the properties that a PUBLISH and a will share.
pub fn apply_message_property(
    properties: &mut MessageProperties,
    property: Property<'_>,
) -> Result<(), Malformed> {
    match property {
        Property::PayloadFormatIndicator(utf8) => properties.payload_format_utf8 = Some(utf8),
        Property::ContentType(text) => properties.content_type = Some(text.into()),
        Property::ResponseTopic(text) => {
            // [MQTT-3.3.2-14]
            properties.response_topic = Some(TopicName::new(text).map_err(Malformed::ResponseTopic)?);
        }
        Property::CorrelationData(bytes) => {
            properties.correlation_data = Some(Bytes::copy_from_slice(bytes));
        }
        Property::UserProperty(pair) => push_user_property(&mut properties.user_properties, pair),
        other => return Err(other.misplaced()),
    }
    Ok(())
}

pub fn visit_message_properties(properties: &MessageProperties, visit: &mut dyn FnMut(Property<'_>)) {
    visit_some(properties.payload_format_utf8, Property::PayloadFormatIndicator, visit);
    visit_some(properties.content_type.as_deref(), Property::ContentType, visit);
    visit_some(properties.response_topic.as_ref().map(TopicName::as_str), Property::ResponseTopic, visit);
    visit_some(properties.correlation_data.as_deref(), Property::CorrelationData, visit);
    visit_user_properties(&properties.user_properties, visit);
}

/// [MQTT-3.3.2-18] [MQTT-3.1.3-10]: in the order in which they came.
pub fn push_user_property(properties: &mut UserProperties, (name, value): (&str, &str)) {
    properties.push((name.into(), value.into()));
}

pub fn visit_user_properties(properties: &UserProperties, visit: &mut dyn FnMut(Property<'_>)) {
    for (name, value) in properties {
        visit(Property::UserProperty((name, value)));
    }
}

/// [MQTT-3.3.2-8]: 0 never comes this far.
pub const fn topic_alias(value: u16) -> Result<NonZeroU16, Malformed> {
    match NonZeroU16::new(value) {
        Some(alias) => Ok(alias),
        None => Err(Malformed::TopicAliasZero),
    }
}
