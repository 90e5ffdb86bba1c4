//! The `ports` section: serial lines. Never asks whether a line is there; adapters come and go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::time::Duration;
use crate::config::check::address::{self, Addresses};
use crate::config::error::Problem;
use crate::config::port::{DataBits, Parity, Port, Rs485, Share, StopBits};
use crate::config::raw::{Field, Section};

const KEYS: &[&str] =
    &["path", "baud_rate", "data_bits", "parity", "stop_bits", "rs485", "turnaround", "share"];
const RS485_KEYS: &[&str] = &["rts_on_send", "delay_before_send", "delay_after_send"];
/// The kernel takes no more.
const RS485_DELAY_MAX: Duration = Duration::from_millis(100);
const SHARE_KEYS: &[&str] = &["address", "cache", "writes"];
const CACHE_DEFAULT: Duration = Duration::from_secs(1);
const CACHE_MAX: Duration = Duration::from_secs(3600);
const TURNAROUND_MAX: Duration = Duration::from_secs(10);

/// Sorted by name. A faulty port keeps its place, so that its devices are not blamed.
pub(super) fn check(field: &Field<'_>, base_dir: &Path, addresses: &mut Addresses) -> Vec<Port> {
    let mut taken = Taken { paths: BTreeMap::new(), addresses };
    let mut ports = Vec::new();
    for (name, field) in field.named_fields().unwrap_or_default() {
        ports.push(check_port(name, &field, base_dir, &mut taken));
    }
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

/// What two ports cannot both have.
struct Taken<'a> {
    paths: BTreeMap<PathBuf, String>,
    addresses: &'a mut Addresses,
}

fn check_port(name: &str, field: &Field<'_>, base_dir: &Path, taken: &mut Taken<'_>) -> Port {
    let mut port = Port {
        name: name.into(),
        path: PathBuf::new(),
        baud_rate: 9600,
        data_bits: DataBits::Eight,
        parity: Parity::None,
        stop_bits: StopBits::One,
        turnaround: Duration::ZERO,
        rs485: None,
        share: None,
    };
    let Some(section) = field.section(KEYS) else { return port };
    if let Some(field) = section.require("path", "path: /dev/ttyUSB0")
        && let Some(text) = field.filled_text()
    {
        port.path = base_dir.join(text);
        match taken.paths.get(&port.path) {
            Some(by) => field.fault(Problem::PathTaken { by: by.as_str().into() }),
            None => _ = taken.paths.insert(port.path.clone(), name.to_owned()),
        }
    }
    let parities = [("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
    port.baud_rate = section.read_or("baud_rate", port.baud_rate, |field| field.integer(300..=4_000_000));
    port.parity = section.read_or("parity", port.parity, |field| field.choice(&parities));
    port.turnaround = section
        .read_or("turnaround", port.turnaround, |field| field.duration(Duration::ZERO..=TURNAROUND_MAX));
    if section.has("rs485") {
        port.rs485 = Some(section.read_section("rs485", RS485_KEYS, check_rs485));
    }
    port.share = section.read("share", |field| check_share(&field.section(SHARE_KEYS)?, taken.addresses));
    if section.read("data_bits", |field| field.integer(7..=8u8)) == Some(7) {
        port.data_bits = DataBits::Seven;
    }
    if section.read("stop_bits", |field| field.integer(1..=2u8)) == Some(2) {
        port.stop_bits = StopBits::Two;
    }
    port
}

fn check_rs485(section: &Section<'_>) -> Rs485 {
    let delay =
        |key| section.read_or(key, Duration::ZERO, |field| field.duration(Duration::ZERO..=RS485_DELAY_MAX));
    Rs485 {
        rts_on_send: section.read_or("rts_on_send", true, Field::flag),
        delay_before_send: delay("delay_before_send"),
        delay_after_send: delay("delay_after_send"),
    }
}

fn check_share(section: &Section<'_>, addresses: &mut Addresses) -> Option<Share> {
    let cache = section.read_or("cache", CACHE_DEFAULT, |field| field.duration(Duration::ZERO..=CACHE_MAX));
    let writes = section.read_or("writes", false, Field::flag);
    let address = address::listen(&section.require("address", "address: 127.0.0.1:1502")?, addresses)?;
    Some(Share { address, cache, writes })
}
