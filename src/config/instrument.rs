//! Serial instruments as configured: how frames are told apart, what a line says, what is asked and written. Plain
//! values, checked; never reads a line itself.

use std::sync::Arc;

use regex_lite::Regex;

use crate::base::backoff::BackoffBounds;
use crate::base::time::Duration;
use crate::config::model::{Order, Point, Publish};
use crate::config::point::{Aggregate, Computed, Deadband, Meaning};

/// A device that speaks in lines or frames of its own. It has its port to itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Instrument {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    /// On `Config::ports[port]`.
    pub port: usize,
    pub framing: Framing,
    pub format: LineFormat,
    pub talk: Talk,
    /// From the end of a request or command to its answer.
    pub timeout: Duration,
    /// Of a request, and of the look at what a command did.
    pub retries: u8,
    /// Of the port, and of the requests while the device is offline.
    pub reconnect: BackoffBounds,
    /// Its points are announced to Home Assistant.
    pub homeassistant: bool,
    pub publish: Publish,
    /// In the order of the file; at least one.
    pub points: Vec<FieldPoint>,
    /// Each behind those that it is computed from.
    pub computed: Arc<[Computed]>,
}

/// Who begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Talk {
    /// It answers what it is sent.
    Asked {
        send: Vec<u8>,
        every: Duration,
        /// Requests in a row without an answer before the device counts as offline: at least 1.
        offline_after: u32,
    },
    /// It talks by itself. None: it may be silent for ever.
    Free { offline_after: Option<Duration> },
}

/// How frames are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing {
    /// What each frame begins with; may be empty.
    pub start: Vec<u8>,
    pub end: FrameEnd,
    pub checksum: Option<Checksum>,
    /// Bytes of a frame, without its delimiter.
    pub max_length: usize,
    /// Silence that no frame goes on after.
    pub gap: Duration,
}

/// What a frame ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameEnd {
    /// Never empty, and no part of the frame.
    Delimiter(Vec<u8>),
    /// Bytes, with start and checksum.
    Length(usize),
    /// The frame says its length itself. Only with a start.
    LengthField(LengthField),
    /// `gap`.
    Silence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthField {
    /// Counted from the first byte of the start.
    pub at: usize,
    /// 1 or 2.
    pub bytes: usize,
    /// Of two bytes.
    pub order: Order,
    /// The frame's bytes that the number does not count.
    pub adds: usize,
}

/// The last bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    pub kind: ChecksumKind,
    /// The first byte that it covers.
    pub from: usize,
    pub encoding: Encoding,
    /// Of two bytes.
    pub order: Order,
}

impl Checksum {
    /// How many bytes of the frame it takes.
    pub const fn bytes(&self) -> usize {
        match self.encoding {
            Encoding::Binary => self.kind.bytes(),
            Encoding::Hex => self.kind.bytes() * 2,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    /// Two digits a byte.
    Hex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// All bytes added.
    Sum8,
    /// What makes the sum zero.
    Lrc8,
    Xor8,
    /// Polynomial 0x07.
    Crc8,
    /// CRC-16/MODBUS
    Crc16Modbus,
    /// CRC-16/CCITT-FALSE: begins with 0xFFFF.
    Crc16Ccitt,
    /// CRC-16/XMODEM: begins with 0.
    Crc16Xmodem,
}

impl ChecksumKind {
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sum8 | Self::Lrc8 | Self::Xor8 | Self::Crc8 => 1,
            Self::Crc16Modbus | Self::Crc16Ccitt | Self::Crc16Xmodem => 2,
        }
    }
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineFormat {
    /// Text whose fields are the pattern's named groups.
    Match(Pattern),
    /// An object or a list.
    Json,
    Csv(Columns),
    /// NMEA 0183 with its checksum.
    Nmea,
    /// Anything: it is published as hex.
    Raw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// ASCII.
    pub separator: char,
    /// As many as each line has.
    pub names: Vec<Arc<str>>,
}

/// A regular expression that compiled.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    pub const fn new(regex: Regex) -> Self {
        Self(regex)
    }

    pub const fn regex(&self) -> &Regex {
        &self.0
    }

    /// The named groups, in their order.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// A value in what the instrument says.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldPoint {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    /// None: it is only written.
    pub field: Option<FieldPath>,
    pub value_type: FieldType,
    /// Empty: the text is the value.
    pub labels: Vec<TextLabel>,
    /// value = field * scale + offset; never zero.
    pub scale: f64,
    pub offset: f64,
    /// What the value is measured in.
    pub unit: Option<Arc<str>>,
    /// Decimal places, 0 to 15.
    pub round: Option<u8>,
    /// The least change that counts as one; None: any.
    pub deadband: Option<Deadband>,
    /// The point's own or its device's.
    pub heartbeat: Option<Duration>,
    pub aggregate: Option<Aggregate>,
    /// Said to the world, not only to other points.
    pub publish: bool,
    /// None: it cannot be written.
    pub command: Option<CommandLine>,
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// Where a field stands, in the words of its format.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldPath {
    /// A named group.
    Group(Arc<str>),
    /// The way through objects, by name, and lists, by number from 0.
    Json(Vec<Arc<str>>),
    Column(usize),
    Nmea {
        /// Its three letters, or with its talker: `RMC`, `GPRMC`.
        sentence: Arc<str>,
        part: NmeaPart,
    },
    /// The whole frame in hex.
    Frame,
    /// Some bytes of the frame.
    Bytes(Box<Binary>),
}

/// A value in the bytes of a frame, which all lie within a frame's bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// Counted from the first byte of the start.
    pub at: usize,
    /// At least 1.
    pub length: usize,
    /// Of the bytes; big where the point has an order of words and bytes of its own.
    pub order: Order,
    /// What the bytes mean, laid out as registers. Nothing else of it counts.
    pub point: Point,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NmeaPart {
    /// Counted as in the standard: the first one behind the address is 1.
    Field(usize),
    /// In degrees, south below zero. Only of GGA, GLL and RMC.
    Latitude,
    /// In degrees, west below zero.
    Longitude,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// As JSON says; elsewhere text.
    AsSaid,
    Text,
    Bool,
    /// Within these.
    Integer {
        min: i128,
        max: i128,
    },
    Float,
}

/// What a text stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextLabel {
    pub text: Arc<str>,
    pub meaning: Meaning,
}

/// What is sent to have a point hold a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Before the value, and behind it.
    pub before: Vec<u8>,
    pub after: Vec<u8>,
    /// The answer that says that it was done. None: the device does not answer it.
    pub expect: Option<Pattern>,
}
