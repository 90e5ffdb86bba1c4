//! Frames as bytes: how unit and PDU stand in each of Modbus's framings, and their checksums. Pure: never knows what they
//! say.

use std::ops::Range;

use crate::device::request::LineError;

/// The checksum of an RTU frame.
pub(crate) const CRC_BYTES: usize = 2;
/// Transaction, protocol and length.
const MBAP_BYTES: usize = 6;

/// How frames are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Modbus TCP: a header with a transaction and a length.
    Tcp,
    /// Silence, and a checksum.
    Rtu,
    /// `:`, hexadecimal digits, a checksum, CR LF.
    Ascii,
}

impl Framing {
    /// How many bytes so many of unit and PDU take on the wire.
    pub(crate) fn wire_bytes(self, bytes: usize) -> usize {
        match self {
            Self::Tcp => bytes + MBAP_BYTES,
            Self::Rtu => bytes + CRC_BYTES,
            // Two digits a byte, of the checksum too; colon, CR, LF.
            Self::Ascii => (bytes + 1) * 2 + 3,
        }
    }
}

/// Modbus over Serial Line 6.2.2, low byte first.
pub(crate) fn crc(bytes: &[u8]) -> [u8; CRC_BYTES] {
    let mut crc = 0xFFFF_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

/// Modbus over Serial Line 6.2.1.
fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

/// An RTU frame, as a frame of an ASCII line.
pub(crate) fn ascii_of(rtu: &[u8]) -> Vec<u8> {
    let body = rtu.get(..rtu.len().saturating_sub(CRC_BYTES)).unwrap_or_default();
    let digit =
        |nibble: u8| char::from_digit(u32::from(nibble), 16).map_or(b'0', |c| c.to_ascii_uppercase() as u8);
    let check = [lrc(body)];
    let digits = body.iter().chain(&check).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    std::iter::once(b':').chain(digits).chain(*b"\r\n").collect()
}

/// Unit and PDU, as a frame of an ASCII line.
pub(crate) fn ascii_frame_of(body: &[u8]) -> Vec<u8> {
    ascii_of(&[body, &[0; CRC_BYTES]].concat())
}

/// Whole frames with a good checksum, and what each holds. A colon always begins one.
pub(crate) fn ascii_frames(bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, Vec<u8>)> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    ends.filter_map(|end| {
        let start = bytes.get(..end)?.iter().rposition(|byte| *byte == b':')?;
        let digits = bytes.get(start + 1..end)?;
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs = digits.chunks(2).map(|pair| match pair {
            [high, low] => Some((hex(*high)? << 4) | hex(*low)?),
            _ => None,
        });
        let frame: Vec<u8> = pairs.collect::<Option<_>>()?;
        let (check, body) = frame.split_last()?;
        (lrc(body) == *check).then(|| (start..end + 1, body.to_vec()))
    })
}

/// The first whole frame of Modbus TCP: its length. The error: this is no Modbus TCP.
pub(crate) fn mbap_frame(bytes: &[u8]) -> Result<Option<usize>, LineError> {
    let [_, _, protocol_high, protocol_low, high, low, ..] = *bytes else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Unit and function code at least; Modbus Messaging on TCP/IP 4.1: 260 bytes with the header at most.
    if (protocol_high, protocol_low) != (0, 0) || !(2..=254).contains(&length) {
        return Err(LineError::Garbled);
    }
    Ok((bytes.len() >= MBAP_BYTES + length).then_some(MBAP_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::{Framing, ascii_of, crc, mbap_frame};
    use crate::device::request::LineError;

    #[test]
    fn checksums_and_frames_are_the_standards() {
        // Modbus over Serial Line 6.2.2 gives 0x1241 for 02 07.
        assert_eq!(crc(&[0x02, 0x07]), [0x41, 0x12]);
        let body = [0x11, 3, 0, 0x6B, 0, 3];
        let request = [&body[..], &crc(&body)].concat();
        assert_eq!(ascii_of(&request), b":1103006B00037E\r\n");
        assert_eq!(Framing::Ascii.wire_bytes(6), 17);
        assert_eq!(Framing::Rtu.wire_bytes(6), 8);
        assert_eq!(Framing::Tcp.wire_bytes(6), 12);
    }

    #[test]
    fn a_header_says_how_long_its_frame_is() {
        assert_eq!(mbap_frame(&[0, 1, 0, 0, 0]), Ok(None));
        assert_eq!(mbap_frame(&[0, 1, 0, 0, 0, 3, 1, 0x83]), Ok(None));
        assert_eq!(mbap_frame(&[0, 1, 0, 0, 0, 3, 1, 0x83, 2, 9]), Ok(Some(9)));
        for no_modbus in [[0, 1, 0, 1, 0, 3], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 255]] {
            assert_eq!(mbap_frame(&no_modbus), Err(LineError::Garbled));
        }
    }
}
