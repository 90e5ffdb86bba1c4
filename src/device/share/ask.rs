//! What another master asks for: its PDU taken apart as far as a gateway has to know, and answers put together. What is
//! not whole never comes further: units on a serial line would take its frame for the beginning of another.

use crate::config::model::Table;
use crate::device::plan::{BITS_MAX, REGISTERS_MAX, Span};
use crate::device::request::{Exception, RequestKind, Response};
use crate::device::share::{FrameEnd, Settings};

/// Modbus Application Protocol 6.11, 6.12, 6.17: what one request may write.
const BITS_WRITTEN_MAX: u16 = 1968;
const REGISTERS_WRITTEN_MAX: u16 = 123;
const REGISTERS_WRITTEN_AND_READ_MAX: u16 = 121;
/// Modbus Application Protocol 7: an exception's function code.
const EXCEPTION_BIT: u8 = 0x80;
/// Modbus Application Protocol 4.1.
const PDU_BYTES_MAX: usize = 253;
/// Sub-functions of diagnostics that change what a unit does: restart, delimiter, listen only, counters.
const DIAGNOSTICS_THAT_CHANGE: [u16; 5] = [1, 3, 4, 10, 20];

/// The unit that is all of them.
pub(super) const BROADCAST: u8 = 0;

/// One request of another master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Function codes 1 to 4.
    Read(Span),
    /// Changes a unit.
    Write { pdu: Vec<u8>, touches: Touches },
    /// Changes nothing and is never cached.
    Other { pdu: Vec<u8> },
}

/// What a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touches {
    Span(Span),
    /// Nobody knows.
    All,
}

impl Touches {
    pub(crate) fn overlaps(self, span: Span) -> bool {
        match self {
            Self::All => true,
            Self::Span(own) => own.table == span.table && own.start < span.end && span.start < own.end,
        }
    }

    /// None: nothing that anybody reads.
    pub(crate) fn of_request(kind: &RequestKind) -> Option<Self> {
        let registers = |start: u16, count: usize| Some(Self::Span(span(Table::Holding, start, count)));
        match kind {
            RequestKind::WriteCoil { address, .. } => Some(Self::Span(span(Table::Coil, *address, 1))),
            RequestKind::WriteCoils { address, bits } => {
                Some(Self::Span(span(Table::Coil, *address, bits.len())))
            }
            RequestKind::WriteRegister { address, .. } | RequestKind::MaskRegister { address, .. } => {
                registers(*address, 1)
            }
            RequestKind::WriteRegisters { address, words } => registers(*address, words.len()),
            RequestKind::ReadWrite { write_address, words, .. } => registers(*write_address, words.len()),
            RequestKind::Raw { .. } if kind.is_read() => None,
            RequestKind::Raw { .. } => Some(Self::All),
            RequestKind::Read { .. } | RequestKind::Identify { .. } => None,
        }
    }
}

/// A function code whose answer has no length that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

fn span(table: Table, start: u16, count: usize) -> Span {
    let start = u32::from(start);
    Span { table, start, end: start + u32::try_from(count).unwrap_or(u32::MAX >> 1) }
}

/// Modbus Application Protocol 7: first the quantity is looked at, then the addresses.
fn checked(
    table: Table,
    (start, count, count_max): (u16, u16, u16),
    is_whole: bool,
) -> Result<Span, Exception> {
    if !is_whole || count == 0 || count > count_max {
        return Err(Exception::ILLEGAL_DATA_VALUE);
    }
    let span = span(table, start, usize::from(count));
    if span.end > 1 << 16 { Err(Exception::ILLEGAL_DATA_ADDRESS) } else { Ok(span) }
}

fn word(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

impl Ask {
    /// What may go further. The exception: what the master is told instead.
    pub(crate) fn permitted((unit, pdu): (u8, &[u8]), settings: &Settings) -> Result<Self, Exception> {
        let ask = match Self::parse(pdu) {
            Ok(parsed) => parsed?,
            // What nobody knows may be a write.
            Err(Unknown) => match (settings.frame_end, pdu.first()) {
                (FrameEnd::Mark, Some(1..=127)) => Self::unknown(pdu),
                (FrameEnd::Mark | FrameEnd::Length, _) => return Err(Exception::ILLEGAL_FUNCTION),
            },
        };
        if matches!(ask, Self::Write { .. }) && !settings.writes {
            return Err(Exception::ILLEGAL_FUNCTION);
        }
        if unit == BROADCAST && !ask.is_for_all() {
            return Err(Exception::TARGET_FAILED);
        }
        Ok(ask)
    }

    /// The inner error is the answer to whoever asks.
    pub(crate) fn parse(pdu: &[u8]) -> Result<Result<Self, Exception>, Unknown> {
        if pdu.len() > PDU_BYTES_MAX {
            return Ok(Err(Exception::ILLEGAL_DATA_VALUE));
        }
        let other = |is_whole: bool| {
            let ask = Self::Other { pdu: pdu.to_vec() };
            Ok(if is_whole { Ok(ask) } else { Err(Exception::ILLEGAL_DATA_VALUE) })
        };
        match pdu {
            [function @ 1..=4, rest @ ..] => Ok(Self::parse_read(*function, rest)),
            [5 | 6 | 15 | 16 | 22 | 23, ..] => {
                let touches = written(pdu).map(Touches::Span);
                Ok(touches.map(|touches| Self::Write { pdu: pdu.to_vec(), touches }))
            }
            [8, high, low, data @ ..] if DIAGNOSTICS_THAT_CHANGE.contains(&word(*high, *low)) => {
                let ask = Self::Write { pdu: pdu.to_vec(), touches: Touches::All };
                Ok(if data.len() == 2 { Ok(ask) } else { Err(Exception::ILLEGAL_DATA_VALUE) })
            }
            [8, rest @ ..] => other(rest.len() >= 4 && rest.len().is_multiple_of(2)),
            [7 | 11 | 12 | 17, rest @ ..] => other(rest.is_empty()),
            [20, count, rest @ ..] => other(usize::from(*count) == rest.len() && rest.len() >= 7),
            [21, count, rest @ ..] => {
                let is_whole = usize::from(*count) == rest.len() && rest.len() >= 9;
                let ask = Self::Write { pdu: pdu.to_vec(), touches: Touches::All };
                Ok(if is_whole { Ok(ask) } else { Err(Exception::ILLEGAL_DATA_VALUE) })
            }
            [20 | 21] => other(false),
            [24, rest @ ..] | [43, 14, rest @ ..] => other(rest.len() == 2),
            _ => Err(Unknown),
        }
    }

    /// A function code that is for the unit alone to know: it may change anything.
    pub(crate) fn unknown(pdu: &[u8]) -> Self {
        Self::Write { pdu: pdu.to_vec(), touches: Touches::All }
    }

    fn parse_read(function: u8, rest: &[u8]) -> Result<Self, Exception> {
        let (table, count_max) = match function {
            1 => (Table::Coil, BITS_MAX),
            2 => (Table::Discrete, BITS_MAX),
            3 => (Table::Holding, REGISTERS_MAX),
            _ => (Table::Input, REGISTERS_MAX),
        };
        let [a, b, c, d] = *rest else { return Err(Exception::ILLEGAL_DATA_VALUE) };
        checked(table, (word(a, b), word(c, d), count_max), true).map(Self::Read)
    }

    /// What a read of ours reads.
    pub(crate) fn span_of(kind: &RequestKind) -> Option<Span> {
        let RequestKind::Read { table, address, count } = kind else { return None };
        Some(span(*table, *address, usize::from(*count)))
    }

    /// As the line is asked.
    pub(crate) fn request_kind(&self) -> RequestKind {
        match self {
            Self::Read(span) => RequestKind::Read {
                table: span.table,
                address: u16::try_from(span.start).unwrap_or(u16::MAX),
                count: u16::try_from(span.end - span.start).unwrap_or(u16::MAX),
            },
            Self::Write { pdu, .. } | Self::Other { pdu } => RequestKind::Raw { pdu: pdu.clone() },
        }
    }

    /// Whether unit 0 can be told this: what is answered cannot be broadcast.
    pub(crate) fn is_for_all(&self) -> bool {
        matches!(self, Self::Write { pdu, .. } if matches!(pdu.first(), Some(5 | 6 | 15 | 16 | 22)))
    }

    /// What is said to whoever broadcast this, since nobody answers: that it has left.
    pub(crate) fn echo(pdu: &[u8]) -> Vec<u8> {
        let length = if matches!(pdu.first(), Some(15 | 16)) { 5 } else { pdu.len() };
        pdu.iter().take(length).copied().collect()
    }
}

/// What a whole write of the standard's six touches.
fn written(pdu: &[u8]) -> Result<Span, Exception> {
    match *pdu {
        [5, a, b, high, low] => {
            checked(Table::Coil, (word(a, b), 1, 1), matches!((high, low), (0 | 0xFF, 0)))
        }
        [6, a, b, _, _] | [22, a, b, _, _, _, _] => checked(Table::Holding, (word(a, b), 1, 1), true),
        [15, a, b, c, d, bytes, ref data @ ..] => {
            let count = word(c, d);
            let is_whole = data.len() == usize::from(bytes) && data.len() == usize::from(count).div_ceil(8);
            checked(Table::Coil, (word(a, b), count, BITS_WRITTEN_MAX), is_whole)
        }
        [16, a, b, c, d, bytes, ref data @ ..] => {
            let count = word(c, d);
            let is_whole = data.len() == usize::from(bytes) && data.len() == usize::from(count) * 2;
            checked(Table::Holding, (word(a, b), count, REGISTERS_WRITTEN_MAX), is_whole)
        }
        [23, a, b, c, d, ref written @ ..] => {
            let [to, at, high, low, bytes, ref data @ ..] = *written else {
                return Err(Exception::ILLEGAL_DATA_VALUE);
            };
            let count = word(high, low);
            let is_whole = data.len() == usize::from(bytes) && data.len() == usize::from(count) * 2;
            checked(Table::Holding, (word(a, b), word(c, d), REGISTERS_MAX), true)?;
            checked(Table::Holding, (word(to, at), count, REGISTERS_WRITTEN_AND_READ_MAX), is_whole)
        }
        _ => Err(Exception::ILLEGAL_DATA_VALUE),
    }
}

/// Registers, or bits as 0 and 1. None: this is no answer to a read.
pub(crate) fn values_of(response: &Response) -> Option<Vec<u16>> {
    match response {
        Response::Bits(bits) => Some(bits.iter().map(|bit| u16::from(*bit)).collect()),
        Response::Words(words) => Some(words.clone()),
        Response::Written | Response::Identification(_) | Response::Raw(_) => None,
    }
}

/// The answer to a read of this table.
pub(crate) fn answer_of_read(table: Table, values: &[u16]) -> Vec<u8> {
    let (function, bytes): (u8, Vec<u8>) = match table {
        Table::Coil => (1, bytes_of_bits(values)),
        Table::Discrete => (2, bytes_of_bits(values)),
        Table::Holding => (3, values.iter().flat_map(|word| word.to_be_bytes()).collect()),
        Table::Input => (4, values.iter().flat_map(|word| word.to_be_bytes()).collect()),
    };
    let count = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    [&[function, count], &bytes[..]].concat()
}

fn bytes_of_bits(values: &[u16]) -> Vec<u8> {
    let byte = |bits: &[u16]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit != 0));
    values.chunks(8).map(byte).collect()
}

pub(crate) fn answer_of_exception(pdu: &[u8], exception: Exception) -> Vec<u8> {
    vec![pdu.first().copied().unwrap_or(0) | EXCEPTION_BIT, exception.0]
}

#[cfg(test)]
mod tests {
    use super::{Ask, Touches, Unknown, answer_of_read};
    use crate::config::model::Table;
    use crate::device::plan::Span;
    use crate::device::request::{Exception, RequestKind};

    const VALUE: Exception = Exception::ILLEGAL_DATA_VALUE;
    const ADDRESS: Exception = Exception::ILLEGAL_DATA_ADDRESS;

    fn span(table: Table, start: u32, end: u32) -> Span {
        Span { table, start, end }
    }

    #[test]
    fn reads_are_taken_apart_and_what_no_unit_can_answer_is_refused() {
        let cases = [
            (vec![1, 0, 3, 0, 9], Ok(span(Table::Coil, 3, 12))),
            (vec![2, 0, 0, 7, 0xD0], Ok(span(Table::Discrete, 0, 2000))),
            (vec![3, 0xFF, 0xFF, 0, 1], Ok(span(Table::Holding, 65_535, 65_536))),
            (vec![4, 0, 0, 0, 125], Ok(span(Table::Input, 0, 125))),
            (vec![4, 0, 0, 0, 126], Err(VALUE)),
            (vec![1, 0, 0, 7, 0xD1], Err(VALUE)),
            (vec![3, 0, 0, 0, 0], Err(VALUE)),
            (vec![3, 0xFF, 0xFF, 0, 2], Err(ADDRESS)),
            (vec![3, 0, 0, 0], Err(VALUE)),
            (vec![3, 0, 0, 0, 1, 0], Err(VALUE)),
        ];
        for (pdu, expected) in cases {
            assert_eq!(Ask::parse(&pdu), Ok(expected.map(Ask::Read)), "{pdu:?}");
        }
    }

    #[test]
    fn a_write_says_what_it_touches_and_has_to_be_whole() {
        let cases = [
            (vec![5, 0, 3, 0xFF, 0], Ok(span(Table::Coil, 3, 4))),
            (vec![5, 0, 3, 1, 0], Err(VALUE)),
            (vec![6, 0, 3, 1, 0], Ok(span(Table::Holding, 3, 4))),
            (vec![15, 0, 3, 0, 9, 2, 1, 1], Ok(span(Table::Coil, 3, 12))),
            (vec![15, 0, 3, 0, 9, 1, 1], Err(VALUE)),
            (vec![16, 0, 3, 0, 2, 4, 1, 1, 2, 2], Ok(span(Table::Holding, 3, 5))),
            (vec![16, 0, 3, 0, 2, 4, 1, 1, 2], Err(VALUE)),
            (vec![16, 0xFF, 0xFF, 0, 2, 4, 1, 1, 2, 2], Err(ADDRESS)),
            (vec![22, 0, 3, 0, 1, 0, 2], Ok(span(Table::Holding, 3, 4))),
            (vec![23, 0, 9, 0, 1, 0, 3, 0, 1, 2, 1, 1], Ok(span(Table::Holding, 3, 4))),
            (vec![23, 0, 9, 0, 126, 0, 3, 0, 1, 2, 1, 1], Err(VALUE)),
            (vec![6], Err(VALUE)),
        ];
        for (pdu, expected) in cases {
            let expected = expected.map(|span| Ask::Write { pdu: pdu.clone(), touches: Touches::Span(span) });
            assert_eq!(Ask::parse(&pdu), Ok(expected), "{pdu:?}");
        }
    }

    #[test]
    fn the_rarer_functions_go_as_they_are() {
        let others = [
            vec![7],
            vec![8, 0, 0, 0xA5, 0x37],
            vec![8, 0, 0, 1, 2, 3, 4],
            vec![11],
            vec![12],
            vec![17],
            vec![20, 7, 6, 0, 4, 0, 1, 0, 2],
            vec![24, 4, 0xDE],
            vec![43, 14, 4, 0],
        ];
        for pdu in others {
            let ask = Ask::Other { pdu: pdu.clone() };
            assert_eq!(ask.request_kind(), RequestKind::Raw { pdu: pdu.clone() });
            assert!(ask.request_kind().is_read() || pdu[0] == 8, "{pdu:?}");
            assert_eq!(Ask::parse(&pdu), Ok(Ok(ask)));
        }
        // To listen only: the unit would be gone for everybody.
        for pdu in [vec![8, 0, 4, 0, 0], vec![21, 9, 6, 0, 4, 0, 7, 0, 1, 6, 0xAF]] {
            let ask = Ask::Write { pdu: pdu.clone(), touches: Touches::All };
            assert_eq!(Ask::parse(&pdu), Ok(Ok(ask)));
        }
        for pdu in [vec![7, 1], vec![8, 0], vec![20], vec![21, 3, 1], vec![43, 14], vec![24, 1]] {
            assert_eq!(Ask::parse(&pdu), Ok(Err(VALUE)), "{pdu:?}");
        }
        for pdu in [vec![], vec![0], vec![43, 13, 1], vec![65, 1, 2], vec![0x83, 1]] {
            assert_eq!(Ask::parse(&pdu), Err(Unknown), "{pdu:?}");
        }
    }

    #[test]
    fn answers_are_the_standards() {
        assert_eq!(answer_of_read(Table::Holding, &[0x022B, 0, 0x64]), [3, 6, 2, 0x2B, 0, 0, 0, 0x64]);
        // Modbus Application Protocol 6.1: coils 20 to 38.
        let bits: Vec<u16> = [0xCD_u8, 0x6B, 0x05]
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)))
            .take(19)
            .collect();
        assert_eq!(answer_of_read(Table::Coil, &bits), [1, 3, 0xCD, 0x6B, 0x05]);
        assert_eq!(Ask::echo(&[16, 0, 1, 0, 2, 4, 0, 10, 1, 2]), [16, 0, 1, 0, 2]);
        assert_eq!(Ask::echo(&[6, 0, 1, 0, 3]), [6, 0, 1, 0, 3]);
    }
}
