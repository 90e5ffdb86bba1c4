//! rumqttc's codecs as one codec of our packets. Translates and checks; never keeps a packet.

use std::fmt;
use std::io;

use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::bridge::link::RECEIVE_PACKET_BYTES_MAX;
use crate::cloud::{v4, v5};
use crate::mqtt::packet::control::Disconnect;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicError;

/// The first byte of DISCONNECT.
const DISCONNECT: u8 = 0xe0;

/// Why bytes are no packet, or a packet makes no bytes.
#[derive(Debug)]
pub enum CodecError {
    Io(io::Error),
    V4(rumqttc::mqttbytes::Error),
    V5(rumqttc::v5::mqttbytes::Error),
    /// The packet is shorter than its fields.
    Truncated,
    ZeroIdentifier,
    Topic(TopicError),
    NotUtf8,
    /// A byte that stands for no reason or QoS.
    UnknownCode(u8),
    /// A client never writes, or never reads, this one.
    WrongDirection,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(why) => why.fmt(f),
            Self::V4(why) => why.fmt(f),
            Self::V5(why) => why.fmt(f),
            Self::Truncated => f.write_str("it is shorter than its fields"),
            Self::ZeroIdentifier => f.write_str("its packet identifier is 0"),
            Self::Topic(why) => write!(f, "its topic {why}"),
            Self::NotUtf8 => f.write_str("its topic is not UTF-8"),
            Self::UnknownCode(code) => write!(f, "it holds the unknown code {code:#04x}"),
            Self::WrongDirection => f.write_str("it goes the wrong way"),
        }
    }
}

impl std::error::Error for CodecError {}

/// rumqttc lets an identifier of 0 through; MQTT does not [MQTT-2.2.1-3].
pub(super) fn identifier(id: u16) -> Result<PacketId, CodecError> {
    PacketId::new(id).ok_or(CodecError::ZeroIdentifier)
}

impl From<io::Error> for CodecError {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

#[derive(Debug)]
pub enum UplinkCodec {
    V4(rumqttc::mqttbytes::v4::Codec),
    V5(rumqttc::v5::mqttbytes::v5::Codec),
}

impl UplinkCodec {
    /// The brain has checked the size of what it sends against the server's.
    pub fn new(version: Version) -> Self {
        let incoming = RECEIVE_PACKET_BYTES_MAX;
        match version {
            Version::V5 => Self::V5(rumqttc::v5::mqttbytes::v5::Codec {
                max_incoming_size: Some(incoming),
                max_outgoing_size: None,
            }),
            Version::V3_1 | Version::V3_1_1 => Self::V4(rumqttc::mqttbytes::v4::Codec {
                max_incoming_size: usize::try_from(incoming).unwrap_or(usize::MAX),
                max_outgoing_size: usize::MAX,
            }),
        }
    }
}

impl Decoder for UplinkCodec {
    type Item = Packet;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let before = bytes.len();
        let packet = match self {
            Self::V4(codec) => {
                let flags = v4::connack_flags(bytes);
                codec.decode(bytes).map_err(CodecError::V4)?.map(|packet| v4::from_wire(packet, flags))
            }
            Self::V5(codec) => match short_disconnect(bytes) {
                Some(packet) => Some(packet),
                None => codec.decode(bytes).map_err(CodecError::V5)?.map(v5::from_wire),
            },
        };
        // rumqttc asks for more bytes where a packet that is all there ends within a field.
        if packet.is_none() && bytes.len() < before {
            return Err(CodecError::Truncated);
        }
        packet.transpose()
    }
}

/// DISCONNECT without properties, which rumqttc cannot read (3.14.2.1, 3.14.2.2.1).
fn short_disconnect(bytes: &mut BytesMut) -> Option<Result<Packet, CodecError>> {
    let (length, reason) = match bytes.as_ref() {
        [DISCONNECT, 0, ..] => (2, 0),
        [DISCONNECT, 1, reason, ..] => (3, *reason),
        _ => return None,
    };
    bytes.advance(length);
    let reason = ReasonCode::from_byte(reason).ok_or(CodecError::UnknownCode(reason));
    Some(reason.map(|reason| Packet::Disconnect(Disconnect::with_reason(reason))))
}

impl Encoder<Packet> for UplinkCodec {
    type Error = CodecError;

    fn encode(&mut self, packet: Packet, bytes: &mut BytesMut) -> Result<(), CodecError> {
        if let (Self::V5(_), Packet::Disconnect(disconnect)) = (&*self, &packet)
            && disconnect.reason != ReasonCode::Success
        {
            // rumqttc writes a length that does not fit.
            bytes.extend_from_slice(&[DISCONNECT, 1, disconnect.reason.byte()]);
            return Ok(());
        }
        match self {
            Self::V4(codec) => {
                let (from, role) = (bytes.len(), v4::role_of(&packet));
                codec.encode(v4::to_wire(packet)?, bytes).map_err(CodecError::V4)?;
                v4::write_role(&mut bytes[from..], role);
                Ok(())
            }
            Self::V5(codec) => codec.encode(v5::to_wire(packet)?, bytes).map_err(CodecError::V5),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use bytes::{Bytes, BytesMut};
    use tokio_util::codec::{Decoder, Encoder};

    use super::{CodecError, UplinkCodec};
    use crate::bridge::wire::publish_bytes;
    use crate::mqtt::message::MessageProperties;
    use crate::mqtt::packet::ack::Ack;
    use crate::mqtt::packet::connect::{Connect, ConnectProperties, Role};
    use crate::mqtt::packet::control::Disconnect;
    use crate::mqtt::packet::publish::Publish;
    use crate::mqtt::packet::{Packet, Peer, Version};
    use crate::mqtt::qos::{PacketId, QoS};
    use crate::mqtt::reason::ReasonCode;
    use crate::mqtt::topic::TopicName;

    fn full_publish(payload_bytes: usize) -> Publish {
        Publish {
            dup: true,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: Some(TopicName::new("a/b").expect("a valid topic")),
            packet_id: PacketId::new(7),
            payload: vec![b'x'; payload_bytes].into(),
            topic_alias: None::<NonZeroU16>,
            expiry_interval: Some(60),
            subscription_identifiers: Vec::new(),
            properties: Some(Box::new(MessageProperties {
                payload_format_utf8: Some(true),
                content_type: Some("text/plain".into()),
                response_topic: Some(TopicName::new("r").expect("a valid topic")),
                correlation_data: Some(Bytes::from_static(b"c")),
                user_properties: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
            })),
        }
    }

    fn round_trip(version: Version, packet: &Packet) -> (Packet, u64) {
        let (mut codec, mut bytes) = (UplinkCodec::new(version), BytesMut::new());
        codec.encode(packet.clone(), &mut bytes).expect("encodes");
        let length = bytes.len() as u64;
        let decoded = codec.decode(&mut bytes).expect("decodes").expect("whole");
        assert!(bytes.is_empty());
        (decoded, length)
    }

    #[test]
    fn messages_keep_everything_and_are_as_large_as_the_brain_counts() {
        for payload_bytes in [0, 1, 80, 200, 20_000, 3_000_000] {
            let full = full_publish(payload_bytes);
            let (decoded, length) = round_trip(Version::V5, &Packet::Publish(full.clone()));
            assert_eq!(decoded, Packet::Publish(full.clone()));
            assert_eq!(publish_bytes(&full, Version::V5), length);
            let plain = Publish { expiry_interval: None, properties: None, ..full };
            let (decoded, length) = round_trip(Version::V3_1_1, &Packet::Publish(plain.clone()));
            assert_eq!(decoded, Packet::Publish(plain.clone()));
            assert_eq!(publish_bytes(&plain, Version::V3_1_1), length);
            let at_most_once = Publish { dup: false, qos: QoS::AtMostOnce, packet_id: None, ..plain };
            let (decoded, length) = round_trip(Version::V5, &Packet::Publish(at_most_once.clone()));
            assert_eq!(decoded, Packet::Publish(at_most_once.clone()));
            assert_eq!(publish_bytes(&at_most_once, Version::V5), length);
        }
    }

    #[test]
    fn a_bridge_says_so_where_the_level_stands_and_reads_who_answers() {
        for (client_id, role) in [1, 200, 20_000].iter().flat_map(|bytes| {
            [Role::Client, Role::Bridge, Role::Gateway].map(|role| ("c".repeat(*bytes), role))
        }) {
            let connect = Connect {
                version: Version::V3_1_1,
                role,
                client_id: client_id.into(),
                clean_start: false,
                keep_alive: 30,
                will: None,
                username: Some("u".into()),
                password: Some(Bytes::from_static(b"p")),
                properties: ConnectProperties::default(),
            };
            let (mut codec, mut bytes) = (UplinkCodec::new(Version::V3_1_1), BytesMut::new());
            codec.encode(Packet::Connect(Box::new(connect.clone())), &mut bytes).expect("encodes");
            let mut server = crate::mqtt::frame::Decoder::new(Peer::Client, 1 << 20);
            assert_eq!(server.decode(&mut bytes), Ok(Some(Packet::Connect(Box::new(connect)))));
        }
        for (flags, session_present, is_gateway) in
            [(0, false, false), (1, true, false), (2, false, true), (3, true, true)]
        {
            let mut bytes = BytesMut::from(&[0x20, 2, flags, 0][..]);
            let decoded =
                UplinkCodec::new(Version::V3_1_1).decode(&mut bytes).expect("decodes").expect("whole");
            let Packet::Connack(connack) = decoded else { panic!("{decoded:?}") };
            assert_eq!(
                (connack.session_present, connack.properties.is_gateway()),
                (session_present, is_gateway)
            );
        }
    }

    /// Else a queue of messages would take many times the memory that it counts.
    #[test]
    fn a_message_holds_nothing_but_itself() {
        for version in [Version::V5, Version::V3_1_1] {
            let (mut codec, mut bytes) = (UplinkCodec::new(version), BytesMut::new());
            for _ in 0..2 {
                codec.encode(Packet::Publish(full_publish(2000)), &mut bytes).expect("encodes");
            }
            let Some(Packet::Publish(publish)) = codec.decode(&mut bytes).expect("decodes") else {
                panic!("no PUBLISH")
            };
            assert!(publish.payload.is_unique(), "{version:?}: the payload is part of the read buffer");
            let correlation = publish.properties.and_then(|properties| properties.correlation_data);
            assert!(
                correlation.is_none_or(|data| data.is_unique()),
                "correlation data is part of the read buffer"
            );
        }
    }

    #[test]
    fn acknowledgements_keep_their_reasons() {
        let id = PacketId::new(9).expect("not zero");
        let not_found = Ack::with_reason(id, ReasonCode::PacketIdentifierNotFound);
        let over_quota = Ack::with_reason(id, ReasonCode::QuotaExceeded);
        let packets = [
            Packet::Puback(Ack::success(id)),
            Packet::Puback(over_quota.clone()),
            Packet::Pubrec(over_quota),
            Packet::Pubrel(not_found.clone()),
            Packet::Pubcomp(not_found),
            Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)),
            Packet::Disconnect(Disconnect::with_reason(ReasonCode::DisconnectWithWill)),
        ];
        for packet in packets {
            assert_eq!(round_trip(Version::V5, &packet).0, packet);
        }
    }

    #[test]
    fn what_a_server_may_shorten_or_break_is_read_or_refused() {
        let read = |version, bytes: &[u8]| UplinkCodec::new(version).decode(&mut BytesMut::from(bytes));
        let left = Packet::Disconnect(Disconnect::with_reason(ReasonCode::SessionTakenOver));
        assert_eq!(read(Version::V5, &[0xe0, 0x01, 0x8e]).expect("reads"), Some(left));
        assert_eq!(read(Version::V5, &[0xe0]).expect("waits"), None);
        assert_eq!(read(Version::V5, &[0x30, 0x05, 0x00]).expect("waits"), None);
        // A CONNACK of 3.1.1 to a client of 5.0; a PUBLISH that ends before its properties.
        assert!(matches!(
            read(Version::V5, &[0x20, 2, 0, 1]),
            Err(CodecError::V5(_) | CodecError::Truncated)
        ));
        let cut = [0x32, 5, 0, 1, b'a', 0, 1];
        assert!(matches!(read(Version::V5, &cut), Err(CodecError::Truncated)));
        let wildcard = [0x30, 3, 0, 1, b'#'];
        assert!(matches!(read(Version::V3_1_1, &wildcard), Err(CodecError::Topic(_))));
        let pingreq = [0xc0, 0];
        assert!(matches!(read(Version::V3_1_1, &pingreq), Err(CodecError::WrongDirection)));
    }
}
