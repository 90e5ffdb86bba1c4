//! The `serial` section of a device: its framing, what a line says, and who begins.

use std::ops::RangeInclusive;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};

use crate::base::time::Duration;
use crate::config::check::device::check_homeassistant;
use crate::config::check::field::{self, Form};
use crate::config::check::value::{POLL_RANGE, reconnect};
use crate::config::error::Problem;
use crate::config::instrument::{
    Checksum, ChecksumKind, Columns, Encoding, FrameEnd, Framing, Instrument, LengthField, LineFormat,
    Pattern, Talk,
};
use crate::config::model::{Order, Publish};
use crate::config::raw::{Field, Section, is_text, is_zero};
use crate::config::serial_problem::SerialProblem;
use crate::config::yaml::Kind;

const KEYS: &[&str] = &["port", "framing", "format", "match", "separator", "columns", "request"];
const FRAMING_KEYS: &[&str] = &[
    "start",
    "delimiter",
    "length",
    "idle",
    "length_at",
    "length_bytes",
    "length_order",
    "length_adds",
    "checksum",
    "max_length",
    "gap",
];
const END_KEYS: &[&str] = &["delimiter", "length", "idle", "length_at"];
const LENGTH_FIELD_KEYS: &[&str] = &["length_bytes", "length_order", "length_adds"];
const CHECKSUM_KEYS: &[&str] = &["type", "from", "encoding", "order"];
const REQUEST_KEYS: &[&str] = &["send", "every"];
/// Keys of a device that a serial instrument has no use for.
const MODBUS_ALONE: &[&str] = &["poll", "read", "word_order", "byte_order", "address_base", "profile"];

const ORDERS: [(&str, Order); 2] = [("big", Order::Big), ("little", Order::Little)];
const CHECKSUMS: [(&str, ChecksumKind); 7] = [
    ("sum8", ChecksumKind::Sum8),
    ("lrc8", ChecksumKind::Lrc8),
    ("xor8", ChecksumKind::Xor8),
    ("crc8", ChecksumKind::Crc8),
    ("crc16-modbus", ChecksumKind::Crc16Modbus),
    ("crc16-ccitt", ChecksumKind::Crc16Ccitt),
    ("crc16-xmodem", ChecksumKind::Crc16Xmodem),
];
/// Bytes that begin or end a frame.
const MARK_BYTES_MAX: usize = 8;
const FRAME_BYTES_MAX: u32 = 8192;
const FRAME_BYTES_DEFAULT: usize = 256;
/// Bytes of a request or of a command around its value.
const SEND_BYTES_MAX: usize = 256;
/// What a pattern may take when it is compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;
const COLUMNS_MAX: usize = 256;
const GAP_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Longer than adapters hold back, shorter than what instruments leave between two lines.
const GAP_DEFAULT: Duration = Duration::from_millis(200);
/// Where the silence is all that tells two frames apart.
const SILENCE_DEFAULT: Duration = Duration::from_millis(20);
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const SILENT_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(7 * 86_400);
const SILENT_DEFAULT: Duration = Duration::from_secs(60);

/// Whether each frame is news of its own: it is published as it is.
pub(super) fn is_raw(device: &Section<'_>) -> bool {
    let keys = |key| device.find(key).map(|field| field.named_keys()).unwrap_or_default();
    let is_raw = keys("serial").iter().any(|(key, field)| *key == "format" && is_text(field.kind(), "raw"));
    let mut points = keys("points").into_iter();
    is_raw && points.any(|(_, point)| point.named_keys().iter().any(|(key, _)| *key == "field"))
}

/// The instrument, but for its port, which `find_port` finds.
pub(super) fn check(
    name: &str,
    device: &Section<'_>,
    publish: Publish,
    find_port: impl FnOnce(&Field<'_>) -> Option<usize>,
) -> Option<Instrument> {
    device.refuse_keys(MODBUS_ALONE, &Problem::NotWith("serial"));
    let serial = device.find("serial")?.section(KEYS)?;
    let port = serial.require("port", "port: weighbridge").and_then(|field| find_port(&field));
    let format = check_format(&serial);
    let framing = check_framing(&serial, format.as_ref());
    let talk = check_talk(device, &serial);
    let frame_bytes_max = framing.as_ref().map(|framing: &Framing| framing.max_length);
    let form = Form { format: format.as_ref(), frame_bytes_max, heartbeat: publish.heartbeat };
    let (points, computed) = field::check(device, &form);
    Some(Instrument {
        name: name.into(),
        timeout: device.read_or("timeout", Duration::from_millis(500), |field| field.duration(TIMEOUT_RANGE)),
        retries: device.read_or("retries", 2, |field| field.integer(0..=10)),
        reconnect: reconnect(device, Duration::from_secs(60)),
        homeassistant: check_homeassistant(device, &publish),
        publish,
        points,
        computed: computed.into(),
        talk: talk?,
        framing: framing?,
        format: format?,
        port: port?,
    })
}

fn check_format(serial: &Section<'_>) -> Option<LineFormat> {
    let words = ["match", "json", "csv", "nmea", "raw"].map(|word| (word, word));
    let given = serial.find("format").map(|field| field.choice(&words));
    let word = match given {
        Some(word) => word?,
        None if serial.has("match") => "match",
        None => {
            serial.require("format", "format: json; or csv, nmea, raw, or match: '^(?P<weight>[0-9.]+)'");
            return None;
        }
    };
    if word != "match" {
        serial.refuse_keys(&["match"], &Problem::OnlyWith("format: match"));
    }
    if word != "csv" {
        serial.refuse_keys(&["separator", "columns"], &Problem::OnlyWith("format: csv"));
    }
    match word {
        "match" => {
            let field = serial.require("match", "match: '^(?P<weight>[0-9.]+) kg'")?;
            pattern(&field).map(LineFormat::Match)
        }
        "json" => Some(LineFormat::Json),
        "nmea" => Some(LineFormat::Nmea),
        "raw" => Some(LineFormat::Raw),
        _ => check_columns(serial).map(LineFormat::Csv),
    }
}

/// A regular expression that compiles within its bound.
pub(super) fn pattern(field: &Field<'_>) -> Option<Pattern> {
    let built: Result<Regex, _> =
        RegexBuilder::new(field.filled_text()?).size_limit(PATTERN_BYTES_MAX).build();
    match built {
        Ok(regex) => Some(Pattern::new(regex)),
        Err(error) => {
            field.fault(Problem::Serial(SerialProblem::BadPattern(error.to_string().into())));
            None
        }
    }
}

fn check_columns(serial: &Section<'_>) -> Option<Columns> {
    let separator = serial.read_or("separator", ',', |field| {
        let mut chars = field.text()?.chars();
        let (first, rest) = (chars.next(), chars.next());
        let fits =
            |char: &char| char.is_ascii() && !char.is_ascii_alphanumeric() && !"\"\r\n.-+".contains(*char);
        let separator = first.filter(fits).filter(|_| rest.is_none());
        if separator.is_none() {
            field.fault(Problem::Serial(SerialProblem::BadSeparator));
        }
        separator
    });
    let items = serial.require("columns", "columns: [time, temperature, humidity]")?.items()?;
    let mut names: Vec<Arc<str>> = Vec::new();
    for field in items.iter().take(COLUMNS_MAX) {
        let Some(name) = field.filled_text() else { continue };
        if names.iter().any(|known| **known == *name) {
            field.fault(Problem::Serial(SerialProblem::SameColumn));
        }
        names.push(name.into());
    }
    if let Some(field) = items.get(COLUMNS_MAX) {
        field.fault(Problem::OutOfRange { min: "1".into(), max: COLUMNS_MAX.to_string().into() });
    }
    Some(Columns { separator, names })
}

/// Lines, where nothing else is said of text.
fn check_framing(serial: &Section<'_>, format: Option<&LineFormat>) -> Option<Framing> {
    let Some(field) = serial.find("framing") else {
        if format == Some(&LineFormat::Raw) {
            serial.require("framing", "framing: { idle: 20ms }");
            return None;
        }
        let end = FrameEnd::Delimiter(b"\n".to_vec());
        let (start, checksum) = (Vec::new(), None);
        return Some(Framing { start, end, checksum, max_length: FRAME_BYTES_DEFAULT, gap: GAP_DEFAULT });
    };
    let section = field.section(FRAMING_KEYS)?;
    let start = section.read_or("start", Vec::new(), |field| bytes(field, MARK_BYTES_MAX));
    let checksum = section.read("checksum", check_checksum);
    let given = section
        .read("max_length", |field| field.integer(1..=FRAME_BYTES_MAX))
        .map_or(FRAME_BYTES_DEFAULT, |max| max as usize);
    let (key, field) = section.require_one(END_KEYS)?;
    if key != "length_at" {
        section.refuse_keys(LENGTH_FIELD_KEYS, &Problem::OnlyWith("length_at"));
    }
    let mut max_length = given;
    let end = match key {
        "delimiter" => FrameEnd::Delimiter(bytes(&field, MARK_BYTES_MAX)?),
        "idle" => FrameEnd::Silence,
        "length" => {
            section.refuse_keys(&["max_length"], &Problem::NotWith("length"));
            max_length = field.integer(1..=FRAME_BYTES_MAX)? as usize;
            FrameEnd::Length(max_length)
        }
        _ => {
            section.require("start", "start: \"\\x02\"")?;
            FrameEnd::LengthField(check_length_field(&section, &field)?)
        }
    };
    let gap = if end == FrameEnd::Silence {
        section.refuse_keys(&["gap"], &Problem::Serial(SerialProblem::Idle));
        field.duration(GAP_RANGE)?
    } else {
        let by_silence = matches!(end, FrameEnd::Length(_)) && start.is_empty();
        let default = if by_silence { SILENCE_DEFAULT } else { GAP_DEFAULT };
        section.read_or("gap", default, |field| field.duration(GAP_RANGE))
    };
    Some(Framing { start, end, checksum, max_length, gap })
}

fn check_length_field(section: &Section<'_>, at: &Field<'_>) -> Option<LengthField> {
    let at = usize::from(at.integer(0..=255u16)?);
    let bytes = usize::from(section.read_or("length_bytes", 1, |field| field.integer(1..=2u8)));
    if bytes == 1 {
        section.refuse_keys(&["length_order"], &Problem::OnlyWith("length_bytes: 2"));
    }
    // Mostly the number counts all that follows it.
    let adds = section.read("length_adds", |field| field.integer(0..=255u16));
    Some(LengthField {
        at,
        bytes,
        order: section.read_or("length_order", Order::Big, |field| field.choice(&ORDERS)),
        adds: adds.map_or(at + bytes, usize::from),
    })
}

/// Its name, or a map with what differs from the usual.
fn check_checksum(field: &Field<'_>) -> Option<Checksum> {
    if !matches!(field.kind(), Kind::Map(_)) {
        let kind = field.choice(&CHECKSUMS)?;
        return Some(Checksum { kind, from: 0, encoding: Encoding::Binary, order: usual_order(kind) });
    }
    let section = field.section(CHECKSUM_KEYS)?;
    let encodings = [("binary", Encoding::Binary), ("hex", Encoding::Hex)];
    let from = usize::from(section.read_or("from", 0, |field| field.integer(0..=255u16)));
    let encoding = section.read_or("encoding", Encoding::Binary, |field| field.choice(&encodings));
    let order = section.read("order", |field| field.choice(&ORDERS));
    let kind = section.require("type", "type: xor8")?.choice(&CHECKSUMS)?;
    Some(Checksum { kind, from, encoding, order: order.unwrap_or_else(|| usual_order(kind)) })
}

fn usual_order(kind: ChecksumKind) -> Order {
    if kind == ChecksumKind::Crc16Modbus { Order::Little } else { Order::Big }
}

fn check_talk(device: &Section<'_>, serial: &Section<'_>) -> Option<Talk> {
    let Some(field) = serial.find("request") else {
        let silent = device.read_or("offline_after", SILENT_DEFAULT, |field| {
            if is_zero(field.kind()) { Some(Duration::ZERO) } else { field.duration(SILENT_RANGE) }
        });
        return Some(Talk::Free { offline_after: Some(silent).filter(|silent| !silent.is_zero()) });
    };
    let section = field.section(REQUEST_KEYS)?;
    let every = section.read_or("every", Duration::from_secs(1), |field| field.duration(POLL_RANGE));
    let offline_after = device.read_or("offline_after", 3, |field| field.integer(1..=1000));
    let send = section.require("send", "send: \"P\\r\\n\"").and_then(|field| bytes(&field, SEND_BYTES_MAX));
    Some(Talk::Asked { send: send?, every, offline_after })
}

/// Text of which each character is a byte.
fn bytes(field: &Field<'_>, bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = bytes_of(field, field.filled_text()?)?;
    if bytes.len() > bytes_max {
        field.fault(Problem::TextTooLong { bytes_max });
        return None;
    }
    Some(bytes)
}

/// One byte for each character.
pub(super) fn bytes_of(field: &Field<'_>, text: &str) -> Option<Vec<u8>> {
    let bytes = text.chars().map(u8::try_from).collect();
    if let Ok(bytes) = bytes {
        return Some(bytes);
    }
    field.fault(Problem::Serial(SerialProblem::NotBytes));
    None
}
