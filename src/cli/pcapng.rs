//! Frames as pcapng, each with the name of the dissector that reads it, so that Wireshark needs no setting. Writes
//! bytes and nothing else.

use crate::observe::frames::{Direction, Protocol};

/// Wireshark's own: a payload behind tags that say what it is.
const LINKTYPE_WIRESHARK_UPPER_PDU: u16 = 252;
const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
const OPTION_END: u16 = 0;
const OPTION_IF_NAME: u16 = 2;
const OPTION_EPB_FLAGS: u16 = 2;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Tags of an exported PDU.
const TAG_END: u16 = 0;
const TAG_DISSECTOR: u16 = 12;
const TAG_PORT_TYPE: u16 = 24;
const TAG_SOURCE_PORT: u16 = 25;
const TAG_DESTINATION_PORT: u16 = 26;
const PORT_TYPE_TCP: u32 = 2;
/// Any that is not a server's.
const CLIENT_PORT: u32 = 49_152;

/// One file: its interfaces are the lines.
#[derive(Debug, Default)]
pub struct Writer {
    lines: Vec<String>,
    is_begun: bool,
}

/// A frame as it is written down.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub line: &'a str,
    pub protocol: Protocol,
    /// Since 1970.
    pub micros: i64,
    pub direction: Direction,
    pub bytes: &'a [u8],
    /// On the line; `bytes` may be fewer.
    pub length: usize,
}

impl Writer {
    /// The head of the file.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if self.is_begun {
            return;
        }
        self.is_begun = true;
        let mut body = Vec::new();
        body.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // A length that nobody knows yet.
        body.extend(u64::MAX.to_le_bytes());
        block(out, SECTION_HEADER, &body);
    }

    pub fn packet(&mut self, packet: Packet<'_>, out: &mut Vec<u8>) {
        self.begin(out);
        let interface = self.interface(packet.line, out);
        let mut data = tags(packet.protocol, packet.direction);
        let tag_bytes = data.len();
        data.extend(packet.bytes);
        let micros = u64::try_from(packet.micros).unwrap_or(0);
        let (high, low) = (micros >> 32, micros & u64::from(u32::MAX));
        let mut body = Vec::new();
        body.extend(interface.to_le_bytes());
        for half in [high, low] {
            body.extend(u32::try_from(half).unwrap_or(u32::MAX).to_le_bytes());
        }
        body.extend(length_of(data.len()).to_le_bytes());
        body.extend(length_of(tag_bytes + packet.length).to_le_bytes());
        padded(&mut body, &data);
        let flags = match packet.direction {
            Direction::Received => INBOUND,
            Direction::Sent => OUTBOUND,
        };
        option(&mut body, OPTION_EPB_FLAGS, &flags.to_le_bytes());
        option(&mut body, OPTION_END, &[]);
        block(out, ENHANCED_PACKET, &body);
    }

    /// The number of the line's interface, described where it is met first.
    fn interface(&mut self, line: &str, out: &mut Vec<u8>) -> u32 {
        if let Some(known) = self.lines.iter().position(|known| known == line) {
            return length_of(known);
        }
        self.lines.push(line.to_owned());
        let mut body = Vec::new();
        body.extend(LINKTYPE_WIRESHARK_UPPER_PDU.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // No bound: each packet says how long it was.
        body.extend(0u32.to_le_bytes());
        option(&mut body, OPTION_IF_NAME, line.as_bytes());
        option(&mut body, OPTION_END, &[]);
        block(out, INTERFACE_DESCRIPTION, &body);
        length_of(self.lines.len() - 1)
    }
}

fn dissector(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::ModbusTcp => "mbtcp",
        Protocol::ModbusRtu => "mbrtu",
        Protocol::Mqtt => "mqtt",
        Protocol::ModbusAscii | Protocol::Text => "data-text-lines",
    }
}

/// Ports tell a request from an answer.
fn tags(protocol: Protocol, direction: Direction) -> Vec<u8> {
    let mut tags = Vec::new();
    tag(&mut tags, TAG_DISSECTOR, dissector(protocol).as_bytes());
    let server = match protocol {
        Protocol::ModbusTcp => Some(502u32),
        Protocol::Mqtt => Some(1883),
        Protocol::ModbusRtu | Protocol::ModbusAscii | Protocol::Text => None,
    };
    if let Some(server) = server {
        let (source, destination) = match direction {
            Direction::Sent => (CLIENT_PORT, server),
            Direction::Received => (server, CLIENT_PORT),
        };
        tag(&mut tags, TAG_PORT_TYPE, &PORT_TYPE_TCP.to_be_bytes());
        tag(&mut tags, TAG_SOURCE_PORT, &source.to_be_bytes());
        tag(&mut tags, TAG_DESTINATION_PORT, &destination.to_be_bytes());
    }
    tag(&mut tags, TAG_END, &[]);
    tags
}

/// In network order, and so long that the next one stands at a multiple of 4.
fn tag(out: &mut Vec<u8>, number: u16, value: &[u8]) {
    let length = value.len().next_multiple_of(4);
    out.extend(number.to_be_bytes());
    out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    padded(out, value);
}

fn option(out: &mut Vec<u8>, number: u16, value: &[u8]) {
    out.extend(number.to_le_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(out, value);
}

fn padded(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value);
    out.extend(std::iter::repeat_n(0, value.len().next_multiple_of(4) - value.len()));
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = length_of(body.len() + 12);
    out.extend(kind.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(body);
    out.extend(length.to_le_bytes());
}

fn length_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Packet, Writer};
    use crate::observe::frames::{Direction, Protocol};

    /// Type and length of each block; every length stands at both ends.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, usize)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = number(&bytes[4..]) as usize;
            assert_eq!(number(&bytes[length - 4..]) as usize, length);
            assert_eq!(length % 4, 0);
            found.push((number(bytes), length));
            bytes = &bytes[length..];
        }
        found
    }

    #[test]
    fn a_line_is_described_once_and_a_frame_may_be_cut() {
        let (mut writer, mut out) = (Writer::default(), Vec::new());
        let packet = Packet {
            line: "rs485-a",
            protocol: Protocol::ModbusRtu,
            micros: 1_763_719_200_123_456,
            direction: Direction::Sent,
            bytes: &[1, 3, 0, 0, 0, 1, 0x84],
            length: 8,
        };
        writer.packet(packet, &mut out);
        writer.packet(packet, &mut out);
        writer.packet(Packet { line: "other", protocol: Protocol::Mqtt, ..packet }, &mut out);
        let kinds: Vec<u32> = blocks(&out).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [0x0A0D_0D0A, 1, 6, 6, 1, 6]);
    }
}
