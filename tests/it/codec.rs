//! The codec against the packet table, against cuts and mutations, and against an independent codec.

use bytes::{Bytes, BytesMut};
use std::num::NonZeroU16;
use tidegate::mqtt::error::{EncodeError, Malformed};
use tidegate::mqtt::frame::{Decoder, PublishHead, encode, encode_publish, encoded_size, publish_size};
use tidegate::mqtt::packet::Peer::{self, Client, Server};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connack, ConnackProperties};
use tidegate::mqtt::packet::subscribe::Suback;
use tidegate::mqtt::packet::{Packet, PacketType, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;

use crate::codec_packets::{Row, TABLES, Want, bytes};

const PACKET_BYTES_MAX: usize = 1 << 20;
const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

pub fn decoder(sender: Peer, version: Version) -> Decoder {
    let mut decoder = Decoder::new(sender, PACKET_BYTES_MAX);
    decoder.set_version(version);
    decoder
}

pub fn decode(sender: Peer, version: Version, packet: &[u8]) -> Result<Option<Packet>, Malformed> {
    decoder(sender, version).decode(&mut BytesMut::from(packet))
}

pub fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("a packet that was decoded can be written");
    assert_eq!(encoded_size(packet, version), out.len(), "{packet:?}");
    out.to_vec()
}

fn rows() -> impl Iterator<Item = (&'static Row, Version)> {
    TABLES.iter().flat_map(|table| table.iter()).flat_map(|row| row.versions.iter().map(move |v| (row, *v)))
}

pub fn valid_rows() -> impl Iterator<Item = (&'static Row, Version)> {
    rows().filter(|(row, _)| !matches!(row.want, Want::Refused(_)))
}

#[test]
fn every_packet_of_the_table_is_taken_or_refused_as_it_says() {
    for (row, version) in rows() {
        let name = format!("{} ({version:?})", row.name);
        let raw = bytes(row.packet, version);
        let decoded = decode(row.sender, version, &raw);
        let (shows, becomes) = match row.want {
            Want::Same(shows) => (shows, row.packet),
            Want::Becomes(shows, becomes) => (shows, becomes),
            Want::Refused(error) => {
                assert_eq!(decoded, Err(error), "{name}");
                continue;
            }
        };
        let packet = decoded.expect(&name).expect("a whole packet");
        let debug = format!("{packet:?}");
        for fragment in shows.split(';') {
            assert!(debug.contains(fragment), "{name}: no {fragment:?} in {debug}");
        }
        assert_eq!(encoded(&packet, version), bytes(becomes, version), "{name}");
    }
}

#[test]
fn the_table_covers_every_packet_type_in_every_version_and_every_property() {
    for version in VERSIONS {
        let last = if version == Version::V5 { 15 } else { 14 };
        for number in 1..=last {
            let covered = valid_rows().any(|(row, v)| v == version && bytes(row.packet, v)[0] >> 4 == number);
            assert!(covered, "no packet of type {number} in {version:?}");
        }
    }
    for (id, _) in PROPERTIES {
        let covered = valid_rows().any(|(row, _)| {
            row.packet.contains(&format!("{{{id:02x} ")) || row.packet.contains(&format!(" {id:02x} "))
        });
        assert!(covered, "no property {id:#04x}");
    }
    let names: usize = TABLES.iter().map(|table| table.len()).sum();
    assert!(names >= 250 && rows().count() >= 500, "{names} packets, {} with their versions", rows().count());
}

#[test]
fn a_cut_packet_is_awaited_and_leaves_the_buffer_alone() {
    for (row, version) in valid_rows() {
        let raw = bytes(row.packet, version);
        let mut decoder = decoder(row.sender, version);
        for end in 0..raw.len() {
            let mut buffer = BytesMut::from(&raw[..end]);
            assert_eq!(decoder.decode(&mut buffer), Ok(None), "{} cut at {end}", row.name);
            assert_eq!(buffer, raw[..end], "{} cut at {end}", row.name);
        }
    }
}

#[test]
fn bytes_one_by_one_give_the_same_packets() {
    for version in VERSIONS {
        for sender in [Client, Server] {
            let packets: Vec<_> = valid_rows()
                .filter(|(row, v)| *v == version && row.sender == sender)
                .map(|(row, v)| bytes(row.packet, v))
                .collect();
            let whole = decode_all(sender, version, &mut [packets.concat()].into_iter());
            let single =
                decode_all(sender, version, &mut packets.concat().into_iter().map(|byte| vec![byte]));
            assert_eq!(whole.len(), packets.len());
            assert_eq!(whole, single);
        }
    }
}

fn decode_all(sender: Peer, version: Version, chunks: &mut dyn Iterator<Item = Vec<u8>>) -> Vec<Packet> {
    let mut decoder = decoder(sender, version);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(&chunk);
        while let Some(packet) = decoder.decode(&mut buffer).expect("valid packets") {
            packets.push(packet);
        }
    }
    assert!(buffer.is_empty());
    packets
}

#[test]
fn mutated_packets_never_panic_and_what_decodes_is_stable() {
    const MUTATIONS: usize = 100_000;
    let mut random = fastrand::Rng::with_seed(0x7d65);
    let seeds: Vec<_> =
        rows().map(|(row, version)| (row.sender, version, bytes(row.packet, version))).collect();
    let mut taken = 0;
    for _ in 0..MUTATIONS {
        let (sender, version, raw) = &seeds[random.usize(..seeds.len())];
        let raw = mutated(raw, &mut random);
        let mut decoder = decoder(*sender, *version);
        let Ok(Some(packet)) = decoder.decode(&mut BytesMut::from(&raw[..])) else { continue };
        taken += 1;
        let again = encoded(&packet, decoder.version());
        let sender = *sender;
        assert_eq!(decode(sender, decoder.version(), &again), Ok(Some(packet)), "{sender:?} {raw:02x?}");
    }
    // Else the mutations are too wild to prove anything.
    assert!(taken > MUTATIONS / 20, "{taken}");
}

fn mutated(raw: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut raw = raw.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=raw.len());
        match random.u8(..5) {
            0 => raw.truncate(at),
            1 => raw.insert(at, random.u8(..)),
            _ if at == raw.len() => {}
            2 => raw[at] = random.u8(..),
            3 => raw[at] ^= 1 << random.u8(..8),
            // The length follows, so that inner fields are reached.
            _ => {
                raw.remove(at);
                if let Some(length @ 1..=0x7f) = raw.get_mut(1) {
                    *length -= 1;
                }
            }
        }
    }
    raw
}

/// Which first bytes a sender may use: hex digits of the type and of the flags.
#[test]
fn only_the_first_bytes_that_the_standard_lists_are_taken() {
    let publishes = "30 31 32 33 34 35 3a 3b 3c 3d";
    for version in VERSIONS {
        for sender in [Client, Server] {
            let mut listed = format!("{publishes} 40 50 62 70");
            listed += if sender == Client { " 10 82 a2 c0" } else { " 20 90 b0 d0" };
            if sender == Client || version == Version::V5 {
                listed += " e0";
            }
            if version == Version::V5 {
                listed += " f0";
            }
            if version == Version::V3_1 {
                listed += if sender == Client { " 6a 8a aa" } else { " 6a" };
            }
            for first in 0..=255_u8 {
                // The first byte alone tells.
                let taken = decode(sender, version, &[first]) == Ok(None);
                let wanted = listed.split(' ').any(|byte| byte == format!("{first:02x}"));
                assert_eq!(taken, wanted, "{first:02x} {version:?} {sender:?}");
            }
        }
    }
}

#[test]
fn every_packet_takes_exactly_its_reason_codes() {
    let received = "00 10 80 83 87 90 91 97 99";
    let disconnects_of_both = "00 80 81 82 83 90 93 94 95 96 97 98 99";
    let cases = [
        (Server, "20 | 00 ?? 00", "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f".into()),
        (Client, "40 | 0001 ??", received.into()),
        (Server, "50 | 0001 ??", received.to_string()),
        (Client, "62 | 0001 ??", "00 92".into()),
        (Server, "70 | 0001 ??", "00 92".into()),
        (Server, "90 | 0001 00 ??", "00 01 02 80 83 87 8f 91 97 9e a1 a2".into()),
        (Server, "b0 | 0001 00 ??", "00 11 80 83 87 8f 91".into()),
        (Client, "e0 | ??", format!("{disconnects_of_both} 04")),
        (Server, "e0 | ??", format!("{disconnects_of_both} 87 89 8b 8c 8d 8e 8f 9a 9b 9c 9d 9e 9f a0 a1 a2")),
        (Client, "f0 | ?? {15 'M'}", "18 19".into()),
        (Server, "f0 | ?? {15 'M'}", "00 18".into()),
    ];
    for (sender, packet, listed) in cases {
        for code in 0..=255_u8 {
            let code_hex = format!("{code:02x}");
            let raw = bytes(&packet.replace("??", &code_hex), Version::V5);
            let decoded = decode(sender, Version::V5, &raw);
            if listed.split(' ').any(|byte| byte == code_hex) {
                assert!(decoded.is_ok(), "{packet} {code_hex} {decoded:?}");
            } else {
                assert_eq!(decoded, Err(Malformed::ReasonCode(code)), "{packet}");
            }
        }
    }
}

/// Table 2-4: identifier with a valid value, and the places where it is allowed: C(ONNECT) K (CONNACK) W(ill)
/// P(UBLISH) p (PUBLISH from a server) A(cknowledgements) S(UBSCRIBE) U(NSUBSCRIBE) D(ISCONNECT from a client)
/// d (from a server) X (AUTH).
const PROPERTIES: [(u8, (&str, &str)); 27] = [
    (0x01, ("01", "PpW")),
    (0x02, ("00000001", "PpW")),
    (0x03, ("'x'", "PpW")),
    (0x08, ("'x'", "PpW")),
    (0x09, ("'x'", "PpW")),
    (0x0b, ("01", "pS")),
    (0x11, ("00000001", "CKD")),
    (0x12, ("'x'", "K")),
    (0x13, ("0001", "K")),
    (0x15, ("'x'", "CKX")),
    (0x16, ("'x' 15 'M'", "CKX")),
    (0x17, ("01", "C")),
    (0x18, ("00000001", "W")),
    (0x19, ("01", "C")),
    (0x1a, ("'x'", "K")),
    (0x1c, ("'x'", "KDd")),
    (0x1f, ("'x'", "KADdX")),
    (0x21, ("0001", "CK")),
    (0x22, ("0001", "CK")),
    (0x23, ("0001", "Pp")),
    (0x24, ("01", "K")),
    (0x25, ("01", "K")),
    (0x26, ("'x' 'y'", "CKWPpASUDdX")),
    (0x27, ("00000001", "CK")),
    (0x28, ("01", "K")),
    (0x29, ("01", "K")),
    (0x2a, ("01", "K")),
];

const PLACES: [(char, Peer, &str); 17] = [
    ('C', Client, "10 | @ 02 003c {??} 'c'"),
    ('W', Client, "10 | @ 06 003c ~ 'c' {??} 'w' 'm'"),
    ('K', Server, "20 | 00 00 {??}"),
    ('P', Client, "30 | 'a' {??}"),
    ('p', Server, "30 | 'a' {??}"),
    ('A', Client, "40 | 0001 00 {??}"),
    ('A', Server, "40 | 0001 00 {??}"),
    ('A', Client, "50 | 0001 00 {??}"),
    ('A', Client, "62 | 0001 00 {??}"),
    ('A', Client, "70 | 0001 00 {??}"),
    ('S', Client, "82 | 0001 {??} 'a' 00"),
    ('A', Server, "90 | 0001 {??} 00"),
    ('U', Client, "a2 | 0001 {??} 'a'"),
    ('A', Server, "b0 | 0001 {??} 00"),
    ('D', Client, "e0 | 00 {??}"),
    ('d', Server, "e0 | 00 {??}"),
    ('X', Client, "f0 | 18 {15 'M' ??}"),
];

#[test]
fn every_property_is_taken_exactly_where_it_belongs_and_once() {
    for (id, (value, allowed)) in PROPERTIES {
        for (place, sender, packet) in PLACES {
            // AUTH has its method already.
            let value = if place == 'X' { value.replace(" 15 'M'", "") } else { value.to_string() };
            if place == 'X' && id == 0x15 {
                continue;
            }
            let once = format!("{id:02x} {value}");
            let decoded = decode(sender, Version::V5, &bytes(&packet.replace("??", &once), Version::V5));
            assert_eq!(decoded.is_ok(), allowed.contains(place), "{id:02x} in {packet}: {decoded:?}");
            if !allowed.contains(place) {
                continue;
            }
            let twice = packet.replace("??", &format!("{once} {id:02x} {}", value.replace(" 15 'M'", "")));
            let decoded = decode(sender, Version::V5, &bytes(&twice, Version::V5));
            if id == 0x26 || (id == 0x0b && place == 'p') {
                assert!(decoded.is_ok(), "{twice}: {decoded:?}");
            } else {
                assert_eq!(decoded, Err(Malformed::PropertyRepeated(id)), "{twice}");
            }
        }
    }
}

#[test]
fn properties_that_do_not_exist_are_refused_everywhere() {
    for (_, sender, packet) in PLACES {
        for id in 0..=0x7f_u8 {
            if PROPERTIES.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let raw = bytes(&packet.replace("??", &format!("{id:02x} 00000000")), Version::V5);
            assert_eq!(
                decode(sender, Version::V5, &raw),
                Err(Malformed::PropertyUnknown(id.into())),
                "{packet}"
            );
        }
    }
}

#[test]
fn the_version_of_a_connect_holds_for_what_follows_it() {
    for version in VERSIONS {
        let mut decoder = Decoder::new(Client, PACKET_BYTES_MAX);
        let raw = [bytes("10 | @ 02 003c ~ 'c'", version), bytes("30 | 'a' ~ <hi>", version)].concat();
        let mut buffer = BytesMut::from(&raw[..]);
        assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Packet::Connect(_)))));
        assert_eq!(decoder.version(), version);
        let Ok(Some(Packet::Publish(publish))) = decoder.decode(&mut buffer) else {
            panic!("no PUBLISH in {version:?}")
        };
        assert_eq!(publish.payload, "hi");
    }
}

#[test]
fn a_refused_connect_tells_the_version_to_answer_in() {
    for version in VERSIONS {
        let mut decoder = Decoder::new(Client, PACKET_BYTES_MAX);
        let raw = bytes("10 | @ 03 003c ~ 'c'", version);
        let error = decoder.decode(&mut BytesMut::from(&raw[..]));
        assert_eq!((error, decoder.version()), (Err(Malformed::ReservedConnectFlag), version));
    }
}

#[test]
fn the_largest_packet_is_taken_and_one_byte_more_is_refused_from_its_header() {
    let raw = bytes("30 | 'a' <hello>", Version::V3_1_1);
    let mut exact = Decoder::new(Client, raw.len());
    assert!(matches!(exact.decode(&mut BytesMut::from(&raw[..])), Ok(Some(_))));
    let mut tight = Decoder::new(Client, raw.len() - 1);
    let error = tight.decode(&mut BytesMut::from(&raw[..2])).expect_err("too large");
    assert_eq!(error, Malformed::PacketTooLarge { packet_bytes: raw.len() });
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
}

/// Else a queue of messages would take many times the memory that it counts.
#[test]
fn a_payload_holds_nothing_but_itself() {
    for payload_bytes in [1, 1000, 100_000] {
        let head = PublishHead { topic: "a/b", ..plain_head() };
        let mut buffer = BytesMut::new();
        for _ in 0..2 {
            encode_publish(&head, &vec![7; payload_bytes], Version::V3_1_1, &mut buffer).expect("encodes");
        }
        let Ok(Some(Packet::Publish(publish))) = decoder(Client, Version::V3_1_1).decode(&mut buffer) else {
            panic!("no PUBLISH")
        };
        assert_eq!(publish.payload, vec![7; payload_bytes]);
        assert!(publish.payload.is_unique(), "a payload of {payload_bytes} bytes is part of the read buffer");
    }
}

fn plain_head() -> PublishHead<'static> {
    PublishHead {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "a",
        packet_id: None,
        topic_alias: None,
        expiry_interval: None,
        subscription_identifiers: &[],
        properties: None,
    }
}

#[test]
fn the_size_of_a_publish_is_known_before_it_is_written() {
    let head = PublishHead {
        topic_alias: NonZeroU16::new(3),
        expiry_interval: Some(9),
        subscription_identifiers: &[1, 200, 268_435_455],
        ..plain_head()
    };
    for version in VERSIONS {
        for payload_bytes in [0, 1, 90, 110, 127, 128, 16_300, 16_384, 70_000] {
            let payload = vec![0; payload_bytes];
            let mut out = BytesMut::from("before");
            encode_publish(&head, &payload, version, &mut out).expect("encodes");
            assert_eq!(publish_size(&head, payload_bytes, version), out.len() - 6, "{payload_bytes}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_nothing_is_written() {
    let mut out = BytesMut::new();
    let long = "x".repeat(65_536);
    let id = PacketId::new(1);
    let heads = [
        (PublishHead { topic: "", ..plain_head() }, EncodeError::TopicMissing),
        (PublishHead { topic: &long, ..plain_head() }, EncodeError::FieldTooLong),
        (PublishHead { packet_id: id, ..plain_head() }, EncodeError::PacketIdMismatch),
        (PublishHead { qos: QoS::AtLeastOnce, ..plain_head() }, EncodeError::PacketIdMismatch),
        (PublishHead { subscription_identifiers: &[268_435_456], ..plain_head() }, EncodeError::FieldTooLong),
    ];
    for (head, error) in heads {
        assert_eq!(encode_publish(&head, b"", Version::V5, &mut out), Err(error));
    }
    let aliased = PublishHead { topic: "", topic_alias: NonZeroU16::new(1), ..plain_head() };
    assert_eq!(encode_publish(&aliased, b"", Version::V3_1_1, &mut out), Err(EncodeError::TopicMissing));
    let auth = decode(Client, Version::V5, &bytes("f0 | 18 {15 'M'}", Version::V5));
    let auth = auth.expect("a valid packet").expect("a whole packet");
    let refused = Err(EncodeError::NotInVersion(PacketType::Auth));
    assert_eq!(encode(&auth, Version::V3_1_1, &mut out), refused);
    assert!(out.is_empty());
}

#[test]
fn reason_codes_become_return_codes_for_3_x_clients() {
    let connacks = [
        (ReasonCode::UnsupportedProtocolVersion, Ok(1)),
        (ReasonCode::ClientIdentifierNotValid, Ok(2)),
        (ReasonCode::ServerUnavailable, Ok(3)),
        (ReasonCode::ServerBusy, Ok(3)),
        (ReasonCode::BadUserNameOrPassword, Ok(4)),
        (ReasonCode::NotAuthorized, Ok(5)),
        (ReasonCode::ProtocolError, Err(EncodeError::NoReturnCode(ReasonCode::ProtocolError))),
    ];
    for (reason, code) in connacks {
        let properties = ConnackProperties { receive_maximum: Some(1), ..ConnackProperties::default() };
        let packet = Packet::Connack(Box::new(Connack { session_present: true, reason, properties }));
        let mut out = BytesMut::new();
        let written = encode(&packet, Version::V3_1_1, &mut out).map(|()| out.to_vec());
        // Never a session with a refusal.
        assert_eq!(written, code.map(|code| vec![0x20, 2, 0, code]), "{reason}");
    }
    let packet_id = PacketId::new(7).expect("not zero");
    let reasons = vec![ReasonCode::GrantedQos2, ReasonCode::NotAuthorized, ReasonCode::TopicFilterInvalid];
    let suback = Packet::Suback(Suback { packet_id, reasons, properties: None });
    assert_eq!(encoded(&suback, Version::V3_1_1), [0x90, 5, 0, 7, 2, 0x80, 0x80]);
    let puback = Packet::Puback(Ack::with_reason(packet_id, ReasonCode::NoMatchingSubscribers));
    assert_eq!(encoded(&puback, Version::V3_1_1), [0x40, 2, 0, 7]);
    assert_eq!(encoded(&puback, Version::V5), [0x40, 3, 0, 7, 0x10]);
}

#[test]
fn every_refusal_has_the_reason_code_that_the_standard_names() {
    for (row, _) in rows() {
        let Want::Refused(error) = row.want else { continue };
        assert!(error.reason().is_error(), "{error:?}");
        assert_ne!(error.to_string(), "malformed", "{error:?} has no text of its own");
    }
    let named = [
        (Malformed::Truncated, 0x81),
        (Malformed::PropertyNotAllowed(0x21), 0x81),
        (Malformed::PropertyRepeated(0x21), 0x82),
        (Malformed::SubscriptionIdentifierFromClient, 0x82),
        (Malformed::NoLocalOnShared, 0x82),
        (Malformed::ProtocolLevel(9), 0x84),
        (Malformed::TopicAliasZero, 0x94),
        (Malformed::PacketTooLarge { packet_bytes: 9 }, 0x95),
    ];
    for (error, byte) in named {
        assert_eq!(error.reason().byte(), byte, "{error}");
    }
}

#[test]
fn payload_bytes_survive_any_length() {
    for payload_bytes in [0, 1, 1023, 1024, 1025, 200_000] {
        let payload = Bytes::from(vec![0x55; payload_bytes]);
        let mut out = BytesMut::new();
        encode_publish(&plain_head(), &payload, Version::V5, &mut out).expect("encodes");
        match decode(Server, Version::V5, &out) {
            Ok(Some(Packet::Publish(publish))) => assert_eq!(publish.payload, payload),
            other => panic!("{other:?}"),
        }
    }
}
