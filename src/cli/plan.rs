//! `tidegate plan`: what the configuration asks of each line. Opens no line and asks nobody.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::bus::load::{Load, Planned};
use crate::bus::{Endpoint, lines};
use crate::cli::table::{Align, Table};
use crate::cli::{ConfigArgs, fail, load_config};
use crate::config::duration::DurationText;
use crate::config::model::Config;
use crate::config::port::{DataBits, Parity, StopBits};

const ASSUMED: &str =
    "The addresses of SunSpec points are assumed: each unit says at run time where they lie.\n";
/// Of a column with the names of points.
const NAMES_CHARS_MAX: usize = 60;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1: a line has less time than its polls take. Times are those on the wire, with the silence \
that Modbus demands, without what the units take to answer.

Examples:
  tidegate plan
  tidegate plan -c tidegate.yaml --json"
)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &PlanArgs) -> ExitCode {
    let config = match load_config(&args.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let loads = loads(&config);
    let text = if args.json {
        let lines: Vec<Json> = loads.iter().map(|(endpoint, load)| json_of(endpoint, load)).collect();
        format!("{}\n", json!({ "lines": lines }))
    } else {
        loads.iter().map(|(endpoint, load)| text_of(endpoint, load)).collect::<Vec<_>>().join("\n")
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        // A reader that hung up has seen enough.
        return ExitCode::FAILURE;
    }
    let overloaded = loads.iter().find_map(|(endpoint, load)| overload(endpoint, load));
    overloaded.map_or(ExitCode::SUCCESS, fail)
}

/// Each line of the configuration.
pub fn loads(config: &Config) -> Vec<(Endpoint, Load)> {
    let lines = lines(config).into_iter();
    lines
        .map(|(endpoint, settings)| {
            let load = Load::of(&endpoint, &settings);
            (endpoint, load)
        })
        .collect()
}

/// What is wrong with a line that cannot carry its polls, and what would be right.
pub fn overload(endpoint: &Endpoint, load: &Load) -> Option<String> {
    let share = load.share.filter(|_| !load.fits())?;
    let heaviest = load.requests.iter().max_by(|a, b| weight(a).total_cmp(&weight(b)));
    let such_as = heaviest.map(|planned| {
        let longer = DurationText(stretched(planned.every, share));
        format!(", {} `poll: {longer}` in place of {}", planned.device, DurationText(planned.every))
    });
    let speed = load.baud_rate_fitting.map(|baud_rate| format!("; or `baud_rate: {baud_rate}`"));
    Some(format!(
        "{}: polls take {:.0} % of the line's time, and it has 100 % (polls {} times as long would be right{}{})",
        path_of(endpoint),
        (share * 100.0).ceil(),
        (share * 100.0).ceil() / 100.0,
        such_as.unwrap_or_default(),
        speed.unwrap_or_default()
    ))
}

/// So much longer that all of a line's polls fit where all are, with two digits that count.
fn stretched(every: Duration, share: f64) -> Duration {
    let millis = every.as_secs_f64() * 1000.0 * share;
    let step = 10f64.powf((millis.max(1.0).log10()).floor() - 1.0).max(1.0);
    Duration::from_secs_f64((millis / step).ceil() * step / 1000.0)
}

fn weight(planned: &Planned) -> f64 {
    planned.takes.unwrap_or_default().as_secs_f64() / planned.every.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn path_of(endpoint: &Endpoint) -> String {
    endpoint.port().map_or_else(|| endpoint.to_string(), |port| format!("ports.{}", port.name))
}

/// `9600 8N1`
fn speed(endpoint: &Endpoint) -> Option<String> {
    let port = endpoint.port()?;
    let data_bits = if port.data_bits == DataBits::Seven { 7 } else { 8 };
    let parity = match port.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    let stop_bits = if port.stop_bits == StopBits::Two { 2 } else { 1 };
    Some(format!("{} {data_bits}{parity}{stop_bits}", port.baud_rate))
}

fn text_of(endpoint: &Endpoint, load: &Load) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("DEVICE", Left),
        ("UNIT", Right),
        ("EVERY", Right),
        ("READS", Left),
        ("BYTES", Right),
        ("TAKES", Right),
        ("POINTS", Left),
    ]);
    for planned in &load.requests {
        table.push([
            planned.device.to_string(),
            planned.unit.to_string(),
            DurationText(planned.every).to_string(),
            reads(planned),
            format!("{}+{}", planned.bytes.0, planned.bytes.1),
            planned.takes.map_or_else(|| "-".to_owned(), millis),
            shortened(&planned.points),
        ]);
    }
    let mut text = format!("{endpoint}");
    if let Some(speed) = speed(endpoint) {
        let _ = write!(text, ", {speed}");
    }
    let per_second = load
        .requests
        .iter()
        .fold(0.0, |sum, planned| sum + 1.0 / planned.every.as_secs_f64().max(f64::MIN_POSITIVE));
    let _ = write!(text, ": {per_second:.2} requests/s");
    if let Some(share) = load.share {
        let verdict = if load.fits() { "fits" } else { "does not fit" };
        let _ = write!(text, ", {:.1} % of the line's time: {verdict}", share * 100.0);
    }
    if let Some(share) = endpoint.port().and_then(|port| port.share) {
        let writes = if share.writes { "reads and writes" } else { "reads only" };
        let cache = if share.cache.is_zero() {
            "each read is asked".to_owned()
        } else {
            format!("reads up to {} old are not asked again", DurationText(share.cache))
        };
        let _ = write!(
            text,
            "\n  shared on {}: {writes}, {cache}; where polls and other masters want all of the line, each has half",
            share.address
        );
    }
    let note = if load.is_assumed { ASSUMED } else { "" };
    text + "\n" + &table.render() + note
}

/// `input 0-9`
fn reads(planned: &Planned) -> String {
    let first = u32::from(planned.block.address);
    let last = first + u32::from(planned.block.count.saturating_sub(1));
    let table = planned.block.table.name();
    if first == last { format!("{table} {first}") } else { format!("{table} {first}-{last}") }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn shortened(names: &[Arc<str>]) -> String {
    let all = names.join(", ");
    if all.chars().count() <= NAMES_CHARS_MAX {
        return all;
    }
    let cut: String = all.chars().take(NAMES_CHARS_MAX).collect();
    format!("{cut}… ({} points)", names.len())
}

fn json_of(endpoint: &Endpoint, load: &Load) -> Json {
    let requests: Vec<Json> = load
        .requests
        .iter()
        .map(|planned| {
            json!({
                "device": &*planned.device,
                "unit": planned.unit,
                "every_seconds": planned.every.as_secs_f64(),
                "table": planned.block.table.name(),
                "address": planned.block.address,
                "count": planned.block.count,
                "points": planned.points.iter().map(|name| &**name).collect::<Vec<&str>>(),
                "request_bytes": planned.bytes.0,
                "answer_bytes": planned.bytes.1,
                "takes_seconds": planned.takes.map(|takes| takes.as_secs_f64()),
            })
        })
        .collect();
    json!({
        "line": endpoint.to_string(),
        "speed": speed(endpoint),
        "share": load.share,
        "fits": load.fits(),
        "shared": endpoint.port().and_then(|port| port.share).map(|share| json!({
            "address": share.address.to_string(),
            "cache_seconds": share.cache.as_secs_f64(),
            "writes": share.writes,
        })),
        "assumed": load.is_assumed,
        "requests": requests,
    })
}
