//! What the machine says of itself, for whoever is to help from afar: versions, memory, disk, clock. Changes nothing, and
//! leaves out what it cannot learn.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::base::time::{Clock, Timestamp};
use crate::cli::modbus::ports::list;

/// A folder with more files than this is none of ours.
const FILES_MAX: usize = 1000;
const TIMESYNC_FILE: &str = "/run/systemd/timesync/synchronized";

/// `data_dir` is whose disk is asked for.
pub fn describe(data_dir: &Path) -> Value {
    let ports = list(Path::new("/dev"), Path::new("/sys"));
    let ports =
        ports.iter().map(|port| json!({ "path": port.path, "by_id": port.by_id, "driver": port.driver }));
    json!({
        "tidegate": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "system": system_name(),
        "kernel": line_of("/proc/sys/kernel/osrelease"),
        "libc": libc_version(),
        "model": line_of("/proc/device-tree/model"),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "uptime_seconds": line_of("/proc/uptime").and_then(|line| line.split('.').next()?.parse::<u64>().ok()),
        "load": line_of("/proc/loadavg"),
        "memory_kib": memory(),
        "disk": disk(data_dir),
        "clock": json!({
            "now": Clock::start().now().wall.to_string(),
            "timesyncd_has_the_time": Path::new(TIMESYNC_FILE).exists(),
            "battery_clocks": fs::read_dir("/sys/class/rtc").map_or(0, Iterator::count),
        }),
        "serial_ports": ports.collect::<Vec<_>>(),
    })
}

/// The names, sizes, modes and times of what is in a folder.
pub fn listing(folder: &Path) -> std::io::Result<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILES_MAX) {
        let entry = entry?;
        let found = entry.metadata()?;
        let modified = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified = modified.and_then(|since| i64::try_from(since.as_millis()).ok());
        let modified = modified.map_or_else(|| "-".to_owned(), |at| Timestamp::from_millis(at).to_string());
        let mode = found.permissions().mode() & 0o7777;
        files.push((entry.file_name().to_string_lossy().into_owned(), found.len(), mode, modified));
    }
    files.sort();
    let mode = fs::metadata(folder)?.permissions().mode() & 0o7777;
    let mut text = format!("{}: mode {mode:04o}\n", folder.display());
    for (name, bytes, mode, modified) in files {
        // To a String this never fails.
        let _ = writeln!(text, "{mode:04o} {bytes:>12} {modified} {name}");
    }
    Ok(text)
}

fn line_of(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim_matches(['\0', ' ']);
    (!line.is_empty()).then(|| line.to_owned())
}

fn system_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The library itself tells it to C alone.
fn libc_version() -> Option<String> {
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}

fn memory() -> Value {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let wanted = ["MemTotal", "MemAvailable", "SwapTotal", "SwapFree"];
    let values = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value: u64 = value.trim().split(' ').next()?.parse().ok()?;
        wanted.contains(&name).then(|| (name.to_owned(), value.into()))
    });
    Value::Object(values.collect())
}

fn disk(folder: &Path) -> Option<Value> {
    let status = rustix::fs::statvfs(folder).ok()?;
    let (device, kind, options) = mount_of(folder).unwrap_or_default();
    Some(json!({
        "bytes": status.f_blocks.saturating_mul(status.f_frsize),
        "bytes_free": status.f_bavail.saturating_mul(status.f_frsize),
        "files_free": status.f_ffree,
        "device": device,
        "type": kind,
        "options": options,
    }))
}

/// Device, type and options of the file system: that of the longest folder above.
fn mount_of(folder: &Path) -> Option<(String, String, String)> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        folder
            .starts_with(place)
            .then(|| (place.len(), (device.to_owned(), kind.to_owned(), options.to_owned())))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, found)| found)
}
