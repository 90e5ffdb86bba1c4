//! Bytes from a hostile peer to the packet decoder. What decodes must encode, in the size that was foretold,
//! and decode to the same value again. The first byte picks the version and the sender.

use bytes::BytesMut;
use tidegate::mqtt::frame::{Decoder, encode, encoded_size};
use tidegate::mqtt::packet::{Packet, Peer, Version};

const PACKET_BYTES_MAX: usize = 1 << 16;

pub fn check(input: &[u8]) {
    let Some((choice, stream)) = input.split_first() else { return };
    let sender = if choice & 1 == 0 { Peer::Client } else { Peer::Server };
    let version = match choice >> 1 & 3 {
        0 => Version::V3_1,
        1 => Version::V3_1_1,
        _ => Version::V5,
    };
    let mut decoder = Decoder::new(sender, PACKET_BYTES_MAX);
    decoder.set_version(version);
    let mut buffer = BytesMut::from(stream);
    while let Ok(Some(packet)) = decoder.decode(&mut buffer) {
        check_round_trip(&packet, sender, decoder.version());
    }
}

fn check_round_trip(packet: &Packet, sender: Peer, version: Version) {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).expect("what was decoded can be written");
    assert_eq!(out.len(), encoded_size(packet, version));
    let mut decoder = Decoder::new(sender, usize::MAX);
    decoder.set_version(version);
    assert_eq!(decoder.decode(&mut out).as_ref(), Ok(&Some(packet.clone())));
    assert!(out.is_empty());
}
