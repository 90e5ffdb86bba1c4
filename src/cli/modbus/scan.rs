//! `tidegate scan`: the serial ports, and the Modbus units that answer on one of them or at an address. Reads one
//! register of each and writes nothing; its time is bounded.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value as Json, json};

use crate::bus::{Endpoint, lines};
use crate::cli::modbus::ask::Asker;
use crate::cli::modbus::point::{LinkText, PointArgs};
use crate::cli::modbus::ports::{SerialPort, list};
use crate::cli::modbus::{ToolError, print, report, run_tool};
use crate::cli::progress::Progress;
use crate::cli::table::{Align, Table as TextTable, printable};
use crate::config::duration::{self, DurationText};
use crate::config::model::Table;
use crate::device::request::{Exception, LineError, RequestKind, Response};

/// Units that are tried at every speed before the others are.
const LIKELY_UNITS: usize = 16;
/// A device that ignores the number answers under every one: these are asked, and then no more.
const EVERY_UNIT_MIN: usize = 8;
/// Settings of a line that one scan tries.
const SETTINGS_MAX: usize = 64;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate scan                                         the serial ports
  tidegate scan --port /dev/ttyUSB0                     its units, at the usual speeds and parities
  tidegate scan --port /dev/ttyUSB0 -b 19200 -P even --units 1-10
  tidegate scan --port /dev/ttyUSB0 --framing ascii     Modbus ASCII, with 7 and 8 data bits
  tidegate scan --tcp 192.168.1.50 --units 1,2,247
  tidegate scan --rtu-over-tcp 192.168.1.51:4001        the units behind a converter")]
pub struct ScanArgs {
    /// Look for units on the serial port at PATH
    #[arg(long, value_name = "PATH", conflicts_with_all = ["tcp", "rtu_over_tcp"])]
    port: Option<String>,
    /// Look for units behind a Modbus TCP server
    #[arg(long, value_name = "HOST[:PORT]")]
    tcp: Option<String>,
    /// Look for units on a serial line behind a converter that passes RTU frames on
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "tcp")]
    rtu_over_tcp: Option<String>,
    /// How units speak on the serial port
    #[arg(long, value_name = "rtu|ascii", default_value = "rtu", value_parser = ["rtu", "ascii"])]
    framing: String,
    /// Speeds to try, likely ones first
    #[arg(short, long, value_name = "BAUD", value_delimiter = ',', default_values_t = ["9600", "19200", "38400", "115200", "57600", "4800", "2400"].map(String::from))]
    baud_rate: Vec<String>,
    /// Parities to try: none, even, odd
    #[arg(short = 'P', long, value_name = "PARITY", value_delimiter = ',', default_values_t = ["none", "even"].map(String::from))]
    parity: Vec<String>,
    /// 1 or 2
    #[arg(short, long, value_name = "N", default_value = "1")]
    stop_bits: String,
    /// Unit numbers to try
    #[arg(short = 'a', long, value_name = "FROM-TO", default_value = "1-247", value_parser = parse_units)]
    units: Units,
    /// How long an answer may take [default: 200ms, over a network 500ms]
    #[arg(short = 'o', long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Stop after so long with what was found
    #[arg(long = "for", value_name = "DURATION", default_value = "2m", value_parser = parse_limit)]
    limit: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Units(Vec<u8>);

/// `1-247`, `1,5,7-9`
fn parse_units(text: &str) -> Result<Units, &'static str> {
    const WRONG: &str = "numbers from 0 to 255, like 1-10 or 1,5";
    let mut units = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.trim().parse::<u8>(), to.trim().parse::<u8>());
        let (Ok(from), Ok(to)) = (from, to) else { return Err(WRONG) };
        if from > to {
            return Err(WRONG);
        }
        units.extend((from..=to).filter(|unit| !units.contains(unit)).collect::<Vec<u8>>());
    }
    Ok(Units(units))
}

fn parse_limit(text: &str) -> Result<Duration, &'static str> {
    duration::parse(text).filter(|limit| *limit > Duration::ZERO).ok_or("like 30s or 5m")
}

pub fn run(args: &ScanArgs) -> ExitCode {
    match args.place() {
        None => report(list_ports(args.json)),
        Some(_) => run_tool(scan(args)),
    }
}

fn list_ports(is_json: bool) -> Result<(), ToolError> {
    let ports = list(Path::new("/dev"), Path::new("/sys"));
    let text = if is_json {
        let shown =
            |port: &SerialPort| json!({ "path": port.path, "by_id": port.by_id, "driver": port.driver });
        format!("{}\n", json!({ "ports": ports.iter().map(shown).collect::<Vec<Json>>() }))
    } else if ports.is_empty() {
        "no serial ports (an adapter that is plugged in appears here)\n".to_owned()
    } else {
        let columns = [("PORT", Align::Left), ("DRIVER", Align::Left), ("STABLE NAME", Align::Left)];
        let mut table = TextTable::new(columns);
        for port in &ports {
            let by_id = port.by_id.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
            let driver = port.driver.clone().unwrap_or_else(|| "-".to_owned());
            table.push([port.path.display().to_string(), driver, by_id]);
        }
        table.render()
    };
    print(&text)
}

/// How a line is spoken to; without a speed it is an address.
#[derive(Debug, Clone)]
struct Setting {
    endpoint: Endpoint,
    timeout: Duration,
    speed: Option<Speed>,
}

#[derive(Debug, Clone)]
struct Speed {
    baud_rate: String,
    parity: String,
    data_bits: &'static str,
}

impl ScanArgs {
    fn place(&self) -> Option<&str> {
        self.port.as_ref().or(self.tcp.as_ref()).or(self.rtu_over_tcp.as_ref()).map(|place| &**place)
    }

    /// Modbus ASCII is mostly spoken with seven of them.
    fn data_bits(&self) -> &'static [&'static str] {
        if self.framing == "ascii" { &["7", "8"] } else { &["8"] }
    }
}

impl Setting {
    /// `9600 even`
    fn name(&self) -> String {
        match &self.speed {
            Some(Speed { baud_rate, parity, data_bits: "8" }) => format!("{baud_rate} {parity}"),
            Some(Speed { baud_rate, parity, data_bits }) => format!("{baud_rate} {parity} {data_bits} bits"),
            None => self.endpoint.to_string(),
        }
    }
}

/// A unit that answered.
#[derive(Debug)]
struct Found {
    unit: u8,
    /// To a read of holding register 0.
    answer: String,
}

struct Scan {
    begun: Instant,
    limit: Duration,
    setting: Option<Setting>,
    found: Vec<Found>,
    /// A setting at which something came that was no answer.
    noise: Option<String>,
    /// The last one that was tried, where the time was over.
    stopped_at: Option<String>,
    /// It answers under every number.
    is_every: bool,
    progress: Progress,
}

fn settings(args: &ScanArgs) -> Result<Vec<Setting>, ToolError> {
    let timeout = args.timeout.as_deref().unwrap_or(if args.port.is_none() { "500ms" } else { "200ms" });
    let framing = (args.framing != "rtu").then_some(&*args.framing);
    let make = |link, port| {
        let link = LinkText { link: Some(link), timeout: Some(timeout), port, unit: None, framing };
        let config = PointArgs::default().configuration(&link, false)?;
        let timeout = config.devices.first().map(|device| device.timeout).unwrap_or_default();
        let endpoint = lines(&config).into_iter().next().map(|(endpoint, _)| endpoint);
        endpoint.map(|endpoint| (endpoint, timeout)).ok_or_else(|| ToolError::usage("no line"))
    };
    let network = args.tcp.as_ref().map(|address| ("tcp", &**address));
    if let Some(link) = network.or(args.rtu_over_tcp.as_ref().map(|address| ("rtu_over_tcp", &**address))) {
        if framing.is_some() {
            return Err(ToolError::usage("--framing is of a serial port"));
        }
        let (endpoint, timeout) = make(link, Vec::new())?;
        return Ok(vec![Setting { endpoint, timeout, speed: None }]);
    }
    let path = args.port.as_deref().unwrap_or_default();
    let mut settings = Vec::new();
    for baud_rate in &args.baud_rate {
        for (parity, data_bits) in
            args.parity.iter().flat_map(|parity| args.data_bits().iter().map(move |bits| (parity, *bits)))
        {
            let of_port = vec![
                ("baud_rate", &**baud_rate),
                ("parity", parity),
                ("stop_bits", &args.stop_bits),
                ("data_bits", data_bits),
            ];
            let (endpoint, timeout) = make(("port", path), of_port)?;
            let speed = Speed { baud_rate: baud_rate.clone(), parity: parity.clone(), data_bits };
            settings.push(Setting { endpoint, timeout, speed: Some(speed) });
        }
    }
    if settings.len() > SETTINGS_MAX {
        return Err(ToolError::usage(format_args!("too many speeds and parities (at most {SETTINGS_MAX})")));
    }
    Ok(settings)
}

async fn scan(args: &ScanArgs) -> Result<(), ToolError> {
    let settings = settings(args)?;
    let mut scan = Scan {
        begun: Instant::now(),
        limit: args.limit,
        setting: None,
        found: Vec::new(),
        noise: None,
        stopped_at: None,
        is_every: false,
        progress: Progress::start(),
    };
    let ended = scan.run(settings, &args.units.0).await;
    scan.progress.clear();
    ended?;
    let place = args.place().unwrap_or_default();
    let text = if args.json { scan.json(args) } else { scan.yaml(args, place) };
    print(&text)?;
    if scan.found.is_empty() {
        let noise = scan.noise.map(|at| format!("; at {at} came what was no answer")).unwrap_or_default();
        let stopped = scan.stopped_at.map(|at| format!("; stopped at {at}, `--for` gives more time"));
        return Err(ToolError::Outcome(format!(
            "{place}: nobody answers (check wiring, power and unit numbers{noise}{})",
            stopped.unwrap_or_default()
        )));
    }
    Ok(())
}

impl Scan {
    /// Likely units at every setting first. Where one answers, all others on the line speak as it does.
    async fn run(&mut self, settings: Vec<Setting>, units: &[u8]) -> Result<(), ToolError> {
        let (likely, others) = units.split_at(LIKELY_UNITS.min(units.len()));
        let rounds = [likely, others].into_iter().filter(|units| !units.is_empty());
        let mut todo: VecDeque<(usize, &[u8])> =
            rounds.flat_map(|units| (0..settings.len()).map(move |setting| (setting, units))).collect();
        while let Some((at, units)) = todo.pop_front() {
            let Some(setting) = settings.get(at) else { continue };
            let known = self.found.len();
            self.probe_all(setting, units).await?;
            if self.is_every || self.stopped_at.is_some() {
                return Ok(());
            }
            if self.found.len() > known {
                todo.retain(|(other, _)| *other == at);
            }
        }
        Ok(())
    }

    async fn probe_all(&mut self, setting: &Setting, units: &[u8]) -> Result<(), ToolError> {
        let mut asker = Asker::direct(&setting.endpoint, 0, setting.timeout, false);
        for (index, unit) in units.iter().enumerate() {
            if self.begun.elapsed() >= self.limit {
                self.stopped_at = Some(format!("{} unit {unit}", setting.name()));
                return Ok(());
            }
            let found = self.found.len();
            self.progress.tell(|| format!("{}: unit {unit}, {found} found", setting.name()));
            asker.set_unit(*unit);
            let kind = RequestKind::Read { table: Table::Holding, address: 0, count: 1 };
            let answer = match asker.call(kind).await {
                Ok(Ok(Response::Words(words))) => {
                    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
                    format!("holding 0 is {}", words.join(" "))
                }
                Ok(Err(exception)) if exception.is_unit_silent() => continue,
                Ok(Err(exception)) => answer_of(exception),
                Err(ToolError::Line { error, .. }) if error.is_permanent() => {
                    return Err(ToolError::Line { error, unit: *unit, timeout: setting.timeout });
                }
                Ok(Ok(_)) | Err(ToolError::Line { error: LineError::Timeout | LineError::Broken(_), .. }) => {
                    continue;
                }
                Err(ToolError::Line { .. }) => {
                    self.noise.get_or_insert_with(|| setting.name());
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.setting.get_or_insert_with(|| setting.clone());
            self.found.push(Found { unit: *unit, answer });
            if self.found.len() > EVERY_UNIT_MIN && self.found.len() == index + 1 {
                self.is_every = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The units that are worth a device.
    fn shown(&self) -> &[Found] {
        let count = if self.is_every { 1 } else { self.found.len() };
        self.found.get(..count).unwrap_or(&[])
    }

    fn yaml(&self, args: &ScanArgs, place: &str) -> String {
        let Some(setting) = &self.setting else { return String::new() };
        let mut text = String::new();
        if let Some(at) = &self.stopped_at {
            let _ = writeln!(text, "# stopped after {} at {at}", DurationText(self.limit));
        }
        if self.is_every {
            let _ = writeln!(text, "# it answers under every unit number: one device");
        }
        let link = link_yaml(setting, args, place, &mut text);
        text.push_str("devices:\n");
        for Found { unit, answer } in self.shown() {
            let _ = writeln!(
                text,
                "  unit-{unit}:  # {}\n    modbus: {{ {link}, unit: {unit} }}\n    points:\n      first: {{ holding: 0 }}",
                printable(answer)
            );
        }
        text
    }

    fn json(&self, args: &ScanArgs) -> String {
        let speed = self.setting.as_ref().and_then(|setting| setting.speed.as_ref());
        let found: Vec<Json> =
            self.shown().iter().map(|found| json!({ "unit": found.unit, "answer": found.answer })).collect();
        let report = json!({
            "port": args.port,
            "tcp": args.tcp,
            "rtu_over_tcp": args.rtu_over_tcp,
            "framing": speed.map(|_| &args.framing),
            "baud_rate": speed.and_then(|speed| speed.baud_rate.parse::<u32>().ok()),
            "parity": speed.map(|speed| &speed.parity),
            "data_bits": speed.and_then(|speed| speed.data_bits.parse::<u8>().ok()),
            "complete": self.stopped_at.is_none(),
            "every_unit": self.is_every,
            "units": found,
        });
        format!("{report}\n")
    }
}

/// What stands in a device's `modbus`; its port goes before the devices.
fn link_yaml(setting: &Setting, args: &ScanArgs, place: &str, text: &mut String) -> String {
    let Some(Speed { baud_rate, parity, data_bits }) = &setting.speed else {
        let key = if args.rtu_over_tcp.is_some() { "rtu_over_tcp" } else { "tcp" };
        return format!("{key}: {}", Json::from(setting.endpoint.to_string()));
    };
    let path = Json::from(stable(place));
    let mut keys = format!("path: {path}, baud_rate: {baud_rate}, parity: {parity}");
    if args.stop_bits != "1" {
        let _ = write!(keys, ", stop_bits: {}", args.stop_bits);
    }
    if *data_bits != "8" {
        let _ = write!(keys, ", data_bits: {data_bits}");
    }
    let _ = writeln!(text, "ports:\n  line: {{ {keys} }}");
    let framing = if args.framing == "ascii" { ", framing: ascii" } else { "" };
    format!("port: line{framing}")
}

fn answer_of(exception: Exception) -> String {
    format!("answers with {exception}")
}

/// The name that stays, where the port has one.
fn stable(path: &str) -> String {
    let ports = list(Path::new("/dev"), Path::new("/sys"));
    let found = ports.into_iter().find(|port| port.path.as_path() == Path::new(path));
    found.and_then(|port| port.by_id).map_or_else(|| path.to_owned(), |by_id| by_id.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::{Units, parse_units};

    #[test]
    fn units_are_numbers_and_ranges() {
        assert_eq!(parse_units("1-3,7,2"), Ok(Units(vec![1, 2, 3, 7])));
        assert_eq!(parse_units("0-255").map(|units| units.0.len()), Ok(256));
        for text in ["", "a", "3-1", "256", "1-", "-1"] {
            assert!(parse_units(text).is_err(), "{text}");
        }
    }
}
