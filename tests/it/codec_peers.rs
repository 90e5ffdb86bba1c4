//! The codec against rumqttc's: what one writes, the other reads alike. Only for valid packets; rumqttc takes
//! many that are not.

use bytes::BytesMut;
use rumqttc::mqttbytes as theirs;
use rumqttc::v5::mqttbytes as theirs5;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::Subscribe;
use tidegate::mqtt::packet::{Packet, Peer, Version};
use tidegate::mqtt::property::UserProperties;
use tidegate::mqtt::qos::PacketId;
use tidegate::mqtt::topic::{TopicFilter, TopicName};

use crate::codec::{decode, encoded, valid_rows};
use crate::codec_packets::bytes;

const PACKET_BYTES_MAX: usize = 1 << 20;

/// Valid packets that rumqttc 0.25.1 does not read, or keeps otherwise: part of the row's name, and why.
const UNREAD: [(&str, &str); 5] = [
    ("binary password", "keeps passwords as text"),
    ("empty user name and password", "takes empty ones for absent"),
    ("connect: bridge", "knows plain protocol levels alone"),
    ("connect: gateway", "knows plain protocol levels alone"),
    ("connack: gateway", "knows one flag"),
];

/// The same in MQTT 5 alone.
const UNREAD_5: [(&str, &str); 7] = [
    ("connect: password alone", "wants a user name"),
    ("several subscription identifiers", "counts a byte of each twice and ends the properties too early"),
    ("disconnect: normal", "wants a body"),
    ("disconnect: success", "becomes the one without a body"),
    ("disconnect: with will", "wants a property length"),
    ("disconnect: server shuts down", "wants a property length"),
    ("auth: ", "reads no AUTH"),
];

fn is_unread(name: &str, version: Version) -> bool {
    let in_list = |list: &[(&str, &str)]| list.iter().any(|(part, _)| name.contains(part));
    in_list(&UNREAD) || (version == Version::V5 && in_list(&UNREAD_5))
}

#[test]
fn what_is_written_for_3_1_1_rumqttc_reads_alike_and_back() {
    let mut compared = 0;
    for (row, version) in valid_rows().filter(|(row, v)| *v == Version::V3_1_1 && !is_unread(row.name, *v)) {
        let ours = our_packet(row.sender, version, &bytes(row.packet, version));
        let mut raw = BytesMut::from(&encoded(&ours, version)[..]);
        let read = theirs::v4::Packet::read(&mut raw, PACKET_BYTES_MAX).expect(row.name);
        assert_same_3_1_1(&ours, &read, row.name);
        let mut written = BytesMut::new();
        read.write(&mut written, PACKET_BYTES_MAX).expect(row.name);
        assert_eq!(our_packet(row.sender, version, &written), ours, "{}", row.name);
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn what_is_written_for_5_rumqttc_reads_alike_and_back() {
    let mut compared = 0;
    for (row, version) in valid_rows().filter(|(row, v)| *v == Version::V5 && !is_unread(row.name, *v)) {
        let ours = our_packet(row.sender, version, &bytes(row.packet, version));
        let mut raw = BytesMut::from(&encoded(&ours, version)[..]);
        let read = theirs5::v5::Packet::read(&mut raw, None).expect(row.name);
        assert_same_5(&ours, &read, row.name);
        let mut written = BytesMut::new();
        read.write(&mut written, None).expect(row.name);
        assert_eq!(our_packet(row.sender, version, &written), ours, "{}", row.name);
        compared += 1;
    }
    assert!(compared > 90, "{compared}");
}

fn our_packet(sender: Peer, version: Version, raw: &[u8]) -> Packet {
    decode(sender, version, raw).unwrap_or_else(|e| panic!("{e}: {raw:02x?}")).expect("a whole packet")
}

fn number(packet_id: Option<PacketId>) -> u16 {
    packet_id.map_or(0, PacketId::as_u16)
}

fn assert_same_3_1_1(ours: &Packet, read: &theirs::v4::Packet, name: &str) {
    use theirs::v4::Packet as Theirs;
    match (ours, read) {
        (Packet::Connect(a), Theirs::Connect(b)) => assert_same_connect(a, b, name),
        (Packet::Publish(a), Theirs::Publish(b)) => {
            assert_eq!((a.dup, a.qos.bits(), a.retain), (b.dup, b.qos as u8, b.retain), "{name}");
            assert_eq!(a.topic.as_ref().map(TopicName::as_str), Some(b.topic.as_str()), "{name}");
            assert_eq!((number(a.packet_id), &a.payload), (b.pkid, &b.payload), "{name}");
        }
        (Packet::Subscribe(a), Theirs::Subscribe(b)) => {
            let listed = b.filters.iter().map(|filter| (filter.path.as_str(), filter.qos as u8));
            assert!(a.filters.iter().map(|(f, o)| (f.as_str(), o.qos.bits())).eq(listed), "{name}");
            assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}");
        }
        (Packet::Unsubscribe(a), Theirs::Unsubscribe(b)) => {
            assert!(a.filters.iter().map(TopicFilter::as_str).eq(b.topics.iter()), "{name}");
            assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}");
        }
        (Packet::Connack(a), Theirs::ConnAck(b)) => {
            assert_eq!(a.session_present, b.session_present, "{name}");
        }
        (Packet::Puback(a), Theirs::PubAck(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pubrec(a), Theirs::PubRec(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pubrel(a), Theirs::PubRel(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pubcomp(a), Theirs::PubComp(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Suback(a), Theirs::SubAck(b)) => {
            assert_eq!((a.packet_id.as_u16(), a.reasons.len()), (b.pkid, b.return_codes.len()), "{name}");
        }
        (Packet::Unsuback(a), Theirs::UnsubAck(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pingreq, Theirs::PingReq)
        | (Packet::Pingresp, Theirs::PingResp)
        | (Packet::Disconnect(_), Theirs::Disconnect) => {}
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_same_connect(a: &Connect, b: &theirs::v4::Connect, name: &str) {
    let ours = (&*a.client_id, a.clean_start, a.keep_alive);
    assert_eq!(ours, (b.client_id.as_str(), b.clean_session, b.keep_alive), "{name}");
    let will = a.will.as_ref().map(|w| (w.topic.as_str(), &w.payload, w.qos.bits(), w.retain));
    let last_will = b.last_will.as_ref().map(|w| (w.topic.as_str(), &w.message, w.qos as u8, w.retain));
    assert_eq!(will, last_will, "{name}");
    assert_eq!(a.username.as_deref(), b.login.as_ref().map(|login| login.username.as_str()), "{name}");
    let password = b.login.as_ref().map(|login| login.password.as_bytes()).filter(|bytes| !bytes.is_empty());
    assert_eq!(a.password.as_deref(), password, "{name}");
}

fn assert_same_5(ours: &Packet, read: &theirs5::v5::Packet, name: &str) {
    use theirs5::v5::Packet as Theirs;
    match (ours, read) {
        (Packet::Connect(a), Theirs::Connect(b, will, login)) => {
            let ours = (&*a.client_id, a.clean_start, a.keep_alive);
            assert_eq!(ours, (b.client_id.as_str(), b.clean_start, b.keep_alive), "{name}");
            assert_same_connect_properties(a, b.properties.as_ref(), name);
            let ours = a.will.as_ref().map(|w| (w.topic.as_str().as_bytes(), &w.payload[..], w.retain));
            assert_eq!(ours, will.as_ref().map(|w| (&w.topic[..], &w.message[..], w.retain)), "{name}");
            assert_eq!(a.username.as_deref(), login.as_ref().map(|login| login.username.as_str()), "{name}");
        }
        (Packet::Publish(a), Theirs::Publish(b)) => assert_same_publish_5(a, b, name),
        (Packet::Subscribe(a), Theirs::Subscribe(b)) => assert_same_subscribe_5(a, b, name),
        (Packet::Puback(a), Theirs::PubAck(b)) => {
            assert_eq!(
                (a.packet_id.as_u16(), a.properties.is_some()),
                (b.pkid, b.properties.is_some()),
                "{name}"
            );
            let (ours, listed) = (a.properties.as_ref(), b.properties.as_ref());
            let reason = ours.and_then(|p| p.reason_string.as_deref());
            assert_eq!(reason, listed.and_then(|p| p.reason_string.as_deref()), "{name}");
            if let (Some(ours), Some(listed)) = (ours, listed) {
                assert_same_pairs(&ours.user_properties, &listed.user_properties, name);
            }
        }
        (Packet::Pubrec(a), Theirs::PubRec(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pubrel(a), Theirs::PubRel(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Pubcomp(a), Theirs::PubComp(b)) => assert_eq!(a.packet_id.as_u16(), b.pkid, "{name}"),
        (Packet::Suback(a), Theirs::SubAck(b)) => {
            assert_eq!((a.packet_id.as_u16(), a.reasons.len()), (b.pkid, b.return_codes.len()), "{name}");
        }
        (Packet::Unsubscribe(a), Theirs::Unsubscribe(b)) => {
            assert!(a.filters.iter().map(TopicFilter::as_str).eq(b.filters.iter()), "{name}");
        }
        (Packet::Unsuback(a), Theirs::UnsubAck(b)) => {
            assert_eq!((a.packet_id.as_u16(), a.reasons.len()), (b.pkid, b.reasons.len()), "{name}");
        }
        (Packet::Connack(a), Theirs::ConnAck(b)) => {
            assert_eq!(a.session_present, b.session_present, "{name}");
        }
        (Packet::Disconnect(a), Theirs::Disconnect(b)) => {
            assert_eq!(a.properties.is_some(), b.properties.is_some(), "{name}");
        }
        (Packet::Pingreq, Theirs::PingReq(_)) | (Packet::Pingresp, Theirs::PingResp(_)) => {}
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_same_connect_properties(
    connect: &Connect,
    read: Option<&theirs5::v5::ConnectProperties>,
    name: &str,
) {
    let empty = theirs5::v5::ConnectProperties::new();
    let (a, b) = (&connect.properties, read.unwrap_or(&empty));
    assert_eq!(a.session_expiry_interval, b.session_expiry_interval, "{name}");
    assert_eq!(a.receive_maximum, b.receive_maximum, "{name}");
    assert_eq!(a.maximum_packet_size, b.max_packet_size, "{name}");
    assert_eq!(a.topic_alias_maximum, b.topic_alias_max, "{name}");
    assert_eq!(a.request_response_information.map(u8::from), b.request_response_info, "{name}");
    assert_eq!(a.request_problem_information.map(u8::from), b.request_problem_info, "{name}");
    assert_eq!(a.authentication_method.as_deref(), b.authentication_method.as_deref(), "{name}");
    assert_eq!(a.authentication_data, b.authentication_data, "{name}");
    assert_same_pairs(&a.user_properties, &b.user_properties, name);
}

fn assert_same_publish_5(a: &Publish, b: &theirs5::v5::Publish, name: &str) {
    assert_eq!((a.dup, a.qos.bits(), a.retain), (b.dup, b.qos as u8, b.retain), "{name}");
    let topic = a.topic.as_ref().map_or("", TopicName::as_str);
    assert_eq!(
        (topic.as_bytes(), number(a.packet_id), &a.payload),
        (&b.topic[..], b.pkid, &b.payload),
        "{name}"
    );
    let read = b.properties.clone().unwrap_or_default();
    let ours = a.properties.as_deref().cloned().unwrap_or_default();
    assert_eq!(ours.payload_format_utf8.map(u8::from), read.payload_format_indicator, "{name}");
    assert_eq!(a.expiry_interval, read.message_expiry_interval, "{name}");
    assert_eq!(a.topic_alias.map(std::num::NonZeroU16::get), read.topic_alias, "{name}");
    assert_eq!(ours.response_topic.as_ref().map(TopicName::as_str), read.response_topic.as_deref(), "{name}");
    assert_eq!(ours.correlation_data, read.correlation_data, "{name}");
    assert_eq!(ours.content_type.as_deref(), read.content_type.as_deref(), "{name}");
    assert!(
        a.subscription_identifiers.iter().map(|id| *id as usize).eq(read.subscription_identifiers),
        "{name}"
    );
    assert_same_pairs(&ours.user_properties, &read.user_properties, name);
}

fn assert_same_subscribe_5(a: &Subscribe, b: &theirs5::v5::Subscribe, name: &str) {
    use theirs5::v5::RetainForwardRule as Theirs;
    use tidegate::mqtt::packet::subscribe::RetainHandling as Ours;
    assert_eq!((a.packet_id.as_u16(), a.filters.len()), (b.pkid, b.filters.len()), "{name}");
    let read = b.properties.clone();
    assert_eq!(a.subscription_identifier.map(|id| id as usize), read.as_ref().and_then(|p| p.id), "{name}");
    assert_same_pairs(&a.user_properties, &read.map_or(Vec::new(), |p| p.user_properties), name);
    for ((filter, options), read) in a.filters.iter().zip(&b.filters) {
        assert_eq!((filter.as_str(), options.qos.bits()), (read.path.as_str(), read.qos as u8), "{name}");
        assert_eq!(options.no_local, read.nolocal, "{name}");
        assert_eq!(options.retain_as_published, read.preserve_retain, "{name}");
        let handling = match read.retain_forward_rule {
            Theirs::OnEverySubscribe => Ours::Send,
            Theirs::OnNewSubscribe => Ours::SendIfNew,
            Theirs::Never => Ours::DoNotSend,
        };
        assert_eq!(options.retain_handling, handling, "{name}");
    }
}

fn assert_same_pairs(ours: &UserProperties, read: &[(String, String)], name: &str) {
    let read = read.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    assert!(ours.iter().map(|(key, value)| (&**key, &**value)).eq(read), "{name}");
}
