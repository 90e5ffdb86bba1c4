//! What `pub` and `sub` say on the wire, the same for both protocol versions: packets of neither, and the codec
//! that turns them into rumqttc's. Never waits and keeps no state of a session.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5;
use std::fmt::Debug;
use tokio_util::codec::{Decoder, Encoder};

use crate::cloud::qos;
use crate::mqtt::qos::QoS;

/// MQTT 2.1.4: the largest remaining length.
pub const PACKET_BYTES_MAX: u32 = 268_435_455;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// An application message on its way; with MQTT 3.1.1 the properties stay behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// 0 at QoS 0.
    pub id: u16,
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    pub topic: String,
    pub payload: Bytes,
    pub properties: v5::PublishProperties,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Option<v5::LastWillProperties>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub client_id: String,
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    pub credentials: Option<(String, String)>,
    pub will: Option<Will>,
    pub properties: Option<v5::ConnectProperties>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub id: u16,
    pub filters: Vec<String>,
    pub qos: QoS,
    pub properties: Option<v5::SubscribeProperties>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    Connect(Box<Connect>),
    Publish(Box<Publish>),
    Puback(u16),
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
    Subscribe(Subscribe),
    Pingreq,
    Disconnect,
}

/// `Err` is the reason of a refusal in words.
pub type Verdict = Result<(), String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connack {
    pub session_present: bool,
    pub verdict: Verdict,
    pub receive_maximum: u16,
    /// Seconds, where the server asks for another.
    pub keep_alive: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Connack(Connack),
    Publish(Box<Publish>),
    Puback(u16, Verdict),
    Pubrec(u16, Verdict),
    Pubrel(u16),
    Pubcomp(u16),
    /// One verdict a filter.
    Suback(u16, Vec<Verdict>),
    Pingresp,
    /// The reason in words.
    Disconnect(String),
    /// What a server does not send to a client.
    Unexpected,
}

/// Packets that are not MQTT, or larger than the server takes.
#[derive(Debug)]
pub enum WireError {
    V311(mqttbytes::Error),
    V5(mqttbytes5::Error),
    NotUtf8,
    Io(std::io::Error),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V311(error) => write!(f, "{error}"),
            Self::V5(error) => write!(f, "{error}"),
            Self::NotUtf8 => f.write_str("a topic that is not UTF-8"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// rumqttc's codecs behind one face.
#[derive(Debug)]
pub enum WireCodec {
    V311(v4::Codec),
    V5(v5::Codec),
}

impl WireCodec {
    pub fn new(version: Version) -> Self {
        let bytes_max = PACKET_BYTES_MAX as usize;
        match version {
            Version::V311 => {
                Self::V311(v4::Codec { max_incoming_size: bytes_max, max_outgoing_size: bytes_max })
            }
            Version::V5 => Self::V5(v5::Codec {
                max_incoming_size: Some(PACKET_BYTES_MAX),
                max_outgoing_size: Some(PACKET_BYTES_MAX),
            }),
        }
    }
}

impl Encoder<Outgoing> for WireCodec {
    type Error = WireError;

    fn encode(&mut self, packet: Outgoing, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::V311(codec) => codec.encode(to_v311(packet), out).map_err(WireError::V311),
            Self::V5(codec) => codec.encode(to_v5(packet), out).map_err(WireError::V5),
        }
    }
}

impl Decoder for WireCodec {
    type Item = Incoming;
    type Error = WireError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        match self {
            Self::V311(codec) => Ok(codec.decode(source).map_err(WireError::V311)?.map(from_v311)),
            Self::V5(codec) => codec.decode(source).map_err(WireError::V5)?.map(from_v5).transpose(),
        }
    }
}

fn to_v311(packet: Outgoing) -> v4::Packet {
    match packet {
        Outgoing::Connect(connect) => v4::Packet::Connect(connect_v311(*connect)),
        Outgoing::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: qos::to_v4(publish.qos),
            retain: publish.retain,
            topic: publish.topic,
            pkid: publish.id,
            payload: publish.payload,
        }),
        Outgoing::Puback(id) => v4::Packet::PubAck(v4::PubAck::new(id)),
        Outgoing::Pubrec(id) => v4::Packet::PubRec(v4::PubRec::new(id)),
        Outgoing::Pubrel(id) => v4::Packet::PubRel(v4::PubRel::new(id)),
        Outgoing::Pubcomp(id) => v4::Packet::PubComp(v4::PubComp::new(id)),
        Outgoing::Subscribe(Subscribe { id, filters, qos, .. }) => {
            let filter = |path| v4::SubscribeFilter { path, qos: qos::to_v4(qos) };
            let filters = filters.into_iter().map(filter).collect();
            v4::Packet::Subscribe(v4::Subscribe { pkid: id, filters })
        }
        Outgoing::Pingreq => v4::Packet::PingReq,
        Outgoing::Disconnect => v4::Packet::Disconnect,
    }
}

fn connect_v311(connect: Connect) -> v4::Connect {
    let mut packet = v4::Connect::new(connect.client_id);
    packet.keep_alive = connect.keep_alive;
    packet.clean_session = connect.clean_start;
    packet.login = connect.credentials.map(|(name, password)| v4::Login { username: name, password });
    packet.last_will = connect.will.map(|will| v4::LastWill {
        topic: will.topic,
        message: will.payload,
        qos: qos::to_v4(will.qos),
        retain: will.retain,
    });
    packet
}

fn to_v5(packet: Outgoing) -> v5::Packet {
    match packet {
        Outgoing::Connect(connect) => connect_v5(*connect),
        Outgoing::Publish(publish) => v5::Packet::Publish(v5::Publish {
            dup: publish.dup,
            qos: qos::to_v5(publish.qos),
            retain: publish.retain,
            topic: publish.topic.into(),
            pkid: publish.id,
            payload: publish.payload,
            properties: Some(publish.properties).filter(|p| *p != v5::PublishProperties::default()),
        }),
        Outgoing::Puback(id) => v5::Packet::PubAck(v5::PubAck::new(id, None)),
        Outgoing::Pubrec(id) => v5::Packet::PubRec(v5::PubRec::new(id, None)),
        Outgoing::Pubrel(id) => v5::Packet::PubRel(v5::PubRel::new(id, None)),
        Outgoing::Pubcomp(id) => v5::Packet::PubComp(v5::PubComp::new(id, None)),
        Outgoing::Subscribe(Subscribe { id, filters, qos, properties }) => {
            let filters = filters.into_iter().map(|path| v5::Filter::new(path, qos::to_v5(qos))).collect();
            v5::Packet::Subscribe(v5::Subscribe { pkid: id, filters, properties })
        }
        Outgoing::Pingreq => v5::Packet::PingReq(v5::PingReq),
        Outgoing::Disconnect => {
            v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))
        }
    }
}

fn connect_v5(connect: Connect) -> v5::Packet {
    let packet = v5::Connect {
        keep_alive: connect.keep_alive,
        client_id: connect.client_id,
        clean_start: connect.clean_start,
        properties: connect.properties,
    };
    let will = connect.will.map(|will| v5::LastWill {
        topic: will.topic.into(),
        message: will.payload,
        qos: qos::to_v5(will.qos),
        retain: will.retain,
        properties: will.properties,
    });
    let login = connect.credentials.map(|(name, password)| v5::Login { username: name, password });
    v5::Packet::Connect(packet, will, login)
}

fn from_v311(packet: v4::Packet) -> Incoming {
    match packet {
        v4::Packet::ConnAck(connack) => Incoming::Connack(Connack {
            session_present: connack.session_present,
            verdict: verdict(connack.code == v4::ConnectReturnCode::Success, connack.code),
            receive_maximum: u16::MAX,
            keep_alive: None,
        }),
        v4::Packet::Publish(publish) => Incoming::Publish(Box::new(Publish {
            id: publish.pkid,
            dup: publish.dup,
            qos: qos::from_v4(publish.qos),
            retain: publish.retain,
            topic: publish.topic,
            payload: publish.payload,
            properties: v5::PublishProperties::default(),
        })),
        v4::Packet::PubAck(ack) => Incoming::Puback(ack.pkid, Ok(())),
        v4::Packet::PubRec(ack) => Incoming::Pubrec(ack.pkid, Ok(())),
        v4::Packet::PubRel(ack) => Incoming::Pubrel(ack.pkid),
        v4::Packet::PubComp(ack) => Incoming::Pubcomp(ack.pkid),
        v4::Packet::SubAck(ack) => {
            let is_granted = |code: &v4::SubscribeReasonCode| *code != v4::SubscribeReasonCode::Failure;
            let verdicts = ack.return_codes.iter().map(|code| verdict(is_granted(code), "Refused"));
            Incoming::Suback(ack.pkid, verdicts.collect())
        }
        v4::Packet::PingResp => Incoming::Pingresp,
        _ => Incoming::Unexpected,
    }
}

fn from_v5(packet: v5::Packet) -> Result<Incoming, WireError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) => Incoming::Connack(Connack {
            session_present: connack.session_present,
            verdict: verdict(connack.code == v5::ConnectReturnCode::Success, connack.code),
            receive_maximum: connack.properties.as_ref().and_then(|p| p.receive_max).unwrap_or(u16::MAX),
            keep_alive: connack.properties.as_ref().and_then(|p| p.server_keep_alive),
        }),
        v5::Packet::Publish(publish) => Incoming::Publish(Box::new(Publish {
            id: publish.pkid,
            dup: publish.dup,
            qos: qos::from_v5(publish.qos),
            retain: publish.retain,
            topic: String::from_utf8(publish.topic.to_vec()).map_err(|_| WireError::NotUtf8)?,
            payload: publish.payload,
            properties: publish.properties.unwrap_or_default(),
        })),
        v5::Packet::PubAck(ack) => {
            use v5::PubAckReason::{NoMatchingSubscribers, Success};
            let is_taken = matches!(ack.reason, Success | NoMatchingSubscribers);
            Incoming::Puback(ack.pkid, verdict(is_taken, ack.reason))
        }
        v5::Packet::PubRec(ack) => {
            use v5::PubRecReason::{NoMatchingSubscribers, Success};
            let is_taken = matches!(ack.reason, Success | NoMatchingSubscribers);
            Incoming::Pubrec(ack.pkid, verdict(is_taken, ack.reason))
        }
        v5::Packet::PubRel(ack) => Incoming::Pubrel(ack.pkid),
        v5::Packet::PubComp(ack) => Incoming::Pubcomp(ack.pkid),
        v5::Packet::SubAck(ack) => {
            let is_granted =
                |code: &v5::SubscribeReasonCode| matches!(code, v5::SubscribeReasonCode::Success(_));
            let verdicts = ack.return_codes.iter().map(|code| verdict(is_granted(code), code));
            Incoming::Suback(ack.pkid, verdicts.collect())
        }
        v5::Packet::PingResp(_) => Incoming::Pingresp,
        v5::Packet::Disconnect(disconnect) => Incoming::Disconnect(words(disconnect.reason_code)),
        _ => Incoming::Unexpected,
    })
}

fn verdict(is_ok: bool, reason: impl Debug) -> Verdict {
    if is_ok { Ok(()) } else { Err(words(reason)) }
}

/// `NotAuthorized` to `not authorized`.
fn words(reason: impl Debug) -> String {
    let name = format!("{reason:?}").replace("QoS", "Qos");
    let mut words = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words.trim_matches('"').trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Connack, Incoming, Outgoing, Version, WireCodec, words};
    use bytes::BytesMut;
    use tokio_util::codec::{Decoder, Encoder};

    #[test]
    fn reasons_become_words() {
        use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;
        assert_eq!(words(ConnectReturnCode::NotAuthorized), "not authorized");
        assert_eq!(words(ConnectReturnCode::QoSNotSupported), "qos not supported");
        assert_eq!(words("Refused"), "refused");
    }

    #[test]
    fn both_versions_are_read_to_the_same_packets() {
        let cases: [(Version, &[u8], Incoming); 4] = [
            (Version::V311, &[0x40, 2, 0, 7], Incoming::Puback(7, Ok(()))),
            (Version::V5, &[0x40, 3, 0, 7, 0x87], Incoming::Puback(7, Err("not authorized".to_owned()))),
            (Version::V5, &[0x50, 3, 0, 7, 0x10], Incoming::Pubrec(7, Ok(()))),
            (
                Version::V5,
                &[0x20, 6, 1, 0, 3, 0x21, 0, 9],
                Incoming::Connack(Connack {
                    session_present: true,
                    verdict: Ok(()),
                    receive_maximum: 9,
                    keep_alive: None,
                }),
            ),
        ];
        for (version, bytes, packet) in cases {
            let mut source = BytesMut::from(bytes);
            let read = WireCodec::new(version).decode(&mut source).expect("a packet").expect("a whole one");
            assert_eq!(read, packet);
        }
    }

    #[test]
    fn acknowledgements_are_written_alike() {
        let cases = [(Outgoing::Pubrel(1), [0x62, 2, 0, 1]), (Outgoing::Pubrec(2), [0x50, 2, 0, 2])];
        for (packet, bytes) in cases {
            for version in [Version::V311, Version::V5] {
                let mut out = BytesMut::new();
                WireCodec::new(version).encode(packet.clone(), &mut out).expect("a packet");
                assert_eq!(out.as_ref(), bytes, "{version:?}");
            }
        }
    }
}
