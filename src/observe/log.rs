//! Where log lines go and which of them: chosen once, at the start. Never decides what is worth a line.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::OnceLock;

use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};

use crate::observe::journal::{Courier, JournalLayer};
use crate::observe::limit::LimitLayer;
use crate::observe::tail::TailLayer;

/// What says nothing else: a filter that names targets alone leaves the rest at this level.
const LEVEL_DEFAULT: LevelFilter = LevelFilter::INFO;
/// Where another filter is set: a process has one log.
static FILTER: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Libraries that say at TRACE what they send as it is, with the tokens of a URL: never heard at that level.
const TELL_SECRETS: [&str; 3] =
    ["tungstenite::handshake", "tungstenite::handshake::client", "tungstenite::handshake::server"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The journal where stderr is connected to it, else text.
    #[default]
    Auto,
    /// Lines on stderr, coloured on a terminal.
    Text,
    /// One JSON object a line on stderr.
    Json,
    /// The journal's own protocol, with fields.
    Journal,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "journal" => Ok(Self::Journal),
            _ => Err(LogError::UnknownFormat(text.into())),
        }
    }
}

/// Why logging could not be set up. The texts are what the user wrote.
#[derive(Debug)]
pub enum LogError {
    UnknownFormat(Box<str>),
    UnknownLevel(Box<str>),
    /// Not the path of a module.
    BadTarget(Box<str>),
    /// A second level without a target.
    SecondLevel(Box<str>),
    /// No journal listens.
    NoJournal(std::io::Error),
    /// Logging was set up before.
    AlreadySet,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat(text) => {
                write!(f, "`{text}` is no log format (auto, text, json or journal)")
            }
            Self::UnknownLevel(text) => {
                write!(f, "`{text}` is no log level (off, error, warn, info, debug or trace)")
            }
            Self::BadTarget(text) => write!(f, "`{text}` is no log target (like tidegate::bridge)"),
            Self::SecondLevel(text) => {
                write!(f, "`{text}` is a second level for all targets (one, then TARGET=LEVEL)")
            }
            Self::NoJournal(error) => write!(f, "the systemd journal cannot be reached: {error}"),
            Self::AlreadySet => f.write_str("logging is set up already"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoJournal(error) => Some(error),
            _ => None,
        }
    }
}

/// `info`, or `info,tidegate::bridge=debug`: a level for all, and levels for modules.
pub fn parse_filter(text: &str) -> Result<Targets, LogError> {
    let mut level_of_all = None;
    let mut targets = Targets::new();
    for part in text.split(',').map(str::trim) {
        let Some((target, level)) = part.split_once('=') else {
            if level_of_all.replace(parse_level(part)?).is_some() {
                return Err(LogError::SecondLevel(part.into()));
            }
            continue;
        };
        let (target, level) = (target.trim(), level.trim());
        if !is_target(target) {
            return Err(LogError::BadTarget(target.into()));
        }
        targets = targets.with_target(target, parse_level(level)?);
    }
    let level_of_all = level_of_all.unwrap_or(LEVEL_DEFAULT);
    // Last, so that no filter opens them.
    let quiet =
        |targets: Targets, target: &&str| targets.with_target(*target, level_of_all.min(LevelFilter::DEBUG));
    Ok(TELL_SECRETS.iter().fold(targets, quiet).with_default(level_of_all))
}

/// Stricter than the library, which takes numbers too.
fn parse_level(text: &str) -> Result<LevelFilter, LogError> {
    let is_word = text.bytes().all(|b| b.is_ascii_alphabetic());
    match text.parse() {
        Ok(level) if is_word && !text.is_empty() => Ok(level),
        _ => Err(LogError::UnknownLevel(text.into())),
    }
}

fn is_target(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    text.split("::").all(is_part)
}

/// Keep it as long as lines are written: dropping it waits, within a bound, until the journal has them all.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    courier: Option<Courier>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(courier) = &self.courier {
            courier.flush();
        }
    }
}

/// Sets up logging for the whole process; once.
pub fn init(level_filter: &str, format: Format) -> Result<LogGuard, LogError> {
    let (targets, handle) = reload::Layer::new(parse_filter(level_filter)?);
    let _first = FILTER.set(handle);
    if let Some(journal) = open_journal(format)? {
        let (layer, courier) = JournalLayer::start(journal);
        install(tracing_subscriber::registry().with(targets).with(LimitLayer).with(TailLayer).with(layer))?;
        return Ok(LogGuard { courier: Some(courier) });
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if format == Format::Json {
        install(
            tracing_subscriber::registry()
                .with(targets)
                .with(LimitLayer)
                .with(TailLayer)
                .with(lines.json().flatten_event(true).with_current_span(false)),
        )?;
    } else {
        let lines = lines.with_ansi(is_coloured());
        install(tracing_subscriber::registry().with(targets).with(LimitLayer).with(TailLayer).with(lines))?;
    }
    Ok(LogGuard { courier: None })
}

/// On a terminal, unless whoever sits there wants none (no-color.org).
fn is_coloured() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_unwanted
}

/// Other lines are worth writing from now on. Nothing where no log was set up.
pub fn replace_filter(level_filter: &str) -> Result<(), LogError> {
    let targets = parse_filter(level_filter)?;
    if let Some(handle) = FILTER.get() {
        // Fails only once the log is gone.
        let _gone = handle.reload(targets);
        tracing_log::log::set_max_level(LevelFilter::current().as_log());
    }
    Ok(())
}

/// `auto` without a journal is text; `journal` without one is an error.
fn open_journal(format: Format) -> Result<Option<JournalLog>, LogError> {
    let is_wanted = match format {
        Format::Auto => connected_to_journal(),
        Format::Journal => true,
        Format::Text | Format::Json => false,
    };
    if !is_wanted {
        return Ok(None);
    }
    match JournalLog::new() {
        Ok(journal) => Ok(Some(journal.with_syslog_identifier("tidegate".to_owned()))),
        Err(_) if format == Format::Auto => Ok(None),
        Err(error) => Err(LogError::NoJournal(error)),
    }
}

/// Libraries that speak through `log` are heard too.
fn install(subscriber: impl Subscriber + Send + Sync) -> Result<(), LogError> {
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    let level_max = LevelFilter::current().as_log();
    LogTracer::builder().with_max_level(level_max).init().map_err(|_| LogError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::{Format, parse_filter};
    use tracing::Level;

    #[test]
    fn filters_let_through_what_they_name() {
        let cases = [
            ("info", "tidegate::hub", Level::INFO, true),
            ("info", "tidegate::hub", Level::DEBUG, false),
            ("warn, tidegate::bridge = debug", "tidegate::bridge::window", Level::DEBUG, true),
            ("warn,tidegate::bridge=debug", "tidegate::hub", Level::INFO, false),
            ("tidegate::bridge=trace", "rustls", Level::INFO, true),
            ("tidegate::bridge=trace", "rustls", Level::DEBUG, false),
            ("off", "tidegate::hub", Level::ERROR, false),
            ("INFO", "tidegate::hub", Level::INFO, true),
            ("trace", "tungstenite::protocol", Level::TRACE, true),
            ("trace", "tungstenite::handshake::client", Level::TRACE, false),
            ("tungstenite::handshake::client=trace", "tungstenite::handshake::client", Level::TRACE, false),
            ("trace", "tungstenite::handshake", Level::DEBUG, true),
            ("warn", "tungstenite::handshake", Level::DEBUG, false),
        ];
        for (filter, target, level, passes) in cases {
            let targets = parse_filter(filter).expect(filter);
            assert_eq!(targets.would_enable(target, &level), passes, "{filter} {target} {level}");
        }
    }

    #[test]
    fn bad_filters_and_formats_are_named() {
        let cases = [
            ("", "`` is no log level (off, error, warn, info, debug or trace)"),
            ("verbose", "`verbose` is no log level (off, error, warn, info, debug or trace)"),
            ("3", "`3` is no log level (off, error, warn, info, debug or trace)"),
            ("info,debug", "`debug` is a second level for all targets (one, then TARGET=LEVEL)"),
            ("a b=info", "`a b` is no log target (like tidegate::bridge)"),
            ("=info", "`` is no log target (like tidegate::bridge)"),
            ("a::=info", "`a::` is no log target (like tidegate::bridge)"),
            ("a=", "`` is no log level (off, error, warn, info, debug or trace)"),
        ];
        for (filter, error) in cases {
            assert_eq!(parse_filter(filter).expect_err(filter).to_string(), error);
        }
        let error = "xml".parse::<Format>().expect_err("no format").to_string();
        assert_eq!(error, "`xml` is no log format (auto, text, json or journal)");
        assert_eq!("journal".parse::<Format>().expect("a format"), Format::Journal);
    }
}
