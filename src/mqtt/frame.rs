//! Packets to and from bytes: cuts a stream of received bytes into packets, and writes packets. Keeps no
//! session: that CONNECT comes first and once is the broker's to see.

use bytes::{Buf, Bytes, BytesMut};
use std::num::NonZeroU16;

use crate::mqtt::error::{EncodeError, Malformed};
use crate::mqtt::message::MessageProperties;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::packet::connect::{Connack, Connect, read_level};
use crate::mqtt::packet::control::{Auth, Disconnect};
use crate::mqtt::packet::publish::{DUP, Publish, RETAIN};
use crate::mqtt::packet::subscribe::{Suback, Subscribe, Unsuback, Unsubscribe};
use crate::mqtt::packet::{Packet, PacketType, Peer, Source, Version};
use crate::mqtt::property::{Property, Varint, visit_message_properties, visit_some, write_properties};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{Count, Reader, Sink, VARINT_MAX, varint};

/// Cuts packets from what one peer sends. After an error the connection must end: the rest of the bytes has
/// no meaning.
#[derive(Debug, Clone)]
pub struct Decoder {
    source: Source,
    /// A CONNECT has named the version.
    named: bool,
    packet_bytes_max: usize,
}

/// 2.1.1, checked as far as it alone can be.
struct FixedHeader {
    packet: PacketType,
    flags: u8,
    header_bytes: usize,
    packet_bytes: usize,
}

impl Decoder {
    /// `peer` is who sends. Packets above `packet_bytes_max` (fixed header included) are refused. The version
    /// is 3.1.1 until a CONNECT came or `set_version` was called.
    pub fn new(peer: Peer, packet_bytes_max: usize) -> Self {
        Self { source: Source { peer, version: Version::V3_1_1 }, named: false, packet_bytes_max }
    }

    /// For whoever sent the CONNECT; its receiver's decoder takes the version from it.
    pub fn set_version(&mut self, version: Version) {
        self.source.version = version;
    }

    /// That of the first CONNECT, even where the rest of it was refused: a second one ends the connection, in its version.
    pub const fn version(&self) -> Version {
        self.source.version
    }

    /// Takes the first packet off `buffer`. None, and `buffer` untouched, while it is not complete.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
        let Some(header) = self.read_header(buffer)? else { return Ok(None) };
        let Some(body) = buffer.get(header.header_bytes..header.packet_bytes) else { return Ok(None) };
        let mut reader = Reader::new(body);
        if header.packet == PacketType::Connect {
            // Before the rest is read, so that a refusal of it can be said in the client's version.
            let (version, _) = read_level(&mut reader.clone())?;
            if !std::mem::replace(&mut self.named, true) {
                self.source.version = version;
            }
        }
        let mut packet = read_body(&mut reader, &header, self.source)?;
        match &mut packet {
            // A copy: a message that waits must weigh what its queue counts, and a part of a read buffer would keep the
            // whole of it, with all that came beside.
            Packet::Publish(publish) => publish.payload = Bytes::copy_from_slice(reader.rest()),
            _ => reader.end()?,
        }
        buffer.advance(header.packet_bytes);
        Ok(Some(packet))
    }

    fn read_header(&self, buffer: &[u8]) -> Result<Option<FixedHeader>, Malformed> {
        let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
        let (number, flags) = (first >> 4, first & 0x0f);
        let packet = PacketType::from_bits(number)
            .filter(|packet| *packet != PacketType::Auth || self.source.version == Version::V5)
            .ok_or(Malformed::PacketType(number))?;
        self.check_flags(packet, flags)?;
        if !packet.may_come_from(self.source) {
            return Err(Malformed::WrongSender(packet));
        }
        let Some((remaining_length, length_bytes)) = varint(rest)? else { return Ok(None) };
        let header_bytes = 1 + length_bytes;
        let packet_bytes =
            usize::try_from(remaining_length).unwrap_or(usize::MAX).saturating_add(header_bytes);
        // Before the body arrives, so that no buffer grows for it.
        if packet_bytes > self.packet_bytes_max {
            return Err(Malformed::PacketTooLarge { packet_bytes });
        }
        Ok(Some(FixedHeader { packet, flags, header_bytes, packet_bytes }))
    }

    /// [MQTT-2.1.3-1] [MQTT-2.2.2-2 of 3.1.1]; for single packets [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
    /// [MQTT-3.14.1-1] [MQTT-3.15.1-1] [MQTT-3.6.1-1 of 3.1.1] [MQTT-3.8.1-1 of 3.1.1] [MQTT-3.10.1-1 of 3.1.1]
    /// [MQTT-3.14.1-1 of 3.1.1]
    fn check_flags(&self, packet: PacketType, flags: u8) -> Result<(), Malformed> {
        if packet == PacketType::Publish {
            return Publish::read_flags(flags).map(|_| ());
        }
        // MQTT 3.1 sets DUP on the packets that it sends again at QoS 1 (its section 2.1).
        let resent = self.source.version == Version::V3_1 && packet.flags() != 0;
        let flags = if resent { flags & !DUP } else { flags };
        if flags == packet.flags() { Ok(()) } else { Err(Malformed::Flags(packet)) }
    }
}

/// Reads all of a packet but the payload of a PUBLISH, which is left in `reader`.
fn read_body(reader: &mut Reader<'_>, header: &FixedHeader, source: Source) -> Result<Packet, Malformed> {
    let Source { peer, version } = source;
    let packet = header.packet;
    Ok(match packet {
        PacketType::Connect => Packet::Connect(Box::new(Connect::read(reader)?)),
        PacketType::Connack => Packet::Connack(Box::new(Connack::read(reader, version)?)),
        PacketType::Publish => Packet::Publish(Publish::read_head(reader, header.flags, source)?),
        PacketType::Puback => Packet::Puback(Ack::read(reader, packet, version)?),
        PacketType::Pubrec => Packet::Pubrec(Ack::read(reader, packet, version)?),
        PacketType::Pubrel => Packet::Pubrel(Ack::read(reader, packet, version)?),
        PacketType::Pubcomp => Packet::Pubcomp(Ack::read(reader, packet, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::read(reader, version)?),
        PacketType::Suback => Packet::Suback(Suback::read(reader, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::read(reader, version)?),
        PacketType::Unsuback => Packet::Unsuback(Unsuback::read(reader, version)?),
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::read(reader, source)?),
        PacketType::Auth => Packet::Auth(Auth::read(reader, peer)?),
    })
}

/// Appends `packet` to `out`; on an error `out` is as it was. What `version` does not know (properties, all
/// reason codes but CONNACK's and SUBACK's) is left out. A CONNECT is written in its own version.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    let mut count = Count::default();
    write_body(packet, version, &mut count);
    let kind = packet.packet_type();
    let flags = match packet {
        Packet::Publish(publish) => publish_head(publish).flags(),
        _ => kind.flags(),
    };
    begin(&count, (kind as u8) << 4 | flags, out)?;
    write_body(packet, version, out);
    Ok(())
}

/// How many bytes `encode` would append, the fixed header included.
pub fn encoded_size(packet: &Packet, version: Version) -> usize {
    let mut count = Count::default();
    write_body(packet, version, &mut count);
    framed_size(count.bytes)
}

/// Appends a PUBLISH to `out`; on an error `out` is as it was.
pub fn encode_publish(
    head: &PublishHead<'_>,
    payload: &[u8],
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut count = Count::default();
    head.write(version, &mut count);
    count.put(payload);
    begin(&count, (PacketType::Publish as u8) << 4 | head.flags(), out)?;
    head.write(version, out);
    out.put(payload);
    Ok(())
}

/// How many bytes `encode_publish` would append, the fixed header included: what [MQTT-3.1.2-24] bounds.
pub fn publish_size(head: &PublishHead<'_>, payload_bytes: usize, version: Version) -> usize {
    let mut count = Count::default();
    head.write(version, &mut count);
    framed_size(count.bytes.saturating_add(payload_bytes))
}

fn framed_size(body_bytes: usize) -> usize {
    let mut header = Count::default();
    header.put_u8(0);
    header.put_length(body_bytes);
    header.bytes.saturating_add(body_bytes)
}

/// Writes the fixed header once it is sure that the body can be written.
fn begin(body: &Count, first: u8, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(error) = body.refused {
        return Err(error);
    }
    let remaining_length = u32::try_from(body.bytes)
        .ok()
        .filter(|length| *length <= VARINT_MAX)
        .ok_or(EncodeError::PacketTooLarge)?;
    out.reserve(framed_size(body.bytes));
    out.put_u8(first);
    out.put_varint(remaining_length);
    Ok(())
}

fn write_body<S: Sink>(packet: &Packet, version: Version, sink: &mut S) {
    match packet {
        Packet::Connect(connect) => connect.write(sink),
        Packet::Connack(connack) => connack.write(version, sink),
        Packet::Publish(publish) => {
            publish_head(publish).write(version, sink);
            sink.put(&publish.payload);
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.write(version, sink);
        }
        Packet::Subscribe(subscribe) => subscribe.write(version, sink),
        Packet::Suback(suback) => suback.write(version, sink),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, sink),
        Packet::Unsuback(unsuback) => unsuback.write(version, sink),
        Packet::Pingreq | Packet::Pingresp => {}
        Packet::Disconnect(disconnect) => disconnect.write(version, sink),
        Packet::Auth(_) if version != Version::V5 => {
            sink.refuse(EncodeError::NotInVersion(PacketType::Auth));
        }
        Packet::Auth(auth) => auth.write(sink),
    }
}

fn publish_head(publish: &Publish) -> PublishHead<'_> {
    PublishHead {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic.as_ref().map_or("", TopicName::as_str),
        packet_id: publish.packet_id,
        topic_alias: publish.topic_alias,
        expiry_interval: publish.expiry_interval,
        subscription_identifiers: &publish.subscription_identifiers,
        properties: publish.properties.as_deref(),
    }
}

/// All of a PUBLISH but its payload, borrowed: what one subscriber is told of a message that many share.
#[derive(Debug, Clone, Copy)]
pub struct PublishHead<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Empty where `topic_alias` alone names it.
    pub topic: &'a str,
    /// Some exactly where `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub topic_alias: Option<NonZeroU16>,
    /// Seconds.
    pub expiry_interval: Option<u32>,
    pub subscription_identifiers: &'a [u32],
    pub properties: Option<&'a MessageProperties>,
}

impl PublishHead<'_> {
    fn flags(&self) -> u8 {
        // [MQTT-3.3.1-2]
        let dup = if self.dup && self.qos != QoS::AtMostOnce { DUP } else { 0 };
        dup | self.qos.bits() << 1 | if self.retain { RETAIN } else { 0 }
    }

    /// Writes the variable header. What 3.x does not know is left out.
    fn write<S: Sink>(&self, version: Version, sink: &mut S) {
        if self.topic.is_empty() && (version != Version::V5 || self.topic_alias.is_none()) {
            sink.refuse(EncodeError::TopicMissing);
        }
        // [MQTT-2.2.1-2] [MQTT-2.3.1-5 of 3.1.1]
        if self.packet_id.is_some() == (self.qos == QoS::AtMostOnce) {
            sink.refuse(EncodeError::PacketIdMismatch);
        }
        sink.put_string(self.topic);
        if let Some(packet_id) = self.packet_id {
            sink.put_u16(packet_id.as_u16());
        }
        if version == Version::V5 {
            self.write_properties(sink);
        }
    }

    fn write_properties<S: Sink>(&self, sink: &mut S) {
        write_properties(sink, |visit| {
            visit_some(self.topic_alias.map(NonZeroU16::get), Property::TopicAlias, visit);
            visit_some(self.expiry_interval, Property::MessageExpiryInterval, visit);
            if let Some(properties) = self.properties {
                visit_message_properties(properties, visit);
            }
            // Last: there are clients that miscount what follows them.
            for id in self.subscription_identifiers {
                visit(Property::SubscriptionIdentifier(Varint(*id)));
            }
        });
    }
}
