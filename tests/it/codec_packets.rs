//! The one table of raw packets: what each decodes to, or why it is refused. Holds no tests.
//!
//! Packets are written in a small notation: pairs of hex digits; `'text'` a string with its length;
//! `<text>` the bytes alone; `|` the remaining length of all that follows; `{…}` a property length and what it
//! spans; `~` an empty property length in MQTT 5 and nothing before; `@` protocol name and level.

use tidegate::mqtt::error::Malformed;
use tidegate::mqtt::packet::Peer::{self, Client, Server};
use tidegate::mqtt::packet::{PacketType, Version};
use tidegate::mqtt::topic::TopicError;

pub struct Row {
    pub name: &'static str,
    pub versions: &'static [Version],
    pub sender: Peer,
    pub packet: &'static str,
    pub want: Want,
}

pub enum Want {
    /// Fragments of the decoded value's `Debug`, split by `;`. Encodes to the same bytes.
    Same(&'static str),
    /// The same, but encodes to this packet.
    Becomes(&'static str, &'static str),
    Refused(Malformed),
}

/// The bytes that `packet` stands for in `version`.
pub fn bytes(packet: &str, version: Version) -> Vec<u8> {
    let mut rest = packet.chars();
    scan(&mut rest, version)
}

fn scan(rest: &mut std::str::Chars<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(c) = rest.next() {
        match c {
            '\'' => out.extend(with_u16_length(&text(rest, '\''))),
            '<' => out.extend(text(rest, '>')),
            '{' => out.extend(with_varint_length(&scan(rest, version))),
            '}' => return out,
            '|' => {
                let body = scan(rest, version);
                out.extend(with_varint_length(&body));
            }
            '~' if version == Version::V5 => out.push(0),
            ' ' | '~' => {}
            '@' if version == Version::V3_1 => out.extend(b"\x00\x06MQIsdp\x03"),
            '@' => out.extend([b"\x00\x04MQTT".as_slice(), &[version as u8]].concat()),
            high => {
                let low = rest.next().expect("hex digits in pairs");
                let digits: String = [high, low].iter().collect();
                out.push(u8::from_str_radix(&digits, 16).expect("a pair of hex digits"));
            }
        }
    }
    out
}

fn text(rest: &mut std::str::Chars<'_>, end: char) -> Vec<u8> {
    rest.by_ref().take_while(|c| *c != end).collect::<String>().into_bytes()
}

fn with_u16_length(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a short string").to_be_bytes(), bytes].concat()
}

fn with_varint_length(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("at most 127 bytes, the table needs no more");
    assert!(length < 128, "at most 127 bytes, the table needs no more");
    [&[length], bytes].concat()
}

const ALL: &[Version] = &[Version::V3_1, Version::V3_1_1, Version::V5];
const V3: &[Version] = &[Version::V3_1, Version::V3_1_1];
const V31: &[Version] = &[Version::V3_1];
const V311: &[Version] = &[Version::V3_1_1];
const V45: &[Version] = &[Version::V3_1_1, Version::V5];
const V5: &[Version] = &[Version::V5];

type R = Row;

const fn ok(
    name: &'static str,
    versions: &'static [Version],
    sender: Peer,
    packet: &'static str,
    shows: &'static str,
) -> R {
    Row { name, versions, sender, packet, want: Want::Same(shows) }
}

/// A packet that has a shorter or an ordered form: `packet` is what came, `want` shows and becomes.
const fn as_other(
    name: &'static str,
    versions: &'static [Version],
    sender: Peer,
    packet: &'static str,
    want: (&'static str, &'static str),
) -> R {
    Row { name, versions, sender, packet, want: Want::Becomes(want.0, want.1) }
}

const fn bad(
    name: &'static str,
    versions: &'static [Version],
    sender: Peer,
    packet: &'static str,
    error: Malformed,
) -> R {
    Row { name, versions, sender, packet, want: Want::Refused(error) }
}

pub const TABLES: &[&[Row]] = &[CONNECTS, CONNACKS, PUBLISHES, ACKS, SUBSCRIPTIONS, CONTROLS, FRAMES];

// One row a line, so that rows can be read against each other.
#[rustfmt::skip]
const CONNECTS: &[Row] = &[
    ok("connect: plain", ALL, Client, "10 | @ 02 003c ~ 'c'", "client_id: \"c\";clean_start: true;keep_alive: 60;will: None;username: None;password: None"),
    ok("connect: bridge", V311, Client, "10 | 'MQTT' 84 02 003c 'c'", "version: V3_1_1, role: Bridge"),
    ok("connect: bridge of 3.1", V31, Client, "10 | 'MQIsdp' 83 02 003c 'c'", "version: V3_1, role: Bridge"),
    ok("connect: gateway", V311, Client, "10 | 'MQTT' c4 02 003c 'c'", "version: V3_1_1, role: Gateway"),
    ok("connect: kept session", ALL, Client, "10 | @ 00 ffff ~ 'c'", "clean_start: false;keep_alive: 65535"),
    ok("connect: empty client id", ALL, Client, "10 | @ 02 0000 ~ ''", "client_id: \"\";keep_alive: 0"),
    ok("connect: client id of 24 characters", ALL, Client, "10 | @ 02 0000 ~ 'abcdefghijklmnopqrstuvwx'", "client_id: \"abcdefghijklmnopqrstuvwx\""),
    ok("connect: byte order mark kept", ALL, Client, "10 | @ 02 0000 ~ '\u{feff}c'", "client_id: \"\\u{feff}c\""),
    ok("connect: user name", ALL, Client, "10 | @ 82 003c ~ 'c' 'ann'", "username: Some(\"ann\");password: None"),
    ok("connect: user name and password", ALL, Client, "10 | @ c2 003c ~ 'c' 'ann' 'pw'", "username: Some(\"ann\");password: Some(b\"pw\")"),
    ok("connect: empty user name and password", ALL, Client, "10 | @ c2 003c ~ 'c' '' ''", "username: Some(\"\");password: Some(b\"\")"),
    ok("connect: password alone", V5, Client, "10 | @ 42 003c ~ 'c' 'pw'", "username: None;password: Some(b\"pw\")"),
    ok("connect: binary password", V45, Client, "10 | @ c2 003c ~ 'c' 'ann' 0003ff00fe", "password: Some(b\"\\xff\\0\\xfe\")"),
    ok("connect: will", ALL, Client, "10 | @ 06 003c ~ 'c' ~ 'w/t' 'gone'", "topic: \"w/t\";payload: b\"gone\";qos: AtMostOnce, retain: false;delay_interval: 0"),
    ok("connect: will of QoS 1", ALL, Client, "10 | @ 0e 003c ~ 'c' ~ 'w/t' ''", "payload: b\"\", qos: AtLeastOnce, retain: false"),
    ok("connect: will of QoS 2, retained, and login", ALL, Client, "10 | @ f6 003c ~ 'c' ~ 'w/t' 'gone' 'ann' 'pw'", "qos: ExactlyOnce, retain: true;username: Some(\"ann\")"),
    as_other("connect: 3.1 may leave the announced user name out", V31, Client, "10 | @ 82 003c 'c'", ("username: None", "10 | @ 02 003c 'c'")),
    as_other("connect: 3.1 may leave the announced password out", V31, Client, "10 | @ c2 003c 'c' 'ann'", ("username: Some(\"ann\");password: None", "10 | @ 82 003c 'c' 'ann'")),
    ok("connect: session expiry", V5, Client, "10 | @ 02 003c {11 00000e10} 'c'", "session_expiry_interval: Some(3600)"),
    ok("connect: session expiry never", V5, Client, "10 | @ 02 003c {11 ffffffff} 'c'", "session_expiry_interval: Some(4294967295)"),
    ok("connect: receive maximum", V5, Client, "10 | @ 02 003c {21 0001} 'c'", "receive_maximum: Some(1)"),
    ok("connect: maximum packet size", V5, Client, "10 | @ 02 003c {27 00000001} 'c'", "maximum_packet_size: Some(1)"),
    ok("connect: topic alias maximum 0", V5, Client, "10 | @ 02 003c {22 0000} 'c'", "topic_alias_maximum: Some(0)"),
    ok("connect: request response information", V5, Client, "10 | @ 02 003c {19 01} 'c'", "request_response_information: Some(true)"),
    ok("connect: request problem information", V5, Client, "10 | @ 02 003c {17 00} 'c'", "request_problem_information: Some(false)"),
    ok("connect: user properties in order", V5, Client, "10 | @ 02 003c {26 'b' '1' 26 'a' '2' 26 'b' '1'} 'c'", "[(\"b\", \"1\"), (\"a\", \"2\"), (\"b\", \"1\")]"),
    ok("connect: authentication method", V5, Client, "10 | @ 02 003c {15 'SCRAM'} 'c'", "authentication_method: Some(\"SCRAM\")"),
    ok("connect: authentication data", V5, Client, "10 | @ 02 003c {15 'SCRAM' 16 0002ff00} 'c'", "authentication_data: Some(b\"\\xff\\0\")"),
    as_other("connect: properties in any order", V5, Client, "10 | @ 02 003c {16 'd' 22 0005 15 'M' 21 0004} 'c'", ("receive_maximum: Some(4);topic_alias_maximum: Some(5)", "10 | @ 02 003c {21 0004 22 0005 15 'M' 16 'd'} 'c'")),
    ok("connect: will delay", V5, Client, "10 | @ 06 003c ~ 'c' {18 0000000a} 'w' ''", "delay_interval: 10"),
    as_other("connect: will delay 0", V5, Client, "10 | @ 06 003c ~ 'c' {18 00000000} 'w' ''", ("delay_interval: 0", "10 | @ 06 003c ~ 'c' ~ 'w' ''")),
    ok("connect: will expiry", V5, Client, "10 | @ 06 003c ~ 'c' {02 0000000a} 'w' ''", "expiry_interval: Some(10)"),
    ok("connect: will payload format", V5, Client, "10 | @ 06 003c ~ 'c' {01 01} 'w' ''", "payload_format_utf8: Some(true)"),
    ok("connect: will content type", V5, Client, "10 | @ 06 003c ~ 'c' {03 'text'} 'w' ''", "content_type: Some(\"text\")"),
    ok("connect: will response topic", V5, Client, "10 | @ 06 003c ~ 'c' {08 'r/t'} 'w' ''", "response_topic: Some(\"r/t\")"),
    ok("connect: will correlation data", V5, Client, "10 | @ 06 003c ~ 'c' {09 'id'} 'w' ''", "correlation_data: Some(b\"id\")"),
    ok("connect: will user property", V5, Client, "10 | @ 06 003c ~ 'c' {26 'k' 'v'} 'w' ''", "[(\"k\", \"v\")]"),

    bad("connect: from a server", ALL, Server, "10 | @ 02 003c ~ 'c'", Malformed::WrongSender(PacketType::Connect)),
    bad("connect: header flags", ALL, Client, "12 | @ 02 003c ~ 'c'", Malformed::Flags(PacketType::Connect)),
    bad("connect: header DUP", ALL, Client, "18 | @ 02 003c ~ 'c'", Malformed::Flags(PacketType::Connect)),
    bad("connect: protocol name", ALL, Client, "10 | 'MQTX' 04 02 003c 'c'", Malformed::ProtocolName),
    bad("connect: empty protocol name", ALL, Client, "10 | '' 04 02 003c 'c'", Malformed::ProtocolName),
    bad("connect: protocol name in lower case", ALL, Client, "10 | 'mqtt' 04 02 003c 'c'", Malformed::ProtocolName),
    bad("connect: level 9", ALL, Client, "10 | 'MQTT' 09 02 003c 'c'", Malformed::ProtocolLevel(9)),
    bad("connect: level 6", ALL, Client, "10 | 'MQTT' 06 02 003c ~ 'c'", Malformed::ProtocolLevel(6)),
    bad("connect: level 3 with the new name", ALL, Client, "10 | 'MQTT' 03 02 003c 'c'", Malformed::ProtocolLevel(3)),
    bad("connect: level 4 with the old name", ALL, Client, "10 | 'MQIsdp' 04 02 003c 'c'", Malformed::ProtocolLevel(4)),
    bad("connect: bridge level with the old name", ALL, Client, "10 | 'MQIsdp' 84 02 003c 'c'", Malformed::ProtocolLevel(0x84)),
    bad("connect: bridge level of 5.0", ALL, Client, "10 | 'MQTT' 85 02 003c ~ 'c'", Malformed::ProtocolLevel(0x85)),
    bad("connect: gateway level of 3.1", ALL, Client, "10 | 'MQIsdp' c3 02 003c 'c'", Malformed::ProtocolLevel(0xc3)),
    bad("connect: level 0x44", ALL, Client, "10 | 'MQTT' 44 02 003c 'c'", Malformed::ProtocolLevel(0x44)),
    bad("connect: reserved flag", ALL, Client, "10 | @ 03 003c ~ 'c'", Malformed::ReservedConnectFlag),
    bad("connect: will QoS 3", ALL, Client, "10 | @ 1e 003c ~ 'c' ~ 'w' 'm'", Malformed::WillFlags),
    bad("connect: will QoS without will", ALL, Client, "10 | @ 0a 003c ~ 'c'", Malformed::WillFlags),
    bad("connect: will retain without will", ALL, Client, "10 | @ 22 003c ~ 'c'", Malformed::WillFlags),
    bad("connect: password without user name", V3, Client, "10 | @ 42 003c 'c' 'p'", Malformed::PasswordWithoutUsername),
    bad("connect: will topic with wildcard", ALL, Client, "10 | @ 06 003c ~ 'c' ~ 'w/#' 'm'", Malformed::Topic(TopicError::HoldsWildcard)),
    bad("connect: empty will topic", ALL, Client, "10 | @ 06 003c ~ 'c' ~ '' 'm'", Malformed::Topic(TopicError::Empty)),
    bad("connect: no will", ALL, Client, "10 | @ 06 003c ~ 'c'", Malformed::Truncated),
    bad("connect: no will message", ALL, Client, "10 | @ 06 003c ~ 'c' ~ 'w'", Malformed::Truncated),
    bad("connect: no client id", ALL, Client, "10 | @ 02 003c ~", Malformed::Truncated),
    bad("connect: no user name", V45, Client, "10 | @ 82 003c ~ 'c'", Malformed::Truncated),
    bad("connect: no password", V45, Client, "10 | @ c2 003c ~ 'c' 'ann'", Malformed::Truncated),
    bad("connect: nothing", ALL, Client, "10 |", Malformed::Truncated),
    bad("connect: cut in the keep alive", ALL, Client, "10 | @ 02 00", Malformed::Truncated),
    bad("connect: client id not UTF-8", ALL, Client, "10 | @ 02 003c ~ 0001ff", Malformed::NotUtf8),
    bad("connect: client id with NUL", ALL, Client, "10 | @ 02 003c ~ 000100", Malformed::HoldsNul),
    bad("connect: user name not UTF-8", ALL, Client, "10 | @ 82 003c ~ 'c' 0001c0", Malformed::NotUtf8),
    bad("connect: trailing bytes", ALL, Client, "10 | @ 02 003c ~ 'c' <zz>", Malformed::TrailingBytes),
    bad("connect: trailing bytes after a login", ALL, Client, "10 | @ c2 003c ~ 'c' 'ann' 'pw' 00", Malformed::TrailingBytes),
    bad("connect: receive maximum 0", V5, Client, "10 | @ 02 003c {21 0000} 'c'", Malformed::PropertyValue(0x21)),
    bad("connect: maximum packet size 0", V5, Client, "10 | @ 02 003c {27 00000000} 'c'", Malformed::PropertyValue(0x27)),
    bad("connect: request problem information 2", V5, Client, "10 | @ 02 003c {17 02} 'c'", Malformed::PropertyValue(0x17)),
    bad("connect: request response information 2", V5, Client, "10 | @ 02 003c {19 02} 'c'", Malformed::PropertyValue(0x19)),
    bad("connect: authentication data without method", V5, Client, "10 | @ 02 003c {16 000101} 'c'", Malformed::AuthenticationMethodMissing),
    bad("connect: session expiry twice", V5, Client, "10 | @ 02 003c {11 00000001 11 00000001} 'c'", Malformed::PropertyRepeated(0x11)),
    bad("connect: receive maximum twice", V5, Client, "10 | @ 02 003c {21 0001 21 0001} 'c'", Malformed::PropertyRepeated(0x21)),
    bad("connect: authentication method twice", V5, Client, "10 | @ 02 003c {15 'a' 15 'a'} 'c'", Malformed::PropertyRepeated(0x15)),
    bad("connect: will delay outside the will", V5, Client, "10 | @ 02 003c {18 00000001} 'c'", Malformed::PropertyNotAllowed(0x18)),
    bad("connect: topic alias in the will", V5, Client, "10 | @ 06 003c ~ 'c' {23 0001} 'w' 'm'", Malformed::PropertyNotAllowed(0x23)),
    bad("connect: session expiry in the will", V5, Client, "10 | @ 06 003c ~ 'c' {11 00000001} 'w' 'm'", Malformed::PropertyNotAllowed(0x11)),
    bad("connect: will delay twice", V5, Client, "10 | @ 06 003c ~ 'c' {18 00000001 18 00000001} 'w' 'm'", Malformed::PropertyRepeated(0x18)),
    bad("connect: will payload format 2", V5, Client, "10 | @ 06 003c ~ 'c' {01 02} 'w' 'm'", Malformed::PropertyValue(0x01)),
    bad("connect: will response topic with wildcard", V5, Client, "10 | @ 06 003c ~ 'c' {08 'r/+'} 'w' 'm'", Malformed::ResponseTopic(TopicError::HoldsWildcard)),
    bad("connect: property cut", V5, Client, "10 | @ 02 003c {11 0000} 'c'", Malformed::Truncated),
    bad("connect: no properties at all", V5, Client, "10 | @ 02 003c", Malformed::Truncated),
    bad("connect: user property name not UTF-8", V5, Client, "10 | @ 02 003c {26 0001ff 'v'} 'c'", Malformed::NotUtf8),
    bad("connect: user property value with NUL", V5, Client, "10 | @ 02 003c {26 'k' 000100} 'c'", Malformed::HoldsNul),
    bad("connect: user property without value", V5, Client, "10 | @ 02 003c {26 'k'} 'c'", Malformed::Truncated),
];

#[rustfmt::skip]
const CONNACKS: &[Row] = &[
    ok("connack: gateway", V311, Server, "20 | 02 00", "session_present: false;tidegate-gateway"),
    ok("connack: gateway with the session", V311, Server, "20 | 03 00", "session_present: true;tidegate-gateway"),
    ok("connack: accepted", ALL, Server, "20 | 00 00 ~", "session_present: false, reason: Success"),
    ok("connack: session present", V45, Server, "20 | 01 00 ~", "session_present: true, reason: Success"),
    as_other("connack: 3.1 has no session present", V31, Server, "20 | 01 00", ("session_present: false", "20 | 00 00")),
    ok("connack: return code 1", V3, Server, "20 | 00 01", "reason: UnsupportedProtocolVersion"),
    ok("connack: return code 2", V3, Server, "20 | 00 02", "reason: ClientIdentifierNotValid"),
    ok("connack: return code 3", V3, Server, "20 | 00 03", "reason: ServerUnavailable"),
    ok("connack: return code 4", V3, Server, "20 | 00 04", "reason: BadUserNameOrPassword"),
    ok("connack: return code 5", V3, Server, "20 | 00 05", "reason: NotAuthorized"),
    ok("connack: refused", V5, Server, "20 | 00 87 00", "reason: NotAuthorized"),
    ok("connack: session expiry", V5, Server, "20 | 00 00 {11 00000001}", "session_expiry_interval: Some(1)"),
    ok("connack: receive maximum", V5, Server, "20 | 00 00 {21 000a}", "receive_maximum: Some(10)"),
    ok("connack: maximum QoS 0", V5, Server, "20 | 00 00 {24 00}", "maximum_qos: Some(AtMostOnce)"),
    ok("connack: maximum QoS 1", V5, Server, "20 | 00 00 {24 01}", "maximum_qos: Some(AtLeastOnce)"),
    ok("connack: retain available", V5, Server, "20 | 00 00 {25 00}", "retain_available: Some(false)"),
    ok("connack: maximum packet size", V5, Server, "20 | 00 00 {27 00010000}", "maximum_packet_size: Some(65536)"),
    ok("connack: assigned client id", V5, Server, "20 | 00 00 {12 'auto'}", "assigned_client_id: Some(\"auto\")"),
    ok("connack: topic alias maximum", V5, Server, "20 | 00 00 {22 0010}", "topic_alias_maximum: Some(16)"),
    ok("connack: reason string", V5, Server, "20 | 00 87 {1f 'no'}", "reason_string: Some(\"no\")"),
    ok("connack: user property", V5, Server, "20 | 00 00 {26 'k' 'v'}", "user_properties: [(\"k\", \"v\")]"),
    ok("connack: wildcards", V5, Server, "20 | 00 00 {28 00}", "wildcard_subscription_available: Some(false)"),
    ok("connack: subscription identifiers", V5, Server, "20 | 00 00 {29 01}", "subscription_identifiers_available: Some(true)"),
    ok("connack: shared subscriptions", V5, Server, "20 | 00 00 {2a 01}", "shared_subscription_available: Some(true)"),
    ok("connack: server keep alive", V5, Server, "20 | 00 00 {13 001e}", "server_keep_alive: Some(30)"),
    ok("connack: response information", V5, Server, "20 | 00 00 {1a 'r/'}", "response_information: Some(\"r/\")"),
    ok("connack: server reference", V5, Server, "20 | 00 9d {1c 'other:1883'}", "server_reference: Some(\"other:1883\")"),
    ok("connack: authentication", V5, Server, "20 | 00 00 {15 'M' 16 'd'}", "authentication_method: Some(\"M\"), authentication_data: Some(b\"d\")"),

    bad("connack: from a client", ALL, Client, "20 | 00 00 ~", Malformed::WrongSender(PacketType::Connack)),
    bad("connack: header flags", ALL, Server, "21 | 00 00 ~", Malformed::Flags(PacketType::Connack)),
    bad("connack: reserved flags", ALL, Server, "20 | 04 00 ~", Malformed::ConnackFlags),
    bad("connack: the flag of a gateway", V5, Server, "20 | 02 00 00", Malformed::ConnackFlags),
    bad("connack: a gateway that refuses", V311, Server, "20 | 02 05", Malformed::ConnackFlags),
    bad("connack: session present on refusal", V311, Server, "20 | 01 05", Malformed::SessionPresentOnRefusal),
    bad("connack: session present on refusal", V5, Server, "20 | 01 87 00", Malformed::SessionPresentOnRefusal),
    bad("connack: return code 6", V3, Server, "20 | 00 06", Malformed::ReasonCode(6)),
    bad("connack: reason of another packet", V5, Server, "20 | 00 92 00", Malformed::ReasonCode(0x92)),
    bad("connack: trailing bytes", ALL, Server, "20 | 00 00 ~ 00", Malformed::TrailingBytes),
    bad("connack: cut", ALL, Server, "20 | 00", Malformed::Truncated),
    bad("connack: no properties at all", V5, Server, "20 | 00 00", Malformed::Truncated),
    bad("connack: maximum QoS 2", V5, Server, "20 | 00 00 {24 02}", Malformed::PropertyValue(0x24)),
    bad("connack: retain available 2", V5, Server, "20 | 00 00 {25 02}", Malformed::PropertyValue(0x25)),
    bad("connack: wildcards 2", V5, Server, "20 | 00 00 {28 02}", Malformed::PropertyValue(0x28)),
    bad("connack: subscription identifiers 2", V5, Server, "20 | 00 00 {29 02}", Malformed::PropertyValue(0x29)),
    bad("connack: shared subscriptions 2", V5, Server, "20 | 00 00 {2a 02}", Malformed::PropertyValue(0x2a)),
    bad("connack: receive maximum 0", V5, Server, "20 | 00 00 {21 0000}", Malformed::PropertyValue(0x21)),
    bad("connack: maximum packet size 0", V5, Server, "20 | 00 00 {27 00000000}", Malformed::PropertyValue(0x27)),
    bad("connack: server keep alive twice", V5, Server, "20 | 00 00 {13 0001 13 0001}", Malformed::PropertyRepeated(0x13)),
    bad("connack: authentication data without method", V5, Server, "20 | 00 00 {16 'd'}", Malformed::AuthenticationMethodMissing),
    bad("connack: request problem information", V5, Server, "20 | 00 00 {17 01}", Malformed::PropertyNotAllowed(0x17)),
];

#[rustfmt::skip]
const PUBLISHES: &[Row] = &[
    ok("publish: QoS 0", ALL, Client, "30 | 'a/b' ~ <hi>", "dup: false, qos: AtMostOnce, retain: false, topic: Some(\"a/b\"), packet_id: None, payload: b\"hi\""),
    ok("publish: QoS 0 to a client", ALL, Server, "30 | 'a/b' ~ <hi>", "topic: Some(\"a/b\")"),
    ok("publish: QoS 1", ALL, Client, "32 | 'a/b' 0001 ~ <hi>", "qos: AtLeastOnce;packet_id: Some(PacketId(1))"),
    ok("publish: QoS 2, highest packet id", ALL, Server, "34 | 'a/b' ffff ~ <hi>", "qos: ExactlyOnce;packet_id: Some(PacketId(65535))"),
    ok("publish: QoS 1 again", ALL, Client, "3a | 'a' 0001 ~ <hi>", "dup: true, qos: AtLeastOnce"),
    ok("publish: QoS 2 again, retained", ALL, Server, "3d | 'a' 0001 ~ <hi>", "dup: true, qos: ExactlyOnce, retain: true"),
    ok("publish: retained, no payload", ALL, Client, "31 | 'a' ~", "retain: true;payload: b\"\""),
    ok("publish: slashes alone", ALL, Client, "30 | '//' ~ <x>", "topic: Some(\"//\")"),
    ok("publish: byte order mark kept", ALL, Client, "30 | '\u{feff}a' ~ <x>", "topic: Some(\"\\u{feff}a\")"),
    ok("publish: binary payload", ALL, Client, "30 | 'a' ~ ff00fe", "payload: b\"\\xff\\0\\xfe\""),
    ok("publish: payload format", V5, Client, "30 | 'a' {01 01} <x>", "payload_format_utf8: Some(true)"),
    ok("publish: payload format 0", V5, Client, "30 | 'a' {01 00} <x>", "payload_format_utf8: Some(false)"),
    ok("publish: expiry", V5, Client, "30 | 'a' {02 0000003c} <x>", "expiry_interval: Some(60)"),
    ok("publish: expiry 0", V5, Client, "30 | 'a' {02 00000000} <x>", "expiry_interval: Some(0)"),
    ok("publish: topic alias set", V5, Client, "30 | 'a' {23 0001} <x>", "topic: Some(\"a\");topic_alias: Some(1)"),
    ok("publish: topic alias used", V5, Client, "30 | '' {23 ffff} <x>", "topic: None;topic_alias: Some(65535)"),
    ok("publish: response topic", V5, Client, "30 | 'a' {08 'r/t'} <x>", "response_topic: Some(\"r/t\")"),
    ok("publish: correlation data", V5, Client, "30 | 'a' {09 0002ff00} <x>", "correlation_data: Some(b\"\\xff\\0\")"),
    ok("publish: user properties", V5, Client, "32 | 'a' 0001 {26 'k' 'v' 26 'k' ''} <x>", "[(\"k\", \"v\"), (\"k\", \"\")]"),
    ok("publish: content type", V5, Client, "30 | 'a' {03 'application/json'} <x>", "content_type: Some(\"application/json\")"),
    ok("publish: empty content type", V5, Client, "30 | 'a' {03 ''} <x>", "content_type: Some(\"\")"),
    ok("publish: subscription identifier", V5, Server, "30 | 'a' {0b 01} <x>", "subscription_identifiers: [1]"),
    ok("publish: several subscription identifiers", V5, Server, "30 | 'a' {0b 01 0b ffffff7f 0b 01} <x>", "subscription_identifiers: [1, 268435455, 1]"),
    as_other("publish: properties in any order", V5, Server, "30 | 'a' {26 'k' 'v' 0b 05 02 00000001 01 01 23 0002} <x>", ("subscription_identifiers: [5];topic_alias: Some(2)", "30 | 'a' {23 0002 02 00000001 01 01 26 'k' 'v' 0b 05} <x>")),

    bad("publish: QoS 3", ALL, Client, "36 | 'a' 0001 ~ <x>", Malformed::Qos),
    bad("publish: DUP on QoS 0", ALL, Client, "38 | 'a' ~", Malformed::DupOnQos0),
    bad("publish: packet id 0", ALL, Client, "32 | 'a' 0000 ~ <x>", Malformed::PacketIdZero),
    bad("publish: packet id 0 at QoS 2", ALL, Server, "34 | 'a' 0000 ~ <x>", Malformed::PacketIdZero),
    bad("publish: no packet id", ALL, Client, "32 | 'a'", Malformed::Truncated),
    bad("publish: plus in the topic", ALL, Client, "30 | 'a/+' ~", Malformed::Topic(TopicError::HoldsWildcard)),
    bad("publish: hash in the topic", ALL, Client, "30 | 'a/#' ~", Malformed::Topic(TopicError::HoldsWildcard)),
    bad("publish: wildcard to a client", ALL, Server, "30 | '#' ~", Malformed::Topic(TopicError::HoldsWildcard)),
    bad("publish: NUL in the topic", ALL, Client, "30 | 0003610062 ~", Malformed::HoldsNul),
    bad("publish: topic not UTF-8", ALL, Client, "30 | 0002fffe ~", Malformed::NotUtf8),
    bad("publish: surrogate in the topic", ALL, Client, "30 | 0003eda080 ~", Malformed::NotUtf8),
    bad("publish: overlong UTF-8", ALL, Client, "30 | 0002c0af ~", Malformed::NotUtf8),
    bad("publish: empty topic", ALL, Client, "30 | '' ~", Malformed::TopicMissing),
    bad("publish: empty topic without alias", V5, Client, "30 | '' {02 00000001} <x>", Malformed::TopicMissing),
    bad("publish: cut in the topic", ALL, Client, "30 | 0009 <a>", Malformed::Truncated),
    bad("publish: nothing", ALL, Client, "30 |", Malformed::Truncated),
    bad("publish: no properties at all", V5, Client, "30 | 'a'", Malformed::Truncated),
    bad("publish: alias twice", V5, Client, "30 | 'a' {23 0001 23 0002} <x>", Malformed::PropertyRepeated(0x23)),
    bad("publish: alias 0", V5, Client, "30 | 'a' {23 0000} <x>", Malformed::TopicAliasZero),
    bad("publish: unknown property", V5, Client, "30 | 'a' {7f 01} <x>", Malformed::PropertyUnknown(0x7f)),
    bad("publish: property 0", V5, Client, "30 | 'a' {00 01} <x>", Malformed::PropertyUnknown(0)),
    bad("publish: property above one byte", V5, Client, "30 | 'a' {8101 01} <x>", Malformed::PropertyUnknown(0x81)),
    bad("publish: property identifier not minimal", V5, Client, "30 | 'a' {8100 01} <x>", Malformed::VarintNotMinimal),
    bad("publish: receive maximum", V5, Client, "30 | 'a' {21 0005} <x>", Malformed::PropertyNotAllowed(0x21)),
    bad("publish: reason string", V5, Client, "30 | 'a' {1f 'r'} <x>", Malformed::PropertyNotAllowed(0x1f)),
    bad("publish: payload format 2", V5, Client, "30 | 'a' {01 02} <x>", Malformed::PropertyValue(0x01)),
    bad("publish: payload format twice", V5, Client, "30 | 'a' {01 01 01 01} <x>", Malformed::PropertyRepeated(0x01)),
    bad("publish: expiry twice", V5, Client, "30 | 'a' {02 00000001 02 00000001} <x>", Malformed::PropertyRepeated(0x02)),
    bad("publish: content type twice", V5, Client, "30 | 'a' {03 'a' 03 'b'} <x>", Malformed::PropertyRepeated(0x03)),
    bad("publish: response topic twice", V5, Client, "30 | 'a' {08 'a' 08 'b'} <x>", Malformed::PropertyRepeated(0x08)),
    bad("publish: correlation data twice", V5, Client, "30 | 'a' {09 'a' 09 'b'} <x>", Malformed::PropertyRepeated(0x09)),
    bad("publish: subscription identifier from a client", V5, Client, "30 | 'a' {0b 01} <x>", Malformed::SubscriptionIdentifierFromClient),
    bad("publish: subscription identifier 0", V5, Server, "30 | 'a' {0b 00} <x>", Malformed::PropertyValue(0x0b)),
    bad("publish: response topic with wildcard", V5, Client, "30 | 'a' {08 'a/#'} <x>", Malformed::ResponseTopic(TopicError::HoldsWildcard)),
    bad("publish: empty response topic", V5, Client, "30 | 'a' {08 ''} <x>", Malformed::ResponseTopic(TopicError::Empty)),
    bad("publish: properties longer than the packet", V5, Client, "30 | 'a' 32 <x>", Malformed::Truncated),
    bad("publish: property longer than the properties", V5, Client, "30 | 'a' {03 0009} <application>", Malformed::Truncated),
    bad("publish: property length not minimal", V5, Client, "30 | 'a' 8000 <x>", Malformed::VarintNotMinimal),
    bad("publish: property length of five bytes", V5, Client, "30 | 'a' ffffffff01 <x>", Malformed::VarintTooLong),
];

#[rustfmt::skip]
const ACKS: &[Row] = &[
    ok("puback: from a client", ALL, Client, "40 | 0001", "Puback;packet_id: PacketId(1), reason: Success"),
    ok("puback: from a server", ALL, Server, "40 | ffff", "Puback;packet_id: PacketId(65535)"),
    ok("pubrec: plain", ALL, Client, "50 | 0001", "Pubrec;reason: Success"),
    ok("pubrel: plain", ALL, Client, "62 | 0001", "Pubrel;reason: Success"),
    ok("pubcomp: plain", ALL, Server, "70 | 0001", "Pubcomp;reason: Success"),
    ok("puback: reason alone", V5, Server, "40 | 0001 10", "reason: NoMatchingSubscribers, properties: None"),
    as_other("puback: success said", V5, Client, "40 | 0001 00", ("reason: Success, properties: None", "40 | 0001")),
    as_other("puback: success and no properties said", V5, Client, "40 | 0001 00 00", ("reason: Success, properties: None", "40 | 0001")),
    as_other("pubrec: no properties said", V5, Client, "50 | 0001 97 00", ("reason: QuotaExceeded, properties: None", "50 | 0001 97")),
    as_other("pubrel: no properties said", V5, Client, "62 | 0001 92 00", ("reason: PacketIdentifierNotFound", "62 | 0001 92")),
    ok("puback: reason string", V5, Server, "40 | 0001 87 {1f 'no'}", "reason: NotAuthorized;reason_string: Some(\"no\")"),
    ok("puback: user properties", V5, Server, "40 | 0001 00 {26 'k' 'v' 26 'k' 'v'}", "reason: Success;[(\"k\", \"v\"), (\"k\", \"v\")]"),
    ok("pubrec: reason string and user property", V5, Server, "50 | 0001 99 {1f 'no' 26 'k' 'v'}", "reason: PayloadFormatInvalid;reason_string: Some(\"no\")"),
    ok("pubrel: reason string", V5, Client, "62 | 0001 92 {1f 'lost'}", "reason: PacketIdentifierNotFound;reason_string: Some(\"lost\")"),
    ok("pubcomp: user property", V5, Server, "70 | 0001 92 {26 'k' 'v'}", "reason: PacketIdentifierNotFound"),
    as_other("pubrel: 3.1 sends it again with DUP", V31, Client, "6a | 0001", ("Pubrel", "62 | 0001")),

    bad("puback: header flags", ALL, Client, "41 | 0001", Malformed::Flags(PacketType::Puback)),
    bad("puback: header QoS", ALL, Client, "42 | 0001", Malformed::Flags(PacketType::Puback)),
    bad("pubrec: header flags", ALL, Client, "52 | 0001", Malformed::Flags(PacketType::Pubrec)),
    bad("pubrel: header flags 0", ALL, Client, "60 | 0001", Malformed::Flags(PacketType::Pubrel)),
    bad("pubrel: header flags 3", ALL, Client, "63 | 0001", Malformed::Flags(PacketType::Pubrel)),
    bad("pubrel: header DUP", V45, Client, "6a | 0001", Malformed::Flags(PacketType::Pubrel)),
    bad("pubcomp: header flags", ALL, Server, "72 | 0001", Malformed::Flags(PacketType::Pubcomp)),
    bad("puback: packet id 0", ALL, Client, "40 | 0000", Malformed::PacketIdZero),
    bad("pubrec: packet id 0", ALL, Client, "50 | 0000", Malformed::PacketIdZero),
    bad("pubrel: packet id 0", ALL, Client, "62 | 0000", Malformed::PacketIdZero),
    bad("pubcomp: packet id 0", ALL, Client, "70 | 0000", Malformed::PacketIdZero),
    bad("puback: nothing", ALL, Client, "40 |", Malformed::Truncated),
    bad("puback: cut", ALL, Client, "40 | 00", Malformed::Truncated),
    bad("puback: trailing bytes", V3, Client, "40 | 0001 09", Malformed::TrailingBytes),
    bad("pubrec: trailing bytes", V3, Client, "50 | 0001 00", Malformed::TrailingBytes),
    bad("pubrel: trailing bytes", V3, Client, "62 | 0001 00", Malformed::TrailingBytes),
    bad("pubcomp: trailing bytes", V3, Server, "70 | 0001 00", Malformed::TrailingBytes),
    bad("puback: trailing bytes after the properties", V5, Client, "40 | 0001 00 00 00", Malformed::TrailingBytes),
    bad("puback: unknown reason", V5, Client, "40 | 0001 55", Malformed::ReasonCode(0x55)),
    bad("puback: reason of PUBREL", V5, Client, "40 | 0001 92", Malformed::ReasonCode(0x92)),
    bad("pubrec: reason of SUBACK", V5, Client, "50 | 0001 01", Malformed::ReasonCode(0x01)),
    bad("pubrel: reason of PUBACK", V5, Client, "62 | 0001 10", Malformed::ReasonCode(0x10)),
    bad("pubcomp: reason of PUBREC", V5, Client, "70 | 0001 80", Malformed::ReasonCode(0x80)),
    bad("puback: reason string twice", V5, Client, "40 | 0001 00 {1f 'a' 1f 'b'}", Malformed::PropertyRepeated(0x1f)),
    bad("pubrec: topic alias", V5, Client, "50 | 0001 00 {23 0001}", Malformed::PropertyNotAllowed(0x23)),
    bad("pubcomp: properties cut", V5, Client, "70 | 0001 00 05", Malformed::Truncated),
];

#[rustfmt::skip]
const SUBSCRIPTIONS: &[Row] = &[
    ok("subscribe: one filter", ALL, Client, "82 | 0001 ~ 'a/b' 01", "packet_id: PacketId(1);filters: [(\"a/b\", SubscriptionOptions { qos: AtLeastOnce, no_local: false"),
    ok("subscribe: three filters", ALL, Client, "82 | 0001 ~ '#' 00 '+/b/#' 01 '+' 02", "(\"#\";(\"+/b/#\";qos: ExactlyOnce"),
    ok("subscribe: shared", V45, Client, "82 | 0001 ~ '$share/g/a/+' 01", "\"$share/g/a/+\""),
    ok("subscribe: No Local", V5, Client, "82 | 0001 ~ 'a' 04", "no_local: true, retain_as_published: false, retain_handling: Send "),
    ok("subscribe: Retain As Published", V5, Client, "82 | 0001 ~ 'a' 08", "no_local: false, retain_as_published: true"),
    ok("subscribe: retain handling 1", V5, Client, "82 | 0001 ~ 'a' 10", "retain_handling: SendIfNew"),
    ok("subscribe: all options", V5, Client, "82 | 0001 ~ 'a' 2e", "qos: ExactlyOnce, no_local: true, retain_as_published: true, retain_handling: DoNotSend"),
    ok("subscribe: subscription identifier", V5, Client, "82 | 0001 {0b ffffff7f} 'a' 00", "subscription_identifier: Some(268435455)"),
    ok("subscribe: user properties", V5, Client, "82 | 0001 {26 'k' 'v' 26 'l' 'w'} 'a' 00", "user_properties: [(\"k\", \"v\"), (\"l\", \"w\")]"),
    as_other("subscribe: 3.1 sends it again with DUP", V31, Client, "8a | 0001 'a' 00", ("Subscribe", "82 | 0001 'a' 00")),
    ok("suback: granted", ALL, Server, "90 | 0001 ~ 00 01 02", "reasons: [Success, GrantedQos1, GrantedQos2]"),
    ok("suback: failed", V311, Server, "90 | 0001 ~ 80", "reasons: [UnspecifiedError]"),
    ok("suback: failed", V5, Server, "90 | 0001 ~ 80", "reasons: [UnspecifiedError]"),
    bad("suback: 3.1 knows no failure", V31, Server, "90 | 0001 80", Malformed::ReasonCode(0x80)),
    ok("suback: reasons", V5, Server, "90 | 0001 ~ 87 8f 9e", "reasons: [NotAuthorized, TopicFilterInvalid, SharedSubscriptionsNotSupported]"),
    ok("suback: properties", V5, Server, "90 | 0001 {1f 'no' 26 'k' 'v'} 87", "reason_string: Some(\"no\");(\"k\", \"v\")"),
    ok("unsubscribe: two filters", ALL, Client, "a2 | 0002 ~ 'a/#' 'b'", "packet_id: PacketId(2);filters: [\"a/#\", \"b\"]"),
    ok("unsubscribe: user property", V5, Client, "a2 | 0002 {26 'k' 'v'} 'a'", "user_properties: [(\"k\", \"v\")]"),
    as_other("unsubscribe: 3.1 sends it again with DUP", V31, Client, "aa | 0001 'a'", ("Unsubscribe", "a2 | 0001 'a'")),
    ok("unsuback: plain", V3, Server, "b0 | 0002", "packet_id: PacketId(2), reasons: []"),
    ok("unsuback: reasons", V5, Server, "b0 | 0002 ~ 00 11 87", "reasons: [Success, NoSubscriptionExisted, NotAuthorized]"),
    ok("unsuback: properties", V5, Server, "b0 | 0002 {1f 'no' 26 'k' 'v'} 80", "reason_string: Some(\"no\")"),

    bad("subscribe: from a server", ALL, Server, "82 | 0001 ~ 'a' 00", Malformed::WrongSender(PacketType::Subscribe)),
    bad("subscribe: header flags 0", ALL, Client, "80 | 0001 ~ 'a' 00", Malformed::Flags(PacketType::Subscribe)),
    bad("subscribe: header flags 3", ALL, Client, "83 | 0001 ~ 'a' 00", Malformed::Flags(PacketType::Subscribe)),
    bad("subscribe: header DUP", V45, Client, "8a | 0001 ~ 'a' 00", Malformed::Flags(PacketType::Subscribe)),
    bad("subscribe: no filter", ALL, Client, "82 | 0001 ~", Malformed::FiltersMissing),
    bad("subscribe: QoS 3", ALL, Client, "82 | 0001 ~ 'a' 03", Malformed::MaximumQos),
    bad("subscribe: reserved bits", ALL, Client, "82 | 0001 ~ 'a' c0", Malformed::SubscriptionOptions),
    bad("subscribe: one reserved bit", ALL, Client, "82 | 0001 ~ 'a' 40", Malformed::SubscriptionOptions),
    bad("subscribe: options of MQTT 5", V3, Client, "82 | 0001 'a' 04", Malformed::SubscriptionOptions),
    bad("subscribe: packet id 0", ALL, Client, "82 | 0000 ~ 'a' 00", Malformed::PacketIdZero),
    bad("subscribe: levels after the hash", ALL, Client, "82 | 0001 ~ 'a/#/b' 00", Malformed::Filter(TopicError::MisplacedHash)),
    bad("subscribe: hash beside letters", ALL, Client, "82 | 0001 ~ 'a#' 00", Malformed::Filter(TopicError::MisplacedHash)),
    bad("subscribe: plus beside letters", ALL, Client, "82 | 0001 ~ 'a+' 00", Malformed::Filter(TopicError::MisplacedPlus)),
    bad("subscribe: empty filter", ALL, Client, "82 | 0001 ~ '' 00", Malformed::Filter(TopicError::Empty)),
    bad("subscribe: filter not UTF-8", ALL, Client, "82 | 0001 ~ 0001ff 00", Malformed::NotUtf8),
    bad("subscribe: second filter wrong", ALL, Client, "82 | 0001 ~ 'a' 00 'b+' 00", Malformed::Filter(TopicError::MisplacedPlus)),
    bad("subscribe: no options", ALL, Client, "82 | 0001 ~ 'a'", Malformed::Truncated),
    bad("subscribe: trailing byte", ALL, Client, "82 | 0001 ~ 'a' 00 00", Malformed::Truncated),
    bad("subscribe: subscription identifier 0", V5, Client, "82 | 0001 {0b 00} 'a' 00", Malformed::PropertyValue(0x0b)),
    bad("subscribe: subscription identifier twice", V5, Client, "82 | 0001 {0b 01 0b 02} 'a' 00", Malformed::PropertyRepeated(0x0b)),
    bad("subscribe: subscription identifier not minimal", V5, Client, "82 | 0001 {0b 8100} 'a' 00", Malformed::VarintNotMinimal),
    bad("subscribe: topic alias", V5, Client, "82 | 0001 {23 0001} 'a' 00", Malformed::PropertyNotAllowed(0x23)),
    bad("subscribe: retain handling 3", V5, Client, "82 | 0001 ~ 'a' 30", Malformed::RetainHandling),
    bad("subscribe: No Local on a share", V5, Client, "82 | 0001 ~ '$share/g/a' 04", Malformed::NoLocalOnShared),
    bad("subscribe: share without a name", V5, Client, "82 | 0001 ~ '$share//a' 00", Malformed::Filter(TopicError::IncompleteShare)),
    bad("subscribe: share without a filter", V5, Client, "82 | 0001 ~ '$share/g' 00", Malformed::Filter(TopicError::IncompleteShare)),
    bad("subscribe: share name with wildcard", V5, Client, "82 | 0001 ~ '$share/+/a' 00", Malformed::Filter(TopicError::WildcardInShareName)),
    bad("suback: from a client", ALL, Client, "90 | 0001 ~ 00", Malformed::WrongSender(PacketType::Suback)),
    bad("suback: header flags", ALL, Server, "92 | 0001 ~ 00", Malformed::Flags(PacketType::Suback)),
    bad("suback: packet id 0", ALL, Server, "90 | 0000 ~ 00", Malformed::PacketIdZero),
    bad("suback: no reasons", ALL, Server, "90 | 0001 ~", Malformed::ReasonsMissing),
    bad("suback: code 3", ALL, Server, "90 | 0001 ~ 03", Malformed::ReasonCode(3)),
    bad("suback: reason of MQTT 5", V3, Server, "90 | 0001 87", Malformed::ReasonCode(0x87)),
    bad("suback: reason of UNSUBACK", V5, Server, "90 | 0001 ~ 11", Malformed::ReasonCode(0x11)),
    bad("suback: subscription identifier", V5, Server, "90 | 0001 {0b 01} 00", Malformed::PropertyNotAllowed(0x0b)),
    bad("unsubscribe: from a server", ALL, Server, "a2 | 0001 ~ 'a'", Malformed::WrongSender(PacketType::Unsubscribe)),
    bad("unsubscribe: header flags", ALL, Client, "a0 | 0001 ~ 'a'", Malformed::Flags(PacketType::Unsubscribe)),
    bad("unsubscribe: no filter", ALL, Client, "a2 | 0001 ~", Malformed::FiltersMissing),
    bad("unsubscribe: packet id 0", ALL, Client, "a2 | 0000 ~ 'a'", Malformed::PacketIdZero),
    bad("unsubscribe: wrong filter", ALL, Client, "a2 | 0001 ~ 'a/#/b'", Malformed::Filter(TopicError::MisplacedHash)),
    bad("unsubscribe: trailing byte", ALL, Client, "a2 | 0001 ~ 'a' 00", Malformed::Truncated),
    bad("unsubscribe: subscription identifier", V5, Client, "a2 | 0001 {0b 01} 'a'", Malformed::PropertyNotAllowed(0x0b)),
    bad("unsuback: from a client", ALL, Client, "b0 | 0001 ~ 00", Malformed::WrongSender(PacketType::Unsuback)),
    bad("unsuback: header flags", ALL, Server, "b2 | 0001", Malformed::Flags(PacketType::Unsuback)),
    bad("unsuback: trailing bytes", V3, Server, "b0 | 0001 00", Malformed::TrailingBytes),
    bad("unsuback: no reasons", V5, Server, "b0 | 0001 ~", Malformed::ReasonsMissing),
    bad("unsuback: reason of SUBACK", V5, Server, "b0 | 0001 ~ 01", Malformed::ReasonCode(1)),
    bad("unsuback: packet id 0", ALL, Server, "b0 | 0000 ~", Malformed::PacketIdZero),
];

#[rustfmt::skip]
const CONTROLS: &[Row] = &[
    ok("pingreq", ALL, Client, "c0 |", "Pingreq"),
    ok("pingresp", ALL, Server, "d0 |", "Pingresp"),
    ok("disconnect: normal", ALL, Client, "e0 |", "Disconnect { reason: Success, properties: None }"),
    as_other("disconnect: success said", V5, Client, "e0 | 00", ("reason: Success", "e0 |")),
    as_other("disconnect: success and no properties said", V5, Client, "e0 | 00 00", ("reason: Success, properties: None", "e0 |")),
    ok("disconnect: with will", V5, Client, "e0 | 04", "reason: DisconnectWithWill"),
    ok("disconnect: session expiry", V5, Client, "e0 | 00 {11 00000000}", "session_expiry_interval: Some(0)"),
    ok("disconnect: reason string", V5, Server, "e0 | 8e {1f 'again'}", "reason: SessionTakenOver;reason_string: Some(\"again\")"),
    ok("disconnect: server reference", V5, Server, "e0 | 9c {1c 'other'}", "reason: UseAnotherServer;server_reference: Some(\"other\")"),
    ok("disconnect: user property", V5, Client, "e0 | 81 {26 'k' 'v'}", "reason: MalformedPacket;(\"k\", \"v\")"),
    ok("disconnect: server shuts down", V5, Server, "e0 | 8b", "reason: ServerShuttingDown, properties: None"),
    ok("auth: continue", V5, Client, "f0 | 18 {15 'M' 16 'd'}", "reason: ContinueAuthentication, authentication_method: Some(\"M\"), authentication_data: Some(b\"d\")"),
    ok("auth: again", V5, Client, "f0 | 19 {15 'M'}", "reason: ReAuthenticate"),
    ok("auth: success", V5, Server, "f0 |", "reason: Success, authentication_method: None"),
    as_other("auth: success said", V5, Server, "f0 | 00", ("reason: Success, authentication_method: None", "f0 |")),
    as_other("auth: success and no properties said", V5, Server, "f0 | 00 00", ("reason: Success", "f0 |")),
    ok("auth: success with method", V5, Server, "f0 | 00 {15 'M' 1f 'ok' 26 'k' 'v'}", "reason: Success;reason_string: Some(\"ok\");(\"k\", \"v\")"),

    bad("pingreq: body", ALL, Client, "c0 | 01", Malformed::TrailingBytes),
    bad("pingreq: header flags", ALL, Client, "c1 |", Malformed::Flags(PacketType::Pingreq)),
    bad("pingreq: from a server", ALL, Server, "c0 |", Malformed::WrongSender(PacketType::Pingreq)),
    bad("pingresp: body", ALL, Server, "d0 | 00", Malformed::TrailingBytes),
    bad("pingresp: header flags", ALL, Server, "d2 |", Malformed::Flags(PacketType::Pingresp)),
    bad("pingresp: from a client", ALL, Client, "d0 |", Malformed::WrongSender(PacketType::Pingresp)),
    bad("disconnect: header flags", ALL, Client, "e1 |", Malformed::Flags(PacketType::Disconnect)),
    bad("disconnect: from a server", V3, Server, "e0 |", Malformed::WrongSender(PacketType::Disconnect)),
    bad("disconnect: body", V3, Client, "e0 | 00", Malformed::TrailingBytes),
    bad("disconnect: unknown reason", V5, Client, "e0 | 03", Malformed::ReasonCode(3)),
    bad("disconnect: a server's reason from a client", V5, Client, "e0 | 8e", Malformed::ReasonCode(0x8e)),
    bad("disconnect: a client's reason from a server", V5, Server, "e0 | 04", Malformed::ReasonCode(4)),
    bad("disconnect: session expiry from a server", V5, Server, "e0 | 8b {11 00000001}", Malformed::SessionExpiryFromServer),
    bad("disconnect: session expiry twice", V5, Client, "e0 | 00 {11 00000001 11 00000001}", Malformed::PropertyRepeated(0x11)),
    bad("disconnect: receive maximum", V5, Client, "e0 | 00 {21 0001}", Malformed::PropertyNotAllowed(0x21)),
    bad("disconnect: trailing bytes", V5, Client, "e0 | 00 00 00", Malformed::TrailingBytes),
    bad("auth: before MQTT 5", V3, Client, "f0 |", Malformed::PacketType(15)),
    bad("auth: header flags", V5, Client, "f1 | 18 {15 'M'}", Malformed::Flags(PacketType::Auth)),
    bad("auth: success from a client", V5, Client, "f0 |", Malformed::ReasonCode(0)),
    bad("auth: success said by a client", V5, Client, "f0 | 00 {15 'M'}", Malformed::ReasonCode(0)),
    bad("auth: again from a server", V5, Server, "f0 | 19 {15 'M'}", Malformed::ReasonCode(0x19)),
    bad("auth: no method", V5, Client, "f0 | 18", Malformed::AuthenticationMethodMissing),
    bad("auth: data without method", V5, Client, "f0 | 18 {16 'd'}", Malformed::AuthenticationMethodMissing),
    bad("auth: method twice", V5, Client, "f0 | 18 {15 'M' 15 'M'}", Malformed::PropertyRepeated(0x15)),
    bad("auth: server reference", V5, Client, "f0 | 18 {15 'M' 1c 'x'}", Malformed::PropertyNotAllowed(0x1c)),
    bad("auth: trailing bytes", V5, Client, "f0 | 18 {15 'M'} 00", Malformed::TrailingBytes),
];

#[rustfmt::skip]
const FRAMES: &[Row] = &[
    bad("frame: type 0", ALL, Client, "00 |", Malformed::PacketType(0)),
    bad("frame: remaining length of five bytes", ALL, Client, "c0 ffffffff01", Malformed::VarintTooLong),
    bad("frame: remaining length not minimal", ALL, Client, "c0 8000", Malformed::VarintNotMinimal),
    bad("frame: remaining length of three bytes not minimal", ALL, Client, "30 ff8000", Malformed::VarintNotMinimal),
    bad("frame: too large, before the body is there", ALL, Client, "30 ffffff7f", Malformed::PacketTooLarge { packet_bytes: 268_435_460 }),
];
