//! Packets that clients send, made of a step's numbers. Well-formed, each of them; what becomes of their bytes on the
//! way is the world's.

use std::num::NonZeroU16;

use bytes::Bytes;
use tidegate::config::access::{AccessFilter, AccessRule, Glob};
use tidegate::mqtt::message::MessageProperties;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connect, ConnectProperties, Role, Will};
use tidegate::mqtt::packet::control::{Disconnect, DisconnectProperties};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};

pub const CLIENT_IDS: [&str; 4] = ["ann", "bob", "c-1", "dan"];
const TOPICS: [&str; 10] = ["a", "a/b", "b", "up/x", "a/b/c", "cmd/1", "$SYS/x", "$x/y", "a//", "up/y/z"];
const FILTERS: [&str; 16] = [
    "a",
    "#",
    "a/#",
    "+/b",
    "$share/g/a/#",
    "$share/g/#",
    "$SYS/#",
    "up/#",
    "+",
    "a/b",
    "b",
    "$share/h/+",
    "+/+/#",
    "$x/+",
    "a/b/c",
    "cmd/#",
];

pub fn topic(choice: u8) -> TopicName {
    TopicName::new(TOPICS[usize::from(choice) % TOPICS.len()]).expect("a topic")
}

pub fn filter(choice: u8) -> TopicFilter {
    TopicFilter::new(FILTERS[usize::from(choice) % FILTERS.len()]).expect("a filter")
}

pub fn qos(bits: u8) -> QoS {
    QoS::from_bits(bits & 3).unwrap_or(QoS::ExactlyOnce)
}

const fn has(flags: u8, bit: u8) -> bool {
    flags >> bit & 1 == 1
}

/// Zero stands for what is left out.
fn some(number: u8) -> Option<u32> {
    (number > 0).then_some(u32::from(number))
}

/// Flags: version (0, 1), clean start (2), will (3), user name (4), another's client identifier (5), none (6).
pub fn connect(
    [flags, keep_alive, expiry, receive_max, packet_max, will]: [u8; 6],
    who: usize,
    number: u32,
) -> Connect {
    let version = match flags & 3 {
        0 => Version::V3_1,
        1 => Version::V3_1_1,
        _ => Version::V5,
    };
    let who = if has(flags, 5) { usize::from(will) } else { who };
    let client_id = if has(flags, 6) { "" } else { CLIENT_IDS[who % CLIENT_IDS.len()] };
    let mut properties = ConnectProperties::default();
    if version == Version::V5 {
        properties.session_expiry_interval = match expiry {
            0 => None,
            255 => Some(u32::MAX),
            other => Some((u32::from(other) - 1) * 30),
        };
        properties.receive_maximum = some(receive_max).and_then(|max| u16::try_from(max).ok());
        properties.maximum_packet_size = some(packet_max).map(|max| max * 3);
    }
    Connect {
        version,
        role: Role::Client,
        client_id: client_id.into(),
        clean_start: has(flags, 2),
        keep_alive: u16::from(keep_alive) * 4,
        will: has(flags, 3).then(|| Box::new(will_of(version, will, number))),
        username: has(flags, 4).then(|| "user".into()),
        password: None,
        properties,
    }
}

fn will_of(version: Version, choice: u8, number: u32) -> Will {
    let v5 = version == Version::V5;
    Will {
        topic: topic(choice >> 4),
        payload: payload(number, usize::from(choice)),
        qos: qos(choice),
        retain: has(choice, 2),
        delay_interval: if v5 && has(choice, 3) { 20 } else { 0 },
        expiry_interval: (v5 && has(choice, 7)).then_some(60),
        properties: MessageProperties::default(),
    }
}

/// The part of a payload that tells one message from another.
pub const NUMBER_BYTES: usize = 9;

/// What a message is known by, wherever it arrives.
pub fn payload(number: u32, bytes: usize) -> Bytes {
    let mut payload = format!("m{number:08}").into_bytes();
    payload.resize(payload.len().max(bytes), b'.');
    payload.into()
}

/// Flags: QoS (0, 1), RETAIN (2), DUP (3), expiry (4), properties (5), alias (6), no topic (7).
pub fn publish(
    [flags, choice, size, _, alias, expiry]: [u8; 6],
    version: Version,
    packet_id: PacketId,
    number: u32,
) -> Publish {
    let v5 = version == Version::V5;
    let qos = qos(flags);
    let bytes = if size < 200 { usize::from(size) } else { (usize::from(size) - 199) * 64 };
    let topic_alias = NonZeroU16::new(u16::from(alias)).filter(|_| v5 && has(flags, 6));
    // An empty payload forgets what is retained, and arrives nowhere that can be told from others.
    let empty = has(flags, 2) && size == 255;
    Publish {
        dup: has(flags, 3) && qos != QoS::AtMostOnce,
        qos,
        retain: has(flags, 2),
        topic: (!has(flags, 7) || topic_alias.is_none()).then(|| topic(choice)),
        packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
        payload: if empty { Bytes::new() } else { payload(number, bytes) },
        topic_alias,
        expiry_interval: (v5 && has(flags, 4)).then_some(u32::from(expiry)),
        subscription_identifiers: Vec::new(),
        properties: (v5 && has(flags, 5)).then(|| Box::new(properties(expiry))),
    }
}

fn properties(choice: u8) -> MessageProperties {
    MessageProperties {
        payload_format_utf8: Some(has(choice, 0)),
        content_type: has(choice, 1).then(|| "text".into()),
        response_topic: has(choice, 2).then(|| topic(choice)),
        correlation_data: has(choice, 3).then(|| Bytes::from_static(b"id")),
        user_properties: vec![("name".into(), "value".into()); usize::from(choice >> 4)],
    }
}

pub fn subscribe(
    [options, one, two, identifier, ..]: [u8; 6],
    version: Version,
    packet_id: PacketId,
) -> Subscribe {
    let v5 = version == Version::V5;
    let options = SubscriptionOptions {
        qos: qos(options),
        no_local: v5 && has(options, 2),
        retain_as_published: v5 && has(options, 3),
        retain_handling: match options >> 4 & 3 {
            1 if v5 => RetainHandling::SendIfNew,
            2 if v5 => RetainHandling::DoNotSend,
            _ => RetainHandling::Send,
        },
    };
    let filters = [Some(one), (two > 0).then_some(two)].into_iter().flatten();
    Subscribe {
        packet_id,
        subscription_identifier: some(identifier).filter(|_| v5),
        user_properties: Vec::new(),
        filters: filters.map(|choice| (filter(choice), options)).collect(),
    }
}

pub fn unsubscribe([_, one, two, ..]: [u8; 6], packet_id: PacketId) -> Unsubscribe {
    let filters = [Some(one), (two > 0).then_some(two)].into_iter().flatten();
    Unsubscribe { packet_id, user_properties: Vec::new(), filters: filters.map(filter).collect() }
}

pub fn acknowledgement([kind, id, refused, ..]: [u8; 6], version: Version) -> Packet {
    let id = PacketId::new(u16::from(id).max(1)).expect("above zero");
    let failed = version == Version::V5 && refused > 127;
    match kind & 3 {
        0 if failed => Packet::Puback(Ack::with_reason(id, ReasonCode::QuotaExceeded)),
        0 => Packet::Puback(Ack::success(id)),
        1 if failed => Packet::Pubrec(Ack::with_reason(id, ReasonCode::QuotaExceeded)),
        1 => Packet::Pubrec(Ack::success(id)),
        2 => Packet::Pubrel(Ack::success(id)),
        _ => Packet::Pubcomp(Ack::success(id)),
    }
}

pub fn disconnect([flags, expiry, ..]: [u8; 6], version: Version) -> Disconnect {
    if version != Version::V5 {
        return Disconnect::with_reason(ReasonCode::Success);
    }
    let with_will = has(flags, 0);
    let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
    let properties = has(flags, 1).then(|| {
        Box::new(DisconnectProperties {
            session_expiry_interval: Some(u32::from(expiry) * 30),
            ..DisconnectProperties::default()
        })
    });
    Disconnect { reason, properties }
}

/// One of a few sets of rules. None: everybody may do everything.
pub fn access(choice: u8) -> Option<std::sync::Arc<[AccessRule]>> {
    let filters = |texts: &[&str]| -> Vec<AccessFilter> {
        texts.iter().map(|text| AccessFilter::new(text).expect("a rule's filter")).collect()
    };
    let rule = |client_id: Option<&str>, publish: &[&str], subscribe: &[&str]| AccessRule {
        user: None,
        client_id: client_id.map(|glob| Glob::new(glob).expect("a glob")),
        anonymous: None,
        publish: filters(publish),
        subscribe: filters(subscribe),
    };
    match choice % 4 {
        0 => None,
        1 => Some([rule(None, &["a/#"], &["#"])].into()),
        2 => Some(
            [rule(Some("c-*"), &["#"], &["a/+", "up/{client_id}"]), rule(None, &["a"], &["a", "b"])].into(),
        ),
        _ => Some(
            [rule(Some("ann"), &["#"], &["#"]), rule(None, &["{user}/#"], &["+/{client_id}", "a/#"])].into(),
        ),
    }
}
