//! A point as it is named on the command line: the keys of the configuration as options, checked by the same rules
//! with the same words. Reads no file.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use crate::cli::modbus::ToolError;
use crate::config::error::Fault;
use crate::config::expand::ProcessEnvironment;
use crate::config::load;
use crate::config::model::{Config, Point};

/// Where the one device and the one point of a command line stand in its configuration.
const POINT_PATH: &str = "devices.unit.points.value";

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Point, as in the configuration")]
pub struct PointArgs {
    #[arg(long, value_name = "ADDRESS", group = "source")]
    pub coil: Option<String>,
    #[arg(long, value_name = "ADDRESS", group = "source")]
    pub discrete: Option<String>,
    #[arg(long, value_name = "ADDRESS", group = "source")]
    pub holding: Option<String>,
    #[arg(long, value_name = "ADDRESS", group = "source")]
    pub input: Option<String>,
    /// u16, i16, u32, f32 … [default: u16, or bool]
    #[arg(short = 't', long = "type", value_name = "TYPE", requires = "source")]
    pub value_type: Option<String>,
    /// Of a string, in registers
    #[arg(long, value_name = "REGISTERS", requires = "source")]
    pub length: Option<String>,
    /// Of the registers in a value: big, little …
    #[arg(long, value_name = "ORDER", requires = "source")]
    pub word_order: Option<String>,
    /// Of the bytes in a register: big, little
    #[arg(long, value_name = "ORDER", requires = "source")]
    pub byte_order: Option<String>,
    /// 0: as on the wire, 1: as many manuals count
    #[arg(long, value_name = "0|1", requires = "source")]
    pub address_base: Option<String>,
    #[arg(long, value_name = "FACTOR", requires = "source", allow_negative_numbers = true)]
    pub scale: Option<String>,
    #[arg(long, value_name = "NUMBER", requires = "source", allow_negative_numbers = true)]
    pub offset: Option<String>,
    /// Decimal places
    #[arg(long, value_name = "N", requires = "source")]
    pub round: Option<String>,
    /// Of a coil or discrete input
    #[arg(long, requires = "source")]
    pub invert: bool,
}

/// Where the device answers, as the configuration says it.
#[derive(Debug, Default)]
pub struct LinkText<'a> {
    /// Key and value: `tcp` or `port`.
    pub link: Option<(&'static str, &'a str)>,
    pub unit: Option<&'a str>,
    pub timeout: Option<&'a str>,
    /// Of the port, where it is not RTU.
    pub framing: Option<&'a str>,
    /// Of the port: `baud_rate`, `parity`, `stop_bits`.
    pub port: Vec<(&'static str, &'a str)>,
}

impl PointArgs {
    /// None named: a point of the configuration is meant.
    pub fn has_source(&self) -> bool {
        [&self.coil, &self.discrete, &self.holding, &self.input].iter().any(|source| source.is_some())
    }

    fn keys(&self) -> Vec<(&'static str, &str)> {
        let options = [
            ("coil", &self.coil),
            ("discrete", &self.discrete),
            ("holding", &self.holding),
            ("input", &self.input),
            ("type", &self.value_type),
            ("length", &self.length),
            ("word_order", &self.word_order),
            ("byte_order", &self.byte_order),
            ("address_base", &self.address_base),
            ("scale", &self.scale),
            ("offset", &self.offset),
            ("round", &self.round),
        ];
        let given = options.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        given.chain(self.invert.then_some(("invert", "true"))).collect()
    }

    /// What is added to an address where it is shown.
    pub fn base(&self) -> u16 {
        u16::from(self.address_base.as_deref() == Some("1"))
    }

    /// A configuration of one device, `unit`, with one point, `value`. Without a source it is holding 0.
    pub fn configuration(&self, link: &LinkText<'_>, is_writable: bool) -> Result<Config, ToolError> {
        let text = self.yaml(link, is_writable);
        load::parse("", &text, Path::new(""), &ProcessEnvironment)
            .map_err(|faults| ToolError::Usage(faults.0.iter().map(option_fault).collect()))
    }

    fn yaml(&self, link: &LinkText<'_>, is_writable: bool) -> String {
        let mut text = String::from("gateway: { id: by-hand }\n");
        let (key, value) = link.link.unwrap_or(("tcp", "127.0.0.1:502"));
        let modbus = if key == "port" {
            let of_port: String =
                link.port.iter().fold(String::new(), |all, (key, value)| all + &entry(key, value));
            // A path is text, whatever it looks like.
            let path = serde_json::Value::from(value);
            let _ = writeln!(text, "ports: {{ line: {{ path: {path}, {of_port} }} }}");
            entry("port", "line")
                + &link.framing.map_or_else(String::new, |framing| entry("framing", framing))
        } else {
            format!("{key}: {}, ", serde_json::Value::from(value))
        };
        let unit = entry("unit", link.unit.unwrap_or("1"));
        let timeout = entry("timeout", link.timeout.unwrap_or("1s"));
        let source = if self.has_source() { String::new() } else { entry("holding", "0") };
        let keys: String = self.keys().iter().map(|(key, value)| entry(key, value)).collect();
        let writable = if is_writable { "writable: true" } else { "" };
        let _ = writeln!(
            text,
            "devices: {{ unit: {{ modbus: {{ {modbus}{unit} }}, {timeout}points: {{ value: {{ {source}{keys}{writable} }} }} }} }}"
        );
        text
    }
}

/// `key: value, `; what YAML would not take for a plain word or number stands in quotes.
fn entry(key: &str, value: &str) -> String {
    let is_plain = !value.is_empty()
        && value.chars().all(|c| c.is_ascii_alphanumeric() || ".+-_".contains(c))
        && !value.starts_with('-')
        || value.parse::<f64>().is_ok();
    if is_plain {
        format!("{key}: {value}, ")
    } else {
        format!("{key}: {}, ", serde_json::Value::from(value))
    }
}

/// A fault in the words of the command line.
fn option_fault(fault: &Fault) -> String {
    let key = match fault.path.strip_prefix(POINT_PATH) {
        Some("") => None,
        Some(below) => Some(below.trim_start_matches('.')),
        // A path is what `--port` names.
        None if fault.path == "ports.line.path" => Some("port"),
        None => fault.path.rsplit('.').next().filter(|key| !key.is_empty()),
    };
    match key {
        Some(key) => format!("--{}: {}", key.replace('_', "-"), fault.problem),
        None => fault.problem.to_string(),
    }
}

/// `count` points of the first one's kind, one behind the other.
pub fn row(first: &Point, count: u16) -> Result<Vec<Point>, ToolError> {
    let registers = first.value_type.registers();
    let address_of = |index: u16| {
        let start = first.source.address.checked_add(index.checked_mul(registers)?)?;
        start.checked_add(registers.saturating_sub(1)).map(|_| start)
    };
    (0..count)
        .map(|index| {
            let mut point = first.clone();
            point.source.address =
                address_of(index).ok_or_else(|| ToolError::usage("--count: goes beyond address 65535"))?;
            Ok(point)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{LinkText, PointArgs, row};
    use crate::cli::modbus::ToolError;
    use crate::config::model::{Link, Table, ValueType};

    fn holding(address: &str) -> PointArgs {
        PointArgs { holding: Some(address.into()), ..PointArgs::default() }
    }

    #[test]
    fn options_are_the_keys_of_the_configuration() {
        let args = PointArgs {
            value_type: Some("f32".into()),
            word_order: Some("little".into()),
            scale: Some("-0.1".into()),
            address_base: Some("1".into()),
            ..holding("5")
        };
        let link = LinkText { link: Some(("tcp", "localhost:1502")), unit: Some("7"), ..LinkText::default() };
        let config = args.configuration(&link, true).expect("a point");
        let (device, point) = (&config.devices[0], &config.devices[0].points[0]);
        assert_eq!(device.link, Link::Tcp { address: "localhost:1502".into(), unit: 7 });
        assert_eq!((point.source.table, point.source.address), (Table::Holding, 4));
        assert_eq!((point.value_type, point.scale, point.writable), (ValueType::F32, -0.1, true));
        assert_eq!(row(point, 3).expect("room")[2].source.address, 8);
    }

    #[test]
    fn faults_name_the_option() {
        let port = LinkText {
            link: Some(("port", "/dev/no: [such")),
            unit: Some("300"),
            port: vec![("baud_rate", "fast"), ("parity", "${HOME")],
            ..LinkText::default()
        };
        let args = PointArgs { value_type: Some("f31".into()), ..holding("65536") };
        let Err(ToolError::Usage(problems)) = args.configuration(&port, false) else { panic!("a fault") };
        for option in ["--unit", "--baud-rate", "--parity", "--type", "--holding"] {
            assert!(problems.iter().any(|problem| problem.starts_with(option)), "{option}: {problems:?}");
        }
    }
}
