//! `tidegate write`: one value, or several one behind the other, written by hand. A point of the configuration keeps
//! its bounds and is read back; an address gets exactly one request.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::modbus::ask::Asker;
use crate::cli::modbus::point::{PointArgs, row};
use crate::cli::modbus::read::json_of;
use crate::cli::modbus::target::{Target, TargetArgs};
use crate::cli::modbus::{OutputArgs, ToolError, print, run_tool};
use crate::config::model::Point;
use crate::device::command;
use crate::device::map::encode::{Raw, encode};
use crate::device::map::{Exponent, ValueError, exponent_of};
use crate::device::plan::Block;
use crate::device::request::{RequestKind, Response};
use crate::device::value::Value;
use crate::device::ways::{Unknown, Way};

/// Modbus Application Protocol 6.12, 6.11: registers and coils in one write.
const REGISTERS_MAX: usize = 123;
const COILS_MAX: usize = 1968;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate write main-meter setpoint 21.5               a writable point of the configuration; read back
  tidegate write --tcp 192.168.1.50 --holding 100 --type i16 --scale 0.1 21.5
  tidegate write --port /dev/ttyUSB0 -a 7 --coil 3 true false")]
pub struct WriteArgs {
    /// A device and a point of the configuration before the value; else values, one behind the other
    #[arg(value_name = "DEVICE POINT VALUE | VALUE", required = true, allow_negative_numbers = true)]
    words: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    point: PointArgs,
}

pub fn run(args: &WriteArgs) -> ExitCode {
    run_tool(write(args))
}

async fn write(args: &WriteArgs) -> Result<(), ToolError> {
    let is_by_hand = args.target.network().is_some() || args.target.port.is_some();
    let names = match (is_by_hand, args.point.has_source()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    let Some((names, values)) = args.words.split_at_checked(names).filter(|(_, values)| !values.is_empty())
    else {
        return Err(ToolError::usage(
            "what value? (DEVICE POINT VALUE, or an address and VALUE would be right)",
        ));
    };
    let target = args.target.resolve(names, &args.point, true)?;
    let first = target.first_point()?;
    if target.is_named && values.len() > 1 {
        return Err(ToolError::usage(format_args!("{}: a point takes one value", first.name)));
    }
    let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
    let points = row(first, count)?;
    let mut asker = Asker::open(&target, args.output.verbose).await?;
    let exponent = exponent_for(first, &target, &mut asker).await?;
    let (values, raws) = encoded(&points, values, exponent)?;
    let kind = match &raws[..] {
        [raw @ Raw::Masked(_)] => kind_of_bits(first, raw, &mut asker).await?,
        raws => kind_of(first, raws)?,
    };
    match asker.call(kind).await? {
        Ok(_) => {}
        Err(exception) => return Err(ToolError::Exception(exception)),
    }
    let shown =
        if target.is_named { vec![read_back((first, exponent), &raws, &mut asker).await?] } else { values };
    let text = if args.output.json {
        json_text(args, &target, first, &shown)
    } else {
        plain_text(args, &target, first, &shown)
    };
    print(&text)
}

/// What the value is scaled with now.
async fn exponent_for(point: &Point, target: &Target, asker: &mut Asker) -> Result<Exponent, ToolError> {
    let Some(scale) = point.scale_from.and_then(|from| target.device.points.get(from)) else { return Ok(0) };
    let block = block_of(scale);
    let response = asker.call(block.request_kind()).await?.map_err(ToolError::Exception)?;
    let value = block.value_of(scale, &response, 0);
    value.ok().as_ref().and_then(exponent_of).ok_or_else(|| {
        ToolError::Outcome(format!("{}: {}: {}", point.name, scale.name, ValueError::NoExponent))
    })
}

/// Some bits of registers: by function code 22 where it is one register, else by reading them first.
async fn kind_of_bits(point: &Point, raw: &Raw, asker: &mut Asker) -> Result<RequestKind, ToolError> {
    let (block, unknown) = (block_of(point), Unknown::default());
    let mut looked = None;
    loop {
        match unknown.way(raw, looked.as_deref(), &block, 0) {
            Way::Request(kind) => return Ok(kind),
            Way::Look if looked.is_none() => {
                match asker.call(block.request_kind()).await?.map_err(ToolError::Exception)? {
                    Response::Words(words) => looked = Some(words),
                    _ => return Err(ToolError::usage(format_args!("{}: no register", point.name))),
                }
            }
            Way::Look | Way::None => {
                return Err(ToolError::usage(format_args!("{}: cannot be written", point.name)));
            }
        }
    }
}

fn block_of(point: &Point) -> Block {
    let (table, address) = (point.source.table, point.source.address);
    Block { table, address, count: point.value_type.registers(), points: vec![0] }
}

fn encoded(
    points: &[Point],
    texts: &[String],
    exponent: Exponent,
) -> Result<(Vec<Value>, Vec<Raw>), ToolError> {
    let encode = |(point, text): (&Point, &String)| {
        let refused =
            |error: &dyn std::fmt::Display| ToolError::usage(format_args!("{}: {error}", point.name));
        let value = command::parse(point, text.as_bytes()).map_err(|error| refused(&error))?;
        let raw = encode(point, &value, exponent).map_err(|error| refused(&error))?;
        Ok((value, raw))
    };
    points.iter().zip(texts).map(encode).collect::<Result<Vec<_>, _>>().map(|pairs| pairs.into_iter().unzip())
}

fn kind_of(first: &Point, raws: &[Raw]) -> Result<RequestKind, ToolError> {
    let address = first.source.address;
    let (mut bits, mut words) = (Vec::new(), Vec::new());
    for raw in raws {
        match raw {
            Raw::Bit(bit) => bits.push(*bit),
            Raw::Words(some) => words.extend_from_slice(some),
            Raw::Masked(_) => return Err(ToolError::usage("bits are written by the name of their point")),
        }
    }
    if bits.len() > COILS_MAX || words.len() > REGISTERS_MAX {
        return Err(ToolError::usage(format_args!(
            "too many values for one request (at most {REGISTERS_MAX} registers or {COILS_MAX} coils)"
        )));
    }
    Ok(match (&*bits, &*words) {
        ([bit], _) => RequestKind::WriteCoil { address, bit: *bit },
        ([], [word]) => RequestKind::WriteRegister { address, word: *word },
        ([], _) => RequestKind::WriteRegisters { address, words },
        _ => RequestKind::WriteCoils { address, bits },
    })
}

/// The value that the device holds now, where it is the one that was written.
async fn read_back(
    (point, exponent): (&Point, Exponent),
    raws: &[Raw],
    asker: &mut Asker,
) -> Result<Value, ToolError> {
    let block = block_of(point);
    let response = match asker.call(block.request_kind()).await? {
        Ok(response) => response,
        Err(exception) => {
            return Err(ToolError::Outcome(format!(
                "{}: written, but not read back: {exception}",
                point.name
            )));
        }
    };
    let is_shown = match (raws, &response) {
        ([Raw::Bit(bit)], Response::Bits(bits)) => **bits == [*bit],
        ([Raw::Words(written)], Response::Words(words)) => written == words,
        ([Raw::Masked(masked)], Response::Words(words)) => {
            masked.iter().zip(words).all(|(masked, word)| word & masked.mask == masked.bits)
        }
        _ => false,
    };
    let value = block.value_of(point, &response, exponent).map_err(|error| error.to_string());
    match value {
        Ok(value) if is_shown => Ok(value),
        Ok(value) => {
            Err(ToolError::Outcome(format!("{}: the device holds {value} after the write", point.name)))
        }
        Err(error) => Err(ToolError::Outcome(format!("{}: after the write: {error}", point.name))),
    }
}

fn plain_text(args: &WriteArgs, target: &Target, first: &Point, values: &[Value]) -> String {
    let unit = first.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
    let line = |(index, value): (usize, &Value)| {
        let name = if target.is_named {
            first.name.to_string()
        } else {
            format!("{} {}", first.source.table.name(), address_of(args, first, index))
        };
        format!("{name}: {value}{unit}\n")
    };
    values.iter().enumerate().map(line).collect()
}

fn json_text(args: &WriteArgs, target: &Target, first: &Point, values: &[Value]) -> String {
    let table = first.source.table.name();
    let rows = values.iter().enumerate().map(|(index, value)| {
        let mut row = json!({ "value": json_of(value), "ok": true });
        row[table] = address_of(args, first, index).into();
        if target.is_named {
            row["point"] = (&*first.name).into();
        }
        row
    });
    let rows: Vec<_> = rows.collect();
    format!("{}\n", json!({ "unit": target.device.link.unit(), "values": rows }))
}

/// As it was written.
fn address_of(args: &WriteArgs, first: &Point, index: usize) -> usize {
    let registers = usize::from(first.value_type.registers());
    usize::from(first.source.address) + usize::from(args.point.base()) + index * registers
}
