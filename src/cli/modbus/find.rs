//! `tidegate find`: what a register means, from a value that is known. At most three requests; changes nothing.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::cli::modbus::ask::Asker;
use crate::cli::modbus::point::PointArgs;
use crate::cli::modbus::target::TargetArgs;
use crate::cli::modbus::{OutputArgs, ToolError, print, run_tool};
use crate::config::model::{Order, Point, Source, Table};
use crate::config::point::WordOrder;
use crate::device::find::{self, Fit, Known};
use crate::device::map::type_name;
use crate::device::request::{Exception, RequestKind, Response};
use crate::device::value::float_text;

/// A number of 32 bits: most are no longer.
const PAIR_REGISTERS: u16 = 2;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate find --tcp 192.168.1.50 -a 1 --input 0 --expect 230.1
  tidegate find main-meter --holding 40001 --address-base 1 --expect 49.98 --within 0.5%
The value is what the display shows now; the more digits, the surer the guess.")]
pub struct FindArgs {
    /// A device of the configuration
    device: Option<String>,
    /// The value that the register is known to hold
    #[arg(long, value_name = "NUMBER", required = true, allow_negative_numbers = true)]
    expect: String,
    /// What it may have changed by since: a number, or a share of it
    #[arg(long, value_name = "NUMBER|PERCENT", default_value = "1%")]
    within: String,
    /// A holding register
    #[arg(long, value_name = "ADDRESS", required_unless_present = "input")]
    holding: Option<String>,
    /// An input register
    #[arg(long, value_name = "ADDRESS", conflicts_with = "holding")]
    input: Option<String>,
    /// 0: as on the wire, 1: as many manuals count
    #[arg(long, value_name = "0|1")]
    address_base: Option<String>,
    /// What the point is called in the YAML
    #[arg(long, value_name = "NAME", default_value = "value")]
    name: String,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: &FindArgs) -> ExitCode {
    run_tool(find(args))
}

async fn find(args: &FindArgs) -> Result<(), ToolError> {
    let known = known(args)?;
    let point = PointArgs {
        holding: args.holding.clone(),
        input: args.input.clone(),
        address_base: args.address_base.clone(),
        ..PointArgs::default()
    };
    let base = point.base();
    let names: Vec<String> = args.device.iter().cloned().collect();
    let target = args.target.resolve(&names, &point, false)?;
    let asked = target.first_point()?;
    let mut search = Search {
        asker: Asker::open(&target, args.output.verbose).await?,
        asked,
        known,
        requests: 0,
        fits: Vec::new(),
        refused: None,
        looked_elsewhere: false,
    };
    search.run().await?;
    let Search { mut fits, requests, refused, looked_elsewhere, .. } = search;
    fits.sort_by_key(|fit| !fit.is_exact);
    fits.truncate(find::FITS_MAX);
    if fits.is_empty() {
        let refused = refused.map(|exception| format!("; the unit answered {exception}")).unwrap_or_default();
        let table = asked.source.table;
        let advice = match (looked_elsewhere, table) {
            (true, _) => "look at the display again, or allow more with --within",
            (false, Table::Input) => "--holding is the other table",
            (false, _) => "--input is the other table",
        };
        return Err(ToolError::Outcome(format!(
            "nothing around {} {} reads as {} ({advice}{refused})",
            table.name(),
            u32::from(asked.source.address) + u32::from(base),
            args.expect,
        )));
    }
    let shown = Shown { name: &args.name, base };
    let text = if args.output.json { shown.json(&fits, requests) } else { shown.text(&fits) };
    print(&text)
}

fn known(args: &FindArgs) -> Result<Known, ToolError> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    let value = number(&args.expect).ok_or_else(|| {
        ToolError::usage(format_args!("--expect: {} is no number", args.expect.escape_debug()))
    })?;
    if value == 0.0 {
        return Err(ToolError::usage("--expect: anything fits 0 (wait until the value is another one)"));
    }
    let within = match args.within.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| value.abs() * percent / 100.0),
        None => number(&args.within),
    };
    let within = within.filter(|within| *within >= 0.0);
    let within = within.ok_or_else(|| ToolError::usage("--within: a number or a share, like 0.5 or 1%"))?;
    let decimals = args.expect.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let exact_within = 0.5 * 10f64.powi(-i32::try_from(decimals).unwrap_or(i32::MAX));
    Ok(Known { value, exact_within, within })
}

struct Search<'a> {
    asker: Asker,
    asked: &'a Point,
    known: Known,
    requests: u32,
    fits: Vec<Fit>,
    refused: Option<Exception>,
    /// The other table was asked too.
    looked_elsewhere: bool,
}

/// What one request brought.
enum Look {
    /// The very digits.
    Found,
    NotThere,
    Refused(Exception),
}

impl Search<'_> {
    /// The address itself first. Where it says something else, its neighbours and the other table; where the unit refuses
    /// it, so that it may be the middle of a value or stand alone, what is before it and what is there at all.
    async fn run(&mut self) -> Result<(), ToolError> {
        let Source { table: named, address } = self.asked.source;
        let other = if named == Table::Input { Table::Holding } else { Table::Input };
        let pair = (address, PAIR_REGISTERS.min((u16::MAX - address).saturating_add(1)));
        match (self.look(named, pair).await?, address.checked_sub(1)) {
            (Look::Found, _) => Ok(()),
            (Look::NotThere, _) => match self.look(named, find::window(address)).await? {
                Look::Found => Ok(()),
                Look::NotThere | Look::Refused(_) => self.look(other, pair).await.map(drop),
            },
            (Look::Refused(exception), Some(before)) if !exception.is_illegal_function() => {
                match self.look(named, (before, PAIR_REGISTERS)).await? {
                    Look::Found => Ok(()),
                    Look::NotThere => self.look(other, pair).await.map(drop),
                    Look::Refused(_) => self.look(named, (address, 1)).await.map(drop),
                }
            }
            (Look::Refused(_), _) => match self.look(other, pair).await? {
                Look::Found => Ok(()),
                Look::NotThere => self.look(other, find::window(address)).await.map(drop),
                Look::Refused(_) => self.look(named, (address, 1)).await.map(drop),
            },
        }
    }

    async fn look(&mut self, table: Table, (start, count): (u16, u16)) -> Result<Look, ToolError> {
        self.requests += 1;
        self.looked_elsewhere |= table != self.asked.source.table;
        match self.asker.call(RequestKind::Read { table, address: start, count }).await? {
            Ok(Response::Words(words)) => {
                self.fits.extend(find::fits(self.asked, table, (start, &words), self.known));
                Ok(if self.fits.iter().any(|fit| fit.is_exact) { Look::Found } else { Look::NotThere })
            }
            Ok(_) => Ok(Look::NotThere),
            Err(exception) => {
                self.refused = Some(exception);
                Ok(Look::Refused(exception))
            }
        }
    }
}

/// As the configuration names it.
const fn name_of(order: WordOrder) -> &'static str {
    match order {
        WordOrder::Big => "big",
        WordOrder::Little => "little",
        WordOrder::BigSwapped => "big-swapped",
        WordOrder::LittleSwapped => "little-swapped",
    }
}

struct Shown<'a> {
    name: &'a str,
    base: u16,
}

impl Shown<'_> {
    fn address(&self, fit: &Fit) -> u32 {
        u32::from(fit.point.source.address) + u32::from(self.base)
    }

    /// The point as the configuration takes it: what is a default is left out.
    fn yaml(&self, fit: &Fit) -> String {
        let Point { source, value_type, word_order, byte_order, scale, .. } = &fit.point;
        let mut keys = format!("{}: {}", source.table.name(), self.address(fit));
        if self.base != 0 {
            let _ = write!(keys, ", address_base: {}", self.base);
        }
        let _ = write!(keys, ", type: {}", type_name(*value_type));
        if *word_order != WordOrder::Big {
            let _ = write!(keys, ", word_order: {}", name_of(*word_order));
        }
        if *byte_order == Order::Little {
            keys.push_str(", byte_order: little");
        }
        if scale.to_bits() != 1f64.to_bits() {
            let _ = write!(keys, ", scale: {}", float_text(*scale));
        }
        format!("{}: {{ {keys} }}", self.name)
    }

    fn text(&self, fits: &[Fit]) -> String {
        let mut text = String::new();
        for (index, fit) in fits.iter().enumerate() {
            let value = float_text(fit.value);
            let shift = match fit.shift {
                0 => String::new(),
                shift => format!(", the address is off by {shift:+}"),
            };
            let line = match index {
                0 => format!("{}  # {value} now{shift}\n", self.yaml(fit)),
                _ => format!("# or {}  # {value} now{shift}\n", self.yaml(fit)),
            };
            text.push_str(&line);
        }
        text
    }

    fn json(&self, fits: &[Fit], requests: u32) -> String {
        let order = |order: Order| if order == Order::Big { "big" } else { "little" };
        let fits: Vec<Json> = fits
            .iter()
            .map(|fit| {
                let mut object = json!({
                    "type": type_name(fit.point.value_type),
                    "word_order": name_of(fit.point.word_order),
                    "byte_order": order(fit.point.byte_order),
                    "scale": fit.point.scale,
                    "value": fit.value,
                    "exact": fit.is_exact,
                    "shift": fit.shift,
                    "yaml": self.yaml(fit),
                });
                object[fit.point.source.table.name()] = self.address(fit).into();
                object
            })
            .collect();
        format!("{}\n", json!({ "requests": requests, "fits": fits }))
    }
}
