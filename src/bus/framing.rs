//! Frames as bytes: how a request leaves in each of Modbus's framings, and which of the bytes that come in can be
//! the answer to it. Pure: never waits, never touches a line.

use std::ops::Range;

use crate::config::model::Table;
use crate::device::request::{LineError, RequestKind};

/// The checksum of an RTU frame.
const CRC_BYTES: usize = 2;
/// Unit, function code and exception code.
const EXCEPTION_BYTES: usize = 3;
/// The bit of a function code that says that this is an exception.
const EXCEPTION_BIT: u8 = 0x80;
/// Transaction, protocol and length.
const MBAP_BYTES: usize = 6;
/// Unit, function code, address, and count or value: what every request begins with.
const HEAD_BYTES: usize = 6;

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

/// A request that is under way: what is needed to know its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    head: [u8; HEAD_BYTES],
}

impl Asked {
    pub(crate) fn new(unit: u8, kind: &RequestKind) -> Self {
        let (function, address, last) = match kind {
            RequestKind::Read { table, address, count } => (function_of(*table), *address, *count),
            RequestKind::WriteCoil { address, bit } => (5, *address, if *bit { 0xFF00 } else { 0 }),
            RequestKind::WriteRegister { address, word } => (6, *address, *word),
            RequestKind::WriteCoils { address, bits } => (15, *address, count_of(bits.len())),
            RequestKind::WriteRegisters { address, words } => (16, *address, count_of(words.len())),
        };
        let ([a, b], [c, d]) = (address.to_be_bytes(), last.to_be_bytes());
        Self { head: [unit, function, a, b, c, d] }
    }

    fn count(self) -> usize {
        let [.., high, low] = self.head;
        usize::from(u16::from_be_bytes([high, low]))
    }

    /// Unit and PDU of the answer, where it is no exception.
    pub(crate) fn answer_bytes(self) -> usize {
        match self.head[1] {
            1 | 2 => 3 + self.count().div_ceil(8),
            3 | 4 => 3 + self.count() * 2,
            _ => HEAD_BYTES,
        }
    }

    /// Whether this unit and PDU can be the answer.
    fn is_answered_by(self, body: &[u8]) -> bool {
        let [unit, function, ..] = self.head;
        match body {
            [by, code, _] if *by == unit && *code == function | EXCEPTION_BIT => true,
            [by, code, bytes, rest @ ..] if *by == unit && *code == function => {
                body.len() == self.answer_bytes()
                    && if function <= 4 { usize::from(*bytes) == rest.len() } else { body == self.head }
            }
            _ => false,
        }
    }

    /// Whether an answer to the other request, of the same unit, could be taken for one to this.
    pub(crate) fn is_confusable_with(self, other: Self) -> bool {
        let ([_, function, ..], [_, other_function, ..]) = (self.head, other.head);
        function == other_function
            && if function <= 4 { self.answer_bytes() == other.answer_bytes() } else { self == other }
    }

    /// Whether an exception to the other request could be taken for one to this.
    pub(crate) fn shares_exceptions_with(self, other: Self) -> bool {
        self.head[1] == other.head[1]
    }

    /// The first answer among bytes of an RTU line: where it stands, with its checksum.
    pub(crate) fn find_rtu(self, bytes: &[u8]) -> Option<Range<usize>> {
        let of = |start: usize, body: usize| {
            let range = start..start + body + CRC_BYTES;
            let (body, check) = bytes.get(range.clone())?.split_at(body);
            (self.is_answered_by(body) && check == crc(body)).then_some(range)
        };
        (0..bytes.len())
            .find_map(|start| of(start, self.answer_bytes()).or_else(|| of(start, EXCEPTION_BYTES)))
    }

    /// The first answer among bytes of an ASCII line: where it stands, and its unit and PDU.
    pub(crate) fn find_ascii(self, bytes: &[u8]) -> Option<(Range<usize>, Vec<u8>)> {
        ascii_frames(bytes).find(|(_, body)| self.is_answered_by(body))
    }

    /// What came instead of the answer.
    pub(crate) fn complaint(self, framing: Framing, bytes: &[u8]) -> LineError {
        let frames: Vec<Vec<u8>> = match framing {
            Framing::Rtu => rtu_frames(bytes),
            Framing::Ascii => ascii_frames(bytes).map(|(_, body)| body).collect(),
            Framing::Tcp => Vec::new(),
        };
        match frames.first() {
            _ if bytes.is_empty() => LineError::Timeout,
            Some(frame) if frame.starts_with(&self.head[..2]) => LineError::WrongCount,
            Some(_) => LineError::Mismatch,
            None => LineError::Garbled,
        }
    }

    /// Whether the frame of the request itself, come back as an echo, could be taken for its answer.
    pub(crate) fn is_like_its_answer(self) -> bool {
        self.is_answered_by(&self.head)
    }
}

fn function_of(table: Table) -> u8 {
    match table {
        Table::Coil => 1,
        Table::Discrete => 2,
        Table::Holding => 3,
        Table::Input => 4,
    }
}

fn count_of(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
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

/// Whole frames with a good checksum, and what each holds. A colon always begins one.
fn ascii_frames(bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, Vec<u8>)> {
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

/// Frames of any unit among the bytes of an RTU line, by what their function codes say of their lengths.
fn rtu_frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let frame_at = |start: usize| {
        let rest = bytes.get(start..)?;
        let body = match rest {
            [_, 1..=4, count, ..] => 3 + usize::from(*count),
            [_, 5 | 6 | 15 | 16, ..] => HEAD_BYTES,
            [_, EXCEPTION_BIT..=u8::MAX, ..] => EXCEPTION_BYTES,
            _ => return None,
        };
        let (body, check) = rest.get(..body + CRC_BYTES)?.split_at(body);
        (check == crc(body)).then(|| body.to_vec())
    };
    (0..bytes.len()).filter_map(frame_at).collect()
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
    use super::{Asked, Framing, ascii_of, crc, mbap_frame};
    use crate::config::model::Table;
    use crate::device::request::{LineError, RequestKind};

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &crc(body)].concat()
    }

    fn read(table: Table, address: u16, count: u16) -> Asked {
        Asked::new(7, &RequestKind::Read { table, address, count })
    }

    #[test]
    fn checksums_and_frames_are_the_standards() {
        // Modbus over Serial Line 6.2.2 gives 0x1241 for 02 07.
        assert_eq!(crc(&[0x02, 0x07]), [0x41, 0x12]);
        let request = framed(&[0x11, 3, 0, 0x6B, 0, 3]);
        assert_eq!(ascii_of(&request), b":1103006B00037E\r\n");
        assert_eq!(Framing::Ascii.wire_bytes(6), 17);
        assert_eq!(Framing::Rtu.wire_bytes(6), 8);
        assert_eq!(Framing::Tcp.wire_bytes(6), 12);
    }

    #[test]
    fn an_answer_is_found_among_noise_and_nothing_else_is_one() {
        let asked = read(Table::Holding, 30, 1);
        let answer = framed(&[7, 3, 2, 1, 2]);
        let noisy = [&[0, 7, 3][..], &answer, &[9, 9]].concat();
        let exception = framed(&[7, 0x83, 2]);
        let cases = [
            (answer.clone(), Some(0..7)),
            (noisy, Some(3..10)),
            (exception, Some(0..5)),
            (answer[..6].to_vec(), None),
            (framed(&[8, 3, 2, 1, 2]), None),
            (framed(&[7, 4, 2, 1, 2]), None),
            (framed(&[7, 3, 4, 1, 2, 3, 4]), None),
            (framed(&[7, 0x84, 2]), None),
            // The request itself.
            (framed(&[7, 3, 0, 30, 0, 1]), None),
        ];
        assert_eq!(asked.find_rtu(&[&answer[..6], &[answer[6] ^ 1]].concat()), None);
        assert_eq!(asked.find_ascii(b":07030201020F\r\n"), None);
        for (bytes, expected) in cases {
            assert_eq!(asked.find_rtu(&bytes), expected, "{bytes:?}");
            let mut ascii = b"x:07".to_vec();
            ascii.extend(ascii_of(&bytes));
            let is_whole = expected == Some(0..bytes.len());
            assert_eq!(asked.find_ascii(&ascii).is_some(), is_whole, "{ascii:?}");
        }
    }

    #[test]
    fn writes_are_answered_by_their_own_words() {
        let register = Asked::new(7, &RequestKind::WriteRegister { address: 3, word: 5 });
        assert!(register.find_rtu(&framed(&[7, 6, 0, 3, 0, 5])).is_some());
        assert!(register.find_rtu(&framed(&[7, 6, 0, 3, 0, 6])).is_none());
        let registers = Asked::new(7, &RequestKind::WriteRegisters { address: 3, words: vec![1, 2] });
        assert!(registers.find_rtu(&framed(&[7, 16, 0, 3, 0, 2])).is_some());
        assert!(registers.find_rtu(&framed(&[7, 16, 0, 3, 0, 1])).is_none());
        assert!(register.is_like_its_answer() && !read(Table::Holding, 0x0200, 1).is_like_its_answer());
        assert!(!registers.is_confusable_with(register) && registers.shares_exceptions_with(registers));
    }

    #[test]
    fn confusable_are_answers_of_one_shape() {
        let one = read(Table::Holding, 30, 1);
        assert!(one.is_confusable_with(read(Table::Holding, 60, 1)));
        assert!(!one.is_confusable_with(read(Table::Holding, 30, 2)));
        assert!(!one.is_confusable_with(read(Table::Input, 30, 1)));
        assert!(read(Table::Coil, 0, 3).is_confusable_with(read(Table::Coil, 9, 8)));
    }

    #[test]
    fn what_came_instead_is_named() {
        let asked = read(Table::Holding, 30, 1);
        let cases = [
            (vec![], LineError::Timeout),
            (vec![1, 2, 3], LineError::Garbled),
            (framed(&[8, 3, 2, 1, 2]), LineError::Mismatch),
            (framed(&[7, 3, 4, 1, 2, 3, 4]), LineError::WrongCount),
        ];
        for (bytes, expected) in cases {
            assert_eq!(asked.complaint(Framing::Rtu, &bytes), expected);
            let ascii = if bytes.len() > 3 { ascii_of(&bytes) } else { bytes };
            assert_eq!(asked.complaint(Framing::Ascii, &ascii), expected);
        }
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
