//! One request and its answer in tokio-modbus's words, and whether they belong together. Never touches the
//! line.

use std::borrow::Cow;
use std::io;

use tokio_modbus::prelude::ReadCode;
use tokio_modbus::{Error, ExceptionCode, ProtocolError};

use crate::config::model::Table;
use crate::device::request::{Exception, Identification, LineError, RequestKind, Response};

/// Unit and function code.
const HEADER_BYTES: usize = 2;

pub(crate) fn request_of(kind: &RequestKind) -> tokio_modbus::Request<'static> {
    use tokio_modbus::Request;
    match kind {
        RequestKind::Read { table: Table::Coil, address, count } => Request::ReadCoils(*address, *count),
        RequestKind::Read { table: Table::Discrete, address, count } => {
            Request::ReadDiscreteInputs(*address, *count)
        }
        RequestKind::Read { table: Table::Holding, address, count } => {
            Request::ReadHoldingRegisters(*address, *count)
        }
        RequestKind::Read { table: Table::Input, address, count } => {
            Request::ReadInputRegisters(*address, *count)
        }
        RequestKind::WriteCoil { address, bit } => Request::WriteSingleCoil(*address, *bit),
        RequestKind::WriteCoils { address, bits } => {
            Request::WriteMultipleCoils(*address, Cow::Owned(bits.clone()))
        }
        RequestKind::WriteRegister { address, word } => Request::WriteSingleRegister(*address, *word),
        RequestKind::WriteRegisters { address, words } => {
            Request::WriteMultipleRegisters(*address, Cow::Owned(words.clone()))
        }
        RequestKind::MaskRegister { address, mask, bits } => {
            Request::MaskWriteRegister(*address, !mask, *bits)
        }
        RequestKind::ReadWrite { address, count, write_address, words } => {
            Request::ReadWriteMultipleRegisters(*address, *count, *write_address, Cow::Owned(words.clone()))
        }
        RequestKind::Identify { object } => Request::ReadDeviceIdentification(ReadCode::Basic, *object),
        RequestKind::Raw { pdu } => {
            let (function, rest) =
                pdu.split_first().map_or((0, pdu.as_slice()), |(first, rest)| (*first, rest));
            Request::Custom(function, Cow::Owned(rest.to_vec()))
        }
    }
}

/// tokio-modbus has compared unit and function code; address and count are compared here.
pub(crate) fn response_of(
    kind: &RequestKind,
    response: tokio_modbus::Response,
) -> Result<Response, LineError> {
    use tokio_modbus::Response as Answer;
    match (kind, response) {
        (RequestKind::Read { table: Table::Coil, count, .. }, Answer::ReadCoils(bits))
        | (RequestKind::Read { table: Table::Discrete, count, .. }, Answer::ReadDiscreteInputs(bits)) => {
            asked_bits(bits, usize::from(*count))
        }
        (RequestKind::Read { table: Table::Holding, count, .. }, Answer::ReadHoldingRegisters(words))
        | (RequestKind::Read { table: Table::Input, count, .. }, Answer::ReadInputRegisters(words))
        | (RequestKind::ReadWrite { count, .. }, Answer::ReadWriteMultipleRegisters(words)) => {
            if words.len() == usize::from(*count) {
                Ok(Response::Words(words))
            } else {
                Err(LineError::WrongCount)
            }
        }
        (RequestKind::WriteCoil { address, bit }, Answer::WriteSingleCoil(at, shown)) => {
            written((at, shown) == (*address, *bit))
        }
        (RequestKind::WriteRegister { address, word }, Answer::WriteSingleRegister(at, shown)) => {
            written((at, shown) == (*address, *word))
        }
        (RequestKind::WriteCoils { address, bits }, Answer::WriteMultipleCoils(at, count)) => {
            written(at == *address && usize::from(count) == bits.len())
        }
        (RequestKind::WriteRegisters { address, words }, Answer::WriteMultipleRegisters(at, count)) => {
            written(at == *address && usize::from(count) == words.len())
        }
        (RequestKind::MaskRegister { address, mask, bits }, Answer::MaskWriteRegister(at, and, or)) => {
            written((at, and, or) == (*address, !mask, *bits))
        }
        (RequestKind::Identify { .. }, Answer::ReadDeviceIdentification(answer)) => {
            let objects =
                answer.device_id_objects.into_iter().map(|object| (object.id, object.value.to_vec()));
            let next = answer.more_follows.then_some(answer.next_object_id);
            Ok(Response::Identification(Identification { objects: objects.collect(), next }))
        }
        _ => Err(LineError::Mismatch),
    }
}

/// Bits come in whole bytes: as many of them as the count takes.
fn asked_bits(mut bits: Vec<bool>, count: usize) -> Result<Response, LineError> {
    if bits.len() != count.div_ceil(8) * 8 {
        return Err(LineError::WrongCount);
    }
    bits.truncate(count);
    Ok(Response::Bits(bits))
}

fn written(is_echo: bool) -> Result<Response, LineError> {
    if is_echo { Ok(Response::Written) } else { Err(LineError::Mismatch) }
}

pub(crate) fn exception_of(code: ExceptionCode) -> Exception {
    Exception(code.into())
}

pub(crate) fn error_of(error: &Error) -> LineError {
    match error {
        Error::Protocol(
            ProtocolError::HeaderMismatch { .. } | ProtocolError::FunctionCodeMismatch { .. },
        ) => LineError::Mismatch,
        Error::Transport(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => LineError::Garbled,
            kind @ (io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut) => LineError::Broken(kind),
            // The end of a stream is reported with whatever the system said last.
            _ => LineError::Broken(io::ErrorKind::UnexpectedEof),
        },
    }
}

/// Unit and PDU of a request.
pub(crate) fn request_bytes(kind: &RequestKind) -> usize {
    HEADER_BYTES
        + match kind {
            RequestKind::Read { .. } | RequestKind::WriteCoil { .. } | RequestKind::WriteRegister { .. } => 4,
            RequestKind::WriteCoils { bits, .. } => 5 + bits.len().div_ceil(8),
            RequestKind::WriteRegisters { words, .. } => 5 + words.len() * 2,
            RequestKind::MaskRegister { .. } => 6,
            RequestKind::ReadWrite { words, .. } => 9 + words.len() * 2,
            RequestKind::Identify { .. } => 3,
            RequestKind::Raw { pdu } => pdu.len().saturating_sub(1),
        }
}

#[cfg(test)]
mod tests {
    use super::{request_bytes, response_of};
    use crate::bus::answer::Asked;
    use crate::config::model::Table;
    use crate::device::request::{Identification, LineError, RequestKind, Response};
    use tokio_modbus::Response as Answer;
    use tokio_modbus::prelude::{
        ConformityLevel, DeviceIdObject, ReadCode, ReadDeviceIdentificationResponse,
    };

    fn read(table: Table, count: u16) -> RequestKind {
        RequestKind::Read { table, address: 7, count }
    }

    #[test]
    fn only_an_answer_to_this_very_request_is_one() {
        let word = RequestKind::WriteRegister { address: 7, word: 5 };
        let words = RequestKind::WriteRegisters { address: 7, words: vec![1, 2] };
        let coil = RequestKind::WriteCoil { address: 7, bit: true };
        let coils = RequestKind::WriteCoils { address: 7, bits: vec![true; 9] };
        let mask = RequestKind::MaskRegister { address: 7, mask: 0xF0, bits: 0x20 };
        let both = RequestKind::ReadWrite { address: 7, count: 2, write_address: 9, words: vec![1] };
        let cases = [
            (
                read(Table::Holding, 2),
                Answer::ReadHoldingRegisters(vec![1, 2]),
                Ok(Response::Words(vec![1, 2])),
            ),
            (read(Table::Holding, 2), Answer::ReadHoldingRegisters(vec![1]), Err(LineError::WrongCount)),
            (read(Table::Holding, 2), Answer::ReadHoldingRegisters(vec![1; 3]), Err(LineError::WrongCount)),
            (read(Table::Holding, 1), Answer::ReadInputRegisters(vec![1]), Err(LineError::Mismatch)),
            (read(Table::Input, 1), Answer::ReadInputRegisters(vec![1]), Ok(Response::Words(vec![1]))),
            (read(Table::Coil, 3), Answer::ReadCoils(vec![true; 8]), Ok(Response::Bits(vec![true; 3]))),
            (read(Table::Coil, 9), Answer::ReadCoils(vec![true; 8]), Err(LineError::WrongCount)),
            (
                read(Table::Discrete, 1),
                Answer::ReadDiscreteInputs(vec![true; 16]),
                Err(LineError::WrongCount),
            ),
            (word.clone(), Answer::WriteSingleRegister(7, 5), Ok(Response::Written)),
            (word.clone(), Answer::WriteSingleRegister(8, 5), Err(LineError::Mismatch)),
            (word, Answer::WriteSingleRegister(7, 6), Err(LineError::Mismatch)),
            (words.clone(), Answer::WriteMultipleRegisters(7, 2), Ok(Response::Written)),
            (words, Answer::WriteMultipleRegisters(7, 3), Err(LineError::Mismatch)),
            (coil.clone(), Answer::WriteSingleCoil(7, true), Ok(Response::Written)),
            (coil, Answer::WriteSingleCoil(7, false), Err(LineError::Mismatch)),
            (coils.clone(), Answer::WriteMultipleCoils(7, 9), Ok(Response::Written)),
            (coils, Answer::WriteMultipleCoils(7, 8), Err(LineError::Mismatch)),
            (mask.clone(), Answer::MaskWriteRegister(7, 0xFF0F, 0x20), Ok(Response::Written)),
            (mask.clone(), Answer::MaskWriteRegister(7, 0x00F0, 0x20), Err(LineError::Mismatch)),
            (mask, Answer::MaskWriteRegister(8, 0xFF0F, 0x20), Err(LineError::Mismatch)),
            (both.clone(), Answer::ReadWriteMultipleRegisters(vec![1, 2]), Ok(Response::Words(vec![1, 2]))),
            (both, Answer::ReadWriteMultipleRegisters(vec![1]), Err(LineError::WrongCount)),
        ];
        for (kind, answer, expected) in cases {
            assert_eq!(response_of(&kind, answer.clone()), expected, "{kind:?} {answer:?}");
        }
    }

    #[test]
    fn an_identification_is_read_and_says_where_it_goes_on() {
        let answer = |more_follows| {
            Answer::ReadDeviceIdentification(ReadDeviceIdentificationResponse {
                read_code: ReadCode::Basic,
                conformity_level: ConformityLevel::BasicIdentificationStreamOnly,
                more_follows,
                next_object_id: 1,
                device_id_objects: vec![DeviceIdObject { id: 0, value: b"Maker".as_slice().into() }],
            })
        };
        for (more, next) in [(false, None), (true, Some(1))] {
            let identification = Identification { objects: vec![(0, b"Maker".to_vec())], next };
            let found = response_of(&RequestKind::Identify { object: 0 }, answer(more));
            assert_eq!(found, Ok(Response::Identification(identification)));
        }
    }

    #[test]
    fn frames_have_the_lengths_of_the_standard() {
        let cases = [
            (read(Table::Holding, 2), 6, 7),
            (read(Table::Coil, 9), 6, 5),
            (RequestKind::WriteRegister { address: 0, word: 0 }, 6, 6),
            (RequestKind::WriteCoil { address: 0, bit: true }, 6, 6),
            (RequestKind::WriteRegisters { address: 0, words: vec![0, 0] }, 11, 6),
            (RequestKind::WriteCoils { address: 0, bits: vec![true; 9] }, 9, 6),
            (RequestKind::MaskRegister { address: 0, mask: 1, bits: 1 }, 8, 8),
            (RequestKind::ReadWrite { address: 0, count: 2, write_address: 0, words: vec![1] }, 13, 7),
            (RequestKind::Identify { object: 0 }, 5, 254),
        ];
        for (kind, request, response) in cases {
            assert_eq!(
                (request_bytes(&kind), Asked::new(1, &kind).answer_bytes()),
                (request, response),
                "{kind:?}"
            );
        }
    }
}
