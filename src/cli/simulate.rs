//! `tidegate simulate`: plays the configured devices. Never talks to a real one.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::bus::played::{check_instrument, serve_ascii, serve_instrument};
use crate::bus::simulator::{serve_rtu, serve_rtu_over_tcp, serve_tcp};
use crate::bus::{Endpoint, instrument, lines};
use crate::cli::{block_on, fail, load_config, stop_signal, wrong_usage};
use crate::config::model::{Config, Device};
use crate::config::port::Port;
use crate::device::request::LineError;
use crate::device::serial::sample::Unplayable;

#[derive(Debug, Args)]
#[command(
    after_help = "Modbus over TCP, RTU on a port or over TCP, and ASCII hold what is written. Serial instruments say lines of \
JSON, CSV or NMEA 0183, once a second or when they are asked; they take no commands. What a pattern (`match`), a raw frame or one \
of a fixed length would hold is not known: such an instrument is named and left out.

Examples:
  tidegate simulate -c tidegate.yaml                    the devices at the addresses of the configuration
  tidegate simulate -c tidegate.yaml --port rs485-a=/dev/ttyUSB1"
)]
pub struct SimulateArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.yaml")]
    pub config: PathBuf,
    /// Play the devices of port NAME on the serial port at PATH, the other end of its cable
    #[arg(long = "port", value_name = "NAME=PATH", value_parser = parse_port)]
    pub ports: Vec<(String, PathBuf)>,
    /// Print what is played where as JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// Why the devices cannot be played.
#[derive(Debug)]
enum PlayError {
    Listen {
        address: Arc<str>,
        error: std::io::Error,
    },
    Line(LineError),
    Signal(std::io::Error),
    /// A server panicked.
    Task(JoinError),
    NoDevices,
}

impl fmt::Display for PlayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Line(error) => error.fmt(f),
            Self::Signal(error) => error.fmt(f),
            Self::Task(error) => error.fmt(f),
            Self::NoDevices => f.write_str("the configuration has no devices that can be played"),
        }
    }
}

/// `NAME=PATH`
fn parse_port(text: &str) -> Result<(String, PathBuf), &'static str> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("a name and a path, like rs485-a=/dev/pts/4"),
    }
}

/// Until SIGINT or SIGTERM.
pub fn run(args: &SimulateArgs) -> ExitCode {
    let config = match load_config(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let is_known = |name: &String| config.ports.iter().any(|port| *port.name == **name);
    if let Some((name, _)) = args.ports.iter().find(|(name, _)| !is_known(name)) {
        return wrong_usage(format_args!("--port {name}: no such port in the configuration"));
    }
    match block_on(play(&config, args)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(error),
        Err(error) => fail(error),
    }
}

async fn play(config: &Config, args: &SimulateArgs) -> Result<(), PlayError> {
    let cancel = CancellationToken::new();
    let mut servers = JoinSet::new();
    for (endpoint, settings) in lines(config) {
        let devices: Vec<Arc<Device>> = settings.devices.into_iter().map(|(_, device)| device).collect();
        play_line(endpoint, devices, args, &cancel, &mut servers).await?;
    }
    for line in instrument::lines(config) {
        let (name, stop) = (Arc::clone(&line.settings.name), cancel.clone());
        if let Err(why) = check_instrument(&line.settings) {
            leave_out(&name, why, args.json);
            continue;
        }
        let path = path_of(&line.port, args);
        announce(&[&name], &path.display().to_string(), args.json);
        servers.spawn(async move { serve_instrument(&line.port, &path, &line.settings, stop).await });
    }
    if servers.is_empty() {
        return Err(PlayError::NoDevices);
    }
    let ended = tokio::select! {
        stopped = stop_signal() => stopped.map_err(PlayError::Signal),
        ended = first_failure(&mut servers) => ended,
    };
    cancel.cancel();
    while servers.join_next().await.is_some() {}
    ended
}

async fn play_line(
    endpoint: Endpoint,
    devices: Vec<Arc<Device>>,
    args: &SimulateArgs,
    cancel: &CancellationToken,
    servers: &mut JoinSet<Result<(), LineError>>,
) -> Result<(), PlayError> {
    let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
    let stop = cancel.clone();
    match &endpoint {
        Endpoint::Tcp { address } | Endpoint::RtuOverTcp { address } => {
            let bound = TcpListener::bind(&**address).await;
            let listener = bound.map_err(|error| PlayError::Listen { address: address.clone(), error })?;
            announce(&names, address, args.json);
            let is_converter = matches!(endpoint, Endpoint::RtuOverTcp { .. });
            servers.spawn(async move {
                if is_converter {
                    serve_rtu_over_tcp(listener, devices, stop).await;
                } else {
                    serve_tcp(listener, devices, stop).await;
                }
                Ok(())
            });
        }
        Endpoint::Rtu(port) | Endpoint::Ascii(port) => {
            let (port, path) = (port.clone(), path_of(port, args));
            announce(&names, &path.display().to_string(), args.json);
            let is_ascii = matches!(endpoint, Endpoint::Ascii(_));
            servers.spawn(async move {
                if is_ascii {
                    serve_ascii(&port, &path, devices, stop).await
                } else {
                    serve_rtu(&port, &path, devices, stop).await
                }
            });
        }
    }
    Ok(())
}

/// Where the devices of a port are played.
fn path_of(port: &Port, args: &SimulateArgs) -> Arc<Path> {
    let other_end = args.ports.iter().find(|(name, _)| **name == *port.name);
    other_end.map_or(&port.path, |(_, path)| path).as_path().into()
}

fn leave_out(name: &str, why: Unplayable, is_json: bool) {
    let mut out = std::io::stdout();
    let _ = if is_json {
        writeln!(out, "{}", json!({ "left_out": name, "why": why.to_string() }))
    } else {
        writeln!(out, "not playing {name}: {why}")
    };
}

/// A reader that hung up has seen enough: the devices are played on.
fn announce(names: &[&str], place: &str, is_json: bool) {
    let mut out = std::io::stdout();
    let _ = if is_json {
        writeln!(out, "{}", json!({ "devices": names, "place": place }))
    } else {
        writeln!(out, "playing {} on {place}", names.join(", "))
    };
}

/// A server that ends by itself has failed.
async fn first_failure(servers: &mut JoinSet<Result<(), LineError>>) -> Result<(), PlayError> {
    match servers.join_next().await {
        Some(Ok(Err(error))) => Err(PlayError::Line(error)),
        Some(Err(error)) => Err(PlayError::Task(error)),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_port;

    #[test]
    fn ports_have_a_name_and_a_path() {
        assert_eq!(parse_port("a=/dev/pts/4"), Ok(("a".into(), "/dev/pts/4".into())));
        assert_eq!(parse_port("a=/x=y"), Ok(("a".into(), "/x=y".into())));
        for text in ["", "a", "a=", "=/dev/pts/4"] {
            assert!(parse_port(text).is_err(), "{text}");
        }
    }
}
