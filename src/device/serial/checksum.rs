//! Checksums of frames, as the configuration names them, and bytes in hex. Pure arithmetic.

use crate::config::instrument::{Checksum, ChecksumKind, Encoding};
use crate::config::model::Order;

/// Whether the frame's last bytes are the checksum of those before.
pub fn is_right(checksum: &Checksum, frame: &[u8]) -> bool {
    let Some(at) = frame.len().checked_sub(checksum.bytes()) else { return false };
    let (Some(covered), Some(found)) = (frame.get(checksum.from..at), frame.get(at..)) else { return false };
    match checksum.encoding {
        Encoding::Binary => binary(checksum, covered) == found,
        Encoding::Hex => hex_of(&binary(checksum, covered)).as_bytes().eq_ignore_ascii_case(found),
    }
}

/// What a frame ends with whose other bytes are these. None: it is shorter than the checksum wants.
pub fn of(checksum: &Checksum, frame: &[u8]) -> Option<Vec<u8>> {
    let bytes = binary(checksum, frame.get(checksum.from..)?);
    Some(match checksum.encoding {
        Encoding::Binary => bytes,
        Encoding::Hex => hex_of(&bytes).into_bytes(),
    })
}

fn binary(checksum: &Checksum, covered: &[u8]) -> Vec<u8> {
    let sum = sum_of(checksum.kind, covered);
    let mut bytes = match checksum.kind.bytes() {
        1 => vec![sum.to_be_bytes()[1]],
        _ => sum.to_be_bytes().to_vec(),
    };
    if checksum.order == Order::Little {
        bytes.reverse();
    }
    bytes
}

/// `0A1F`
pub fn hex_of(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default().to_ascii_uppercase();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn sum_of(kind: ChecksumKind, bytes: &[u8]) -> u16 {
    let sum = || bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    match kind {
        ChecksumKind::Sum8 => sum().into(),
        ChecksumKind::Lrc8 => sum().wrapping_neg().into(),
        ChecksumKind::Xor8 => bytes.iter().fold(0, |sum, byte| sum ^ byte).into(),
        // The same register with its lower half unused.
        ChecksumKind::Crc8 => crc16(0, 0x0700, bytes) >> 8,
        ChecksumKind::Crc16Modbus => crc16_reflected(0xFFFF, 0xA001, bytes),
        ChecksumKind::Crc16Ccitt => crc16(0xFFFF, 0x1021, bytes),
        ChecksumKind::Crc16Xmodem => crc16(0, 0x1021, bytes),
    }
}

fn crc16(start: u16, polynomial: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ polynomial }
        })
    })
}

fn crc16_reflected(start: u16, polynomial: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte),
            |crc, _| {
                if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ polynomial }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{is_right, sum_of};
    use crate::config::instrument::{Checksum, ChecksumKind, Encoding};
    use crate::config::model::Order;

    /// The check values of the catalogues: of `123456789`.
    #[test]
    fn sums_are_those_of_the_catalogues() {
        let cases = [
            (ChecksumKind::Sum8, 0xDD),
            (ChecksumKind::Lrc8, 0x23),
            (ChecksumKind::Xor8, 0x31),
            (ChecksumKind::Crc8, 0xF4),
            (ChecksumKind::Crc16Modbus, 0x4B37),
            (ChecksumKind::Crc16Ccitt, 0x29B1),
            (ChecksumKind::Crc16Xmodem, 0x31C3),
        ];
        for (kind, sum) in cases {
            assert_eq!(sum_of(kind, b"123456789"), sum, "{kind:?}");
        }
    }

    #[test]
    fn a_checksum_stands_at_the_end_as_configured() {
        let checksum = |kind, from, encoding, order| Checksum { kind, from, encoding, order };
        let binary = |kind, from| checksum(kind, from, Encoding::Binary, Order::Big);
        let hex = |order| checksum(ChecksumKind::Crc16Modbus, 0, Encoding::Hex, order);
        let cases: [(Checksum, &[u8], bool); 9] = [
            (binary(ChecksumKind::Crc16Xmodem, 0), b"123456789\x31\xC3", true),
            (binary(ChecksumKind::Crc16Xmodem, 0), b"123456789\xC3\x31", false),
            (binary(ChecksumKind::Xor8, 1), b"\x02123456789\x31", true),
            (binary(ChecksumKind::Xor8, 0), b"\x02123456789\x31", false),
            (hex(Order::Big), b"1234567894b37", true),
            (hex(Order::Little), b"123456789374B", true),
            (hex(Order::Big), b"1234567894B3", false),
            (binary(ChecksumKind::Sum8, 0), b"", false),
            (binary(ChecksumKind::Sum8, 2), b"a", false),
        ];
        for (checksum, frame, right) in cases {
            assert_eq!(is_right(&checksum, frame), right, "{checksum:?} {frame:?}");
        }
    }
}
