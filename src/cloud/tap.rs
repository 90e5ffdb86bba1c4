//! What passes between a bridge and its cloud, counted, and told to who keeps raw frames: each packet as it is on the wire,
//! but for what is secret in it. Never changes what passes.

use std::sync::Arc;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::cloud::codec::{CodecError, UplinkCodec};
use crate::cloud::reach::Target;
use crate::mqtt::packet::Packet;
use crate::observe::frames::Recorder;
use crate::observe::traffic::Traffic;

/// What stands for each byte of a secret, so that lengths stay right.
const BLANK: u8 = b'*';
const CONNECT: u8 = 0x10;
const VERSION_5: u8 = 5;
/// Flags of CONNECT.
const WILL: u8 = 1 << 2;
const PASSWORD: u8 = 1 << 6;
const USERNAME: u8 = 1 << 7;

/// The codec, and who is told. None: nobody.
#[derive(Debug)]
pub struct Tapped {
    codec: UplinkCodec,
    recorder: Option<Recorder>,
    traffic: Arc<Traffic>,
}

impl Tapped {
    pub fn new(codec: UplinkCodec, target: &Target) -> Self {
        Self { codec, recorder: target.recorder.clone(), traffic: target.traffic.clone() }
    }
}

impl Decoder for Tapped {
    type Item = Packet;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        if let (Some(recorder), Some(packet)) = (&self.recorder, first_packet(bytes)) {
            recorder.received(packet);
            recorder.end();
        }
        let before = bytes.len();
        let decoded = self.codec.decode(bytes);
        self.traffic.count_received(before.saturating_sub(bytes.len()));
        decoded
    }
}

impl Encoder<Packet> for Tapped {
    type Error = CodecError;

    fn encode(&mut self, packet: Packet, bytes: &mut BytesMut) -> Result<(), CodecError> {
        let (before, is_message) = (bytes.len(), matches!(packet, Packet::Publish(_)));
        self.codec.encode(packet, bytes)?;
        self.traffic.count_sent(bytes.len().saturating_sub(before));
        if is_message {
            self.traffic.count_message();
        }
        let Some((recorder, sent)) = self.recorder.as_ref().zip(bytes.get(before..)) else { return Ok(()) };
        if sent.first() == Some(&CONNECT) {
            let mut shown = sent.to_vec();
            blank_secrets(&mut shown);
            recorder.sent(&shown);
        } else {
            recorder.sent(sent);
        }
        recorder.end();
        Ok(())
    }
}

/// None: it is not all there, or is none.
fn first_packet(bytes: &[u8]) -> Option<&[u8]> {
    let (at, length) = variable(bytes, 1)?;
    bytes.get(..at + length)
}

/// A variable byte integer (1.5.5), and where what follows it begins.
fn variable(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0;
    for place in 0..4 {
        let byte = *bytes.get(at + place)?;
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((at + place + 1, value));
        }
    }
    None
}

/// The password, and of the user name what stands behind a `?`, where some clouds take a token. A CONNECT that is not
/// understood is blanked as a whole.
fn blank_secrets(connect: &mut [u8]) {
    let secrets = secrets_of(connect).unwrap_or_else(|| vec![(1, connect.len())]);
    for (from, to) in secrets {
        connect.get_mut(from..to).unwrap_or_default().fill(BLANK);
    }
}

/// From where to where the secrets of a CONNECT stand (3.1).
fn secrets_of(connect: &[u8]) -> Option<Vec<(usize, usize)>> {
    let string = |at: usize| {
        let length = u16::from_be_bytes([*connect.get(at)?, *connect.get(at + 1)?]);
        let end = at + 2 + usize::from(length);
        (end <= connect.len()).then_some((at + 2, end))
    };
    let properties = |at: usize, is_5: bool| {
        if is_5 { variable(connect, at).map(|(at, length)| at + length) } else { Some(at) }
    };
    let (at, _) = variable(connect, 1)?;
    let (_, at) = string(at)?;
    let (version, flags) = (*connect.get(at)?, *connect.get(at + 1)?);
    let is_5 = version == VERSION_5;
    // Behind version, flags and keep-alive.
    let at = properties(at + 4, is_5)?;
    let (_, mut at) = string(at)?;
    if flags & WILL != 0 {
        let (_, topic_end) = string(properties(at, is_5)?)?;
        (_, at) = string(topic_end)?;
    }
    let mut secrets = Vec::new();
    if flags & USERNAME != 0 {
        let (from, to) = string(at)?;
        let query = connect.get(from..to)?.iter().position(|byte| *byte == b'?');
        secrets.extend(query.map(|query| (from + query + 1, to)));
        at = to;
    }
    if flags & PASSWORD != 0 {
        secrets.push(string(at)?);
    }
    Some(secrets)
}

#[cfg(test)]
mod tests {
    use super::{blank_secrets, first_packet};

    fn text(bytes: &str) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), bytes.as_bytes()].concat()
    }

    /// With a will, a user name and a password.
    fn connect(version: u8, username: &str, password: &str) -> Vec<u8> {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let body = [
            &text("MQTT")[..],
            &[version, 0b1100_0110, 0, 60],
            properties,
            &text("plant-7"),
            properties,
            &text("status"),
            &text("offline"),
            &text(username),
            &text(password),
        ];
        let body = body.concat();
        [&[0x10, u8::try_from(body.len()).expect("short")][..], &body].concat()
    }

    #[test]
    fn what_is_secret_in_a_connect_is_blank_and_nothing_else() {
        for version in [4, 5] {
            let mut shown = connect(version, "plant-7?token=abc", "s3cret");
            blank_secrets(&mut shown);
            assert_eq!(shown, connect(version, "plant-7?*********", "******"));
        }
        let mut torn = connect(5, "plant-7", "s3cret");
        torn.truncate(torn.len() - 3);
        blank_secrets(&mut torn);
        assert!(torn[1..].iter().all(|byte| *byte == b'*'), "what is not understood shows nothing");
    }

    #[test]
    fn a_packet_is_told_apart_by_its_length() {
        assert_eq!(first_packet(&[0xD0, 0, 0x30]), Some(&[0xD0, 0][..]));
        assert_eq!(first_packet(&[0x30, 3, 0, 1]), None);
        assert_eq!(first_packet(&[0x30]), None);
        assert_eq!(first_packet(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]), None);
        let long = [&[0x30, 0x80, 0x01][..], &[0; 130]].concat();
        assert_eq!(first_packet(&long).map(<[u8]>::len), Some(131));
    }
}
