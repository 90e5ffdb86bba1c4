//! The Modbus tools: a request by hand, what a register means, what answers on a line. Each makes few requests, on
//! its own or through the gateway that owns the line; none changes the configuration.

pub mod ask;
pub mod find;
pub mod point;
pub mod ports;
pub mod read;
pub mod scan;
pub mod sunspec;
pub mod target;
pub mod write;

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Args;

use crate::base::time::Duration;
use crate::cli::gateway::AskError;
use crate::cli::{block_on, fail, say_error, wrong_usage};
use crate::config::duration::DurationText;
use crate::device::request::{Exception, LineError};

/// What a tool shows of its requests, and how.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Show the raw frames on stderr, where no gateway owns the line
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a tool did not do what it was told.
#[derive(Debug)]
pub enum ToolError {
    /// The faults of the configuration are on stderr already.
    Config(ExitCode),
    /// What is wrong with the arguments, one a line.
    Usage(Vec<String>),
    Gateway(AskError),
    Line {
        error: LineError,
        unit: u8,
        timeout: Duration,
    },
    /// The gateway made the request, and says why there is no answer.
    Remote(Box<str>),
    Exception(Exception),
    /// What was asked for was done, and the answer is no.
    Outcome(String),
    Output(std::io::Error),
}

/// Runs a tool to its end. What it could not do is said on stderr.
fn run_tool(tool: impl Future<Output = Result<(), ToolError>>) -> ExitCode {
    block_on(tool).map_or_else(fail, report)
}

fn report(done: Result<(), ToolError>) -> ExitCode {
    done.map_or_else(ToolError::report, |()| ExitCode::SUCCESS)
}

/// What a tool found.
fn print(text: &str) -> Result<(), ToolError> {
    let mut out = std::io::stdout();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

impl ToolError {
    pub fn usage(problem: impl fmt::Display) -> Self {
        Self::Usage(vec![problem.to_string()])
    }

    /// Says it on stderr.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Config(code) => code,
            Self::Usage(problems) => {
                let Some((last, others)) = problems.split_last() else { return wrong_usage("wrong usage") };
                others.iter().for_each(say_error);
                wrong_usage(last)
            }
            // Whoever reads has had enough.
            Self::Output(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            error => fail(error),
        }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(_) => f.write_str("the configuration does not load"),
            Self::Usage(problems) => f.write_str(&problems.join("; ")),
            Self::Gateway(error) => error.fmt(f),
            Self::Line { error: LineError::Timeout, unit, timeout } => write!(
                f,
                "unit {unit} does not answer within {} (check unit, speed, parity and wiring; `tidegate scan` tries them)",
                DurationText(*timeout)
            ),
            Self::Line { error, .. } => write!(f, "{error}{}", hint(error)),
            Self::Remote(reason) => write!(f, "{reason} (asked through the running gateway)"),
            Self::Exception(exception) => write!(f, "the unit answered {exception}{}", meaning(*exception)),
            Self::Outcome(reason) => f.write_str(reason),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl std::error::Error for ToolError {}

impl From<std::io::Error> for ToolError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<AskError> for ToolError {
    fn from(error: AskError) -> Self {
        Self::Gateway(error)
    }
}

/// What to do about it.
fn hint(error: &LineError) -> &'static str {
    match error {
        LineError::Open { kind: ErrorKind::PermissionDenied, .. } => {
            " (be root, or of the group that owns the port: often dialout)"
        }
        LineError::Open { kind: ErrorKind::ResourceBusy, .. } => {
            " (another program holds it; through a running gateway ask by device: `tidegate read DEVICE POINT`)"
        }
        LineError::Open { .. } => " (`tidegate scan` lists the serial ports)",
        LineError::Connect { kind: ErrorKind::ConnectionRefused, .. } => " (nobody listens there)",
        LineError::Connect { .. } => " (check address and network)",
        LineError::Garbled | LineError::Mismatch | LineError::WrongCount | LineError::Untrusted => {
            " (check speed and parity, and whether two units share a number)"
        }
        LineError::Busy => " (another master speaks on it, or the speed is wrong)",
        _ => "",
    }
}

fn meaning(exception: Exception) -> &'static str {
    match exception.0 {
        1 => ": it does not know this function (another table may be right)",
        2 => {
            ": it has no such address (`--address-base 1` where the manual counts from 1; `tidegate find` looks around)"
        }
        10 | 11 => ": nobody answers behind the gateway under this unit number",
        _ => "",
    }
}
