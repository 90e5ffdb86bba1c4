//! Which of the bytes that come in can be the answer to a request, by what its function code says of answers. Pure: never
//! waits, never touches a line.

use std::ops::Range;

use crate::bus::exchange::request_bytes;
use crate::bus::framing::{CRC_BYTES, Framing, ascii_frames, crc};
use crate::device::request::{LineError, RequestKind};

/// Unit, function code and exception code.
const EXCEPTION_BYTES: usize = 3;
/// The bit of a function code that says that this is an exception.
pub(crate) const EXCEPTION_BIT: u8 = 0x80;
/// Unit, function code, address, and count or value: what nearly every request begins with.
const HEAD_BYTES: usize = 6;
/// Unit, function code and the number of bytes that follow.
const COUNTED_HEAD_BYTES: usize = 3;
/// The longest request that is repeated as its answer: that of function code 22, with two masks.
const ECHO_BYTES_MAX: usize = 8;
/// Unit, function code, kind, code, conformity, whether more follows and where, and how many objects.
const IDENTIFICATION_HEAD_BYTES: usize = 8;
/// Unit and PDU: Modbus Application Protocol 4.1.
const BODY_BYTES_MAX: usize = 254;
/// What function code 43 is asked for: the basic identification of a device.
const IDENTIFICATION: [u8; 2] = [14, 1];

/// A request that is under way: what is needed to know its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What the request begins with; behind its end, zeros.
    head: [u8; ECHO_BYTES_MAX],
    /// Unit and PDU of the request.
    request_bytes: usize,
}

/// What is known of an answer before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// So many bytes, behind one that counts them.
    Counted(usize),
    /// So many bytes of the request, again.
    Echo(usize),
    /// So many bytes, of which the head alone is known.
    Fixed { bytes: usize, head: usize },
    /// A count in so many bytes behind the function code, and as many bytes as it says.
    SelfCounted(usize),
    /// Only its own fields tell.
    Identification,
    /// Anything that its frame shows to be whole.
    Framed,
}

impl Asked {
    pub(crate) fn new(unit: u8, kind: &RequestKind) -> Self {
        let identification = u16::from_be_bytes(IDENTIFICATION);
        let words = match kind {
            RequestKind::Read { address, count, .. } | RequestKind::ReadWrite { address, count, .. } => {
                [*address, *count, 0]
            }
            RequestKind::WriteCoil { address, bit } => [*address, if *bit { 0xFF00 } else { 0 }, 0],
            RequestKind::WriteRegister { address, word } => [*address, *word, 0],
            RequestKind::WriteCoils { address, bits } => [*address, count_of(bits.len()), 0],
            RequestKind::WriteRegisters { address, words } => [*address, count_of(words.len()), 0],
            RequestKind::MaskRegister { address, mask, bits } => [*address, !mask, *bits],
            RequestKind::Identify { object } => [identification, u16::from(*object) << 8, 0],
            RequestKind::Raw { pdu } => return Self::of_pdu(unit, pdu),
        };
        let mut head = [unit, kind.function(), 0, 0, 0, 0, 0, 0];
        for (place, word) in head[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Self { head, request_bytes: request_bytes(kind) }
    }

    fn of_pdu(unit: u8, pdu: &[u8]) -> Self {
        let mut head = [0; ECHO_BYTES_MAX];
        for (place, byte) in head.iter_mut().zip(std::iter::once(&unit).chain(pdu)) {
            *place = *byte;
        }
        Self { head, request_bytes: 1 + pdu.len() }
    }

    fn function(self) -> u8 {
        self.head[1]
    }

    fn shape(self) -> Shape {
        let [_, function, _, _, high, low, ..] = self.head;
        let count = usize::from(u16::from_be_bytes([high, low]));
        match function {
            1 | 2 => Shape::Counted(count.div_ceil(8)),
            3 | 4 | 23 => Shape::Counted(count * 2),
            5 | 6 | 15 | 16 => Shape::Echo(HEAD_BYTES),
            22 => Shape::Echo(ECHO_BYTES_MAX),
            43 if self.head[2] == IDENTIFICATION[0] => Shape::Identification,
            7 => Shape::Fixed { bytes: 3, head: 2 },
            // Diagnostics repeats its sub-function, with as much data as it was given.
            8 => Shape::Fixed { bytes: self.request_bytes, head: 4 },
            11 => Shape::Fixed { bytes: 6, head: 2 },
            12 | 17 | 20 | 21 => Shape::SelfCounted(1),
            24 => Shape::SelfCounted(2),
            _ => Shape::Framed,
        }
    }

    /// Unit and PDU of the answer, where it is no exception: the most that it may be.
    pub(crate) fn answer_bytes(self) -> usize {
        match self.shape() {
            Shape::Counted(bytes) => COUNTED_HEAD_BYTES + bytes,
            Shape::Echo(bytes) | Shape::Fixed { bytes, .. } => bytes,
            Shape::SelfCounted(_) | Shape::Identification | Shape::Framed => BODY_BYTES_MAX,
        }
    }

    /// The length of unit and PDU of the answer that begins here. None: it cannot be told, or is not all there.
    fn whole_bytes(self, bytes: &[u8]) -> Option<usize> {
        match self.shape() {
            Shape::Counted(_) | Shape::Echo(_) | Shape::Fixed { .. } => Some(self.answer_bytes()),
            Shape::SelfCounted(width) => {
                let count = bytes.get(2..2 + width)?;
                let count = count.iter().fold(0, |count, byte| count << 8 | usize::from(*byte));
                (1..=BODY_BYTES_MAX).contains(&count).then_some(2 + width + count)
            }
            Shape::Identification => identification_bytes(bytes),
            Shape::Framed => None,
        }
    }

    /// Whether this unit and PDU can be the answer.
    fn is_answered_by(self, body: &[u8]) -> bool {
        let [unit, function, kind, code, ..] = self.head;
        match body {
            [by, says, _] if *by == unit && *says == function | EXCEPTION_BIT => true,
            [by, says, rest @ ..] if *by == unit && *says == function => match self.shape() {
                Shape::Counted(bytes) => rest
                    .split_first()
                    .is_some_and(|(count, counted)| usize::from(*count) == bytes && counted.len() == bytes),
                Shape::Echo(bytes) => self.head.get(..bytes) == Some(body),
                Shape::Fixed { bytes, head } => {
                    body.len() == bytes && self.head.get(..head) == body.get(..head)
                }
                Shape::SelfCounted(_) => self.whole_bytes(body) == Some(body.len()),
                Shape::Identification => {
                    rest.starts_with(&[kind, code]) && identification_bytes(body) == Some(body.len())
                }
                Shape::Framed => true,
            },
            _ => false,
        }
    }

    /// Whether an answer to the other request, of the same unit, could be taken for one to this.
    pub(crate) fn is_confusable_with(self, other: Self) -> bool {
        self.function() == other.function()
            && match self.shape() {
                Shape::Counted(_) => self.shape() == other.shape(),
                Shape::Echo(_) => self.head == other.head,
                Shape::Fixed { head, .. } => self.head.get(..head) == other.head.get(..head),
                Shape::SelfCounted(_) | Shape::Identification | Shape::Framed => true,
            }
    }

    /// Whether an exception to the other request could be taken for one to this.
    pub(crate) fn shares_exceptions_with(self, other: Self) -> bool {
        self.function() == other.function()
    }

    /// The first answer among bytes of an RTU line: where it stands, with its checksum.
    pub(crate) fn find_rtu(self, bytes: &[u8]) -> Option<Range<usize>> {
        let of = |start: usize, body: usize| {
            let range = start..start + body + CRC_BYTES;
            let (body, check) = bytes.get(range.clone())?.split_at(body);
            (self.is_answered_by(body) && check == crc(body)).then_some(range)
        };
        let whole = |start: usize| self.whole_bytes(bytes.get(start..)?);
        (0..bytes.len()).find_map(|start| {
            whole(start).and_then(|body| of(start, body)).or_else(|| of(start, EXCEPTION_BYTES))
        })
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
        match self.shape() {
            Shape::Counted(_) => self.is_answered_by(&self.head[..HEAD_BYTES]),
            Shape::Echo(_) | Shape::Framed => true,
            Shape::Fixed { bytes, .. } => bytes == self.request_bytes,
            // Of a file record, which is written back as it came.
            Shape::SelfCounted(_) => matches!(self.function(), 20 | 21),
            Shape::Identification => false,
        }
    }
}

/// The length of the answer of function code 43/14 that begins here. None: it is not all there.
fn identification_bytes(bytes: &[u8]) -> Option<usize> {
    let objects = *bytes.get(IDENTIFICATION_HEAD_BYTES - 1)?;
    (0..objects).try_fold(IDENTIFICATION_HEAD_BYTES, |at, _| {
        let length = bytes.get(at + 1)?;
        Some(at + 2 + usize::from(*length))
    })
}

fn count_of(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Frames of any unit among the bytes of an RTU line, by what their function codes say of their lengths.
fn rtu_frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let frame_at = |start: usize| {
        let rest = bytes.get(start..)?;
        let body = match rest {
            [_, 1..=4 | 23, count, ..] => COUNTED_HEAD_BYTES + usize::from(*count),
            [_, 5 | 6 | 15 | 16, ..] => HEAD_BYTES,
            [_, 22, ..] => ECHO_BYTES_MAX,
            [_, 43, kind, ..] if *kind == IDENTIFICATION[0] => identification_bytes(rest)?,
            [_, EXCEPTION_BIT..=u8::MAX, ..] => EXCEPTION_BYTES,
            _ => return None,
        };
        let (body, check) = rest.get(..body + CRC_BYTES)?.split_at(body);
        (check == crc(body)).then(|| body.to_vec())
    };
    (0..bytes.len()).filter_map(frame_at).collect()
}

#[cfg(test)]
mod tests {
    use super::Asked;
    use crate::bus::framing::{Framing, ascii_of, crc};
    use crate::config::model::Table;
    use crate::device::request::{LineError, RequestKind};

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &crc(body)].concat()
    }

    fn read(table: Table, address: u16, count: u16) -> Asked {
        Asked::new(7, &RequestKind::Read { table, address, count })
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
    fn the_rarer_functions_are_answered_too() {
        let mask = Asked::new(7, &RequestKind::MaskRegister { address: 3, mask: 0xF0, bits: 0x20 });
        let both = RequestKind::ReadWrite { address: 3, count: 1, write_address: 9, words: vec![1, 2] };
        let both = Asked::new(7, &both);
        let identify = Asked::new(7, &RequestKind::Identify { object: 0 });
        let identification = framed(&[7, 43, 14, 1, 1, 0xFF, 2, 2, 0, 2, b'T', b'g', 1, 1, b'x']);
        let cases = [
            (mask, framed(&[7, 22, 0, 3, 0xFF, 0x0F, 0, 0x20]), framed(&[7, 22, 0, 3, 0xFF, 0x0F, 0, 0x21])),
            (both, framed(&[7, 23, 2, 1, 2]), framed(&[7, 23, 4, 1, 2, 3, 4])),
            (identify, identification.clone(), framed(&[7, 43, 14, 2, 1, 0, 0, 0])),
            // It says more objects than it has.
            (identify, identification, framed(&[7, 43, 14, 1, 1, 0, 0, 1, 0, 9, b'T'])),
        ];
        for (asked, answer, other) in cases {
            let noisy = [&[0, 7, 43, 14][..], &answer, &[9, 9]].concat();
            assert_eq!(asked.find_rtu(&noisy), Some(4..4 + answer.len()), "{answer:?}");
            assert_eq!(asked.find_ascii(&ascii_of(&answer)).map(|(_, body)| framed(&body)), Some(answer));
            assert_eq!(
                (asked.find_rtu(&other), asked.find_ascii(&ascii_of(&other))),
                (None, None),
                "{other:?}"
            );
            assert!(asked.is_confusable_with(asked));
        }
        let object = framed(&[7, 43, 14, 1, 1, 0, 0, 1, 0, 1, b'T']);
        assert_eq!(mask.complaint(Framing::Rtu, &object), LineError::Mismatch);
        assert!(mask.is_like_its_answer() && !both.is_like_its_answer() && !identify.is_like_its_answer());
    }

    #[test]
    fn what_others_ask_is_answered_by_what_its_function_says() {
        let raw = |pdu: &[u8]| Asked::new(7, &RequestKind::Raw { pdu: pdu.to_vec() });
        let cases: [(&[u8], &[u8], &[u8]); 9] = [
            (&[6, 0, 3, 0, 5], &[7, 6, 0, 3, 0, 5], &[7, 6, 0, 3, 0, 6]),
            (&[16, 0, 3, 0, 1, 2, 0, 9], &[7, 16, 0, 3, 0, 1], &[7, 16, 0, 3, 0, 2]),
            (&[7], &[7, 7, 0x6D], &[7, 8, 0x6D]),
            (&[8, 0, 0, 1, 2], &[7, 8, 0, 0, 1, 2], &[7, 8, 0, 1, 1, 2]),
            (&[11], &[7, 11, 0xFF, 0xFF, 1, 8], &[7, 12, 0xFF, 0xFF, 1, 8]),
            (&[12], &[7, 12, 2, 0, 0], &[7, 12, 0]),
            (&[17], &[7, 17, 3, b'a', b'b', 0xFF], &[7, 17, 4, b'a', b'b', 0xFF]),
            (&[24, 4, 0xDE], &[7, 24, 0, 4, 0, 1, 1, 0xB8], &[7, 24, 0, 5, 0, 1, 1, 0xB8]),
            (
                &[43, 14, 4, 0],
                &[7, 43, 14, 4, 1, 0, 0, 1, 0, 1, b'T'],
                &[7, 43, 14, 1, 1, 0, 0, 1, 0, 1, b'T'],
            ),
        ];
        for (pdu, answer, other) in cases {
            let (asked, answer, other) = (raw(pdu), framed(answer), framed(other));
            let noisy = [&[0, 7, 43, 14][..], &answer, &[9, 9]].concat();
            assert_eq!(asked.find_rtu(&noisy), Some(4..4 + answer.len()), "{answer:?}");
            assert_eq!(asked.find_ascii(&ascii_of(&answer)).map(|(_, body)| framed(&body)), Some(answer));
            assert_eq!(
                (asked.find_rtu(&other), asked.find_ascii(&ascii_of(&other))),
                (None, None),
                "{other:?}"
            );
            assert_eq!(asked.find_rtu(&framed(&[7, pdu[0] | 0x80, 1])), Some(0..5));
            let request = framed(&[&[7], pdu].concat());
            assert!(asked.is_like_its_answer() || asked.find_rtu(&request).is_none(), "{pdu:?}");
        }
        // Only a frame that says where it ends can bring the answer to what nobody knows.
        let (unknown, answer) = (raw(&[65, 1]), framed(&[7, 65, 9, 9, 9]));
        assert_eq!(unknown.find_rtu(&answer), None);
        assert_eq!(unknown.find_ascii(&ascii_of(&answer)).map(|(_, body)| framed(&body)), Some(answer));
        assert_eq!(unknown.find_ascii(&ascii_of(&framed(&[8, 65, 9]))), None);
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
}
