//! What a line is asked for and what comes back. Facts alone: never how they travel.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::time::Duration;
use crate::config::model::Table;

/// Modbus exception codes that the brain tells apart (Application Protocol 7).
const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_DATA_ADDRESS: u8 = 2;
const ILLEGAL_DATA_VALUE: u8 = 3;
const SERVER_DEVICE_BUSY: u8 = 6;
const GATEWAY_PATH_UNAVAILABLE: u8 = 10;
const GATEWAY_TARGET_FAILED: u8 = 11;

/// Counts up; an answer to an earlier request is recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// One request to one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    pub unit: u8,
    pub kind: RequestKind,
    /// From the end of the request to the end of the answer, without the time on a serial wire.
    pub timeout: Duration,
}

impl Request {
    /// One that no poller made: its answer is recognised by nothing.
    pub fn by_hand(unit: u8, kind: RequestKind, timeout: Duration) -> Self {
        Self { id: RequestId(0), unit, kind, timeout }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Function codes 1 to 4.
    Read { table: Table, address: u16, count: u16 },
    /// Function code 5.
    WriteCoil { address: u16, bit: bool },
    /// Function code 15.
    WriteCoils { address: u16, bits: Vec<bool> },
    /// Function code 6.
    WriteRegister { address: u16, word: u16 },
    /// Function code 16.
    WriteRegisters { address: u16, words: Vec<u16> },
    /// Function code 22: what is 1 in `mask` becomes as in `bits`.
    MaskRegister { address: u16, mask: u16, bits: u16 },
    /// Function code 23: `words` are written before `count` registers are read.
    ReadWrite { address: u16, count: u16, write_address: u16, words: Vec<u16> },
    /// Function code 43/14: the basic identification, from this object on.
    Identify { object: u8 },
    /// Another master's, of a function whose answers have a length that is known or a frame that shows it: a PDU as
    /// it leaves. To unit 0 it is a broadcast, which nobody answers.
    #[serde(skip)]
    Raw { pdu: Vec<u8> },
}

impl RequestKind {
    /// The unit stays as it is: this may be asked again, and what was said before holds.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Identify { .. } => true,
            Self::Raw { pdu } => matches!(pdu.first(), Some(1..=4 | 7 | 11 | 12 | 17 | 20 | 24 | 43)),
            Self::WriteCoil { .. }
            | Self::WriteCoils { .. }
            | Self::WriteRegister { .. }
            | Self::WriteRegisters { .. }
            | Self::MaskRegister { .. }
            | Self::ReadWrite { .. } => false,
        }
    }

    /// Modbus Application Protocol 6.
    pub fn function(&self) -> u8 {
        match self {
            Self::Read { table: Table::Coil, .. } => 1,
            Self::Read { table: Table::Discrete, .. } => 2,
            Self::Read { table: Table::Holding, .. } => 3,
            Self::Read { table: Table::Input, .. } => 4,
            Self::WriteCoil { .. } => 5,
            Self::WriteRegister { .. } => 6,
            Self::WriteCoils { .. } => 15,
            Self::WriteRegisters { .. } => 16,
            Self::MaskRegister { .. } => 22,
            Self::ReadWrite { .. } => 23,
            Self::Identify { .. } => 43,
            Self::Raw { pdu } => pdu.first().copied().unwrap_or(0),
        }
    }
}

/// An answer that fits its request: the hand has compared unit, function, address and count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// As many as were asked for.
    Bits(Vec<bool>),
    /// As many as were asked for.
    Words(Vec<u16>),
    Written,
    /// Some of what identifies a device.
    Identification(Identification),
    /// To [`RequestKind::Raw`]: a PDU as it came.
    #[serde(skip)]
    Raw(Vec<u8>),
}

/// The objects of one answer to [`RequestKind::Identify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// By number: 0 is the vendor, 1 the product code, 2 the revision.
    pub objects: Vec<(u8, Vec<u8>)>,
    /// Where to go on asking.
    pub next: Option<u8>,
}

/// The unit answered that it will not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception(pub u8);

impl Exception {
    pub const ILLEGAL_FUNCTION: Self = Self(ILLEGAL_FUNCTION);
    pub const ILLEGAL_DATA_ADDRESS: Self = Self(ILLEGAL_DATA_ADDRESS);
    pub const ILLEGAL_DATA_VALUE: Self = Self(ILLEGAL_DATA_VALUE);
    pub const BUSY: Self = Self(SERVER_DEVICE_BUSY);
    pub const PATH_UNAVAILABLE: Self = Self(GATEWAY_PATH_UNAVAILABLE);
    pub const TARGET_FAILED: Self = Self(GATEWAY_TARGET_FAILED);

    /// The unit does not know the function code.
    pub fn is_illegal_function(self) -> bool {
        self == Self::ILLEGAL_FUNCTION
    }

    /// The read touches what the unit does not have, or is too long for it: a part of it may be answered.
    pub fn is_of_range(self) -> bool {
        matches!(self.0, ILLEGAL_DATA_ADDRESS | ILLEGAL_DATA_VALUE)
    }

    /// What a unit says of a length that it does not give, where it keeps to the standard.
    pub fn is_illegal_value(self) -> bool {
        self.0 == ILLEGAL_DATA_VALUE
    }

    pub fn is_busy(self) -> bool {
        self.0 == SERVER_DEVICE_BUSY
    }

    /// A gateway between says that the unit itself is silent.
    pub fn is_unit_silent(self) -> bool {
        matches!(self.0, GATEWAY_PATH_UNAVAILABLE | GATEWAY_TARGET_FAILED)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            ILLEGAL_FUNCTION => "illegal function",
            ILLEGAL_DATA_ADDRESS => "illegal data address",
            ILLEGAL_DATA_VALUE => "illegal data value",
            4 => "server device failure",
            5 => "acknowledge",
            SERVER_DEVICE_BUSY => "server device busy",
            8 => "memory parity error",
            GATEWAY_PATH_UNAVAILABLE => "gateway path unavailable",
            GATEWAY_TARGET_FAILED => "gateway target device failed to respond",
            _ => "unknown",
        };
        write!(f, "exception {} ({name})", self.0)
    }
}

/// No answer that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineError {
    Timeout,
    /// The serial port cannot be opened.
    Open {
        path: Arc<str>,
        kind: io::ErrorKind,
    },
    /// The driver of the serial port has no RS-485 mode.
    NoRs485 {
        path: Arc<str>,
    },
    /// The TCP connection cannot be made.
    Connect {
        address: Arc<str>,
        kind: io::ErrorKind,
    },
    /// Port or connection failed in use.
    Broken(io::ErrorKind),
    /// Bytes that are no frame, or fail their checksum.
    Garbled,
    /// A frame of another unit, request or function.
    Mismatch,
    /// Another number of registers or bits than was asked for.
    WrongCount,
    /// Bytes beside the answer: it may belong to an earlier request.
    Untrusted,
    /// The serial line never fell silent.
    Busy,
}

impl LineError {
    /// Trying again at once cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::NoRs485 { .. } | Self::Connect { .. })
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Open { path, kind: io::ErrorKind::NotFound } => write!(f, "{path}: no such port"),
            Self::Open { path, kind } => write!(f, "{path}: {kind}"),
            Self::NoRs485 { path } => write!(f, "{path}: its driver has no RS-485 mode (leave out rs485)"),
            Self::Connect { address, kind } => write!(f, "{address}: {kind}"),
            Self::Broken(kind) => write!(f, "connection lost: {kind}"),
            Self::Garbled => f.write_str("garbled answer"),
            Self::Mismatch => f.write_str("answer to another request"),
            Self::WrongCount => f.write_str("answer of the wrong length"),
            Self::Untrusted => f.write_str("answer among stray bytes"),
            Self::Busy => f.write_str("line is never silent"),
        }
    }
}

impl std::error::Error for LineError {}

/// What came of a request: the outer error questions the line, the inner one only the request.
pub type Reply = Result<Result<Response, Exception>, LineError>;

/// Why a poll or a point failed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Line(LineError),
    Exception(Exception),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(error) => error.fmt(f),
            Self::Exception(exception) => exception.fmt(f),
        }
    }
}
