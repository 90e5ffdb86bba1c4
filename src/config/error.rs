//! What can be wrong with a configuration: facts as variants, each with its place in the file. Owns the
//! wording; never decides what is wrong, and never holds a value that may be a secret.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

use crate::auth::key::KeyError;
use crate::auth::password::HashError;
use crate::auth::passwords::LineError;
use crate::base::time::Duration;
use crate::config::duration::DurationText;
use crate::config::format_problem::FormatProblem;
use crate::config::point_error::PointProblem;
use crate::config::profile_problem::ProfileProblem;
use crate::config::provider_problem::ProviderProblem;
use crate::config::serial_problem::SerialProblem;
use crate::config::size::SizeText;
use crate::config::sunspec::SunspecProblem;
use crate::config::template::TemplateError;
use crate::config::uplink_problem::UplinkProblem;
use crate::config::words::{fmt_choice, fmt_port, kind_words, syntax_hint};
use crate::mqtt::topic::TopicError;

/// Where something stands in the file: both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Position = Position { line: 1, column: 1 };
}

/// One fault, printed as `FILE:LINE:COLUMN: path: what is wrong (what would be right)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub file: Arc<str>,
    pub position: Position,
    /// `devices.meter.points.voltage.type`; empty where the file as a whole is meant.
    pub path: String,
    pub problem: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        // One line a fault, whatever the file holds.
        for c in format!("{}:{line}:{column}: {path}{}", self.file, self.problem).chars() {
            if c.is_control() { c.escape_default().fmt(f)? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// All faults of one configuration, sorted by position; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    // The file.
    FileUnreadable(io::ErrorKind),
    FileTooLarge {
        bytes_max: u64,
    },
    FileNotUtf8,

    // YAML.
    /// In the parser's own words.
    Syntax(Box<str>),
    TooDeep {
        levels_max: usize,
    },
    TooManyValues {
        values_max: usize,
    },
    SeveralDocuments,
    Tag,
    KeyNotText,
    MergeKey,
    DuplicateKey {
        first_line: usize,
    },

    // Expansion.
    UndefinedVariable(Box<str>),
    BadVariable(Box<str>),
    UnclosedVariable,
    ReferenceUnreadable {
        file: Box<str>,
        kind: io::ErrorKind,
    },
    ReferenceTooLarge {
        file: Box<str>,
        bytes_max: u64,
    },
    ReferenceNotUtf8 {
        file: Box<str>,
    },
    NoCredentials,
    BadCredentialName,

    // Keys.
    UnknownKey {
        nearest: Option<&'static str>,
        known: &'static [&'static str],
    },
    MissingKey {
        example: &'static str,
    },
    /// None of several keys of which one is needed.
    MissingOneOf(&'static [&'static str]),
    /// More than one of several keys that shut each other out.
    Conflict(&'static [&'static str]),
    /// The key says nothing here.
    OnlyWith(&'static str),
    NotWith(&'static str),

    // Values.
    WrongType {
        wants: &'static str,
        found: &'static str,
    },
    UnknownChoice {
        given: Option<Box<str>>,
        nearest: Option<&'static str>,
        known: Box<[&'static str]>,
    },
    OutOfRange {
        min: Box<str>,
        max: Box<str>,
    },
    /// A rule's share of a buffer that has no more bytes than this.
    ShareTooLarge(u64),
    NotFinite,
    Negative,
    ScaleZero,
    MinAboveMax,
    BadDuration,
    NotWholeSeconds,
    BadSize,
    EmptyText,
    BadName,
    BadHostName(Box<str>),
    NoHostName,
    BadLogLevel,
    BadSocketAddress,
    NotLoopback,
    BadHttpUser,
    BadPasswordHash(HashError),
    BadEndpoint,
    BadPath,
    TextTooLong {
        bytes_max: usize,
    },
    BadFilter(TopicError),
    SharedFilter,
    BadTemplate(TemplateError),
    VariableNotHere {
        variable: Box<str>,
        known: &'static str,
    },
    FilterVariable {
        variable: Box<str>,
        known: &'static str,
    },
    PlusNotTaken {
        index: u8,
        plus_count: usize,
    },
    RestNotTaken,
    /// What the template yields for an example is no topic name.
    BadTopic(TopicError),
    SystemTopic,
    Format(FormatProblem),
    PathUnreadable {
        file: Box<str>,
        kind: io::ErrorKind,
    },
    NotPem {
        file: Box<str>,
        wants: &'static str,
    },
    PasswordLine {
        file: Box<str>,
        error: LineError,
    },
    MorePasswordLines {
        file: Box<str>,
        lines: usize,
    },
    BadKey {
        file: Box<str>,
        error: KeyError,
    },
    BadGlob,
    KeyDoesNotFit {
        file: Box<str>,
    },

    // Across keys.
    UnknownPort {
        name: Option<Box<str>>,
        nearest: Option<Box<str>>,
    },
    SevenDataBits {
        port: Box<str>,
    },
    OtherFraming {
        by: Box<str>,
    },
    UnitTaken {
        by: Box<str>,
    },
    PathTaken {
        by: Box<str>,
    },
    AddressTaken {
        by: Box<str>,
    },
    TopicTaken {
        topic: Box<str>,
        by: Box<str>,
    },
    ClientTaken {
        by: Box<str>,
    },
    Point(PointProblem),
    TypeNotOfBits,
    TypeNotOfRegisters,
    TableNotWritable,
    AddressBelowBase,
    AddressesEnd {
        registers: u16,
    },
    AboveMaxRegisters {
        registers: u16,
        max_registers: u16,
    },
    PasswordAlone,
    Serial(SerialProblem),
    Profile(ProfileProblem),
    Provider(ProviderProblem),
    Sunspec(SunspecProblem),
    Uplink(UplinkProblem),
}

impl Problem {
    pub fn duration_range(min: Duration, max: Duration) -> Self {
        Self::OutOfRange {
            min: DurationText(min).to_string().into(),
            max: DurationText(max).to_string().into(),
        }
    }

    pub fn size_range(min: u64, max: u64) -> Self {
        Self::OutOfRange { min: SizeText(min).to_string().into(), max: SizeText(max).to_string().into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.plain_words() {
            return f.write_str(text);
        }
        if self.fmt_file_or_yaml(f)? || self.fmt_value(f)? {
            return Ok(());
        }
        self.fmt_across(f)
    }
}

impl Problem {
    /// The words of the problems that carry nothing.
    fn plain_words(&self) -> Option<&'static str> {
        Some(match self {
            Self::FileNotUtf8 => "not UTF-8 text (save the file as UTF-8)",
            Self::SeveralDocuments => "a second YAML document (one file holds one)",
            Self::Tag => "a YAML tag (leave `!…` out)",
            Self::KeyNotText => "a key that is a list or a map (a key is a word)",
            Self::MergeKey => "`<<` is not merged (repeat the keys, or use an alias for the whole value)",
            Self::UnclosedVariable => "`${` without its `}` (`$${` stands for a plain `${`)",
            Self::NoCredentials => "no credentials are passed in (set LoadCredential= in the systemd unit)",
            Self::BadCredentialName => "not a credential's name (letters, digits, `.`, `_` and `-`)",
            Self::NotFinite => "not a finite number",
            Self::Negative => "below zero (0 or more)",
            Self::ScaleZero => "a scale of 0 loses every value (any other number)",
            Self::MinAboveMax => "min is above max",
            Self::BadDuration => "not a duration (a whole number with its unit: 500ms, 5s, 10m, 24h, 7d)",
            Self::NotWholeSeconds => "not whole seconds (5s, 10m, 24h, 7d)",
            Self::BadSize => "not a size (a whole number with its unit: 64KiB, 256MiB, 1GiB)",
            Self::EmptyText => "empty text",
            Self::BadName => "not a name (letters, digits, `.`, `_` and `-`)",
            Self::NoHostName => "missing key, and the machine has no host name (id: plant-7)",
            Self::BadLogLevel => {
                "not a log level or filter (off, error, warn, info, debug, trace; or info,tidegate::bridge=debug)"
            }
            Self::BadSocketAddress => "not an address to listen on (IP:PORT, as 0.0.0.0:1883 or [::]:1883)",
            Self::NotLoopback => {
                "an address that is not loopback needs a login (`username` and `password_hash`, or 127.0.0.1:8080)"
            }
            Self::BadHttpUser => "not a user name (no `:` and no control characters)",
            Self::BadEndpoint => "not an address (HOST:PORT, as 192.168.1.50:502)",
            Self::BadPath => "not a path (/mqtt: letters, digits, `-._~/`)",
            Self::SharedFilter => "a shared subscription (leave `$share/NAME/` out)",
            Self::RestNotTaken => "`{rest}` has nothing to stand for (end the topic filter with `#`)",
            Self::SystemTopic => "topics that begin with `$` belong to the gateway (another first level)",
            Self::TypeNotOfBits => "a coil or discrete input is a bool (leave `type` out)",
            Self::TypeNotOfRegisters => "a bool needs a coil or discrete input (u16, i16, u32, …)",
            Self::TableNotWritable => {
                "discrete inputs and input registers cannot be written (coil or holding)"
            }
            Self::AddressBelowBase => "address 0 does not exist with address_base 1 (1 to 65536)",
            Self::BadGlob => {
                "not a glob (`*` stands for any characters, `?` for one; no `[`, `]`, `{`, `}` or `\\`)"
            }
            Self::PasswordAlone => "MQTT 3.1.1 has no password without a user name (add `username`)",
            _ => return None,
        })
    }

    fn fmt_file_or_yaml(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        match self {
            Self::FileUnreadable(kind) => write!(f, "cannot be read: {}", kind_words(*kind)),
            Self::FileTooLarge { bytes_max } => write!(f, "too large (at most {})", SizeText(*bytes_max)),
            Self::Syntax(words) => write!(f, "not YAML: {words}{}", syntax_hint(words)),
            Self::TooDeep { levels_max } => write!(f, "nested too deep (at most {levels_max} levels)"),
            Self::TooManyValues { values_max } => write!(f, "too many values (at most {values_max})"),
            Self::DuplicateKey { first_line } => {
                write!(f, "duplicate key, first in line {first_line} (keep one)")
            }
            Self::UndefinedVariable(name) => {
                write!(f, "the environment has no `{name}` (set it, or write ${{{name}:-default}})")
            }
            Self::BadVariable(name) => write!(
                f,
                "`${{{name}}}` names no variable (${{NAME}}, ${{NAME:-text}}, ${{file:/path}}, ${{credential:name}})"
            ),
            Self::ReferenceUnreadable { file, kind } | Self::PathUnreadable { file, kind } => {
                write!(f, "{file} cannot be read: {}", kind_words(*kind))
            }
            Self::ReferenceTooLarge { file, bytes_max } => {
                write!(f, "{file} is too large (at most {})", SizeText(*bytes_max))
            }
            Self::ReferenceNotUtf8 { file } => write!(f, "{file} is not UTF-8 text"),
            Self::NotPem { file, wants } => write!(f, "{file} holds no {wants} (PEM: -----BEGIN …)"),
            Self::BadPasswordHash(error) => {
                write!(f, "{error} (what `tidegate passwd` writes behind the name)")
            }
            Self::PasswordLine { file, error } => write!(f, "{file}: {error}"),
            Self::MorePasswordLines { file, lines } => write!(f, "{file}: and {lines} more faulty lines"),
            Self::BadKey { file, error } => write!(f, "{file} {error}"),
            Self::KeyDoesNotFit { file } => {
                write!(f, "{file} is not the key of the certificate (the one that it was issued for)")
            }
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn fmt_value(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => {
                write!(f, "unknown key (did you mean `{nearest}`?)")
            }
            Self::UnknownKey { nearest: None, known } => {
                write!(f, "unknown key (known: {})", known.join(", "))
            }
            Self::MissingKey { example } => write!(f, "missing key ({example})"),
            Self::MissingOneOf(keys) => write!(f, "missing key (one of {})", keys.join(", ")),
            Self::Conflict(keys) => write!(f, "one key too many (only one of {})", keys.join(", ")),
            Self::OnlyWith(what) => write!(f, "means nothing here (only with {what})"),
            Self::NotWith(what) => write!(f, "means nothing with {what} (leave it out)"),
            Self::WrongType { wants, found } => write!(f, "found {found} (want {wants})"),
            Self::UnknownChoice { given, nearest, known } => fmt_choice(f, given.as_deref(), *nearest, known),
            Self::OutOfRange { min, max } => write!(f, "out of range ({min} to {max})"),
            Self::ShareTooLarge(most) => write!(f, "larger than the buffer (at most {})", SizeText(*most)),
            Self::BadHostName(name) => {
                write!(
                    f,
                    "missing key, and the host name `{name}` does not do (letters, digits, `.`, `_`, `-`)"
                )
            }
            Self::BadFilter(error) => write!(f, "topic filter {error} (as devices/+/alarm or devices/#)"),
            Self::BadTemplate(error) => write!(f, "template {error}"),
            Self::VariableNotHere { variable, known } => {
                write!(f, "template holds the unknown variable `{variable}` (known: {known})")
            }
            Self::FilterVariable { variable, known } => {
                write!(f, "topic filter holds the unknown variable `{variable}` (known: {known})")
            }
            Self::PlusNotTaken { index, plus_count: 0 } => {
                write!(f, "`{{{index}}}` has nothing to stand for (the topic filter has no `+`)")
            }
            Self::PlusNotTaken { index, plus_count } => {
                write!(f, "`{{{index}}}` has nothing to stand for (at most {{{plus_count}}})")
            }
            Self::TextTooLong { bytes_max } => write!(f, "too long (at most {bytes_max} bytes)"),
            Self::Point(problem) => write!(f, "{problem}"),
            Self::BadTopic(error) => write!(f, "yields a topic that {error}"),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn fmt_across(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPort { name, nearest } => fmt_port(f, name.as_deref(), nearest.as_deref()),
            Self::SevenDataBits { port } => {
                write!(f, "Modbus RTU needs 8 data bits, and port `{port}` has 7 (data_bits: 8)")
            }
            Self::OtherFraming { by } => {
                write!(f, "device `{by}` speaks otherwise on this port (one framing a port)")
            }
            Self::UnitTaken { by } => {
                write!(f, "device `{by}` has this unit on the same line (one device a unit)")
            }
            Self::PathTaken { by } => write!(f, "port `{by}` has this path (one port a line)"),
            Self::AddressTaken { by } => write!(f, "{by} has this address (another port)"),
            Self::TopicTaken { topic, by } => {
                write!(
                    f,
                    "`{topic}` is already the topic of {by} (a topic of its own, as devices/{{device}}/{{point}})"
                )
            }
            Self::ClientTaken { by } => {
                write!(f, "bridge `{by}` has this url and client_id (another client_id: a server keeps one)")
            }
            Self::AddressesEnd { registers } => {
                write!(f, "{registers} registers from here end beyond 65535")
            }
            Self::AboveMaxRegisters { registers, max_registers } => {
                write!(
                    f,
                    "takes {registers} registers, and one request at most {max_registers} (read.max_registers)"
                )
            }
            Self::Serial(problem) => write!(f, "{problem}"),
            Self::Format(problem) => write!(f, "{problem}"),
            Self::Profile(problem) => write!(f, "{problem}"),
            Self::Provider(problem) => write!(f, "{problem}"),
            Self::Sunspec(problem) => write!(f, "{problem}"),
            Self::Uplink(problem) => write!(f, "{problem}"),
            // Every other variant has its words above.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::{Fault, Position, Problem};

    /// Those whose words no faulty file shows.
    #[test]
    fn problems_have_their_words() {
        let file = || "x".into();
        let cases = [
            (Problem::FileUnreadable(ErrorKind::PermissionDenied), "cannot be read: permission denied"),
            (Problem::FileTooLarge { bytes_max: 1 << 20 }, "too large (at most 1MiB)"),
            (Problem::ReferenceTooLarge { file: file(), bytes_max: 1024 }, "x is too large (at most 1KiB)"),
            (Problem::ReferenceNotUtf8 { file: file() }, "x is not UTF-8 text"),
            (
                Problem::BadHostName(file()),
                "missing key, and the host name `x` does not do (letters, digits, `.`, `_`, `-`)",
            ),
        ];
        for (problem, words) in cases {
            let position = Position { line: 2, column: 3 };
            let fault = Fault { file: "f.yaml".into(), position, path: "a.b".into(), problem };
            assert_eq!(fault.to_string(), format!("f.yaml:2:3: a.b: {words}"));
        }
    }
}
