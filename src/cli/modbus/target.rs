//! Which unit on which line a tool speaks to: a device of the configuration, or an address or serial port by hand.
//! Opens nothing.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::app::socket_path;
use crate::bus::{Endpoint, lines};
use crate::cli::load_config;
use crate::cli::modbus::ToolError;
use crate::cli::modbus::point::{LinkText, PointArgs};
use crate::config::model::{Config, Device, Point};
use crate::config::raw::nearest;

#[derive(Debug, Args)]
pub struct TargetArgs {
    /// The configuration, where a device or a port of it is named
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.yaml")]
    pub config: PathBuf,
    /// A Modbus TCP server, without a configuration
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "port")]
    pub tcp: Option<String>,
    /// A serial line behind a converter that passes RTU frames on, without a configuration
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["tcp", "port"])]
    pub rtu_over_tcp: Option<String>,
    /// A serial port: its path, or its name in the configuration
    #[arg(long, value_name = "PATH|NAME")]
    pub port: Option<String>,
    /// The unit's number [default: 1]
    #[arg(short = 'a', long, value_name = "N")]
    pub unit: Option<String>,
    /// Of the port at PATH [default: 9600]
    #[arg(short, long, value_name = "BAUD", requires = "port")]
    pub baud_rate: Option<String>,
    /// Of the port at PATH: none, even, odd [default: none]
    #[arg(short = 'P', long, value_name = "PARITY", requires = "port")]
    pub parity: Option<String>,
    /// Of the port at PATH: 1, 2 [default: 1]
    #[arg(short, long, value_name = "N", requires = "port")]
    pub stop_bits: Option<String>,
    /// How long an answer may take [default: 1s, or the device's]
    #[arg(short = 'o', long, value_name = "DURATION")]
    pub timeout: Option<String>,
}

/// A unit on a line.
#[derive(Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    /// With the points that are meant.
    pub device: Device,
    /// Of these points, the last: only the others' scale comes from them.
    pub hidden: usize,
    /// The points have names of their own.
    pub is_named: bool,
    /// Where a gateway answers that may own the line.
    pub socket: Option<PathBuf>,
}

impl Target {
    pub fn first_point(&self) -> Result<&Point, ToolError> {
        self.device.points.first().ok_or_else(|| ToolError::usage("no point"))
    }
}

impl TargetArgs {
    /// `names`: a device of the configuration and points of it; empty with `--tcp` and `--port`.
    pub fn resolve(
        &self,
        names: &[String],
        point: &PointArgs,
        is_writable: bool,
    ) -> Result<Target, ToolError> {
        let network = self.network();
        match (network, &self.port, names.split_first()) {
            (None, None, None) => Err(ToolError::usage(
                "which unit? (a DEVICE of the configuration, --tcp HOST:PORT, --rtu-over-tcp HOST:PORT or --port PATH would be right)",
            )),
            (None, None, Some((device, points))) => self.of_device(device, points, point, is_writable),
            (_, _, Some((name, _))) => {
                Err(ToolError::usage(format_args!("{name}: either a device or --tcp or --port is meant")))
            }
            (_, Some(name), None) if !name.contains('/') => self.of_port(name, point, is_writable),
            (network, port, None) => {
                let link = self.link(network.or(port.as_deref().map(|port| ("port", port))));
                let config = with_source(point)?.configuration(&link, is_writable)?;
                let (endpoint, device) = only_device(&config)?;
                Ok(Target { endpoint, device, hidden: 0, is_named: false, socket: None })
            }
        }
    }

    fn of_device(
        &self,
        name: &str,
        points: &[String],
        by_hand: &PointArgs,
        is_writable: bool,
    ) -> Result<Target, ToolError> {
        if self.unit.is_some() {
            return Err(ToolError::usage("--unit: a device of the configuration has its own"));
        }
        let config = load_config(&self.config).map_err(ToolError::Config)?;
        let known = || config.devices.iter().map(|device| &*device.name);
        let (endpoint, mut device) =
            device_of(&config, name).ok_or_else(|| ToolError::usage(unknown("device", name, known())))?;
        let is_named = !by_hand.has_source();
        let link = self.link(None);
        let hand = by_hand.configuration(&link, is_writable)?;
        let hand = hand.devices.first().ok_or_else(|| ToolError::usage("no point"))?;
        if self.timeout.is_some() {
            device.timeout = hand.timeout;
        }
        if !is_named && !points.is_empty() {
            return Err(ToolError::usage("either points of the device or an address is meant"));
        }
        let mut hidden = 0;
        if is_named {
            (device.points, hidden) = chosen(&device, points)?;
        } else {
            device.points.clone_from(&hand.points);
        }
        Ok(Target { endpoint, device, hidden, is_named, socket: Some(socket_path(&config)) })
    }

    /// A port of the configuration, and any unit on it.
    fn of_port(&self, name: &str, point: &PointArgs, is_writable: bool) -> Result<Target, ToolError> {
        let of_line = [&self.baud_rate, &self.parity, &self.stop_bits];
        if of_line.iter().any(|option| option.is_some()) {
            return Err(ToolError::usage("--port: one of the configuration has its own speed and parity"));
        }
        let config = load_config(&self.config).map_err(ToolError::Config)?;
        let known = || config.ports.iter().map(|port| &*port.name);
        let port = config.ports.iter().find(|port| *port.name == *name);
        let port = port.ok_or_else(|| {
            ToolError::usage(format_args!("--port: {} (a path has a slash)", unknown("port", name, known())))
        })?;
        let hand = with_source(point)?.configuration(&self.link(None), is_writable)?;
        let (_, device) = only_device(&hand)?;
        let socket = Some(socket_path(&config));
        // As the devices on it speak.
        let of_devices = lines(&config).into_iter().map(|(endpoint, _)| endpoint);
        let endpoint = of_devices.into_iter().find(|endpoint| endpoint.port() == Some(port));
        let endpoint = endpoint.unwrap_or_else(|| Endpoint::Rtu(port.clone()));
        Ok(Target { endpoint, device, hidden: 0, is_named: false, socket })
    }

    /// Key and value of an address.
    pub fn network(&self) -> Option<(&'static str, &str)> {
        let tcp = self.tcp.as_deref().map(|tcp| ("tcp", tcp));
        tcp.or(self.rtu_over_tcp.as_deref().map(|converter| ("rtu_over_tcp", converter)))
    }

    fn link<'a>(&'a self, link: Option<(&'static str, &'a str)>) -> LinkText<'a> {
        let port = [("baud_rate", &self.baud_rate), ("parity", &self.parity), ("stop_bits", &self.stop_bits)];
        LinkText {
            link,
            unit: self.unit.as_deref(),
            timeout: self.timeout.as_deref(),
            framing: None,
            port: port.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect(),
        }
    }
}

fn with_source(point: &PointArgs) -> Result<&PointArgs, ToolError> {
    if point.has_source() {
        return Ok(point);
    }
    Err(ToolError::usage("which address? (--holding N, --input N, --coil N or --discrete N would be right)"))
}

fn only_device(config: &Config) -> Result<(Endpoint, Device), ToolError> {
    let mut found = lines(config).into_iter();
    let line = found.next().and_then(|(endpoint, settings)| {
        settings.devices.into_iter().next().map(|(_, device)| (endpoint, Arc::unwrap_or_clone(device)))
    });
    line.ok_or_else(|| ToolError::usage("no device"))
}

fn device_of(config: &Config, name: &str) -> Option<(Endpoint, Device)> {
    lines(config).into_iter().find_map(|(endpoint, settings)| {
        let device = settings.devices.into_iter().find(|(_, device)| *device.name == *name);
        device.map(|(_, device)| (endpoint, Arc::unwrap_or_clone(device)))
    })
}

/// The points of these names, behind them those from which only their scale comes, and how many those are. Without
/// names: all points.
fn chosen(device: &Device, names: &[String]) -> Result<(Vec<Point>, usize), ToolError> {
    if names.is_empty() {
        let hidden = device.points.iter().filter(|point| point.is_hidden()).count();
        return Ok((device.points.clone(), hidden));
    }
    let find = |name: &String| {
        let known = device.points.iter().filter(|point| !point.is_hidden()).map(|point| &*point.name);
        let found = device.points.iter().find(|point| *point.name == **name);
        found.cloned().ok_or_else(|| ToolError::usage(unknown("point", name, known)))
    };
    let mut points: Vec<Point> = names.iter().map(find).collect::<Result<_, _>>()?;
    for at in 0..points.len() {
        let scale = points[at].scale_from.and_then(|from| device.points.get(from));
        points[at].scale_from = scale.map(|_| points.len());
        points.extend(scale.cloned());
    }
    let hidden = points.len() - names.len();
    Ok((points, hidden))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let name_shown = name.escape_debug();
    if let Some(near) = nearest(name, known.clone()) {
        return format!("no {what} `{name_shown}` is configured (did you mean `{near}`?)");
    }
    let known: Vec<&str> = known.collect();
    format!("no {what} `{name_shown}` is configured (known: {})", known.join(", "))
}
