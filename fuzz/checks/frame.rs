//! A stream of bytes, cut anywhere, to the decoder: however it is cut, the same packets come out and the same error
//! ends it; nothing behind the current packet is touched, and no more is held than one packet of the size allowed.
//!
//! Input: who sends, in what version; the largest packet that is taken; how the stream is cut; the stream.

use bytes::BytesMut;
use tidegate::mqtt::error::Malformed;
use tidegate::mqtt::frame::Decoder;
use tidegate::mqtt::packet::{Packet, Peer, Version};

const HEAD_BYTES: usize = 8;
/// The fixed header: a type and a length of at most four bytes.
const HEADER_BYTES_MAX: usize = 5;
/// What a stream is filled up with to show that it is not read: the first byte of no packet.
const BEHIND: u8 = 0x00;

/// What came of a stream.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    packets: Vec<Packet>,
    error: Option<Malformed>,
    /// Bytes that no packet was made of, where no error ended it.
    left: usize,
}

pub fn check(input: &[u8]) {
    let Some((head, stream)) = input.split_at_checked(HEAD_BYTES) else { return };
    let decoder = decoder_of(head);
    let packet_bytes_max = packet_bytes_max(head);
    let whole = decode_cut(decoder.clone(), packet_bytes_max, stream, std::iter::once(stream.len()));
    let cuts = head[4..].iter().cycle().map(|size| usize::from(*size) + 1);
    let cut = decode_cut(decoder.clone(), packet_bytes_max, stream, cuts);
    assert_eq!(cut, whole, "in pieces of {:?}", &head[4..]);
    let bytes = decode_cut(decoder.clone(), packet_bytes_max, stream, std::iter::repeat(1));
    assert_eq!(bytes, whole, "byte by byte");
    check_reads_no_further(decoder, stream);
}

fn decoder_of(head: &[u8]) -> Decoder {
    let sender = if head[0] & 1 == 0 { Peer::Client } else { Peer::Server };
    let mut decoder = Decoder::new(sender, packet_bytes_max(head));
    decoder.set_version(match head[0] >> 1 & 3 {
        0 => Version::V3_1,
        1 => Version::V3_1_1,
        _ => Version::V5,
    });
    decoder
}

/// From 0 to far above any length that the format can tell.
fn packet_bytes_max(head: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([head[1], head[2]])) << (head[3] % 17)
}

/// Decodes as a hand does: all that can be, each time that something has come.
fn decode_cut(
    mut decoder: Decoder,
    packet_bytes_max: usize,
    mut stream: &[u8],
    mut sizes: impl Iterator<Item = usize>,
) -> Outcome {
    let mut buffer = BytesMut::new();
    let mut outcome = Outcome::default();
    while !stream.is_empty() {
        let size = sizes.next().unwrap_or(stream.len()).min(stream.len());
        let (piece, rest) = stream.split_at(size);
        buffer.extend_from_slice(piece);
        stream = rest;
        if let Err(error) = decode_all(&mut decoder, &mut buffer, &mut outcome.packets) {
            outcome.error = Some(error);
            return outcome;
        }
        let held_max = packet_bytes_max.max(HEADER_BYTES_MAX);
        assert!(buffer.len() < held_max, "{} bytes wait, {packet_bytes_max} are allowed", buffer.len());
    }
    outcome.left = buffer.len();
    outcome
}

fn decode_all(
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
    packets: &mut Vec<Packet>,
) -> Result<(), Malformed> {
    loop {
        let before = buffer.clone();
        let Some(packet) = decoder.decode(buffer)? else {
            assert_eq!(before, *buffer, "an incomplete packet stays");
            return Ok(());
        };
        let taken = before.len() - buffer.len();
        assert!(taken >= 2, "a packet has two bytes at least, so that decoding ends");
        assert_eq!(before[taken..], buffer[..], "what follows stays");
        packets.push(packet);
    }
}

/// The first packet is the same whether nothing, something or other things follow it.
fn check_reads_no_further(mut decoder: Decoder, stream: &[u8]) {
    let mut fresh = decoder.clone();
    let mut buffer = BytesMut::from(stream);
    let Ok(Some(packet)) = decoder.decode(&mut buffer) else { return };
    let packet_bytes = stream.len() - buffer.len();
    let mut alone = BytesMut::from(&stream[..packet_bytes]);
    assert_eq!(fresh.clone().decode(&mut alone), Ok(Some(packet.clone())));
    let mut followed = BytesMut::from(&stream[..packet_bytes]);
    followed.extend_from_slice(&[BEHIND; 16]);
    assert_eq!(fresh.decode(&mut followed), Ok(Some(packet)));
}
