//! `tidegate trace`: the raw frames that the running gateway keeps of its lines and links. Records none itself.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use clap::Args;

use crate::app::socket_path;
use crate::base::time::Timestamp;
use crate::bus::lines;
use crate::cli::gateway::{AskError, ask, request};
use crate::cli::pcapng::{Packet, Writer};
use crate::cli::table::printable;
use crate::cli::{ConfigArgs, block_on, fail, load_config, stop_signal};
use crate::cloud::reach::line_of as link_of;
use crate::config::model::Config;
use crate::observe::frames::{Direction, hex};
use crate::web::lines::{FRAMES_PAGE_MAX, FrameLine};

/// Between two questions, with `--follow`.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
const COUNT_DEFAULT: usize = 50;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate trace rs485-a -n 20
  tidegate trace main-meter --follow
  tidegate trace cloud                                  the packets of a bridge, passwords left out
  tidegate trace --pcap line.pcapng                     all that is kept, for Wireshark
  tidegate trace --follow --pcap - | wireshark -k -i -")]
pub struct TraceArgs {
    /// A port, an address, a device on it, or a bridge; without: all of them
    line: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// How many frames at most [default: 50; with --pcap all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<usize>,
    /// Go on with what comes, until SIGINT
    #[arg(short, long)]
    follow: bool,
    /// Write pcapng for Wireshark; - for stdout
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pcap: Option<PathBuf>,
    /// Print JSON, an object a frame
    #[arg(long)]
    json: bool,
}

/// Why there is no trace.
#[derive(Debug)]
enum TraceError {
    Ask(AskError),
    File { path: PathBuf, error: io::Error },
    Output(io::Error),
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ask(error) => error.fmt(f),
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

pub fn run(args: &TraceArgs) -> ExitCode {
    let config = match load_config(&args.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let done = block_on(async {
        tokio::select! {
            done = trace(args, &config) => done,
            stopped = stop_signal() => stopped.map_err(TraceError::Output),
        }
    });
    match done {
        Err(error) => fail(error),
        // Whoever reads has had enough.
        Ok(Err(TraceError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(error),
        Ok(Ok(())) => ExitCode::SUCCESS,
    }
}

async fn trace(args: &TraceArgs, config: &Config) -> Result<(), TraceError> {
    let line = args.line.as_deref().map(|name| line_of(config, name));
    let mut out = open(args)?;
    let mut style = if args.pcap.is_some() { Style::Pcap(Writer::default()) } else { Style::Lines };
    let count = args.count.unwrap_or(if args.pcap.is_some() { FRAMES_PAGE_MAX } else { COUNT_DEFAULT });
    let (mut after, mut count) = (0, count.min(FRAMES_PAGE_MAX));
    let socket = socket_path(config);
    loop {
        let asked = question(after, line.as_deref(), count);
        let body =
            ask(&socket, request(Method::GET, &asked, Body::empty())).await.map_err(TraceError::Ask)?;
        let frames: Vec<FrameLine> =
            serde_json::from_slice(&body).map_err(|error| TraceError::Ask(AskError::Unexpected(error)))?;
        let bytes = style.render(&frames, args.json);
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(TraceError::Output)?;
        if !args.follow {
            return Ok(());
        }
        after = frames.last().map_or(after, |frame| frame.seq);
        count = FRAMES_PAGE_MAX;
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

/// The line of a device, or the link of a bridge, by its name; else the gateway knows the name, or does not.
fn line_of(config: &Config, name: &str) -> String {
    if let Some(instrument) = config.instruments.iter().find(|instrument| *instrument.name == *name) {
        let port = config.ports.get(instrument.port);
        return port.map_or_else(|| name.to_owned(), |port| port.name.to_string());
    }
    let is_line = lines(config).iter().any(|(endpoint, _)| endpoint.to_string() == name);
    if !is_line && config.bridges.iter().any(|bridge| *bridge.name == *name) {
        return link_of(name);
    }
    let of_device = lines(config)
        .into_iter()
        .find(|(_, settings)| settings.devices.iter().any(|(_, device)| *device.name == *name));
    of_device.map_or_else(|| name.to_owned(), |(endpoint, _)| endpoint.to_string())
}

fn open(args: &TraceArgs) -> Result<Box<dyn Write>, TraceError> {
    match &args.pcap {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::create(path);
            let file = file.map_err(|error| TraceError::File { path: path.clone(), error })?;
            Ok(Box::new(file))
        }
        _ => Ok(Box::new(io::stdout())),
    }
}

fn question(after: u64, line: Option<&str>, count: usize) -> String {
    let mut path = format!("/api/v1/lines/frames?after={after}&count={count}");
    if let Some(line) = line {
        path.push_str("&line=");
        for byte in line.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

enum Style {
    Lines,
    Pcap(Writer),
}

impl Style {
    fn render(&mut self, frames: &[FrameLine], is_json: bool) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Lines if is_json => {
                for frame in frames {
                    // Shapes of ours are always JSON.
                    out.extend(serde_json::to_vec(frame).unwrap_or_default());
                    out.push(b'\n');
                }
            }
            Self::Lines => frames.iter().for_each(|frame| out.extend(text_of(frame).into_bytes())),
            Self::Pcap(writer) => {
                writer.begin(&mut out);
                for frame in frames {
                    let bytes = bytes_of(&frame.hex);
                    let FrameLine { line, protocol, micros, direction, length, .. } = frame;
                    let packet = Packet {
                        line,
                        protocol: *protocol,
                        micros: *micros,
                        direction: *direction,
                        bytes: &bytes,
                        length: *length,
                    };
                    writer.packet(packet, &mut out);
                }
            }
        }
        out
    }
}

/// `2026-11-21T10:00:00.123456Z rs485-a > 01 03 00 00 00 01 84 0a`
fn text_of(frame: &FrameLine) -> String {
    let millis = Timestamp::from_millis(frame.micros.div_euclid(1000)).to_string();
    let time = millis.trim_end_matches('Z');
    let sign = match frame.direction {
        Direction::Sent => '>',
        Direction::Received => '<',
    };
    let bytes = bytes_of(&frame.hex);
    let hex = hex(&bytes, " ");
    let cut =
        if frame.length > bytes.len() { format!(" … ({} bytes)", frame.length) } else { String::new() };
    format!("{time}{:03}Z {} {sign} {hex}{cut}\n", frame.micros.rem_euclid(1000), printable(&frame.line))
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0);
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, half| byte << 4 | digit(half)))
        .map(|byte| u8::try_from(byte).unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{bytes_of, question, text_of};
    use crate::observe::frames::{Direction, Protocol};
    use crate::web::lines::FrameLine;

    #[test]
    fn a_frame_is_one_line() {
        let frame = FrameLine {
            seq: 1,
            micros: 1_763_719_200_123_456,
            line: "rs485-a".into(),
            protocol: Protocol::ModbusRtu,
            direction: Direction::Received,
            length: 9,
            hex: "0103ff".into(),
        };
        assert_eq!(text_of(&frame), "2025-11-21T10:00:00.123456Z rs485-a < 01 03 ff … (9 bytes)\n");
        assert_eq!(bytes_of("00ff7a"), [0, 255, 122]);
    }

    #[test]
    fn a_line_is_asked_for_by_whatever_name() {
        assert_eq!(
            question(7, Some("[::1]:502"), 3),
            "/api/v1/lines/frames?after=7&count=3&line=%5B%3A%3A1%5D%3A502"
        );
    }
}
