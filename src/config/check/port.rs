//! The `ports` section: serial lines. Never asks whether a line is there; adapters come and go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::time::Duration;
use crate::config::error::Problem;
use crate::config::model::{DataBits, Parity, Port, Rs485, StopBits};
use crate::config::raw::{Field, Section};

const KEYS: &[&str] =
    &["path", "baud_rate", "data_bits", "parity", "stop_bits", "rs485", "turnaround", "share"];
const RS485_KEYS: &[&str] = &["rts_on_send", "delay_before_send", "delay_after_send"];
/// The kernel takes no more.
const RS485_DELAY_MAX: Duration = Duration::from_millis(100);
const TURNAROUND_MAX: Duration = Duration::from_secs(10);

/// Sorted by name. A faulty port keeps its place, so that its devices are not blamed.
pub(super) fn check(field: &Field<'_>, base_dir: &Path) -> Vec<Port> {
    let mut paths = BTreeMap::new();
    let mut ports = Vec::new();
    for (name, field) in field.named_fields().unwrap_or_default() {
        ports.push(check_port(name, &field, base_dir, &mut paths));
    }
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

fn check_port(name: &str, field: &Field<'_>, base_dir: &Path, paths: &mut BTreeMap<PathBuf, String>) -> Port {
    let mut port = Port {
        name: name.into(),
        path: PathBuf::new(),
        baud_rate: 9600,
        data_bits: DataBits::Eight,
        parity: Parity::None,
        stop_bits: StopBits::One,
        turnaround: Duration::ZERO,
        rs485: None,
    };
    let Some(section) = field.section(KEYS) else { return port };
    section.refuse_later(&["share"]);
    if let Some(field) = section.require("path", "path: /dev/ttyUSB0")
        && let Some(text) = field.filled_text()
    {
        port.path = base_dir.join(text);
        match paths.get(&port.path) {
            Some(by) => field.fault(Problem::PathTaken { by: by.as_str().into() }),
            None => _ = paths.insert(port.path.clone(), name.to_owned()),
        }
    }
    let parities = [("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
    port.baud_rate = section.read_or("baud_rate", port.baud_rate, |field| field.integer(300..=4_000_000));
    port.parity = section.read_or("parity", port.parity, |field| field.choice(&parities, &[]));
    port.turnaround = section
        .read_or("turnaround", port.turnaround, |field| field.duration(Duration::ZERO..=TURNAROUND_MAX));
    if section.has("rs485") {
        port.rs485 = Some(section.read_section("rs485", RS485_KEYS, check_rs485));
    }
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
