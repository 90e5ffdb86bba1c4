//! `tidegate buffer`: the arguments, and which part does what. Opens the way to the buffers and closes it.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::gateway::AskError;
use crate::cli::reach::{Reach, ReachError};
use crate::cli::{block_on, buffer_move, buffer_show, fail, load_config, wrong_usage};
use crate::config::duration;

/// How long `stats` may measure.
const OVER_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate buffer list
  tidegate buffer stats cloud --over 10s                rates, losses, and when it is drained
  tidegate buffer peek cloud -n 20                      the oldest messages
  tidegate buffer export cloud > cloud.jsonl
  tidegate buffer import cloud cloud.jsonl
  tidegate buffer purge cloud --yes
  tidegate buffer pause cloud                           messages wait until `tidegate buffer retry cloud`")]
pub struct BufferArgs {
    #[command(subcommand)]
    command: BufferCommand,
    /// The configuration
    #[arg(short, long, global = true, value_name = "FILE", default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum BufferCommand {
    /// What waits for each bridge
    #[command(after_help = "Examples:
  tidegate buffer list
  tidegate buffer list --json")]
    List,
    /// The messages that wait for a bridge, oldest first
    #[command(after_help = "Examples:
  tidegate buffer peek cloud -n 20
  tidegate buffer peek cloud --after 4711               those behind number 4711
  tidegate buffer peek cloud --dead                     what can never be delivered, and why")]
    Peek(PeekArgs),
    /// What waits, what came and left, what was dropped, and when it is drained
    #[command(after_help = "Examples:
  tidegate buffer stats
  tidegate buffer stats cloud --over 10s")]
    Stats(StatsArgs),
    /// Write the messages that wait for a bridge as JSON lines to stdout
    #[command(after_help = "Examples:
  tidegate buffer export cloud > cloud.jsonl
  tidegate buffer export cloud | head -n 1
  tidegate buffer export cloud --dead > dead.jsonl      what can never be delivered, and why")]
    Export(ExportArgs),
    /// Add the messages of an export to what waits for a bridge
    #[command(after_help = "Examples:
  tidegate buffer import cloud cloud.jsonl
  zcat cloud.jsonl.gz | tidegate buffer import cloud")]
    Import(ImportArgs),
    /// Drop what waits for a bridge, but for what is in flight
    #[command(after_help = "Examples:
  tidegate buffer purge cloud                           says what would go
  tidegate buffer purge cloud --yes
  tidegate buffer purge cloud --dead --yes              the dead letters, and nothing that waits")]
    Purge(PurgeArgs),
    /// Close a bridge's link: messages wait until a retry, or until the gateway starts again
    #[command(after_help = "Examples:
  tidegate buffer pause cloud")]
    Pause(BridgeArgs),
    /// End a pause, and connect at once without waiting for the back-off; or send dead letters again
    #[command(after_help = "Examples:
  tidegate buffer retry cloud
  tidegate buffer retry cloud --dead                    dead letters go behind all that waits
  tidegate buffer retry cloud --dead --topic 'plant/#'")]
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub struct BridgeArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
    /// The dead letters: what can never be delivered
    #[arg(long)]
    pub dead: bool,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
    /// Put the dead letters behind all that waits, to be sent again
    #[arg(long)]
    pub dead: bool,
    /// Only those of these topics, as they are on the gateway
    #[arg(long, value_name = "FILTER", requires = "dead")]
    pub topic: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate buffer peek cloud -n 20
  tidegate buffer peek cloud --after 4711 --json
  tidegate buffer peek cloud --dead                     what can never be delivered, and why")]
pub struct PeekArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
    /// How many messages at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub count: u64,
    /// Only those behind this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
    /// The dead letters: what can never be delivered, and why
    #[arg(long)]
    pub dead: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate buffer stats
  tidegate buffer stats cloud --over 10s")]
pub struct StatsArgs {
    /// Only this bridge
    pub bridge: Option<String>,
    /// For how long a running gateway is measured, at most 60s
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_over)]
    pub over: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate buffer import cloud cloud.jsonl
  tidegate buffer import cloud < cloud.jsonl")]
pub struct ImportArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
    /// What `export` wrote; - for stdin
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate buffer purge cloud                           says what would go
  tidegate buffer purge cloud --yes")]
pub struct PurgeArgs {
    /// The bridge, as the configuration names it
    pub bridge: String,
    /// Do it; without, only say what would go
    #[arg(long)]
    pub yes: bool,
    /// The dead letters, and nothing that waits
    #[arg(long)]
    pub dead: bool,
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub enum BufferError {
    Reach(ReachError),
    NoBridge {
        name: String,
    },
    Output(std::io::Error),
    Input {
        path: PathBuf,
        error: std::io::Error,
    },
    LineTooLong {
        line: u64,
    },
    /// Lines that were refused, each named before.
    Refused {
        lines: u64,
    },
    Full {
        line: u64,
    },
    /// What is in flight fills the memory before it.
    Stuck {
        messages: u64,
    },
    NotConfirmed {
        messages: u64,
        in_flight: u64,
        size: String,
    },
    DeadNotConfirmed {
        messages: u64,
        size: String,
    },
    /// Not all dead letters went back.
    Kept {
        unroutable: u64,
        full: bool,
    },
}

impl Display for BufferError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reach(error) => error.fmt(f),
            Self::NoBridge { name } => {
                write!(f, "no bridge `{name}` is configured (see `tidegate buffer list`)")
            }
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::Input { path, error } => write!(f, "{}: {error}", path.display()),
            Self::LineTooLong { line } => {
                write!(f, "line {line}: longer than {} MiB", super::buffer_move::LINE_MIB_MAX)
            }
            Self::Refused { lines } => write!(f, "{lines} lines were not imported"),
            Self::Full { line } => write!(f, "line {line} and all behind it were not imported"),
            Self::Stuck { messages } => write!(
                f,
                "{messages} messages were purged; the rest waits for what is in flight, or for the disk (try again later)"
            ),
            Self::NotConfirmed { messages, in_flight, size } => write!(
                f,
                "{messages} messages ({size}) wait, of which {in_flight} are in flight and would stay; --yes drops the others"
            ),
            Self::DeadNotConfirmed { messages, size } => {
                write!(f, "there are {messages} dead letters ({size}); --yes drops them")
            }
            Self::Kept { full: true, .. } => {
                f.write_str("the rest stays: the buffer is full (try again once it has drained)")
            }
            Self::Kept { unroutable, .. } => {
                write!(
                    f,
                    "{unroutable} dead letters stay: no forward rule of the bridge matches their topics"
                )
            }
        }
    }
}

impl std::error::Error for BufferError {}

impl From<AskError> for BufferError {
    fn from(error: AskError) -> Self {
        Self::Reach(error.into())
    }
}

impl From<std::io::Error> for BufferError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

pub fn run(args: &BufferArgs) -> ExitCode {
    // Only a stopped gateway's buffers need its configuration.
    let reach = match Reach::running(&args.config) {
        Some(reach) => Ok(reach),
        None => match load_config(&args.config) {
            Ok(config) => Err(config),
            Err(code) => return code,
        },
    };
    let done = block_on(async {
        let reach = match reach {
            Ok(reach) => reach,
            Err(config) => Reach::open(config).await.map_err(BufferError::Reach)?,
        };
        let done = serve(&reach, args).await;
        let closed = reach.close().map_err(BufferError::Reach);
        done.and(closed)
    });
    match done {
        Err(error) => fail(error),
        // Whoever reads has had enough.
        Ok(Err(BufferError::Output(error))) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error @ (BufferError::NotConfirmed { .. } | BufferError::DeadNotConfirmed { .. }))) => {
            wrong_usage(error)
        }
        Ok(Err(error)) => fail(error),
        Ok(Ok(())) => ExitCode::SUCCESS,
    }
}

async fn serve(reach: &Reach, args: &BufferArgs) -> Result<(), BufferError> {
    match &args.command {
        BufferCommand::List => buffer_show::list(reach, args.json).await,
        BufferCommand::Peek(peek) => buffer_show::peek(reach, peek, args.json).await,
        BufferCommand::Stats(stats) => buffer_show::stats(reach, stats, args.json).await,
        BufferCommand::Export(export) => buffer_move::export(reach, export).await,
        BufferCommand::Import(import) => buffer_move::import(reach, import, args.json).await,
        BufferCommand::Purge(purge) => buffer_move::purge(reach, purge, args.json).await,
        BufferCommand::Pause(pause) => buffer_move::pause(reach, &pause.bridge, args.json).await,
        BufferCommand::Retry(retry) if retry.dead => buffer_move::revive(reach, retry, args.json).await,
        BufferCommand::Retry(retry) => buffer_move::retry(reach, &retry.bridge, args.json).await,
    }
}

fn parse_over(text: &str) -> Result<Duration, &'static str> {
    match duration::parse(text) {
        Some(over) if over > Duration::ZERO && over <= OVER_MAX => Ok(over),
        _ => Err("from 1ms to 60s, like 2s"),
    }
}
