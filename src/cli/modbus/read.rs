//! `tidegate read`: what registers or points hold now, asked by hand. Publishes nothing and changes nothing.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value as Json, json};

use crate::base::time::Clock;
use crate::cli::modbus::ask::Asker;
use crate::cli::modbus::point::{PointArgs, row};
use crate::cli::modbus::sunspec;
use crate::cli::modbus::target::{Target, TargetArgs};
use crate::cli::modbus::{OutputArgs, ToolError, print, run_tool};
use crate::cli::table::printable;
use crate::cli::{say_error, stop_signal};
use crate::config::duration;
use crate::config::model::Point;
use crate::device::map::{ValueError, exponent_of};
use crate::device::plan::{self, Block, Limits};
use crate::device::request::Response;
use crate::device::value::Value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate read main-meter voltage                      a point of the configuration, also beside a running gateway
  tidegate read main-meter                              all its points
  tidegate read --tcp 192.168.1.50 --input 0 --type f32 --count 3
  tidegate read --port /dev/ttyUSB0 -b 19200 -P even -a 7 --holding 40 -i 1s")]
#[command(mut_arg("json", |json| json.help("Print JSON, an object a line")))]
pub struct ReadArgs {
    /// A device of the configuration, and points of it; without points: all
    #[arg(value_name = "DEVICE [POINT]")]
    names: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Values, one behind the other
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, requires = "source", value_parser = clap::value_parser!(u16).range(1..=2000))]
    count: u16,
    /// Read again and again, until SIGINT
    #[arg(short, long, value_name = "DURATION", value_parser = parse_interval)]
    interval: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    point: PointArgs,
}

fn parse_interval(text: &str) -> Result<Duration, &'static str> {
    duration::parse(text).filter(|interval| *interval > Duration::ZERO).ok_or("like 500ms or 2s")
}

pub fn run(args: &ReadArgs) -> ExitCode {
    run_tool(async {
        tokio::select! {
            done = read(args) => done,
            stopped = stop_signal() => stopped.map_err(ToolError::Output),
        }
    })
}

async fn read(args: &ReadArgs) -> Result<(), ToolError> {
    let mut target = args.target.resolve(&args.names, &args.point, false)?;
    if !target.is_named
        && let Some(first) = target.device.points.first()
    {
        target.device.points = row(first, args.count)?;
    }
    let mut asker = Asker::open(&target, args.output.verbose).await?;
    let missing = sunspec::place(&mut target, &mut asker).await?;
    let Some(interval) = args.interval else { return once(args, (&target, &missing), &mut asker).await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        match once(args, (&target, &missing), &mut asker).await {
            Err(error @ (ToolError::Line { .. } | ToolError::Remote(_) | ToolError::Outcome(_))) => {
                say_error(error);
            }
            done => done?,
        }
    }
}

/// One look at all of them. Where a read is refused the others are still made.
async fn once(
    args: &ReadArgs,
    (target, missing): (&Target, &[Point]),
    asker: &mut Asker,
) -> Result<(), ToolError> {
    let points = &target.device.points;
    let mut answers = Vec::new();
    let mut refused = None;
    for block in blocks(target) {
        match asker.call(block.request_kind()).await? {
            Ok(response) => answers.push((block, response)),
            Err(exception) => refused = Some(exception),
        }
    }
    let time = Clock::start().now().wall;
    let shown = points.len().saturating_sub(target.hidden);
    let found: Vec<Option<Found>> = (0..shown).map(|index| Found::of(points, index, &answers)).collect();
    let rows = points.iter().zip(&found).filter_map(|(point, found)| Some((point, found.as_ref()?)));
    let text = if args.output.json {
        let values = rows.map(|(point, found)| found.json(args, target, point));
        let values: Vec<Json> = values.chain(missing.iter().map(missing_json)).collect();
        let unit = target.device.link.unit();
        format!("{}\n", json!({ "time": time.to_string(), "unit": unit, "values": values }))
    } else {
        rows.map(|(point, found)| found.text(args, target, point))
            .chain(missing.iter().map(|point| format!("{}: {}\n", point.name, missing_words(point))))
            .collect()
    };
    print(&text)?;
    match refused {
        Some(exception) => Err(ToolError::Exception(exception)),
        None if found.iter().flatten().any(|found| found.value.is_err()) => Err(ToolError::Outcome(
            "not every value can be decoded (another type or order may be right)".into(),
        )),
        None => Ok(()),
    }
}

/// What a `SunSpec` unit does not have.
fn missing_words(point: &Point) -> String {
    let sunspec = point.sunspec.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("the unit does not have it ({sunspec})")
}

fn missing_json(point: &Point) -> Json {
    json!({ "point": &*point.name, "value": null, "error": missing_words(point) })
}

fn blocks(target: &Target) -> Vec<Block> {
    let device = &target.device;
    let due: Vec<usize> = (0..device.points.len()).collect();
    plan::blocks(&device.points, &due, &Limits::of(device))
}

/// What stood there.
struct Found {
    /// Else why it is no value.
    value: Result<Value, String>,
    words: Vec<u16>,
}

impl Found {
    /// None: there was no answer.
    fn of(points: &[Point], index: usize, answers: &[(Block, Response)]) -> Option<Self> {
        let answer_to = |index: usize| answers.iter().find(|(block, _)| block.points.contains(&index));
        let (point, (block, response)) = (points.get(index)?, answer_to(index)?);
        let exponent = point.scale_from.map_or(Ok(0), |from| {
            let scale = points.get(from).zip(answer_to(from));
            let value = scale.and_then(|(scale, (block, response))| block.value_of(scale, response, 0).ok());
            value.as_ref().and_then(exponent_of).ok_or(ValueError::NoExponent)
        });
        let value = exponent.and_then(|exponent| block.value_of(point, response, exponent));
        let start = usize::from(point.source.address.saturating_sub(block.address));
        let words = match response {
            Response::Words(words) => {
                let end = start.saturating_add(usize::from(point.value_type.registers()));
                words.get(start..end).unwrap_or(&[]).to_vec()
            }
            _ => Vec::new(),
        };
        Some(Self { value: value.map_err(|error| error.to_string()), words })
    }

    fn text(&self, args: &ReadArgs, target: &Target, point: &Point) -> String {
        let name = if target.is_named {
            point.name.to_string()
        } else {
            format!("{} {}", point.source.table.name(), shown_address(args, point))
        };
        let unit = point.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
        let words: Vec<String> = self.words.iter().map(|word| format!("{word:04x}")).collect();
        let words = words.join(" ");
        match &self.value {
            Ok(value) => format!("{name}: {}{unit}\n", printable(&value.to_string())),
            Err(error) => format!("{name}: {error} ({words})\n"),
        }
    }

    fn json(&self, args: &ReadArgs, target: &Target, point: &Point) -> Json {
        let mut object = Map::new();
        if target.is_named {
            object.insert("point".into(), Json::from(&*point.name));
        }
        object.insert(point.source.table.name().into(), shown_address(args, point).into());
        match &self.value {
            Ok(value) => object.insert("value".into(), json_of(value)),
            Err(error) => {
                object.insert("value".into(), Json::Null);
                object.insert("error".into(), Json::from(error.as_str()))
            }
        };
        if let Some(unit) = &point.unit {
            object.insert("unit".into(), Json::from(&**unit));
        }
        if !self.words.is_empty() {
            object.insert("words".into(), Json::from(self.words.clone()));
        }
        Json::Object(object)
    }
}

/// As it was written.
fn shown_address(args: &ReadArgs, point: &Point) -> u32 {
    u32::from(point.source.address) + u32::from(args.point.base())
}

pub fn json_of(value: &Value) -> Json {
    let mut text = String::new();
    value.write_json(&mut text);
    serde_json::from_str(&text).unwrap_or(Json::Null)
}
