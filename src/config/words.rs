//! Words that several problems share. Knows no problem.

use std::fmt;
use std::io;

/// What mostly is behind the parser's words; a fault that matches none goes without.
pub(super) fn syntax_hint(words: &str) -> &'static str {
    let hints = [
        ("tabs disallowed", " (indent with spaces)"),
        ("expected key", " (the keys of a map begin in one column; text that begins with `{` needs quotes)"),
        ("expected ',' or", " (close the bracket; text that holds a bracket or a comma needs quotes)"),
        ("mapping values are not allowed", " (text that holds `: ` needs quotes)"),
        ("quoted scalar", " (close the quote)"),
        ("unexpected character", " (text that begins with a special character needs quotes)"),
        ("unknown anchor", " (text that begins with `*` needs quotes)"),
    ];
    hints.iter().find(|(sign, _)| words.contains(sign)).map_or("", |(_, hint)| hint)
}

pub(super) fn fmt_choice(
    f: &mut fmt::Formatter<'_>,
    given: Option<&str>,
    nearest: Option<&'static str>,
    known: &[&'static str],
) -> fmt::Result {
    match given {
        Some(given) => write!(f, "unknown value `{given}` ")?,
        None => f.write_str("unknown value ")?,
    }
    match nearest {
        Some(nearest) => write!(f, "(did you mean `{nearest}`?)"),
        None => write!(f, "({})", known.join(", ")),
    }
}

pub(super) fn fmt_port(f: &mut fmt::Formatter<'_>, name: Option<&str>, nearest: Option<&str>) -> fmt::Result {
    match name {
        Some(name) => write!(f, "unknown port `{name}` ")?,
        None => f.write_str("unknown port ")?,
    }
    match nearest {
        Some(nearest) => write!(f, "(did you mean `{nearest}`?)"),
        None => f.write_str("(name it under `ports`)"),
    }
}

/// The same words on every system, in place of the system's own.
pub(super) fn kind_words(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "no such file",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::IsADirectory => "is a folder",
        io::ErrorKind::NotADirectory => "a part of its path is not a folder",
        _ => "input/output error",
    }
}
